//! What answers mean, and what can be sent at all.

use super::*;
use crate::testing;

fn outcome(response: Response) -> HookResult {
    response.delivered("PUT http://x/a")
}

#[test]
fn statuses_are_delivered_retried_or_rejected() {
    for status in [200, 201, 204, 299] {
        assert_eq!(outcome(Response::new(status)), Ok(()));
    }
    for status in [408, 425, 429, 500, 502, 503, 599] {
        assert!(outcome(Response::new(status)).unwrap_err().is_retry(), "{status}");
    }
    for status in [100, 199, 301, 302, 400, 401, 404, 410, 422, 600] {
        assert!(!outcome(Response::new(status)).unwrap_err().is_retry(), "{status}");
    }
}

#[test]
fn retry_after_takes_seconds_and_dates() {
    testing::set_now_ms(1_445_412_420_000); // Wed, 21 Oct 2015 07:27:00 GMT
    for (value, expected) in [
        ("120", Some(120_000)),
        ("0", Some(0)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", Some(60_000)),
        ("Wed, 21 Oct 2015 07:20:00 GMT", Some(0)),
        ("99999999999", Some(u32::MAX)),
        ("soon", None),
        ("-5", None),
    ] {
        let response = Response::new(503).with_header("Retry-After", value);
        let Err(HookError::Retry { after_ms, .. }) = outcome(response) else { panic!("{value}") };
        assert_eq!(after_ms, expected, "{value}");
    }
}

#[test]
fn messages_say_what_failed_without_the_query() {
    testing::reset();
    testing::answer(Ok(Response::new(404).with_body(" no such\nuser ")));
    let error = Request::put("http://x/a?token=secret").deliver().unwrap_err();
    assert_eq!(error, HookError::reject("PUT http://x/a answered 404: no such\\nuser"));

    testing::answer(Err(Error::Denied("http://x".to_string())));
    let error = Request::put("http://x/a").deliver().unwrap_err();
    assert!(error.is_retry(), "a missing grant loses nothing");
    assert!(error.to_string().starts_with("PUT http://x/a: denied by the host: http://x"), "{error}");
}

#[test]
fn what_cannot_be_sent_is_rejected() {
    testing::reset();
    for url in
        ["", "x", "/a", "ftp://x/", "http://", "http:///a", "http://:80/", "http://u:p@x/", "http://x/a b"]
    {
        assert!(matches!(Request::get(url).send(), Err(Error::Invalid(_))), "{url}");
    }
    for (name, value) in [("", "x"), ("a b", "x"), ("a", "x\r\nb: c"), ("a", "ü")] {
        assert!(
            !Request::get("http://x").header(name, value).deliver().unwrap_err().is_retry(),
            "{name}: {value}"
        );
    }
    let unspeakable = std::collections::BTreeMap::from([((1, 2), 3)]);
    assert!(matches!(Request::post("http://x").json(&unspeakable).send(), Err(Error::Invalid(_))));
    assert!(testing::requests().is_empty());
}

#[test]
fn urls_are_taken_apart() {
    let target = |url| url::Target::parse(url).unwrap();
    let parts = |url| (target(url).secure, target(url).authority, target(url).path_and_query);
    assert_eq!(parts("http://x"), (false, "x", ""));
    assert_eq!(parts("HTTPS://x:1?a=b"), (true, "x:1", "?a=b"));
    assert_eq!(parts("http://[::1]:8090/a/b?c"), (false, "[::1]:8090", "/a/b?c"));
    assert_eq!(encode_segment("a/b c.é~*"), "a%2Fb%20c.%C3%A9~%2A");
}

#[test]
fn bodies_are_bounded() {
    testing::reset();
    testing::answer(Ok(Response::new(200).with_body("[1,2]")));
    let response = Request::get("http://x").body_limit(3).send().unwrap();
    assert_eq!((response.body.as_slice(), response.complete), (&b"[1,"[..], false));
    assert!(response.json::<Vec<u8>>().is_err());
}
