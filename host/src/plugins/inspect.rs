//! What a plugin file is, whether it can be used or not: for `presence plugin inspect`. Needs no settings.

use std::path::Path;
use std::time::Duration;

use presence_core::events::Hook;
use sha2::{Digest, Sha256};
use wasmtime::component::Component;

use super::admission::{self, Admitted};
use super::cache::{CodeCache, hex};
use super::compile::CompileMode;
use super::engine::new_engine;
use super::local::{LocalRuns, World};
use super::problem::Problem;
use crate::config;
use crate::settings::Limits;

/// What is known of a file.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Bytes.
    pub size: u64,
    /// SHA-256, hexadecimal.
    pub digest: String,
    /// The versions of the contract that its exports and imports name, sorted. One, if all is well.
    pub contract: Vec<String>,
    /// In the order of the contract.
    pub hooks: Vec<Hook>,
    /// Full names, those with types alone left out; sorted.
    pub imports: Vec<String>,
    /// True when it exports `configure`.
    pub configurable: bool,
    /// What `configure` says to no configuration; none: it takes it, or there is no `configure`.
    pub without_config: Option<String>,
    /// What would make the daemon refuse it; texts.
    pub problems: Vec<String>,
}

/// Looks at a file: what it holds, and whether a guest of it comes to life. Compiled code is kept in `folder`.
pub async fn inspect(path: &Path, folder: &Path, compile: CompileMode) -> Result<Inspection, std::io::Error> {
    let bytes = tokio::fs::read(path).await?;
    let mut found = Inspection {
        size: bytes.len() as u64,
        digest: hex(&Sha256::digest(&bytes)),
        ..Inspection::default()
    };
    if let Err(problem) = look_inside(&bytes, &mut found, folder, &compile).await {
        found.problems.push(problem.to_string());
    }
    if found.problems.is_empty() {
        try_out(path, &mut found, folder, compile).await;
    }
    Ok(found)
}

async fn look_inside(
    bytes: &[u8],
    found: &mut Inspection,
    folder: &Path,
    compile: &CompileMode,
) -> Result<(), Problem> {
    admission::check_header(bytes)?;
    let engine = new_engine().map_err(|error| Problem::Host(error.to_string()))?;
    let cache = CodeCache::open(folder).map_err(Problem::Compile)?;
    let compiled = cache.component(&engine, compile, &found.digest, bytes).await.map_err(Problem::Compile)?;
    let (admitted, problems) = admission::survey(&engine, &compiled.component);
    found.contract = versions(&engine, &compiled.component);
    let Admitted { hooks, configurable, imports, .. } = admitted;
    found.hooks = hooks.into_iter().collect();
    found.configurable = configurable;
    found.imports = imports;
    found.problems.extend(problems.iter().map(ToString::to_string));
    Ok(())
}

/// The versions behind `presence:plugin/…@`.
fn versions(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    let types = component.component_type();
    let names = types.exports(engine).map(|(name, _)| name.to_owned());
    let names = names.chain(types.imports(engine).map(|(name, _)| name.to_owned()));
    let ours = names.filter_map(|name| {
        name.strip_prefix("presence:plugin/")?.split_once('@').map(|(_, version)| version.to_owned())
    });
    let mut versions: Vec<String> = ours.collect();
    versions.sort();
    versions.dedup();
    versions
}

/// What shows only when a guest is made: types that differ, a start that traps.
async fn try_out(path: &Path, found: &mut Inspection, folder: &Path, compile: CompileMode) {
    let runs = match LocalRuns::new(folder, compile) {
        Ok(runs) => runs,
        Err(problem) => return found.problems.push(problem.to_string()),
    };
    // No grants, no configuration, generous limits: what is looked for is what the file itself is.
    let mut settings = config::plain_plugin(path, "{}".to_owned());
    settings.limits = Limits { memory: 1 << 30, deadline: Duration::from_secs(10), log: 64 << 10 };
    let Err(error) = runs.load(&settings, World::online()).await else {
        return;
    };
    for problem in error.problems {
        match problem {
            Problem::Configure(reason) => found.without_config = Some(reason),
            other => found.problems.push(other.to_string()),
        }
    }
}
