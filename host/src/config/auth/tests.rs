//! What may stand in `[auth]`, and every mistake in it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::parse;
use crate::plugins::testing::Folder;
use crate::settings::{AuthMode, AuthSettings, JwtSettings, KeySetSource, WatchPolicy};
use crate::tokens::Algorithm;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/keys").join(name)
}

fn env(name: &str) -> Option<String> {
    (name == "SECRET").then(|| SECRET.to_owned())
}

fn read(path: &Path, lines: &str) -> Result<AuthSettings, Vec<String>> {
    let text = format!("[auth]\n{lines}\n");
    parse(&text, path, &env).map(|settings| settings.auth).map_err(|errors| errors.lines())
}

/// What `[auth]` with these lines is; files are named absolutely.
fn auth(lines: &str) -> Result<AuthSettings, Vec<String>> {
    read(Path::new("presence.toml"), lines)
}

fn errors(lines: &str) -> Vec<String> {
    auth(lines).expect_err("a bad section")
}

fn jwt(lines: &str) -> JwtSettings {
    match auth(&format!("mode = \"jwt\"\n{lines}")).unwrap().mode {
        AuthMode::Jwt(settings) => *settings,
        AuthMode::None => panic!("it is jwt"),
    }
}

/// One secret after these lines.
fn with_key(lines: &str) -> String {
    format!("mode = \"jwt\"\n{lines}\n[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"${{SECRET}}\"")
}

#[test]
fn keys_are_checked_and_never_shown() {
    assert_eq!(
        errors("mode = \"jwt\""),
        [
            "presence.toml:1: auth.key: is needed with auth.mode = \"jwt\": add at least one [[auth.key]], or a key set \
          in [auth.jwks]"
        ]
    );
    let lines = "mode = \"jwt\"\n[[auth.key]]\nid = \"a\"\nalgorithm = \"HS256\"\nsecret = \"hunter2\"\n\
                 [[auth.key]]\nid = \"a\"\nalgorithm = \"none\"\n[[auth.key]]\nalgorithm = \"EdDSA\"";
    assert_eq!(
        errors(lines),
        [
            "presence.toml:6: auth.key.secret: has 7 bytes; \"HS256\" needs at least 32 that nobody can guess",
            "presence.toml:8: auth.key.id: names another key as well",
            "presence.toml:9: auth.key.algorithm: must be \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\"",
            "presence.toml:10: auth.key.id: is needed with more than one key: the token's `kid` names it",
            "presence.toml:10: auth.key.public_key_file: is needed with \"EdDSA\": a PEM file; or `public_key`, its text",
        ]
    );
    let settings = auth(&with_key("")).unwrap();
    assert!(!format!("{settings:?}").contains(SECRET), "{settings:?}");
    assert_eq!(settings.watch, WatchPolicy::Own);
    let text = format!("[auth]\n{}\n", with_key(""));
    let unset = parse(&text, Path::new("presence.toml"), &|_: &str| None).unwrap_err().lines();
    assert_eq!(
        unset,
        [
            "presence.toml:6: auth.key.secret: needs the environment variable SECRET, which is not set; or write \
          ${SECRET:-default}"
        ]
    );
}

#[test]
fn public_keys_come_from_files_or_stand_in_the_file() {
    let (rsa, p256) = (fixture("rsa-public.pem"), fixture("p256-public.pem"));
    let pem = std::fs::read_to_string(fixture("ed25519-public.pem")).unwrap();
    let lines = format!(
        "[[auth.key]]\nid = \"r\"\nalgorithm = \"RS256\"\npublic_key_file = '{}'\n\
         [[auth.key]]\nid = \"p\"\nalgorithm = \"ES256\"\npublic_key_file = '{}'\n\
         [[auth.key]]\nid = \"e\"\nalgorithm = \"EdDSA\"\npublic_key = \"\"\"\n{pem}\"\"\"",
        rsa.display(),
        p256.display()
    );
    let keys: Vec<_> = jwt(&lines).keys.iter().map(|key| (key.id.clone(), key.key.algorithm())).collect();
    let expected = [("r", Algorithm::Rs256), ("p", Algorithm::Es256), ("e", Algorithm::EdDsa)];
    assert_eq!(keys, expected.map(|(id, algorithm)| (Some(id.to_owned()), algorithm)));

    let wrong = |algorithm: &str, file: &str| {
        let path = fixture(file);
        let lines = format!(
            "mode = \"jwt\"\n[[auth.key]]\nalgorithm = \"{algorithm}\"\npublic_key_file = '{}'",
            path.display()
        );
        let found = errors(&lines);
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].replace(&path.display().to_string(), "FILE")
    };
    let told = |what: &str| format!("presence.toml:5: auth.key.public_key_file: FILE {what}");
    let pem = "in PEM form (`-----BEGIN PUBLIC KEY-----`)";
    assert_eq!(wrong("RS256", "p256-public.pem"), told(&format!("holds no RSA public key {pem}")));
    assert_eq!(wrong("RS256", "rsa-private.pem"), told(&format!("holds no RSA public key {pem}")));
    assert_eq!(wrong("ES256", "p384-public.pem"), told(&format!("holds no P-256 public key {pem}")));
    assert_eq!(wrong("EdDSA", "README.md"), told(&format!("holds no Ed25519 public key {pem}")));
    let small = told("is an RSA key of 1024 bits; 2048 to 4096 are taken");
    assert_eq!(wrong("RS256", "rsa-1024-public.pem"), small);
    assert!(wrong("RS256", "none.pem").contains("can't be read: No such file"));
}

#[test]
fn a_secret_may_be_in_a_file_of_its_own() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let path = folder.write("jwt.key", format!("{SECRET}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let lines = "mode = \"jwt\"\n[[auth.key]]\nalgorithm = \"HS256\"\nsecret_file = \"jwt.key\"";
    let settings = read(&folder.path().join("presence.toml"), lines).unwrap();
    let AuthMode::Jwt(settings) = settings.mode else { panic!("it is jwt") };
    assert_eq!(settings.keys[0].key.algorithm(), Algorithm::Hs256);
    let expected = format!(
        "auth.key.secret_file: everybody on this machine may read {}: `chmod o-r` it",
        path.display()
    );
    assert_eq!(settings.warnings, [expected]);
    folder.write("jwt.key", "short\n");
    let found = read(&folder.path().join("presence.toml"), lines).unwrap_err();
    assert!(
        found[0].ends_with("jwt.key has 5 bytes; \"HS256\" needs at least 32 that nobody can guess"),
        "{found:?}"
    );
}

#[test]
fn a_key_is_made_of_one_thing_that_fits_its_algorithm() {
    let key = |lines: &str| {
        let found = errors(&format!("mode = \"jwt\"\n[[auth.key]]\n{lines}"));
        found.into_iter().map(|error| error.split_once("auth.key.").unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        key("algorithm = \"HS256\"\nsecret = \"${SECRET}\"\nsecret_file = \"a\"\npublic_key = \"b\""),
        [
            "secret_file: is given beside `secret`: leave one of them",
            "public_key: is for the other algorithms; \"HS256\" has a `secret` or a `secret_file`",
        ]
    );
    assert_eq!(
        key("algorithm = \"ES256\"\nsecret = \"${SECRET}\"\npublic_key = \"a\"\npublic_key_file = \"b\""),
        [
            "secret: is for \"HS256\"; \"ES256\" has a `public_key_file` or a `public_key`",
            "public_key_file: is given beside `public_key`: leave one of them",
        ]
    );
    assert_eq!(key("algorithm = \"HS256\""), ["secret: is needed with \"HS256\", or `secret_file`"]);
    assert_eq!(key("algorithm = \"HS256\"\nsecret = 5"), ["secret: must be a text in quotes, not integer"]);
    assert_eq!(key(""), ["algorithm: is needed: \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\""]);
    let id = "algorithm = \"HS256\"\nsecret = \"${SECRET}\"\nid = \"\"";
    assert_eq!(key(id), ["id: is a text of 1 to 256 bytes"]);
}

#[test]
fn what_a_token_must_say_has_defaults() {
    let settings = jwt("[[auth.key]]\nalgorithm = \"HS256\"\nsecret = \"${SECRET}\"");
    let rules = settings.rules;
    assert_eq!((rules.issuer, rules.audience, rules.watch_claim), (None, None, None));
    assert_eq!(rules.leeway, Duration::from_secs(30));
    assert_eq!((settings.origins, settings.key_set.is_none()), (None, true));

    let lines = "watch = \"claims\"\nissuer = \"i\"\naudience = \"a\"\nleeway = \"0s\"\norigins = [\"https://app.example\"]";
    let AuthMode::Jwt(settings) = auth(&with_key(lines)).unwrap().mode else { panic!("it is jwt") };
    let rules = settings.rules;
    assert_eq!((rules.issuer.as_deref(), rules.audience.as_deref()), (Some("i"), Some("a")));
    assert_eq!((rules.leeway, rules.watch_claim.as_deref()), (Duration::ZERO, Some("presence_watch")));
    assert_eq!(settings.origins, Some(vec!["https://app.example".to_owned()]));
}

#[test]
fn what_a_token_must_say_is_checked() {
    let found = errors(&with_key("leeway = \"6m\"\nwatch_claim = \"w\""));
    assert_eq!(
        found,
        [
            "presence.toml:3: auth.leeway: can be \"5m\" at most: set the clocks instead",
            "presence.toml:4: auth.watch_claim: means something with auth.watch = \"claims\" only",
        ]
    );
    for name in ["", "sub", "exp"] {
        let found = errors(&with_key(&format!("watch = \"claims\"\nwatch_claim = \"{name}\"")));
        assert!(found[0].contains("a claim of its own"), "{found:?}");
    }
    let bad = [
        "null",
        "*",
        "https://*.example",
        "app.example",
        "https://app.example/",
        "https://app.example/app",
        "https://App.example",
        "https://me@app.example",
        "https://app.example:443",
        "http://app.example:80",
        "HTTPS://app.example",
        "://app.example",
        "https://",
        "https://zoë.example",
    ];
    for origin in bad {
        let found = errors(&with_key(&format!("origins = [\"{origin}\"]")));
        assert!(
            found.len() == 1 && found[0].contains("auth.origins[0]: must be an origin"),
            "{origin}: {found:?}"
        );
    }
    for origin in
        ["https://app.example", "http://localhost:3000", "http://[::1]:8080", "capacitor://localhost"]
    {
        assert!(auth(&with_key(&format!("origins = [\"{origin}\"]"))).is_ok(), "{origin}");
    }
    assert_eq!(errors(&with_key("watch = \"everyone\"")).len(), 1);
}

#[test]
fn without_tokens_nothing_is_said_of_them() {
    let lines = "issuer = \"i\"\naudience = \"a\"\nleeway = \"1s\"\nwatch_claim = \"w\"\norigins = []\nwatch = \"claims\"\n\
                 [auth.jwks]\nurl = \"https://a\"\n[[auth.key]]\nid = \"k\"";
    for mode in ["", "mode = \"none\"\n"] {
        let found = errors(&format!("{mode}{lines}"));
        assert_eq!(found.len(), 8, "{found:#?}");
        assert_eq!(found.iter().filter(|error| error.contains("means something with auth.mode")).count(), 7);
    }
    let found = errors(&format!("mode = \"password\"\n{lines}"));
    assert!(found.iter().any(|error| error.contains("auth.mode: must be \"none\"")), "{found:?}");
    assert!(found.iter().all(|error| !error.contains("means something")), "{found:?}");
}

#[test]
fn a_key_set_is_in_one_place() {
    let set = |lines: &str| auth(&format!("mode = \"jwt\"\n[auth.jwks]\n{lines}"));
    let Ok(AuthSettings { mode: AuthMode::Jwt(settings), .. }) =
        set("url = \"https://app.example/jwks.json\"")
    else {
        panic!("it is a good section")
    };
    let settings = settings.key_set.unwrap();
    assert_eq!(settings.source, KeySetSource::Url("https://app.example/jwks.json".parse().unwrap()));
    assert_eq!((settings.refresh, settings.pause), (Duration::from_secs(600), Duration::from_secs(30)));
    for url in ["http://127.0.0.1:8080/k", "http://[::1]/k", "http://localhost:1/k"] {
        assert!(set(&format!("url = \"{url}\"")).is_ok(), "{url}");
    }
    assert!(set("url = \"http://keycloak:8080/k\"\nplain_http = true").is_ok());

    let said = |lines: &str| {
        let found = set(lines).unwrap_err();
        found
            .into_iter()
            .map(|error| error.split_once("auth.jwks.").unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(said(""), ["url: is needed, or `file`: where the key set is"]);
    let both = said("url = \"https://a\"\nfile = \"b\"");
    assert_eq!(both, ["file: is given beside auth.jwks.url: a key set is in one place"]);
    for url in ["jwks.json", "ftp://a/b", "https://", "", "/jwks", "https://me:hunter2@app.example/k"] {
        let found = said(&format!("url = \"{url}\""));
        assert!(found[0].starts_with("url: must be the https address"), "{url}: {found:?}");
        assert!(!found[0].contains("hunter2"), "{found:?}");
    }
    let plain = said("url = \"http://keycloak:8080/k\"");
    assert!(plain[0].contains("plain_http = true"), "{plain:?}");
    let times = said("url = \"https://a\"\nrefresh = \"1s\"\npause = \"2s\"");
    assert_eq!(times, ["refresh: can't be shorter than auth.jwks.pause, which is 2s"]);
    assert!(said("url = \"https://a\"\npause = \"0s\"")[0].starts_with("pause: must be at least \"100ms\""));
    let beside = errors(&with_key("[auth.jwks]\nurl = \"https://a\""));
    assert!(beside[0].contains("auth.key.id: is needed beside [auth.jwks]"), "{beside:?}");
}

#[test]
fn a_file_with_a_key_set_is_looked_at_at_once() {
    let folder = Folder::new();
    let lines = "mode = \"jwt\"\n[auth.jwks]\nfile = \"jwks.json\"";
    let path = folder.path().join("presence.toml");
    let told = |document: &str| {
        folder.write("jwks.json", document);
        read(&path, lines)
    };
    let good = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let AuthMode::Jwt(settings) = told(good).unwrap().mode else { panic!("it is jwt") };
    assert_eq!(settings.key_set.unwrap().source, KeySetSource::File(folder.path().join("jwks.json")));
    let found = told("{}").unwrap_err();
    assert!(found[0].contains("jwks.json can't be used: it is no key set: no JSON object"), "{found:?}");
    let found = told(r#"{"keys":[]}"#).unwrap_err();
    assert!(found[0].contains("none of its 0 keys can be used"), "{found:?}");
    std::fs::remove_file(folder.path().join("jwks.json")).unwrap();
    let found = read(&path, lines).unwrap_err();
    assert!(found[0].contains("can't be read: No such file"), "{found:?}");
}

/// The lines of presence.toml that are meant for tokens, without their marks.
#[test]
fn the_example_of_presence_toml_is_a_good_section() {
    let text = include_str!("../../../../presence.toml");
    let section = text.split("[auth]\n").nth(1).and_then(|rest| rest.split("[cluster]").next()).unwrap();
    let (_, lines) = section.split_once("# With mode = \"jwt\":\n").unwrap();
    let lines: String =
        lines.lines().filter_map(|line| line.strip_prefix("#   ")).flat_map(|line| [line, "\n"]).collect();
    let folder = Folder::new();
    std::fs::copy(fixture("ed25519-public.pem"), folder.path().join("jwt.pem")).unwrap();
    let text = format!("[auth]\nmode = \"jwt\"\nwatch = \"claims\"\n{lines}");
    let env = |name: &str| (name == "PRESENCE_JWT_SECRET").then(|| SECRET.to_owned());
    let settings = parse(&text, &folder.path().join("presence.toml"), &env)
        .unwrap_or_else(|errors| panic!("{errors}\n{text}"));
    let AuthMode::Jwt(settings) = settings.auth.mode else { panic!("it is jwt") };
    let algorithms: Vec<Algorithm> = settings.keys.iter().map(|key| key.key.algorithm()).collect();
    assert_eq!(algorithms, [Algorithm::Hs256, Algorithm::EdDsa]);
    assert!(settings.key_set.is_some() && settings.origins.is_some());
    // The values that are shown are those that hold without them, where there are any.
    assert_eq!(settings.rules.leeway, Duration::from_secs(30));
    assert_eq!(settings.rules.watch_claim.as_deref(), Some("presence_watch"));
    let set = settings.key_set.unwrap();
    assert_eq!((set.refresh, set.pause), (Duration::from_secs(600), Duration::from_secs(30)));
}
