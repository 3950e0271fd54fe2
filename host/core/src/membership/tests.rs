//! Whole effects of joining, booting, claiming and leaving.

use super::*;
use crate::ids::Layout;

const ME: InstanceId = InstanceId(1);
const TTL: u64 = 6000;

fn membership(partitions: u16) -> Membership {
    Membership::new(MembershipConfig {
        instance: ME,
        host: "host-1".into(),
        layout: Layout { partitions, leaves: 16 },
        epoch: 0xabc,
        nonce: 5,
        instance_ttl: Duration::from_millis(TTL),
        boot_timeout: Duration::from_secs(30),
    })
}

fn effects(membership: &mut Membership) -> Vec<MembershipEffect> {
    std::iter::from_fn(|| membership.poll_effect()).collect()
}

fn instance(state: InstanceState, renewal: u64) -> Document {
    Document::Instance(InstanceRecord {
        host: "host-1".into(),
        state,
        started_at: Timestamp(1000),
        renewal,
        plugins: 0,
        cleanup: None,
    })
}

fn write(key: Key, document: Document, expect: Expect, lease: Option<u64>) -> MembershipEffect {
    MembershipEffect::Write { key, document, expect, lease: lease.map(Duration::from_millis) }
}

fn boot(generation: u64, phase: BootPhase) -> Document {
    Document::Boot(BootRecord { generation, phase, by: ME })
}

fn last(sequence: u64) -> Expect {
    Expect::Last(Sequence(sequence))
}

/// Brings a lonely instance to the point where `everything` runs.
fn cleaning(membership: &mut Membership) {
    let now = Now::at(1000);
    membership.handle_start(now);
    assert_eq!(effects(membership), [MembershipEffect::Load(Sequence(0))]);
    membership.handle_loaded(now, &[]);
    let meta = MetaRecord { format: 1, layout: Layout { partitions: 2, leaves: 16 }, epoch: 0xabc };
    assert_eq!(effects(membership), [write(Key::Meta, Document::Meta(meta), last(0), None)]);
    membership.handle_written(now, &Key::Meta, Ok(Sequence(1)));
    let own = Key::Instance(ME);
    let joining = instance(InstanceState::Joining, 1);
    assert_eq!(effects(membership), [write(own.clone(), joining, last(0), Some(TTL))]);
    membership.handle_written(now, &own, Ok(Sequence(2)));
    assert_eq!(effects(membership), [MembershipEffect::Load(Sequence(2))]);
    membership.handle_loaded(now, &[(own, Sequence(2), instance(InstanceState::Joining, 1))]);
    assert_eq!(effects(membership), [write(Key::Boot, boot(1, BootPhase::Cleaning), last(0), None)]);
    membership.handle_written(now, &Key::Boot, Ok(Sequence(3)));
    assert_eq!(effects(membership), [MembershipEffect::Everything("abc-1-0".into())]);
    assert!(!membership.is_ready());
}

/// And from there to the claims.
fn claiming(membership: &mut Membership) {
    assert_eq!(effects(membership), [write(Key::Boot, boot(1, BootPhase::Open), last(3), None)]);
    membership.handle_written(Now::at(1500), &Key::Boot, Ok(Sequence(4)));
    let claims = [0, 1].map(|partition| MembershipEffect::ReadOwner(PartitionId(partition)));
    let renewal = write(Key::Instance(ME), instance(InstanceState::Ready, 2), last(2), Some(TTL));
    assert_eq!(effects(membership), [vec![renewal], claims.to_vec()].concat());
    membership.handle_written(Now::at(1500), &Key::Instance(ME), Ok(Sequence(5)));
}

fn ready(membership: &mut Membership) {
    cleaning(membership);
    membership.handle_everything_settled();
    claiming(membership);
    for partition in [0, 1].map(PartitionId) {
        membership.handle_owner(partition, None);
        let claim = Document::Owner(Claim { instance: Some(ME), nonce: 5 });
        assert_eq!(effects(membership), [write(Key::Owner(partition), claim, last(0), None)]);
        let sequence = Sequence(10 + u64::from(partition.0));
        membership.handle_written(Now::at(1500), &Key::Owner(partition), Ok(sequence));
        assert_eq!(effects(membership), [MembershipEffect::Own(partition, sequence)]);
        assert!(!membership.is_ready());
    }
    membership.handle_partition_loaded(PartitionId(1));
    assert_eq!(effects(membership), []);
    membership.handle_partition_loaded(PartitionId(0));
    assert_eq!(effects(membership), [MembershipEffect::Ready]);
    assert!(membership.is_ready());
}

#[test]
fn a_lonely_host_declares_the_fresh_start_then_claims_everything() {
    let mut membership = membership(2);
    ready(&mut membership);
    assert_eq!(membership.generation(), 1);
    assert_eq!(membership.owned().len(), 2);
    assert!(membership.is_last());
}

#[test]
fn everything_does_not_hold_up_the_boot_for_ever() {
    let mut membership = membership(2);
    cleaning(&mut membership);
    membership.handle_timeout(Now::at(30_999));
    let renewal = write(Key::Instance(ME), instance(InstanceState::Joining, 2), last(2), Some(TTL));
    assert_eq!(effects(&mut membership), [renewal]);
    membership.handle_written(Now::at(30_999), &Key::Instance(ME), Ok(Sequence(2)));
    membership.handle_timeout(Now::at(31_000));
    assert_eq!(membership.poll_effect(), Some(MembershipEffect::BootTimedOut));
    membership.handle_everything_settled();
    assert_eq!(effects(&mut membership), [write(Key::Boot, boot(1, BootPhase::Open), last(3), None)]);
}

#[test]
fn the_lease_is_renewed_by_compare_and_set_every_third_of_its_life() {
    let mut membership = membership(2);
    ready(&mut membership);
    assert_eq!(membership.poll_timeout(), Some(Tick(1500 + TTL / 3)));
    membership.handle_timeout(Now::at(3500));
    let renewal = write(Key::Instance(ME), instance(InstanceState::Ready, 3), last(5), Some(TTL));
    assert_eq!(effects(&mut membership), [renewal]);
    membership.handle_timeout(Now::at(9000));
    assert_eq!(effects(&mut membership), [], "one renewal at a time");
    membership.handle_written(Now::at(9000), &Key::Instance(ME), Err(NotWritten::Conflict(Sequence(8))));
    membership.handle_timeout(Now::at(9000));
    let again = write(Key::Instance(ME), instance(InstanceState::Ready, 4), last(8), Some(TTL));
    assert_eq!(effects(&mut membership), [again], "a lease that ran out is taken anew on its marker");
}

#[test]
fn leaving_releases_the_partitions_and_gives_up_the_lease() {
    let mut membership = membership(2);
    ready(&mut membership);
    membership.handle_drain(Now::at(4000));
    let draining = write(Key::Instance(ME), instance(InstanceState::Draining, 3), last(5), Some(TTL));
    assert_eq!(effects(&mut membership), [draining]);
    assert!(!membership.is_ready());
    membership.handle_leave();
    let released = |partition: u16, sequence| {
        let claim = Document::Owner(Claim { instance: None, nonce: 5 });
        write(Key::Owner(PartitionId(partition)), claim, last(sequence), None)
    };
    assert_eq!(effects(&mut membership), [released(0, 10), released(1, 11)]);
    assert!(!membership.has_left(), "the renewal in flight is waited for");
    membership.handle_written(Now::at(4001), &Key::Instance(ME), Ok(Sequence(20)));
    assert_eq!(effects(&mut membership), [MembershipEffect::Leave(Sequence(20))]);
    assert!(membership.has_left());
    assert_eq!(membership.poll_timeout(), None);
}

#[test]
fn another_slicing_or_format_is_reported_and_nothing_is_written() {
    for (meta, error) in [
        (
            MetaRecord { format: 1, layout: Layout { partitions: 64, leaves: 16 }, epoch: 1 },
            MembershipError::Layout {
                found: Layout { partitions: 64, leaves: 16 },
                wanted: Layout { partitions: 2, leaves: 16 },
            },
        ),
        (
            MetaRecord { format: 2, layout: Layout { partitions: 2, leaves: 16 }, epoch: 1 },
            MembershipError::Format { found: 2 },
        ),
    ] {
        let mut membership = membership(2);
        membership.handle_start(Now::at(1));
        effects(&mut membership);
        membership.handle_loaded(Now::at(1), &[(Key::Meta, Sequence(1), Document::Meta(meta))]);
        assert_eq!(effects(&mut membership), [MembershipEffect::Fail(error)]);
    }
}

#[test]
fn who_joins_a_running_deployment_cleans_nothing() {
    let mut membership = membership(2);
    let now = Now::at(1000);
    membership.handle_start(now);
    effects(&mut membership);
    let other = InstanceId(2);
    let meta = MetaRecord { format: 1, layout: Layout { partitions: 2, leaves: 16 }, epoch: 9 };
    let open = BootRecord { generation: 4, phase: BootPhase::Open, by: other };
    let documents = [
        (Key::Meta, Sequence(1), Document::Meta(meta)),
        (Key::Boot, Sequence(2), Document::Boot(open)),
        (Key::Instance(other), Sequence(3), instance(InstanceState::Ready, 7)),
    ];
    membership.handle_loaded(now, &documents);
    effects(&mut membership);
    membership.handle_written(now, &Key::Instance(ME), Ok(Sequence(4)));
    effects(&mut membership);
    membership.handle_loaded(now, &documents);
    let wanted = effects(&mut membership);
    assert!(
        !wanted.iter().any(|effect| matches!(
            effect,
            MembershipEffect::Everything(_) | MembershipEffect::Write { key: Key::Boot, .. }
        )),
        "{wanted:?}"
    );
    assert_eq!(membership.generation(), 4);
    assert_eq!(membership.epoch(), 9);
    assert!(!membership.is_last());
}
