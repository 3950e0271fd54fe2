//! Cases on what is told rather than kept in documents: notices and dead letters.

use super::*;
use crate::store::{DeadLetter, MAX_DEAD_LETTERS, Notice, Noticed, Notices};

fn notice(revision: u64) -> Notice {
    Notice { user: user("al.ice *"), record: status(revision) }
}

/// Every reader hears every notice in order; none from before it came.
pub async fn notices_reach_all_readers(store: SharedStore) {
    store.notify(notice(0));
    let mut readers = [store.notices(), store.notices()];
    for revision in 1..=10 {
        store.notify(notice(revision));
    }
    for reader in &mut readers {
        let mut heard = Vec::new();
        while heard.last() != Some(&Noticed::Notice(notice(10))) {
            heard.push(within("a notice", reader.next()).await);
        }
        assert_eq!(heard, (1..=10).map(|revision| Noticed::Notice(notice(revision))).collect::<Vec<_>>());
        assert_eq!(reader.try_next(), None);
    }
}

/// That there is something to read of a user reaches readers of a store where somebody has asked for it.
pub async fn notices_of_details(store: SharedStore) {
    let mut reader = store.notices();
    let alice = user("al.ice*");
    store.watch_details(&alice);
    store.notify_details(&alice);
    assert_eq!(within("a notice", reader.next()).await, Noticed::Details(alice.clone()));
    store.unwatch_details(&alice);
    store.notify(notice(1));
    assert_eq!(within("a notice", reader.next()).await, Noticed::Notice(notice(1)), "nothing else was told");
}

/// A reader that missed some knows it, and hears the newest.
pub async fn a_slow_reader_of_notices(store: SharedStore) {
    let all = Notices::MAX_WAITING as u64 + 1_000;
    let mut reader = store.notices();
    for revision in 1..=all {
        store.notify(notice(revision));
    }
    let (mut last, mut told) = (0, true);
    while last < all {
        match within("a notice", reader.next()).await {
            Noticed::Missed => told = true,
            Noticed::Details(user) => panic!("nothing was said of {user}"),
            Noticed::Notice(heard) => {
                assert_eq!(heard, notice(heard.record.revision));
                assert!(heard.record.revision > last, "{} after {last}", heard.record.revision);
                assert!(told || heard.record.revision == last + 1, "silence between {last} and {heard:?}");
                (last, told) = (heard.record.revision, false);
            }
        }
    }
}

fn letter(number: u64) -> DeadLetter {
    DeadLetter {
        number: 0,
        plugin: "webhook".into(),
        digest: "00ff".into(),
        hook: "user-online".into(),
        user: number.is_multiple_of(2).then(|| "al.ice".into()),
        event_id: format!("event {number}"),
        event: serde_json::json!({ "type": "user-online", "data": { "user": "al.ice", "revision": number } }),
        error: "503 Service Unavailable".into(),
        attempts: 5,
        at: number,
    }
}

/// The newest dead letters are kept in order, numbered by the store; what is dropped is told (I8).
pub async fn dead_letters_are_bounded(store: SharedStore) {
    const EXTRA: u64 = 20;
    let kept = MAX_DEAD_LETTERS as u64;
    assert_eq!(store.dead_letters().await, Ok(vec![]));
    let mut dropped = 0;
    for number in 0..kept + EXTRA {
        dropped += store.push_dead_letter(letter(number)).await.expect("a dead letter");
        if number + 1 == kept {
            assert_eq!(dropped, 0);
        }
    }
    assert_eq!(dropped, EXTRA);

    let letters = store.dead_letters().await.expect("dead letters");
    assert!(letters.is_sorted_by(|a, b| a.number < b.number));
    let unnumbered: Vec<DeadLetter> =
        letters.into_iter().map(|kept| DeadLetter { number: 0, ..kept }).collect();
    assert!(unnumbered == (EXTRA..kept + EXTRA).map(letter).collect::<Vec<_>>(), "not the newest in order");
}

/// One dead letter is read and removed by its number; of many who remove it at once exactly one does.
pub async fn a_dead_letter_is_removed_once(store: SharedStore) {
    for number in 0..3 {
        assert_eq!(store.push_dead_letter(letter(number)).await, Ok(0));
    }
    let numbers: Vec<u64> =
        store.dead_letters().await.expect("letters").iter().map(|kept| kept.number).collect();
    assert_eq!(numbers.len(), 3);
    assert!(!numbers.contains(&0), "the numbers begin at 1");
    let read = store.dead_letter(numbers[1]).await.expect("a read");
    assert_eq!(read, Some(DeadLetter { number: numbers[1], ..letter(1) }));

    let removals = futures_util::future::join_all((0..8).map(|_| store.remove_dead_letter(numbers[1]))).await;
    assert_eq!(removals.iter().filter(|removed| **removed == Ok(true)).count(), 1, "{removals:?}");
    assert_eq!(removals.iter().filter(|removed| **removed == Ok(false)).count(), 7, "{removals:?}");
    assert_eq!(store.dead_letter(numbers[1]).await, Ok(None));
    for gone in [numbers[1], numbers[2] + 100] {
        assert_eq!(store.remove_dead_letter(gone).await, Ok(false));
        assert_eq!(store.dead_letter(gone).await, Ok(None));
    }
    let left: Vec<u64> =
        store.dead_letters().await.expect("letters").iter().map(|kept| kept.number).collect();
    assert_eq!(left, [numbers[0], numbers[2]]);
    // The newest as well: its number is not given again.
    assert_eq!(store.remove_dead_letter(numbers[2]).await, Ok(true));
    assert_eq!(store.push_dead_letter(letter(3)).await, Ok(0));
    let newest = store.dead_letters().await.expect("letters").last().map(|kept| kept.number);
    assert!(newest > Some(numbers[2]), "{newest:?} after {numbers:?}");
}

/// All hosts hear a question, the one that asks too; the first answer counts, and without one that is told.
pub async fn a_question_is_answered_by_whom_it_concerns(store: SharedStore) {
    let (mut other, mut concerned) = (store.questions(), store.questions());
    let hosts = async {
        loop {
            tokio::select! {
                _ = other.next() => {}
                question = concerned.next() => {
                    if question.body() == b"who is 1?" {
                        question.answer(b"I am".to_vec());
                    }
                }
            }
        }
    };
    let asking = async {
        // It may take a moment until hosts are heard of.
        let answer = loop {
            match store.ask(b"who is 1?".to_vec()).await {
                Ok(answer) => break answer,
                Err(error) => println!("no answer yet: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(answer, b"I am");
        let silence = store.ask(b"who is 2?".to_vec()).await;
        assert!(matches!(silence, Err(StoreError::Unknown(_))), "{silence:?}");
    };
    tokio::select! {
        () = within("the end of the questions", asking) => {}
        () = hosts => {}
    }
}
