//! What can be wrong with a plugin, in the words of whoever builds or configures it. Knows no wasmtime.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::compile::CompileError;

/// The largest plugin file, in bytes.
pub const MAX_FILE_BYTES: u64 = 128 << 20;

/// One thing that is wrong with a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No such file, or no permission.
    #[error("the file can't be read ({0}): check `path`, and that the plugin is built")]
    Unreadable(std::io::Error),
    /// More than 128 MiB.
    #[error("the file has {0} bytes; at most {MAX_FILE_BYTES} are allowed")]
    TooLarge(u64),
    /// Not the file that was meant.
    #[error(
        "the file is not the one that presence.toml pins: its SHA-256 is {found}, and `sha256` says {expected}. If it \
         was replaced on purpose, write sha256 = \"{found}\"; else put back the file that was there"
    )]
    Digest {
        /// In presence.toml.
        expected: String,
        /// Of the file.
        found: String,
    },
    /// No bytes at all.
    #[error("the file is empty: build the plugin again")]
    Empty,
    /// Some other kind of file.
    #[error("this is not a WebAssembly file")]
    NotWasm,
    /// A module of the core specification.
    #[error(
        "this is a core module, not a component: build the plugin for the target wasm32-wasip2 \
         (`cargo build --release --target wasm32-wasip2`)"
    )]
    CoreModule,
    /// No native code.
    #[error(transparent)]
    Compile(CompileError),
    /// Nothing would bound them.
    #[error(
        "it makes resources of its own (`resource.new`), which cost memory that no limit counts: build it without \
         exported or virtualized resources"
    )]
    OwnResources,
    /// Its instances would cost the host too much beside their memory.
    #[error(
        "the globals and functions of its modules, over all their instances, would take {mebibytes} MiB of the host's \
         memory for each guest; at most {limit} MiB are allowed"
    )]
    Unwieldy {
        /// Wanted.
        mebibytes: u64,
        /// Allowed.
        limit: u64,
    },
    /// An import that nobody offers.
    #[error("it imports `{0}`, which this host does not offer to plugins")]
    UnknownImport(String),
    /// An import of our contract in a version that is not ours.
    #[error("it imports `{import}`, but this host speaks version {ours} of the contract: {remedy}")]
    ImportVersion {
        /// The import's full name.
        import: String,
        /// The version here.
        ours: &'static str,
        /// Whether host or plugin is the older one.
        remedy: &'static str,
    },
    /// An export of our contract in a version that is not ours: the hook would never run.
    #[error("it exports `{export}`, but this host speaks version {ours} of the contract: {remedy}")]
    ExportVersion {
        /// The export's full name.
        export: String,
        /// The version here.
        ours: &'static str,
        /// Whether host or plugin is the older one.
        remedy: &'static str,
    },
    /// An export of our contract that this host has never heard of.
    #[error(
        "it exports `{0}`, a hook that this host does not know and would never call: is the name misspelt, or the host too old?"
    )]
    UnknownExport(String),
    /// Nothing to call.
    #[error(
        "it exports no hook: expected at least one of session-connected, session-disconnected, cleanup, user-online, \
         user-idle, user-offline, tick{0}"
    )]
    NoHook(String),
    /// An interval that nothing would ever run at.
    #[error("`interval` is set, but it exports no `tick`: remove the line, or export the hook")]
    IntervalWithoutTick,
    /// Imports and what is offered do not fit.
    #[error("it can't be linked: {0}")]
    Link(String),
    /// An export has other types than the contract says.
    #[error("its export `{export}` has other types than the contract says: {reason}")]
    Types {
        /// The interface.
        export: String,
        /// What differs.
        reason: String,
    },
    /// The trial guest did not come to life.
    #[error("it can't be started: {0}")]
    Start(String),
    /// `configure` said no.
    #[error("it refuses its configuration: {0}")]
    Configure(String),
    /// A grant for https, and no certificates to check it with.
    #[error(
        "it has a grant for https, but this machine has no root certificates ({0}): install ca-certificates"
    )]
    Certificates(std::io::Error),
    /// The host's fault, not the plugin's.
    #[error("{0}")]
    Host(String),
}

/// A plugin that can't be used, with everything that is wrong with it.
#[derive(Debug)]
pub struct PluginError {
    /// The plugin's name in presence.toml.
    pub plugin: Arc<str>,
    /// Its file.
    pub path: PathBuf,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin `{}` ({}) can't be used:", self.plugin, self.path.display())?;
        match self.problems.as_slice() {
            [problem] => write!(f, " {problem}"),
            problems => problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}")),
        }
    }
}

impl std::error::Error for PluginError {}
