//! Whether files have changed. Looks regularly instead of asking the operating system: that sees what editors do, who
//! put a new file in the old one's place, what Kubernetes does, which swaps links to folders, and network file systems.
//! Knows nothing of what is in the files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often files are looked at. A change counts once it has stayed the same from one look to the next, so that no file
/// is taken while it is being written.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What is seen of a file without reading it; none: it is not there.
type Stamp = Option<(SystemTime, u64, u64)>;
type Stamps = BTreeMap<PathBuf, Stamp>;

/// Some files, and how they were when they were last read.
pub(crate) struct Watch {
    taken: Stamps,
    /// How they were at the last look, if that was different.
    seen: Option<Stamps>,
}

impl Watch {
    /// Files that are being used as they are.
    pub(crate) fn new(files: BTreeSet<PathBuf>) -> Watch {
        Watch { taken: look(files), seen: None }
    }

    /// These are about to be read as they are now.
    pub(crate) async fn taken(&mut self, files: BTreeSet<PathBuf>) {
        self.taken.extend(looked(files).await);
        self.seen = None;
    }

    /// Only these matter from now on.
    pub(super) fn keep(&mut self, files: &BTreeSet<PathBuf>) {
        self.taken.retain(|file, _| files.contains(file));
    }

    /// Waits until some file is there otherwise than it was taken.
    pub(crate) async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let stamps = looked(self.taken.keys().cloned().collect()).await;
            if self.is_change(stamps) {
                return;
            }
        }
    }

    /// Whether a look that finds this is the second to find it.
    fn is_change(&mut self, stamps: Stamps) -> bool {
        let differs = stamps != self.taken;
        // Between the old file and the new one there may be none: that is waited out.
        let complete = stamps.iter().all(|(file, stamp)| stamp.is_some() || self.taken[file].is_none());
        if !differs || !complete {
            self.seen = None;
            return false;
        }
        let stays = self.seen.as_ref() == Some(&stamps);
        self.seen = Some(stamps);
        stays
    }
}

async fn looked(files: BTreeSet<PathBuf>) -> Stamps {
    let nothing: Stamps = files.iter().map(|file| (file.clone(), None)).collect();
    // A file system that hangs must not hold up more than this.
    tokio::task::spawn_blocking(move || look(files)).await.unwrap_or(nothing)
}

fn look(files: BTreeSet<PathBuf>) -> Stamps {
    files.into_iter().map(|file| (stamp(&file), file)).map(|(stamp, file)| (file, stamp)).collect()
}

fn stamp(file: &Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    Some((found.modified().ok()?, found.len(), inode(&found)))
}

#[cfg(unix)]
fn inode(found: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    found.ino()
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(of: &[(&str, Option<u64>)]) -> Stamps {
        let stamp = |size: u64| (SystemTime::UNIX_EPOCH, size, 7);
        of.iter().map(|(file, size)| (PathBuf::from(file), size.map(stamp))).collect()
    }

    #[test]
    fn a_change_counts_once_it_has_stayed() {
        let mut watch = Watch { taken: stamps(&[("a", Some(1)), ("b", Some(1))]), seen: None };
        let mut look = |a, b| watch.is_change(stamps(&[("a", a), ("b", b)]));
        assert!(!look(Some(1), Some(1)), "nothing has changed");
        assert!(!look(Some(2), Some(1)));
        assert!(!look(Some(3), Some(1)), "it is still being written");
        assert!(look(Some(3), Some(1)));
        assert!(!look(Some(3), None), "a new file is about to take its place");
        assert!(!look(Some(3), Some(4)));
        assert!(look(Some(3), Some(4)));
    }

    #[test]
    fn a_file_that_was_missing_may_stay_so() {
        let mut watch = Watch { taken: stamps(&[("a", Some(1)), ("b", None)]), seen: None };
        assert!(!watch.is_change(stamps(&[("a", Some(2)), ("b", None)])));
        assert!(watch.is_change(stamps(&[("a", Some(2)), ("b", None)])));
    }

    #[tokio::test]
    async fn what_was_taken_is_no_change() {
        let folder = crate::plugins::testing::Folder::new();
        let file = folder.write("presence.toml", "one");
        let files: BTreeSet<PathBuf> = [file.clone()].into();
        let mut watch = Watch::new(files.clone());
        folder.write("presence.new", "other");
        std::fs::rename(folder.path().join("presence.new"), &file).unwrap();
        let now = look(files.clone());
        assert!(!watch.is_change(now.clone()));
        assert!(watch.is_change(now.clone()), "another file is in its place");
        watch.taken(files.clone()).await;
        assert!(!watch.is_change(now.clone()));
        assert!(!watch.is_change(now));
        watch.keep(&BTreeSet::new());
        assert!(watch.taken.is_empty());
    }
}
