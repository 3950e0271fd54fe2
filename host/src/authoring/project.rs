//! A plugin's folder: its language, its name, its component. Looks at files and runs nothing.

use std::path::{Path, PathBuf};

use super::command::Language;

/// A folder with a plugin's source.
pub struct Project {
    /// The folder.
    pub folder: PathBuf,
    /// By its files.
    pub language: Language,
    /// As its manifest says.
    pub name: String,
}

/// Why a folder is no project.
#[derive(Debug, thiserror::Error)]
pub enum NoProject {
    /// Nothing that tells a language.
    #[error(
        "`{}` is no plugin: there is no Cargo.toml (Rust), package.json (JavaScript) or pyproject.toml (Python); \
         `presence plugin new NAME --lang rust|js|python` writes a project", .0.display()
    )]
    NoManifest(PathBuf),
    /// A manifest that can't be read, or has no name.
    #[error("`{}`: {reason}", .path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl Project {
    /// Looks at a folder.
    pub fn find(folder: &Path) -> Result<Project, NoProject> {
        let manifests = [
            ("Cargo.toml", Language::Rust),
            ("package.json", Language::Js),
            ("pyproject.toml", Language::Python),
        ];
        let found = manifests.into_iter().find(|(file, _)| folder.join(file).is_file());
        let (file, language) = found.ok_or_else(|| NoProject::NoManifest(folder.to_owned()))?;
        let path = folder.join(file);
        let wrong = |reason: String| NoProject::Manifest { path: path.clone(), reason };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let name = name_in(&text, language).map_err(wrong)?;
        Ok(Project { folder: folder.to_owned(), language, name })
    }

    /// Where `presence plugin build` puts the component.
    pub fn component(&self) -> PathBuf {
        self.folder.join("dist").join(format!("{}.wasm", self.name))
    }
}

fn name_in(manifest: &str, language: Language) -> Result<String, String> {
    let table = |key: &str| {
        let parsed: toml::Table = manifest.parse().map_err(|error: toml::de::Error| error.to_string())?;
        Ok::<_, String>(parsed.get(key).and_then(|table| table.get("name")?.as_str().map(str::to_owned)))
    };
    let name = match language {
        Language::Rust => table("package")?,
        Language::Python => table("project")?,
        Language::Js => {
            let parsed: serde_json::Value =
                serde_json::from_str(manifest).map_err(|error| error.to_string())?;
            parsed["name"].as_str().map(str::to_owned)
        }
    };
    let name = name.ok_or("it says no name")?;
    // A name of npm may have a scope: it is a folder there, and none here.
    Ok(name.rsplit('/').next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_where_each_language_has_them() {
        let cases = [
            ("[lib]\nname = \"x\"\n[package]\nname = \"a-b\"\n", Language::Rust),
            ("{ \"name\": \"@me/a-b\" }", Language::Js),
            ("[project]\nname = \"a-b\"\n", Language::Python),
        ];
        for (manifest, language) in cases {
            assert_eq!(name_in(manifest, language).as_deref(), Ok("a-b"));
        }
        assert!(name_in("{}", Language::Js).unwrap_err().contains("name"));
        assert!(name_in("[package", Language::Rust).is_err());
    }
}
