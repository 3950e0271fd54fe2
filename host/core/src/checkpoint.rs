//! What each plugin was told of one partition, so that the next owner repeats what is missing and nothing else.
//!
//! A checkpoint is the highest sequence at or below which everything is settled, with a bounded list of users who are
//! excepted: one user whose receiver fails pins nobody else.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::documents::{CheckpointDocument, HeldCheckpoint, PluginCheckpoint};
use crate::events::Status;
use crate::ids::{Sequence, UserId};
use crate::time::{Tick, Timestamp};

/// At most so often is a checkpoint written.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(100);

/// So many users are excepted at most; when more are behind, the checkpoint stays behind as well.
pub const MAX_EXCEPTIONS: usize = 64;

#[derive(Debug, Default)]
struct Progress {
    /// What an earlier owner left: its exceptions count until they are settled here.
    before: PluginCheckpoint,
    /// The highest sequence issued.
    highest: Sequence,
    /// Issued and not settled, and how often: a record may be told again while it still waits. Bounded by what the
    /// plugin's queue holds.
    open: BTreeMap<Sequence, (UserId, u32)>,
    /// Issued under sequences of a store that was recreated, and not settled: how many, by user.
    owed: BTreeMap<UserId, u32>,
}

/// The checkpoints of one partition.
#[derive(Debug)]
pub struct Checkpoints {
    epoch: u64,
    plugins: BTreeMap<Arc<str>, Progress>,
    /// The plugins of this host, whether anything was issued or not.
    known: Vec<Arc<str>>,
    /// Of held sessions; none: there never were any.
    held: Option<HeldCheckpoint>,
    changed: bool,
    next: Tick,
}

impl Checkpoints {
    /// Nothing was told yet. `known`: the plugins of this host that export a status hook.
    pub fn new(epoch: u64, known: Vec<Arc<str>>) -> Checkpoints {
        Checkpoints { epoch, plugins: BTreeMap::new(), known, held: None, changed: false, next: Tick(0) }
    }

    /// The claim at which this owner begins: what is older and was not issued by [`Checkpoints::handle_issued`] counts as
    /// told. Plugins that this host doesn't know are marked as absent.
    pub fn handle_begun(&mut self, now: Timestamp, up_to: Sequence) {
        for plugin in &self.known {
            let progress = self.plugins.entry(plugin.clone()).or_default();
            progress.highest = progress.highest.max(up_to);
            progress.before.absent_since = None;
        }
        for (name, progress) in &mut self.plugins {
            if !self.known.contains(name) && progress.before.absent_since.is_none() {
                progress.before.absent_since = Some(now);
            }
        }
        self.changed = true;
    }

    /// The store was recreated: sequences begin anew, at this claim. What is not settled stays so.
    pub fn handle_restored(&mut self, epoch: u64, claim: Sequence) {
        self.epoch = epoch;
        for progress in self.plugins.values_mut() {
            for (user, count) in std::mem::take(&mut progress.open).into_values() {
                *progress.owed.entry(user).or_default() += count;
            }
            progress.before.up_to = Sequence(0);
            progress.highest = claim;
        }
        self.held = None;
        self.changed = true;
    }

    /// What the earlier owner left; of another epoch it says nothing. Entries of plugins that this host doesn't know
    /// are kept.
    pub fn handle_loaded(&mut self, document: &CheckpointDocument) {
        if document.epoch != self.epoch {
            return;
        }
        self.held = document.held;
        for (name, checkpoint) in &document.plugins {
            let progress = self.plugins.entry(name.as_str().into()).or_default();
            progress.before = checkpoint.clone();
            progress.highest = progress.highest.max(checkpoint.up_to);
        }
    }

    /// A transition was queued for a plugin. Before the next document, everything due at or below the sequence must
    /// have been issued too: what was not counts as told.
    pub fn handle_issued(&mut self, plugin: &Arc<str>, user: &UserId, sequence: Sequence) {
        let progress = match self.plugins.get_mut(plugin) {
            Some(progress) => progress,
            None => self.plugins.entry(plugin.clone()).or_default(),
        };
        progress.highest = progress.highest.max(sequence);
        progress.open.entry(sequence).or_insert_with(|| (user.clone(), 0)).1 += 1;
    }

    /// This host has other plugins than it had, before [`Checkpoints::handle_begun`].
    pub fn handle_known(&mut self, known: Vec<Arc<str>>) {
        self.known = known;
    }

    /// The plugin came while this owner is at work, and was issued what is due by its [`Checkpoints::entry`]: what is at or
    /// below the sequence counts as told otherwise.
    pub fn handle_added(&mut self, plugin: &Arc<str>, up_to: Sequence) {
        let progress = self.plugins.entry(plugin.clone()).or_default();
        progress.highest = progress.highest.max(up_to);
        progress.before.absent_since = None;
        self.changed = true;
    }

    /// The plugin was removed: what it has not settled until now is due when it comes back.
    pub fn handle_removed(&mut self, now: Timestamp, plugin: &str) {
        let Some(progress) = self.plugins.get_mut(plugin) else {
            return;
        };
        let left = progress.checkpoint();
        progress.highest = left.up_to;
        progress.before = PluginCheckpoint { absent_since: Some(now), ..left };
        progress.open.clear();
        progress.owed.clear();
        self.changed = true;
    }

    /// What the plugin was told until now; none: it is new.
    pub fn entry(&self, plugin: &str) -> Option<PluginCheckpoint> {
        self.plugins.get(plugin).map(Progress::checkpoint)
    }

    /// A transition is settled for a plugin; of one that was removed it means nothing.
    pub fn handle_settled(&mut self, plugin: &str, user: &UserId, sequence: Sequence) {
        let present = |progress: &&mut Progress| progress.before.absent_since.is_none();
        let Some(progress) = self.plugins.get_mut(plugin).filter(present) else {
            return;
        };
        self.changed = true;
        if let Entry::Occupied(mut open) = progress.open.entry(sequence)
            && open.get().0 == *user
        {
            open.get_mut().1 -= 1;
            if open.get().1 > 0 {
                return;
            }
            open.remove();
        } else if let Some(count) = progress.owed.get_mut(user) {
            *count -= 1;
            if *count > 0 {
                return;
            }
            progress.owed.remove(user);
        }
        progress.before.except.retain(|other| other != user);
    }

    /// Nothing is queued any more: what is not settled was withdrawn. Of each plugin and user, `again` says whether the newest
    /// transition is queued once more; if not, it is none that the plugin hears of, and nothing is due.
    pub fn handle_withdrawn(&mut self, mut again: impl FnMut(&Arc<str>, &UserId) -> bool) {
        self.changed = true;
        for (plugin, progress) in &mut self.plugins {
            if progress.before.absent_since.is_some() {
                continue;
            }
            let open = std::mem::take(&mut progress.open).into_values().map(|(user, _)| user);
            let owed = std::mem::take(&mut progress.owed).into_keys();
            for user in open.chain(owed).collect::<BTreeSet<_>>() {
                if again(plugin, &user) {
                    progress.owed.insert(user, 1);
                } else {
                    progress.before.except.retain(|other| *other != user);
                }
            }
        }
    }

    /// How far the session hooks of held sessions are settled.
    pub fn handle_held(&mut self, held: HeldCheckpoint) {
        self.changed |= self.held.replace(held) != Some(held);
    }

    /// The document to write, if something changed and the last one is old enough.
    pub fn poll_document(&mut self, now: Tick) -> Option<CheckpointDocument> {
        if !self.changed || self.next > now {
            return None;
        }
        self.next = now + CHECKPOINT_INTERVAL;
        Some(self.document_now())
    }

    /// When [`Checkpoints::poll_document`] has something.
    pub fn poll_timeout(&self) -> Option<Tick> {
        self.changed.then_some(self.next)
    }

    /// The document as it is now; before a release.
    pub fn document_now(&mut self) -> CheckpointDocument {
        self.changed = false;
        let plugins = self.plugins.iter().map(|(name, progress)| (name.to_string(), progress.checkpoint()));
        CheckpointDocument { epoch: self.epoch, plugins: plugins.collect(), held: self.held }
    }
}

impl Progress {
    fn checkpoint(&self) -> PluginCheckpoint {
        let mut except = self.before.except.clone();
        let mut up_to = self.highest;
        for user in self.owed.keys() {
            if except.contains(user) {
                continue;
            }
            if except.len() >= MAX_EXCEPTIONS {
                // Nothing in the new store is known to be told.
                return PluginCheckpoint {
                    up_to: Sequence(0),
                    except,
                    absent_since: self.before.absent_since,
                };
            }
            except.push(user.clone());
        }
        for (sequence, (user, _)) in &self.open {
            if except.contains(user) {
                continue;
            }
            if except.len() >= MAX_EXCEPTIONS {
                up_to = Sequence(sequence.0 - 1);
                break;
            }
            except.push(user.clone());
        }
        PluginCheckpoint { up_to, except, absent_since: self.before.absent_since }
    }
}

/// What a new owner has to tell one plugin before anything else, from what the earlier owners left.
#[derive(Clone, Copy, Debug)]
pub enum Backlog<'a> {
    /// The earlier owners left no checkpoint at all: every record is due.
    Everything,
    /// The records that are due by this checkpoint.
    Since(&'a PluginCheckpoint),
    /// The plugin is new: the present statuses, of offline users too (`offline`) if it comes back after so long that its
    /// knowledge of them is worth nothing.
    Present {
        /// Whether offline users are told as well.
        offline: bool,
    },
    /// The plugin is new and wants to hear of nothing that was before.
    Nothing,
}

impl<'a> Backlog<'a> {
    /// Looks into the document that was found; one of another epoch says nothing. `initial`: a new plugin wants to hear
    /// the present statuses.
    pub fn of(
        document: Option<&'a CheckpointDocument>,
        epoch: u64,
        plugin: &str,
        initial: bool,
        retention: Duration,
        now: Timestamp,
    ) -> Backlog<'a> {
        let Some(document) = document.filter(|document| document.epoch == epoch) else {
            return Backlog::Everything;
        };
        Backlog::after(document.plugins.get(plugin), initial, retention, now)
    }

    /// The same, by the plugin's entry in a checkpoint that is there.
    pub fn after(
        entry: Option<&'a PluginCheckpoint>,
        initial: bool,
        retention: Duration,
        now: Timestamp,
    ) -> Backlog<'a> {
        match entry {
            Some(PluginCheckpoint { absent_since: Some(since), .. }) if *since + retention < now => {
                if initial { Backlog::Present { offline: true } } else { Backlog::Nothing }
            }
            Some(checkpoint) => Backlog::Since(checkpoint),
            None if initial => Backlog::Present { offline: false },
            None => Backlog::Nothing,
        }
    }

    /// Whether the plugin has to hear of this record.
    pub fn includes(&self, user: &UserId, sequence: Sequence, status: Status) -> bool {
        match self {
            Backlog::Everything => true,
            Backlog::Since(checkpoint) => is_due(checkpoint, user, sequence),
            Backlog::Present { offline } => *offline || status != Status::Offline,
            Backlog::Nothing => false,
        }
    }

    /// Whether the status before it is told: who is told of a user for the first time learns of none.
    pub fn tells_previous(&self) -> bool {
        matches!(self, Backlog::Everything | Backlog::Since(_))
    }
}

/// Whether a new owner has to tell a plugin of a user's record at this sequence.
pub fn is_due(checkpoint: &PluginCheckpoint, user: &UserId, sequence: Sequence) -> bool {
    sequence > checkpoint.up_to || checkpoint.except.contains(user)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(at: usize) -> UserId {
        UserId::new(&format!("u{at}")).unwrap()
    }

    #[test]
    fn a_failing_user_pins_nobody_else() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![]);
        for at in 1..=10 {
            checkpoints.handle_issued(&plugin, &user(at), Sequence(at as u64));
        }
        for at in (1..=10).filter(|at| *at != 4) {
            checkpoints.handle_settled("p", &user(at), Sequence(at as u64));
        }
        let document = checkpoints.poll_document(Tick(1000)).unwrap();
        let expected = PluginCheckpoint { up_to: Sequence(10), except: vec![user(4)], absent_since: None };
        assert_eq!(document.plugins["p"], expected);
        assert!(is_due(&expected, &user(4), Sequence(4)));
        assert!(is_due(&expected, &user(3), Sequence(11)));
        assert!(!is_due(&expected, &user(3), Sequence(3)));
    }

    /// Seed 7835 of the simulation: a partition was being handed over and stayed.
    #[test]
    fn what_was_withdrawn_is_due_once_more_or_not_at_all() {
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut checkpoints = Checkpoints::new(5, vec![]);
        for (plugin, at, sequence) in [(&a, 1, 1), (&a, 1, 2), (&a, 2, 3), (&b, 1, 2), (&b, 3, 4)] {
            checkpoints.handle_issued(plugin, &user(at), Sequence(sequence));
        }
        checkpoints.handle_settled("a", &user(2), Sequence(3));
        let mut asked = Vec::new();
        checkpoints.handle_withdrawn(|plugin, user| {
            asked.push(format!("{plugin} {user}"));
            **plugin == *"a"
        });
        assert_eq!(asked, ["a u1", "b u1", "b u3"]);
        let except = |checkpoints: &mut Checkpoints, plugin: &str| {
            checkpoints.document_now().plugins[plugin].except.clone()
        };
        assert_eq!(except(&mut checkpoints, "a"), [user(1)]);
        assert_eq!(except(&mut checkpoints, "b"), []);
        checkpoints.handle_settled("a", &user(1), Sequence(2));
        assert_eq!(except(&mut checkpoints, "a"), [], "twice it was queued, once it is queued again");
    }

    #[test]
    fn a_record_told_twice_is_open_until_both_are_settled() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![]);
        checkpoints.handle_issued(&plugin, &user(1), Sequence(1));
        checkpoints.handle_issued(&plugin, &user(1), Sequence(1));
        let left = |except| PluginCheckpoint { up_to: Sequence(1), except, absent_since: None };
        for except in [vec![user(1)], vec![]] {
            checkpoints.handle_settled("p", &user(1), Sequence(1));
            assert_eq!(checkpoints.document_now().plugins["p"], left(except));
        }
    }

    #[test]
    fn it_is_written_when_changed_and_not_too_often() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![]);
        checkpoints.handle_issued(&plugin, &user(1), Sequence(1));
        assert_eq!(checkpoints.poll_timeout(), None);
        checkpoints.handle_settled("p", &user(1), Sequence(1));
        assert!(checkpoints.poll_document(Tick(500)).is_some());
        assert!(checkpoints.poll_document(Tick(1000)).is_none());
        checkpoints.handle_settled("p", &user(1), Sequence(1));
        assert!(checkpoints.poll_document(Tick(599)).is_none());
        assert_eq!(checkpoints.poll_timeout(), Some(Tick(600)));
        assert!(checkpoints.poll_document(Tick(600)).is_some());
    }

    #[test]
    fn entries_of_unknown_plugins_are_kept_and_those_of_another_epoch_are_not() {
        let mut checkpoints = Checkpoints::new(5, vec![]);
        let old =
            PluginCheckpoint { up_to: Sequence(77), except: vec![user(1), user(2)], absent_since: None };
        let mut document = CheckpointDocument {
            epoch: 5,
            plugins: BTreeMap::from([("old".into(), old.clone())]),
            held: None,
        };
        checkpoints.handle_loaded(&document);
        assert_eq!(checkpoints.document_now(), document);
        checkpoints.handle_settled("old", &user(1), Sequence(60));
        document.plugins.insert("old".into(), PluginCheckpoint { except: vec![user(2)], ..old });
        assert_eq!(checkpoints.document_now(), document);
        document.epoch = 4;
        let mut other = Checkpoints::new(5, vec![]);
        other.handle_loaded(&document);
        assert_eq!(other.document_now().plugins, BTreeMap::new());
    }

    #[test]
    fn a_new_owner_tells_what_is_due_and_no_more() {
        let (retention, now) = (Duration::from_secs(100), Timestamp(500_000));
        let since = PluginCheckpoint { up_to: Sequence(10), except: vec![user(1)], absent_since: None };
        let absent = |at| PluginCheckpoint { absent_since: Some(Timestamp(at)), ..since.clone() };
        let plugins = BTreeMap::from([
            ("known".to_owned(), since.clone()),
            ("away".to_owned(), absent(450_000)),
            ("long-away".to_owned(), absent(100_000)),
        ]);
        let document = CheckpointDocument { epoch: 5, plugins, held: None };
        let due = |plugin, epoch, initial| {
            let document = Some(&document);
            let backlog = Backlog::of(document, epoch, plugin, initial, retention, now);
            let told = [
                (1, 4, Status::Online),
                (2, 4, Status::Online),
                (2, 11, Status::Online),
                (3, 4, Status::Offline),
            ];
            told.map(|(who, sequence, status)| backlog.includes(&user(who), Sequence(sequence), status))
        };
        assert_eq!(due("known", 5, true), [true, false, true, false]);
        assert_eq!(due("away", 5, true), [true, false, true, false]);
        assert_eq!(due("long-away", 5, true), [true; 4], "offline users too");
        assert_eq!(due("long-away", 5, false), [false; 4]);
        assert_eq!(due("new", 5, true), [true, true, true, false]);
        assert_eq!(due("new", 5, false), [false; 4]);
        assert_eq!(due("known", 6, true), [true; 4], "a checkpoint of another store says nothing");
    }

    #[test]
    fn an_owner_marks_plugins_that_it_does_not_know_and_begins_at_its_claim() {
        let old = PluginCheckpoint { up_to: Sequence(7), except: vec![], absent_since: None };
        let plugins = BTreeMap::from([("old".to_owned(), old.clone()), ("known".to_owned(), old)]);
        let mut checkpoints = Checkpoints::new(5, vec!["known".into(), "new".into()]);
        checkpoints.handle_loaded(&CheckpointDocument { epoch: 5, plugins, held: None });
        checkpoints.handle_begun(Timestamp(900), Sequence(20));
        let entry =
            |up_to, absent_since| PluginCheckpoint { up_to: Sequence(up_to), except: vec![], absent_since };
        let expected = BTreeMap::from([
            ("old".to_owned(), entry(7, Some(Timestamp(900)))),
            ("known".to_owned(), entry(20, None)),
            ("new".to_owned(), entry(20, None)),
        ]);
        assert_eq!(checkpoints.poll_document(Tick(0)).map(|document| document.plugins), Some(expected));
    }

    #[test]
    fn a_plugin_that_was_removed_goes_on_where_it_stood() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![plugin.clone()]);
        checkpoints.handle_begun(Timestamp(100), Sequence(3));
        for at in 4..=7 {
            checkpoints.handle_issued(&plugin, &user(at), Sequence(at as u64));
        }
        checkpoints.handle_settled("p", &user(4), Sequence(4));
        checkpoints.handle_removed(Timestamp(900), "p");
        // What was queued is taken back, which tells nothing.
        for at in 5..=7 {
            checkpoints.handle_settled("p", &user(at), Sequence(at as u64));
        }
        let left = PluginCheckpoint {
            up_to: Sequence(7),
            except: vec![user(5), user(6), user(7)],
            absent_since: Some(Timestamp(900)),
        };
        assert_eq!(checkpoints.document_now().plugins["p"], left);
        assert_eq!(checkpoints.entry("p"), Some(left.clone()));
        let backlog = Backlog::after(Some(&left), true, Duration::from_secs(1), Timestamp(1000));
        assert!(backlog.includes(&user(6), Sequence(6), Status::Offline));
        assert!(!backlog.includes(&user(4), Sequence(4), Status::Online));
        for at in 5..=7 {
            checkpoints.handle_issued(&plugin, &user(at), Sequence(at as u64));
        }
        checkpoints.handle_added(&plugin, Sequence(9));
        checkpoints.handle_settled("p", &user(5), Sequence(5));
        let back =
            PluginCheckpoint { up_to: Sequence(9), except: vec![user(6), user(7)], absent_since: None };
        assert_eq!(checkpoints.document_now().plugins["p"], back);
    }

    #[test]
    fn a_plugin_that_is_added_begins_at_what_was_told_before() {
        let plugin: Arc<str> = "new".into();
        let mut checkpoints = Checkpoints::new(5, vec![]);
        checkpoints.handle_begun(Timestamp(100), Sequence(3));
        assert_eq!(checkpoints.entry("new"), None);
        checkpoints.handle_issued(&plugin, &user(1), Sequence(2));
        checkpoints.handle_added(&plugin, Sequence(8));
        let entry = |except| PluginCheckpoint { up_to: Sequence(8), except, absent_since: None };
        assert_eq!(checkpoints.poll_document(Tick(0)).unwrap().plugins["new"], entry(vec![user(1)]));
        checkpoints.handle_settled("new", &user(1), Sequence(2));
        assert_eq!(checkpoints.document_now().plugins["new"], entry(vec![]));
    }

    #[test]
    fn a_recreated_store_keeps_what_is_not_settled() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![plugin.clone()]);
        checkpoints.handle_issued(&plugin, &user(1), Sequence(70));
        checkpoints.handle_issued(&plugin, &user(2), Sequence(71));
        checkpoints.handle_settled("p", &user(2), Sequence(71));
        checkpoints.handle_restored(6, Sequence(3));
        let left = |except| PluginCheckpoint { up_to: Sequence(3), except, absent_since: None };
        let document = checkpoints.document_now();
        assert_eq!((document.epoch, &document.plugins["p"]), (6, &left(vec![user(1)])));
        checkpoints.handle_settled("p", &user(1), Sequence(70));
        assert_eq!(checkpoints.document_now().plugins["p"], left(vec![]));
    }

    #[test]
    fn of_two_that_wait_when_the_store_is_recreated_the_second_is_due_until_it_is_settled_too() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![plugin.clone()]);
        checkpoints.handle_issued(&plugin, &user(1), Sequence(33));
        checkpoints.handle_issued(&plugin, &user(1), Sequence(38));
        checkpoints.handle_restored(6, Sequence(19));
        // Somebody else's, with a number that was there in the old store.
        checkpoints.handle_issued(&plugin, &user(2), Sequence(33));
        let mut due = |user: UserId, sequence: u64| {
            checkpoints.handle_settled("p", &user, Sequence(sequence));
            let mut except = checkpoints.document_now().plugins["p"].except.clone();
            except.sort();
            except
        };
        assert_eq!(due(user(1), 33), [user(1), user(2)]);
        assert_eq!(due(user(1), 38), [user(2)]);
        assert_eq!(due(user(2), 33), []);
    }

    #[test]
    fn when_too_many_wait_as_the_store_is_recreated_everything_is_due() {
        let plugin: Arc<str> = "p".into();
        let mut checkpoints = Checkpoints::new(5, vec![plugin.clone()]);
        for at in 0..=MAX_EXCEPTIONS {
            checkpoints.handle_issued(&plugin, &user(at), Sequence(at as u64));
        }
        checkpoints.handle_restored(6, Sequence(19));
        assert_eq!(checkpoints.document_now().plugins["p"].up_to, Sequence(0));
        checkpoints.handle_settled("p", &user(3), Sequence(3));
        assert_eq!(checkpoints.document_now().plugins["p"].up_to, Sequence(19));
    }

    proptest! {
        /// What is not settled is due; what is settled and not behind an exception's user or the bound is not.
        #[test]
        fn nothing_unsettled_is_forgotten(
            users in proptest::collection::vec(0..200_usize, 1..300),
            settled in proptest::collection::vec(any::<bool>(), 300),
        ) {
            let plugin: Arc<str> = "p".into();
            let mut checkpoints = Checkpoints::new(1, vec![]);
            for (at, who) in users.iter().enumerate() {
                checkpoints.handle_issued(&plugin, &user(*who), Sequence(at as u64 + 1));
            }
            for (at, who) in users.iter().enumerate().filter(|(at, _)| settled[*at]) {
                checkpoints.handle_settled("p", &user(*who), Sequence(at as u64 + 1));
            }
            let document = checkpoints.document_now();
            let checkpoint = &document.plugins["p"];
            prop_assert!(checkpoint.except.len() <= MAX_EXCEPTIONS);
            for (at, who) in users.iter().enumerate().filter(|(at, _)| !settled[*at]) {
                prop_assert!(is_due(checkpoint, &user(*who), Sequence(at as u64 + 1)));
            }
            if checkpoint.except.len() < MAX_EXCEPTIONS {
                prop_assert_eq!(checkpoint.up_to, Sequence(users.len() as u64));
            }
        }
    }
}
