//! Compiled code, kept between starts. It is native code that this process will run, so it lives in a folder that
//! nobody else can write, and never comes over a network. Knows digests, not plugins.

use std::fs::{self, DirBuilder};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compile::{CompileError, CompileMode, compile};

/// The newest so many pieces of code are kept: several versions of more plugins than a host has.
const MAX_FILES: usize = 512;

/// Files of a compilation that are older than this belong to no living process: none may take so long.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// Why a folder is not fit for native code.
#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("it can't be made or read: {0}")]
    Io(#[from] std::io::Error),
    #[error("it is not a folder")]
    NoFolder,
    #[error("it belongs to the user with id {0}, not to the one that runs this")]
    Foreign(u32),
    #[error("others can write it (mode {0:o}); `chmod 700` makes it usable")]
    Writable(u32),
}

/// A private folder of compiled code.
pub struct CodeCache {
    folder: PathBuf,
    /// True when the folder is a makeshift that goes away with the process.
    makeshift: bool,
}

/// A component ready to be linked.
pub struct Compiled {
    /// The component.
    pub component: Component,
    /// True when the code was found, false when it was compiled now.
    pub cached: bool,
}

impl CodeCache {
    /// Opens `<data_dir>/plugins-cache`. Where others can write it, it is not used: a warning says so, and plugins
    /// are compiled at every start.
    pub fn open(data_dir: &Path) -> Result<CodeCache, CompileError> {
        let folder = data_dir.join("plugins-cache");
        match private_folder(&folder) {
            Ok(()) => Ok(CodeCache { folder, makeshift: false }),
            Err(reason) => {
                tracing::warn!(
                    folder = %folder.display(),
                    %reason,
                    "the cache of compiled plugins is not used: plugins are compiled at every start"
                );
                let folder = std::env::temp_dir().join(format!("presence-{:032x}", fastrand::u128(..)));
                private_folder(&folder).map_err(|reason| CompileError::Files {
                    path: folder.clone(),
                    error: std::io::Error::other(reason),
                })?;
                Ok(CodeCache { folder, makeshift: true })
            }
        }
    }

    /// The component of these bytes, from the cache or compiled now. `digest` is their SHA-256.
    pub async fn component(
        &self,
        engine: &Engine,
        mode: &CompileMode,
        digest: &str,
        bytes: &[u8],
    ) -> Result<Compiled, CompileError> {
        let code = self.folder.join(format!("{}.code", key(engine, digest)));
        if code.exists() {
            match load(engine, &code) {
                Ok(component) => {
                    mark_used(&code);
                    return Ok(Compiled { component, cached: true });
                }
                Err(error) => {
                    tracing::warn!(file = %code.display(), "compiled code is unusable and compiled anew: {error:#}");
                    _ = fs::remove_file(&code);
                }
            }
        }
        self.compile_to(mode, bytes, &code).await?;
        let component = load(engine, &code).map_err(|error| CompileError::Invalid(format!("{error:#}")))?;
        self.prune(&code);
        Ok(Compiled { component, cached: false })
    }

    /// Compiles beside the final place, then renames: a file of the cache is whole or absent.
    async fn compile_to(&self, mode: &CompileMode, bytes: &[u8], code: &Path) -> Result<(), CompileError> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let scratch = |kind: &str| self.folder.join(format!("{}-{number}.{kind}", std::process::id()));
        let (input, output) = (Scratch(scratch("input")), Scratch(scratch("output")));
        fs::write(&input.0, bytes).map_err(CompileError::files(&input.0))?;
        compile(mode, &input.0, &output.0).await?;
        fs::rename(&output.0, code).map_err(CompileError::files(code))
    }

    /// Drops the code that was not used for longest, and what processes that crashed while compiling left.
    fn prune(&self, keep: &Path) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        let dated = entries
            .filter_map(Result::ok)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())));
        let is_code = |file: &Path| file.extension().is_some_and(|kind| kind == "code");
        let (mut code, scratch): (Vec<_>, Vec<_>) = dated.partition(|(_, file)| is_code(file));
        code.retain(|(_, file)| file != keep);
        code.sort();
        let surplus = code.len().saturating_sub(MAX_FILES - 1);
        let old = |modified: &SystemTime| modified.elapsed().is_ok_and(|age| age > ABANDONED_AFTER);
        let abandoned = scratch.iter().filter(|(modified, _)| old(modified));
        for (_, file) in code[..surplus].iter().chain(abandoned) {
            _ = fs::remove_file(file);
        }
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        if self.makeshift {
            _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// A file that goes away when it is no longer needed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

/// Makes the folder if it is not there, and checks that nobody else can write into it.
fn private_folder(folder: &Path) -> Result<(), Unfit> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    // Not the target of a link: a link could be pointed elsewhere later.
    let found = fs::symlink_metadata(folder)?;
    if !found.is_dir() {
        Err(Unfit::NoFolder)
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        Err(Unfit::Foreign(found.uid()))
    } else if found.mode() & 0o022 != 0 {
        Err(Unfit::Writable(found.mode() & 0o7777))
    } else {
        Ok(())
    }
}

/// The time of last use decides what is dropped first.
fn mark_used(file: &Path) {
    if let Ok(file) = fs::File::options().append(true).open(file) {
        _ = file.set_modified(SystemTime::now());
    }
}

/// Names code by what it was made from and for which engine: its version, its settings, the processor.
fn key(engine: &Engine, digest: &str) -> String {
    let mut hasher = Sha256Hasher(Sha256::new_with_prefix(digest));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hex(&hasher.0.finalize())
}

/// SHA-256 behind the standard trait: the digest is read from inside, `finish` is never asked.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

#[allow(unsafe_code)]
fn load(engine: &Engine, code: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this program's own compiler, into a folder that belongs to this user and that
    // nobody else can write (checked when it was opened), and was put in place whole by a rename. wasmtime itself
    // checks that the code was made by the same version and settings. The file is never written again in place.
    unsafe { Component::deserialize_file(engine, code) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::plugins::engine::new_engine;
    use crate::plugins::testing::{Folder, quiet_component};

    #[tokio::test]
    async fn code_is_compiled_once_and_broken_code_again() {
        let folder = Folder::new();
        let engine = new_engine().unwrap();
        let bytes = quiet_component();
        let find = async |cache: &CodeCache| {
            cache.component(&engine, &CompileMode::InProcess, "d1", &bytes).await.unwrap().cached
        };
        let cache = CodeCache::open(folder.path()).unwrap();
        assert!(!find(&cache).await);
        assert!(find(&cache).await);
        let files: Vec<_> = fs::read_dir(&cache.folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "nothing but the code is left: {files:?}");
        fs::write(&files[0], b"nonsense").unwrap();
        assert!(!find(&cache).await);
        assert!(find(&CodeCache::open(folder.path()).unwrap()).await);
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        let folder = Folder::new();
        let shared = folder.path().join("plugins-cache");
        fs::create_dir(&shared).unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o777)).unwrap();
        let cache = CodeCache::open(folder.path()).unwrap();
        assert!(cache.makeshift);
        assert_ne!(cache.folder, shared);
        let makeshift = cache.folder.clone();
        assert_eq!(fs::metadata(&makeshift).unwrap().mode() & 0o777, 0o700);
        drop(cache);
        assert!(!makeshift.exists());
    }

    #[test]
    fn the_oldest_code_and_abandoned_files_are_dropped() {
        let folder = Folder::new();
        let cache = CodeCache::open(folder.path()).unwrap();
        let write = |name: String, age: u64| {
            let file = fs::File::create(cache.folder.join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        };
        for age in 0..=MAX_FILES as u64 {
            write(format!("{age}.code"), age);
        }
        write("1-1.input".to_owned(), ABANDONED_AFTER.as_secs() + 1);
        write("2-1.input".to_owned(), 0);
        // It is the oldest by date, but was compiled just now.
        let keep = cache.folder.join(format!("{MAX_FILES}.code"));
        cache.prune(&keep);
        let left = |name: &str| cache.folder.join(name).exists();
        assert!(keep.exists() && left("0.code") && left("2-1.input"));
        assert!(!left(&format!("{}.code", MAX_FILES - 1)) && !left("1-1.input"));
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), MAX_FILES + 1);
    }

    #[test]
    fn a_link_is_not_used() {
        let folder = Folder::new();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, folder.path().join("plugins-cache")).unwrap();
        assert!(CodeCache::open(folder.path()).unwrap().makeshift);
    }
}
