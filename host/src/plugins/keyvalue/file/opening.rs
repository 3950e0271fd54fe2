//! Opens the file, and again after a failure; says what is wrong in words for whoever runs the host. Knows nothing of
//! what is in it.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError};

use super::tables;

/// After a failure the file is left alone for so long.
const PAUSE: Duration = Duration::from_secs(1);

/// Every database of the library begins with as many bytes, written last: zeros tell of one that was never finished.
const MAGIC_BYTES: usize = 9;

/// Makes a database of an open file.
pub(super) type Make = Box<dyn Fn(File) -> Result<Database, DatabaseError> + Send + Sync>;

/// Why the file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Somebody else has it.
    #[error(
        "the plugins' keys are in {}, which another process uses: stop it, or give each host a host.data_dir of its own",
        .path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It is there and makes no sense.
    #[error(
        "the plugins' keys are in {}, which is no whole file of keys ({reason}): put back a copy that is, or move it \
         away to start without any keys",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In the library's words.
        reason: String,
    },
    /// The operating system says no.
    #[error(
        "the plugins' keys are to be in {}, which can't be opened ({error}): check host.data_dir, who may write there, \
         and the space that is left",
        .path.display()
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

impl FileError {
    /// Whether somebody must change something before another start has a chance.
    pub fn is_configuration(&self) -> bool {
        match self {
            FileError::InUse { .. } => false,
            FileError::Damaged { .. } => true,
            FileError::Io { error, .. } => {
                matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied
                        | ErrorKind::AlreadyExists
                        | ErrorKind::NotADirectory
                        | ErrorKind::IsADirectory
                )
            }
        }
    }
}

/// The library with our settings. Damage is looked for whenever a file is opened: later it would be met by a plugin.
pub(super) fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes).set_check_integrity_on_open(true);
    builder
}

/// The file: open, or to be opened by the next who needs it.
pub(super) struct Opened {
    path: PathBuf,
    make: Make,
    /// Written only to open or close it.
    database: RwLock<Option<Database>>,
    failed: Mutex<Option<Instant>>,
}

impl Opened {
    pub(super) fn new(path: PathBuf, make: Make) -> Opened {
        Opened { path, make, database: RwLock::default(), failed: Mutex::default() }
    }

    /// Opens it if it is not open.
    pub(super) fn open(&self) -> Result<(), FileError> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if database.is_none() {
            *database = Some(open(&self.path, &self.make)?);
        }
        Ok(())
    }

    /// Does something with the open file. None when it can't be opened, or failed: the log says why.
    pub(super) fn with<T>(&self, act: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Option<T> {
        if !self.ready() {
            return None;
        }
        let ended = {
            let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
            act(database.as_ref()?)
        };
        match ended {
            Ok(value) => Some(value),
            Err(error) => {
                self.fail(&error.to_string());
                // The library takes no more after a failure: the file is opened anew.
                let closing = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
                // It may find the same damage once more.
                _ = catch_unwind(AssertUnwindSafe(|| drop(closing)));
                None
            }
        }
    }

    fn ready(&self) -> bool {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return true;
        }
        let failed = *self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|at| at.elapsed() < PAUSE) {
            return false;
        }
        let opened = self.open();
        if let Err(error) = &opened {
            self.fail(&error.to_string());
        }
        opened.is_ok()
    }

    fn fail(&self, error: &str) {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        tracing::error!(file = %self.path.display(), error, "the plugins' keys can't be read or written");
    }
}

fn open(path: &Path, make: &Make) -> Result<Database, FileError> {
    let io = |error| FileError::Io { path: path.to_owned(), error };
    let file = private_file(path).map_err(io)?;
    finish_unborn(&file).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => FileError::InUse { path: path.to_owned() },
        _ => io(error),
    })?;
    let damaged = |reason: String| FileError::Damaged { path: path.to_owned(), reason };
    let checked = || -> Result<Database, redb::Error> {
        let database = make(file)?;
        tables::make(&database)?;
        Ok(database)
    };
    // The library panics over some kinds of damage.
    let made =
        catch_unwind(AssertUnwindSafe(checked)).map_err(|_| damaged("checking it failed".to_owned()))?;
    made.map_err(|error| match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => {
            FileError::InUse { path: path.to_owned() }
        }
        // A file that is shorter than it says itself is read beyond its end.
        redb::Error::Io(error)
            if !matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            io(error)
        }
        error => damaged(error.to_string()),
    })
}

/// Opens or makes a file that only its owner may read.
fn private_file(path: &Path) -> std::io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    // A new file survives a power cut only once its folder is on the disk.
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// A process that was killed while it made the file left one without content: it is made again.
fn finish_unborn(file: &File) -> std::io::Result<()> {
    let is_unborn = || -> std::io::Result<bool> {
        let mut beginning = Vec::new();
        let mut reader = file;
        std::io::Seek::rewind(&mut reader)?;
        reader.take(MAGIC_BYTES as u64).read_to_end(&mut beginning)?;
        Ok(!beginning.is_empty() && beginning.iter().all(|byte| *byte == 0))
    };
    if !is_unborn()? {
        return Ok(());
    }
    // Whoever is making it at this moment holds this lock.
    file.try_lock()?;
    if is_unborn()? {
        file.set_len(0)?;
    }
    file.unlock()
}
