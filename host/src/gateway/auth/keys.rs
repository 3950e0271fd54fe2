//! The keys in use, and the task that reads those of a key set again. A reading that fails changes nothing: the keys
//! stay as they are. Knows no token.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::rotation::Rotation;
use super::source::{NotRead, Source, TIMEOUT};
use crate::gateway::traffic::Traffic;
use crate::settings::{AuthKey, JwtSettings};
use crate::tokens::{KeyRing, KeySet};

/// How often it is told that a set can't be read.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// How long a token with an unknown key id waits for a reading. The reading has a bound of its own, which comes first.
const PATIENCE: Duration = TIMEOUT.saturating_add(Duration::from_secs(1));

/// The keys of a host.
pub(super) struct Keys {
    fixed: Vec<AuthKey>,
    ring: RwLock<Arc<KeyRing>>,
    set: Option<Set>,
}

struct Set {
    source: Source,
    rotation: Mutex<Rotation>,
    /// A reading is wanted.
    wake: Notify,
    /// How many readings have ended.
    finished: watch::Sender<u64>,
}

/// What came of looking for an unknown key id.
pub(super) enum Found {
    /// Other keys than before; the id may be among them.
    Keys(Arc<KeyRing>),
    /// There is no such key.
    Nothing,
    /// Nobody can tell: the set can't be read.
    Unclear,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("ids", &self.ring().ids()).finish_non_exhaustive()
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Set {
    fn rotation(&self) -> MutexGuard<'_, Rotation> {
        self.rotation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Those of presence.toml; [`Keys::keep`] adds the set's.
    pub(super) fn new(settings: &JwtSettings) -> io::Result<Keys> {
        let set = settings.key_set.as_ref().map(|set| -> io::Result<Set> {
            let source = Source::new(&set.source)?;
            let rotation = Mutex::new(Rotation::new(set.refresh, set.pause, now()));
            Ok(Set { source, rotation, wake: Notify::new(), finished: watch::Sender::new(0) })
        });
        let set = set.transpose()?;
        // Not read yet: keys of any id may be in it.
        let unread = KeySet::default();
        let ring = KeyRing::new(&settings.keys, set.as_ref().map(|_| &unread));
        Ok(Keys { fixed: settings.keys.clone(), ring: RwLock::new(Arc::new(ring)), set })
    }

    /// The keys as they are now.
    pub(super) fn ring(&self) -> Arc<KeyRing> {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A key id is not in the ring that was `used`: has the set read again, unless that was done a moment ago, and
    /// waits for it. However many ask at once, they wait for one reading.
    pub(super) async fn look_again(&self, used: &Arc<KeyRing>) -> Found {
        let Some(set) = &self.set else { return Found::Nothing };
        let mut finished = set.finished.subscribe();
        let reading = if self.is_in_use(used) { set.rotation().ask(now()) } else { None };
        if let Some(number) = reading {
            set.wake.notify_one();
            // Who gives up waiting looks at what there is, like everybody.
            let _ = timeout(PATIENCE, finished.wait_for(|finished| *finished >= number)).await;
        }
        if !self.is_in_use(used) {
            Found::Keys(self.ring())
        } else if set.rotation().has_failed() {
            Found::Unclear
        } else {
            Found::Nothing
        }
    }

    fn is_in_use(&self, used: &Arc<KeyRing>) -> bool {
        Arc::ptr_eq(&self.ring(), used)
    }

    /// Reads the set whenever it is time, until `shutdown`. At once done where there is none.
    pub(super) async fn keep(&self, traffic: &Traffic, shutdown: &CancellationToken) {
        let Some(set) = &self.set else { return };
        let mut complained = None::<Instant>;
        loop {
            let due = Instant::from_std(set.rotation().due());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep_until(due) => {}
                () = set.wake.notified() => {}
            }
            if !set.rotation().begin(now()) {
                continue;
            }
            let read = tokio::select! {
                () = shutdown.cancelled() => return,
                read = set.source.read() => read,
            };
            traffic.count_key_reading(read.is_ok());
            let succeeded = read.is_ok();
            match read {
                Ok(keys) => {
                    complained = None;
                    self.take(&set.source, &keys);
                }
                Err(error) => complain(&set.source, &error, &mut complained),
            }
            let finished = set.rotation().end(now(), succeeded);
            set.finished.send_replace(finished);
        }
    }

    fn take(&self, source: &Source, set: &KeySet) {
        let ring = Arc::new(KeyRing::new(&self.fixed, Some(set)));
        let before =
            std::mem::replace(&mut *self.ring.write().unwrap_or_else(PoisonError::into_inner), ring.clone());
        for (id, reason) in &set.left_out {
            tracing::debug!(%source, id, %reason, "a key of the set is left out");
        }
        if before.ids() != ring.ids() {
            tracing::info!(%source, keys = set.keys.len(), left_out = set.left_out.len(), "the keys for tokens have changed");
        }
    }
}

fn complain(source: &Source, error: &NotRead, complained: &mut Option<Instant>) {
    if complained.is_none_or(|at| at.elapsed() >= COMPLAINT_INTERVAL) {
        *complained = Some(Instant::now());
        tracing::warn!(%source, %error, "the key set can't be read: the keys that are known stay in use");
    }
}
