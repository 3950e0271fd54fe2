//! Bad files and their whole list of errors; defaults; the example at the root.

use proptest::prelude::*;

use super::*;
use crate::settings::{AuthMode, Initial, NatsAuth, NatsSettings, NatsTls, WatchPolicy};

mod guide;

fn no_env(_: &str) -> Option<String> {
    None
}

fn check(text: &str) -> Result<Settings, Vec<String>> {
    parse(text, Path::new("presence.toml"), &no_env)
        .map_err(|errors| errors.to_string().lines().map(str::to_owned).collect())
}

fn errors(text: &str) -> Vec<String> {
    check(text).expect_err("a bad file")
}

#[test]
fn an_empty_file_has_every_default() {
    let settings = check("").unwrap();
    assert_eq!(settings.host.listen.to_string(), "127.0.0.1:7070");
    assert_eq!(settings.presence.offline_grace, Duration::from_secs(5));
    assert_eq!(settings.presence.idle_after, None);
    assert_eq!((settings.cluster.partitions, settings.cluster.leaves), (64, 16));
    assert!(matches!(settings.auth.mode, AuthMode::None));
    assert_eq!(settings.auth.watch, WatchPolicy::Anyone);
    assert!(settings.host.data_dir.is_absolute());
    assert!(settings.plugins.is_empty());
}

#[test]
fn traces_have_a_collector_or_there_are_none() {
    assert_eq!(check("").unwrap().telemetry, None);
    let telemetry = |lines: &str| check(&format!("[telemetry]\n{lines}"));
    let defaults = telemetry("otlp = \"http://127.0.0.1:4318\"").unwrap().telemetry.unwrap();
    assert_eq!((defaults.sample, &*defaults.service_name), (0.01, "presence"));
    assert_eq!(defaults.traces_address(), "http://127.0.0.1:4318/v1/traces");
    let all = "otlp = \"https://otel.example/base/\"\nsample = 1\nservice_name = \"shop\"";
    let all = telemetry(all).unwrap().telemetry.unwrap();
    assert_eq!((all.sample, &*all.service_name), (1.0, "shop"));
    assert_eq!(all.traces_address(), "https://otel.example/base/v1/traces");

    let wrong =
        errors("[telemetry]\nsample = 1.5\nservice_name = \"\"\notlp = \"http://me:hunter2@x\"\nrate = 1");
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    for (error, part) in
        wrong.iter().zip(["sample: must be a number from 0 to 1", "1 to 128", "OTLP/HTTP", "rate"])
    {
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
    for otlp in ["127.0.0.1:4318", "grpc://x:4317", "http://x?token=1", "", "http://"] {
        assert_eq!(errors(&format!("[telemetry]\notlp = \"{otlp}\"")).len(), 1, "{otlp}");
    }
    let alone = errors("[telemetry]\nsample = 0.5\nservice_name = \"shop\"");
    assert_eq!(alone.len(), 2, "{alone:?}");
}

/// The example with every commented default switched on.
fn with_defaults(text: &str) -> String {
    let is_key = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(is_key)) => {
            rest.to_owned()
        }
        _ => line.to_owned(),
    };
    text.lines()
        .map(line)
        .filter(|line| !line.starts_with("name = \"host-1\""))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_example_is_valid_and_its_comments_tell_the_defaults() {
    let text = include_str!("../../../presence.toml");
    let example = check(text).unwrap();
    let switched_on = with_defaults(text);
    assert!(switched_on.lines().filter(|line| !line.starts_with('#')).count() > 40, "{switched_on}");
    let full = check(&switched_on).unwrap();
    assert_eq!(format!("{full:?}"), format!("{example:?}"));
    let plugin = &example.plugins[0];
    assert_eq!(plugin.name, "profile-updater");
    assert_eq!(plugin.config, r#"{"url":"http://127.0.0.1:8090/profiles"}"#);
    assert_eq!(plugin.initial, Initial::Current);
    assert_eq!(plugin.grants.http[0].port, 8090);
    assert_eq!(plugin.grants.http[0].addresses, ["127.0.0.1/32".parse().unwrap()]);
}

#[test]
fn every_error_is_told_at_once_with_its_line_and_a_remedy() {
    let text = r#"[host]
listn = "127.0.0.1:1"
admin = "localhost"
[presence]
offline_grace = "5 sec ago"
heartbeat = "0s"
max_users = "many"
[cluster]
store = "etcd"
partitions = 0
urls = ["nats://a"]
[[plugin]]
name = "A b"
[plugin.grants]
http = ["https://a/b", "ftp://x", 5, { addresses = ["x"] }, "https://u:p@h"]
keyvalue = ["a", "a", "b/c"]
[plugin.delivery]
attempts = 0
backoff = "1m"
[plugin.limits]
memory = "1 parrot"
[plugins]
"#;
    let expected = [
        "presence.toml:2: host.listn: is not a key; did you mean `listen`?",
        "presence.toml:3: host.admin: \"localhost\" is not an address with a port; write for example \"127.0.0.1:7070\" or \"[::]:7070\"",
        "presence.toml:5: presence.offline_grace: \"5 sec ago\" is not a duration; write for example \"5s\" or \"1m30s\"",
        "presence.toml:6: presence.heartbeat: can't be 0: it would end every connection at once",
        "presence.toml:7: presence.max_users: must be a whole number from 1 to 4294967295, not string",
        "presence.toml:9: cluster.store: must be \"memory\" (one host) or \"nats\", not \"etcd\"",
        "presence.toml:10: cluster.partitions: must be a whole number from 1 to 1024, not 0",
        "presence.toml:11: cluster.urls: means something with store = \"nats\" only",
        "presence.toml:12: plugin.path: is needed: the plugin's .wasm file",
        "presence.toml:13: plugin.name: must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`, and begin with a letter or digit",
        "presence.toml:15: plugin.grants.http[0]: \"https://a/b\" is more than an origin: a grant has no path; write an origin such as \"https://api.example.com\"",
        "presence.toml:15: plugin.grants.http[1]: \"ftp://x\" must begin with http:// or https://; write an origin such as \"https://api.example.com\"",
        "presence.toml:15: plugin.grants.http[2]: must be a text in quotes, not integer",
        "presence.toml:15: plugin.grants.http[3].addresses[0]: must be an address or a range such as \"10.0.0.0/8\"",
        "presence.toml:15: plugin.grants.http[3].origin: is needed, such as \"https://api.example.com\"",
        "presence.toml:15: plugin.grants.http[4]: \"https://u:p@h\" must not hold a user or password; write an origin such as \"https://api.example.com\"",
        "presence.toml:16: plugin.grants.keyvalue[1]: grants \"a\" twice",
        "presence.toml:16: plugin.grants.keyvalue[2]: must be 1 to 64 letters, digits, `-` or `_`",
        "presence.toml:17: plugin.delivery.max_backoff: is 30s and backoff is 1m: the longest pause can't be shorter than the first",
        "presence.toml:18: plugin.delivery.attempts: must be a whole number from 1 to 1000, not 0",
        "presence.toml:21: plugin.limits.memory: \"1 parrot\" is not a size; write for example \"64KiB\" or \"32MiB\"",
        "presence.toml:22: plugins: is not a key; did you mean `plugin`?",
    ];
    let found = errors(text);
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn contradictions_name_both_values() {
    assert_eq!(
        errors("[host]\nlisten = \"0.0.0.0:1\"\n[auth]\nmode = \"none\"\n"),
        [
            "presence.toml:3: auth.mode: is \"none\" and host.listen is 0.0.0.0:1: without authentication both listeners \
          must be loopback, such as 127.0.0.1; or set auth.mode = \"jwt\""
        ]
    );
    assert_eq!(
        errors("[host]\nlisten = \"127.0.0.1:9\"\nadmin = \"127.0.0.1:9\"\n"),
        [
            "presence.toml:3: host.admin: host.listen is 127.0.0.1:9 as well: give each listener a port of its own"
        ]
    );
    let twice = "[[plugin]]\nname = \"a\"\npath = \"a\"\n[[plugin]]\nname = \"a\"\npath = \"b\"\n";
    assert_eq!(errors(twice), ["presence.toml:5: plugin.name: \"a\" is another plugin's name as well"]);
}

fn nats(text: &str) -> NatsSettings {
    let settings = check(&format!("[cluster]\nstore = \"nats\"\n{text}")).unwrap();
    match settings.cluster.store {
        StoreKind::Nats(nats) => nats,
        StoreKind::Memory => panic!("the store is in memory"),
    }
}

#[test]
fn nats_needs_a_url_and_has_a_default_for_the_rest() {
    let settings = nats("urls = [\"nats://127.0.0.1:4222\", \"tls://[::1]:4223/\", \"nats://n\"]\n");
    assert_eq!(settings.urls, ["nats://127.0.0.1:4222", "tls://[::1]:4223/", "nats://n"]);
    assert_eq!((settings.prefix.as_str(), settings.replicas), ("presence", 1));
    assert_eq!((settings.auth, settings.tls), (NatsAuth::None, NatsTls::default()));
    assert_eq!(settings.instance_ttl, Duration::from_secs(6));
    let text =
        "urls = [\"nats://a\"]\nuser = \"u\"\npassword = \"secret\"\nreplicas = 3\nprefix = \"a_B-1\"\n";
    let settings = nats(text);
    assert_eq!(settings.auth, NatsAuth::User { user: "u".into(), password: "secret".into() });
    assert!(!format!("{settings:?}").contains("secret"));
    assert!(!format!("{:?}", nats("urls = [\"nats://a\"]\ntoken = \"secret\"\n")).contains("secret"));
}

#[test]
fn every_mistake_about_nats_is_told_at_once() {
    let text = r#"[cluster]
store = "nats"
urls = ["http://a", "nats://u:secret@b", "nats://", 7]
credentials_file = "missing.creds"
token = "t"
user = "u"
tls_cert_file = "/"
prefix = "a.b"
replicas = 6
instance_ttl = "3s"
[[plugin]]
name = "a"
path = "a.wasm"
[[plugin]]
name = "b"
path = "b.wasm"
[plugin.limits]
deadline = "1500ms"
"#;
    let found = errors(text);
    assert!(!found.concat().contains("secret"), "{found:?}");
    let folder = std::env::current_dir().unwrap();
    let missing = folder.join("missing.creds");
    let expected = [
        "presence.toml:3: cluster.urls[0]: must begin with nats:// or tls://, such as \"nats://127.0.0.1:4222\"".to_owned(),
        "presence.toml:3: cluster.urls[1]: must not hold a user or password: there are the keys `user` and `password`, or `token`".into(),
        "presence.toml:3: cluster.urls[2]: must name a host and perhaps a port, such as \"nats://127.0.0.1:4222\"".into(),
        "presence.toml:3: cluster.urls[3]: must be a text in quotes, not integer".into(),
        format!("presence.toml:4: cluster.credentials_file: {} can't be read: No such file or directory (os error 2)", missing.display()),
        "presence.toml:5: cluster.token: is a second way to log in beside `credentials_file`: leave one of them".into(),
        "presence.toml:6: cluster.user: is a second way to log in beside `credentials_file`: leave one of them".into(),
        "presence.toml:6: cluster.user: needs a `password` beside it".into(),
        "presence.toml:7: cluster.tls_cert_file: / is not a file".into(),
        "presence.toml:7: cluster.tls_cert_file: needs `tls_key_file` beside it".into(),
        "presence.toml:8: cluster.prefix: must be 1 to 32 letters, digits, `-` or `_`, such as \"presence\"".into(),
        "presence.toml:9: cluster.replicas: must be a whole number from 1 to 5, not 6".into(),
        "presence.toml:11: plugin.limits.deadline: is 2s and cluster.instance_ttl is 3s: no hook may outlive its host's lease, so with store = \"nats\" at most 1s 500ms are left for it".into(),
    ];
    let mut sorted = found.clone();
    sorted.sort_by_key(|line| {
        let line: usize = line.split(':').nth(1).unwrap().parse().unwrap();
        line
    });
    assert_eq!(found, sorted);
    let (mut found, mut expected) = (found, expected.to_vec());
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(
        errors("[cluster]\nstore = \"nats\"\n"),
        [
            "presence.toml:1: cluster.urls: is needed with store = \"nats\"; write for example urls = [\"nats://127.0.0.1:4222\"]"
        ]
    );
}

#[test]
fn no_toml_is_told_with_its_line() {
    let found = errors("[host]\nlisten = \n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("presence.toml:2: is not TOML: "), "{found:?}");
    let missing = load(Path::new("/nowhere/presence.toml"), &no_env).unwrap_err();
    assert!(missing.to_string().contains("--config"), "{missing}");
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "[host]\ndata_dir = \"data\"\n[[plugin]]\nname = \"a\"\npath = \"p/a.wasm\"\n";
    let settings = parse(text, Path::new("/etc/presence/presence.toml"), &no_env).unwrap();
    assert_eq!(settings.host.data_dir, Path::new("/etc/presence/data"));
    assert_eq!(settings.plugins[0].path, Path::new("/etc/presence/p/a.wasm"));
}

proptest! {
    /// Whatever the text is, there is an answer, and errors have lines of the file.
    #[test]
    fn no_text_makes_it_panic(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("[host]\n"), Just("[[plugin]]\n"), Just("[plugin.grants]\n"), Just("[auth]\n"), Just("[presence]\n"),
                Just("name = \"a\"\n"), Just("path = 1\n"), Just("http = [[]]\n"), Just("key = [{}]\n"),
                Just("heartbeat = \"${X\"\n"), Just("config = { a = [1.5, 2026-01-01, true] }\n"), Just("mode = \"jwt\"\n"),
                Just("listen = \"[::]:0\"\n"), Just("\u{0}"), Just("é = 'ü'\n"), Just("= = =\n"), Just("max_users = 0x10\n"),
            ],
            0..12,
        )
    ) {
        let text = parts.concat();
        if let Err(errors) = parse(&text, Path::new("presence.toml"), &no_env) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert!(errors.errors.iter().all(|error| error.line <= text.lines().count() + 1));
        }
    }
}

/// One plugin with these lines in front of its tables, and these of its grants.
fn plugin(cluster: &str, lines: &str, grants: &str) -> String {
    format!("{cluster}\n[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\n{lines}\n[plugin.grants]\n{grants}\n")
}

const NATS: &str = "[cluster]\nstore = \"nats\"\nurls = [\"nats://a\"]\nprefix = \"mine\"";

#[test]
fn subjects_of_messages_are_the_applications_own() {
    let granted = check(&plugin(NATS, "", r#"messaging = ["app.presence.>", "app.*.x"]"#)).unwrap();
    assert_eq!(granted.plugins[0].grants.messaging, ["app.presence.>", "app.*.x"]);
    let bad = [">", "*.x", "$SYS.>", "_INBOX.x", "mine.>", "mine", "a b", "a..b", "a.>.b"];
    let list: Vec<String> = bad.iter().map(|subject| format!("{:?}", subject.replace('$', "$$"))).collect();
    let told = errors(&plugin(NATS, "", &format!("messaging = [{}]", list.join(", "))));
    assert_eq!(told.len(), bad.len(), "{told:#?}");
    for (told, subject) in told.iter().zip(bad) {
        assert!(told.contains("plugin.grants.messaging"), "{told}");
        assert!(told.contains(&format!("\"{subject}\" can't be granted: ")), "{told}");
    }
    let twice = errors(&plugin(NATS, "", r#"messaging = ["a", "a"]"#));
    assert!(twice[0].contains("grants \"a\" twice"), "{twice:?}");
}

#[test]
fn messages_need_nats() {
    let told = errors(&plugin("", "", r#"messaging = ["app.x"]"#));
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("needs cluster.store = \"nats\""), "{told:?}");
    assert!(check(&plugin("", "", "messaging = []")).is_ok());
}

#[test]
fn intervals_and_look_ups_are_read() {
    let read = |lines: &str, grants: &str| check(&plugin("", lines, grants)).unwrap().plugins.remove(0);
    let none = read("", "");
    assert_eq!(
        (none.interval, none.interval(), none.grants.presence),
        (None, Duration::from_secs(60), false)
    );
    let day = read("interval = \"1d\"", "presence = true");
    assert_eq!((day.interval, day.grants.presence), (Some(Duration::from_secs(86_400)), true));
    for interval in ["999ms", "2d", "0s"] {
        let told = errors(&plugin("", &format!("interval = \"{interval}\""), ""));
        assert!(told[0].contains("must be from \"1s\" to \"1d\""), "{told:?}");
    }
}

#[test]
fn plugins_of_a_reload_must_fit_the_cluster_that_the_host_runs_with() {
    let text = |ttl: &str| {
        format!(
            "[cluster]\nstore = \"nats\"\nurls = [\"nats://a\"]\ninstance_ttl = \"{ttl}\"\n[[plugin]]\nname = \"p\"\npath = \"p.wasm\"\n\
             [plugin.limits]\ndeadline = \"10s\"\n"
        )
    };
    let running = check("[cluster]\nstore = \"nats\"\nurls = [\"nats://a\"]").unwrap().cluster;
    let path = Path::new("presence.toml");
    assert!(parse(&text("60s"), path, &no_env).is_ok());
    let errors = parse_beside(&text("60s"), path, &no_env, Some(&running)).unwrap_err();
    let lines = errors.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].contains("plugin.limits.deadline") && lines[0].contains("instance_ttl is 6s"),
        "{lines:?}"
    );
    assert!(parse_beside(&text("6s"), path, &no_env, None).is_err());
}
