//! What every keyvalue store must pass: one function per case, each on a fresh and empty store. Tests of stores call
//! [`run_all`]. It knows no particular store.

use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};

use super::{Bucket, KeyValue, KeyValueError, MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// A store.
pub type SharedKeyValue = Arc<dyn KeyValue>;

/// One case.
pub type Case = fn(SharedKeyValue) -> BoxFuture<'static, ()>;

/// All cases and their names.
pub const CASES: &[(&str, Case)] = &[
    ("compare_and_set", |store| Box::pin(compare_and_set(store))),
    ("versions_never_come_back", |store| Box::pin(versions_never_come_back(store))),
    ("numbers_are_text", |store| Box::pin(numbers_are_text(store))),
    ("many_writers", |store| Box::pin(many_writers(store))),
    ("plugins_and_buckets", |store| Box::pin(plugins_and_buckets(store))),
    ("any_key_and_value", |store| Box::pin(any_key_and_value(store))),
    ("pages", |store| Box::pin(pages(store))),
];

/// Runs every case on a store of its own.
pub async fn run_all(make: impl AsyncFn() -> SharedKeyValue) {
    for (name, case) in CASES {
        // Test harnesses show this when the case panics.
        println!("keyvalue conformance: {name}");
        case(make().await).await;
    }
}

const BUCKET: Bucket<'static> = Bucket { plugin: "p", bucket: "b" };

/// One winner, and nobody who expects what is not so.
pub async fn compare_and_set(store: SharedKeyValue) {
    let set = async |expected, value: &str| {
        store.compare_and_set(BUCKET, "k", expected, value.into()).await.expect("an answer")
    };
    assert_eq!(set(Some(7), "0").await, None, "absent");
    assert_eq!(set(Some(0), "0").await, None, "absent: no version is 0");
    let first = set(None, "1").await.expect("the first");
    assert_eq!(set(None, "2").await, None);
    let second = set(Some(first), "2").await.expect("the second");
    assert_eq!(set(Some(first), "3").await, None);
    let found = store.get(BUCKET, "k").await.expect("an answer").expect("a value");
    assert_eq!((found.value.as_slice(), found.version), (b"2".as_slice(), second));
    store.delete(BUCKET, "k").await.expect("deleted");
    store.delete(BUCKET, "k").await.expect("deleting what is not there is a success");
    assert_eq!(store.get(BUCKET, "k").await, Ok(None));
    assert_eq!(set(Some(second), "4").await, None, "deleted");
    assert!(set(None, "5").await.is_some());
}

/// Also not over deletions.
pub async fn versions_never_come_back(store: SharedKeyValue) {
    let mut versions = Vec::new();
    for _ in 0..3 {
        versions.push(store.set(BUCKET, "k", b"1".to_vec()).await.expect("written"));
        versions.push(store.set(BUCKET, "k", b"1".to_vec()).await.expect("written"));
        store.delete(BUCKET, "k").await.expect("deleted");
    }
    assert!(versions.is_sorted_by(|one, other| one < other), "{versions:?}");
}

/// Anything else is an error, and so is what does not fit.
pub async fn numbers_are_text(store: SharedKeyValue) {
    assert_eq!(store.increment(BUCKET, "n", 5).await, Ok(5));
    assert_eq!(store.increment(BUCKET, "n", -7).await, Ok(-2));
    assert_eq!(store.get(BUCKET, "n").await.expect("an answer").expect("a value").value, b"-2");
    store.set(BUCKET, "n", b"many".to_vec()).await.expect("written");
    assert!(matches!(store.increment(BUCKET, "n", 1).await, Err(KeyValueError::Denied(_))));
    store.set(BUCKET, "n", i64::MAX.to_string().into_bytes()).await.expect("written");
    assert!(matches!(store.increment(BUCKET, "n", 1).await, Err(KeyValueError::TooLarge(_))));
}

/// No increment is lost, and of those who create one wins.
pub async fn many_writers(store: SharedKeyValue) {
    let added = join_all((0..20).map(|_| store.increment(BUCKET, "n", 1))).await;
    let mut sums: Vec<i64> = added.into_iter().map(|sum| sum.expect("added")).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=20).collect::<Vec<i64>>());
    let creators = (0..20).map(|_| store.compare_and_set(BUCKET, "k", None, Vec::new()));
    let created = join_all(creators).await;
    assert_eq!(created.into_iter().filter(|one| matches!(one, Ok(Some(_)))).count(), 1);
}

/// They do not see each other.
pub async fn plugins_and_buckets(store: SharedKeyValue) {
    store.set(BUCKET, "k", b"1".to_vec()).await.expect("written");
    for (plugin, bucket) in [("q", "b"), ("p", "c"), ("p/b", ""), ("p.b", "k"), ("p", ""), ("", "b")] {
        let other = Bucket { plugin, bucket };
        assert_eq!(store.get(other, "k").await, Ok(None));
        assert_eq!(store.keys(other, "", None).await.expect("a page").keys, Vec::<String>::new());
    }
    assert_eq!(store.keys(BUCKET, "", None).await.expect("a page").keys, ["k"]);
}

/// Up to the limits.
pub async fn any_key_and_value(store: SharedKeyValue) {
    let (slashes, crabs) = ("/".repeat(MAX_KEY_BYTES), "🦀".repeat(MAX_KEY_BYTES / 4));
    let keys = ["a", "a/", "/a", "a//b", "a.b", "a*", "a>", "=", "=2E", "ä ö", "\u{1}\r\n", &slashes, &crabs];
    let mut sorted: Vec<&str> = keys.to_vec();
    sorted.sort_unstable();
    for key in keys {
        store.set(BUCKET, key, key.into()).await.expect("written");
    }
    for key in keys {
        let found = store.get(BUCKET, key).await.expect("an answer").expect("a value");
        assert_eq!(found.value, key.as_bytes(), "{key:?}");
    }
    assert_eq!(store.keys(BUCKET, "", None).await.expect("a page").keys, sorted, "in order of their bytes");
    for beginning in ["a", "a/", "a//", "/", "a.", "b"] {
        let expected: Vec<&str> = sorted.iter().copied().filter(|key| key.starts_with(beginning)).collect();
        let page = store.keys(BUCKET, beginning, None).await.expect("a page");
        assert_eq!(page.keys, expected, "{beginning:?}");
    }
    let large: Vec<u8> = (0..MAX_VALUE_BYTES).map(|at| at as u8).collect();
    for value in [large, Vec::new()] {
        store.set(BUCKET, "v", value.clone()).await.expect("written");
        assert!(store.get(BUCKET, "v").await.expect("an answer").expect("a value").value == value);
    }
}

/// All keys of a beginning, each once, also while pages are deleted.
pub async fn pages(store: SharedKeyValue) {
    let names: Vec<String> = (0..2500).map(|number| format!("a/{number:04}")).collect();
    for chunk in names.chunks(100) {
        for written in join_all(chunk.iter().map(|name| store.set(BUCKET, name, Vec::new()))).await {
            written.expect("written");
        }
    }
    for other in ["a", "a0", "b"] {
        store.set(BUCKET, other, Vec::new()).await.expect("written");
    }
    for deleting in [false, true] {
        let (mut found, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = store.keys(BUCKET, "a/", after.as_deref()).await.expect("a page");
            if deleting {
                for deleted in join_all(page.keys.iter().map(|key| store.delete(BUCKET, key))).await {
                    deleted.expect("deleted");
                }
            }
            found.extend(page.keys);
            pages += 1;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!((found.len(), pages), (2500, 3));
        assert_eq!(found, names);
    }
    assert_eq!(store.keys(BUCKET, "", None).await.expect("a page").keys, ["a", "a0", "b"]);
    let none = store.keys(BUCKET, "b", Some("b")).await.expect("a page");
    assert_eq!((none.keys.len(), none.next), (0, None));
}

/// A bucket holds so many keys and not one more, whatever is tried; what is there can be changed, and a deletion makes
/// room. Not among [`CASES`]: the store must have been made with this limit.
pub async fn bounded(store: SharedKeyValue, max_keys: usize) {
    for number in 0..max_keys {
        store.set(BUCKET, &number.to_string(), Vec::new()).await.expect("written");
    }
    let full = |error: KeyValueError| match error {
        KeyValueError::TooLarge(text) => assert!(text.contains(&max_keys.to_string()), "{text}"),
        other => panic!("{other:?}"),
    };
    for attempt in 0..3 {
        let key = format!("more {attempt}");
        full(store.set(BUCKET, &key, Vec::new()).await.expect_err("no room"));
        full(store.compare_and_set(BUCKET, &key, None, Vec::new()).await.expect_err("no room"));
        full(store.increment(BUCKET, &key, 1).await.expect_err("no room"));
    }
    store.set(BUCKET, "0", b"overwriting is fine".to_vec()).await.expect("written");
    let other = Bucket { plugin: "p", bucket: "c" };
    store.set(other, "another bucket has room of its own", Vec::new()).await.expect("written");
    store.delete(BUCKET, "0").await.expect("deleted");
    store.delete(BUCKET, "0").await.expect("deleting nothing makes no room");
}
