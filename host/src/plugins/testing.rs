//! What the tests of plugins share: small plugins, events, a store that keeps dead letters and nothing else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use presence_core::documents::{Document, Expect, Key};
use presence_core::events::{Attributes, Session, SessionChange, SessionEvent, Status, Transition};
use presence_core::ids::{InstanceId, PartitionId, Sequence, SessionId, UserId};
use presence_core::time::Timestamp;
use tokio::sync::Notify;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use crate::settings::{DeliverySettings, Grants, Initial, Limits, PluginSettings};
use crate::store::{
    Coverage, DeadLetter, Follower, Notice, Notices, Purge, Put, Questions, Snapshot, Store, StoreError,
};

/// A folder of its own for one test, gone afterwards.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("presence-test-{:032x}", fastrand::u128(..)));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file; returns where.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A core module as a component of one of the worlds beside this file.
fn component(module: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/wit/0.1.0");
    resolve.push_dir(contract).unwrap();
    for (name, text) in
        [("wasi.wit", include_str!("testing/wasi.wit")), ("clocks.wit", include_str!("testing/clocks.wit"))]
    {
        resolve.push_str(name, text).unwrap();
    }
    let package = resolve.push_str("world.wit", include_str!("testing/world.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let mut bytes = wat::parse_str(module).unwrap();
    embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&bytes).unwrap().validate(true).encode().unwrap()
}

/// Delivers everything; exports `user-online` and `user-idle`.
pub(crate) fn quiet_component() -> Vec<u8> {
    component(include_str!("testing/quiet.wat"), "quiet")
}

/// Does what the first letter of a user says; exports `user-online`, `session-connected` and `configure`.
pub(crate) fn zoo_component() -> Vec<u8> {
    component(include_str!("testing/zoo.wat"), "zoo")
}

/// Settings with short times and small limits.
pub(crate) fn settings(name: &str, path: PathBuf) -> PluginSettings {
    PluginSettings {
        name: name.to_owned(),
        path,
        config: "{}".to_owned(),
        secrets: Default::default(),
        sha256: None,
        initial: Initial::Current,
        interval: None,
        grants: Grants::default(),
        limits: Limits { memory: 16 << 20, deadline: Duration::from_millis(200), log: 4096 },
        delivery: DeliverySettings {
            concurrency: 4,
            queue: 4096,
            attempts: 2,
            backoff: Duration::from_millis(1),
            max_backoff: Duration::from_millis(10),
        },
    }
}

/// A user came online.
pub(crate) fn transition(user: &str, revision: u64) -> Transition {
    Transition {
        user: UserId::new(user).unwrap(),
        previous: None,
        current: Status::Online,
        since: Timestamp(1),
        revision,
        sessions: 1,
        last_seen: None,
        partition: PartitionId(0),
        sequence: Sequence(revision),
    }
}

/// A session was opened.
pub(crate) fn session_event(user: &str, session: u128) -> SessionEvent {
    let session = Session {
        id: SessionId::Hosted(session),
        user: UserId::new(user).unwrap(),
        instance: InstanceId(1),
        status: Status::Online,
        connected_at: Timestamp(1),
        attributes: Attributes::new(vec![("user-agent".to_owned(), "test".to_owned())]),
    };
    SessionEvent { session, change: SessionChange::Connected, partition: None }
}

/// Keeps dead letters; is never asked for anything else.
#[derive(Default)]
pub(crate) struct LetterBox(Mutex<Vec<DeadLetter>>, Arc<Notify>, AtomicBool);

impl LetterBox {
    pub(crate) fn letters(&self) -> MutexGuard<'_, Vec<DeadLetter>> {
        self.0.lock().unwrap()
    }

    /// Keeps nothing before [`LetterBox::release`].
    pub(crate) fn hold(&self) {
        self.2.store(true, SeqCst);
    }

    /// Keeps what comes, after what waits.
    pub(crate) fn release(&self) {
        self.2.store(false, SeqCst);
        self.1.notify_waiters();
        self.1.notify_one();
    }
}

const NEVER_ASKED: &str = "plugins only keep dead letters";

impl Store for LetterBox {
    fn put(&self, _: Put) -> BoxFuture<'static, Result<Sequence, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn put_fenced(
        &self,
        _: (Key, Sequence),
        _: Vec<(Key, Document)>,
    ) -> BoxFuture<'static, (Vec<Sequence>, Option<StoreError>)> {
        unreachable!("{NEVER_ASKED}")
    }

    fn delete(&self, _: Key, _: Expect) -> BoxFuture<'static, Result<(), StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn purge_sessions(&self, _: Purge) -> BoxFuture<'static, Result<u64, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn get(&self, _: Key) -> BoxFuture<'static, Result<Option<(Sequence, Document)>, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn snapshot(&self, _: Coverage, _: Sequence) -> BoxFuture<'static, Result<Snapshot, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn sessions_of(&self, _: InstanceId) -> BoxFuture<'static, Result<Vec<(Key, Document)>, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn follow(&self, _: Coverage, _: Sequence) -> BoxFuture<'static, Result<Follower, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn notify(&self, _: Notice) {
        unreachable!("{NEVER_ASKED}")
    }

    fn notices(&self) -> Notices {
        unreachable!("{NEVER_ASKED}")
    }

    fn watch(&self, _: &UserId) {
        unreachable!("{NEVER_ASKED}")
    }

    fn unwatch(&self, _: &UserId) {
        unreachable!("{NEVER_ASKED}")
    }

    fn notify_details(&self, _: &UserId) {
        unreachable!("{NEVER_ASKED}")
    }

    fn watch_details(&self, _: &UserId) {
        unreachable!("{NEVER_ASKED}")
    }

    fn unwatch_details(&self, _: &UserId) {
        unreachable!("{NEVER_ASKED}")
    }

    fn clock(&self) -> BoxFuture<'static, Result<Option<Timestamp>, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn push_dead_letter(&self, letter: DeadLetter) -> BoxFuture<'static, Result<u64, StoreError>> {
        self.letters().push(letter);
        if !self.2.load(SeqCst) {
            return ready(Ok(0)).boxed();
        }
        let released = self.1.clone();
        async move {
            released.notified().await;
            Ok(0)
        }
        .boxed()
    }

    fn dead_letters(&self) -> BoxFuture<'static, Result<Vec<DeadLetter>, StoreError>> {
        ready(Ok(self.letters().clone())).boxed()
    }

    fn dead_letter(&self, _: u64) -> BoxFuture<'static, Result<Option<DeadLetter>, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn remove_dead_letter(&self, _: u64) -> BoxFuture<'static, Result<bool, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn ask(&self, _: Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, StoreError>> {
        unreachable!("{NEVER_ASKED}")
    }

    fn questions(&self) -> Questions {
        unreachable!("{NEVER_ASKED}")
    }

    fn describe(&self) -> String {
        "letter box".to_owned()
    }
}

/// The same box for a test and for the plugins it loads.
pub(crate) fn letter_box() -> Arc<LetterBox> {
    Arc::default()
}
