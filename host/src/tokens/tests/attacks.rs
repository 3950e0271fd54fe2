//! Known attacks on JSON Web Tokens, a test for each; docs/authentication.md lists them by the names of the tests.

use super::*;

/// Who attacks can make keys of their own, but has none of ours.
fn forger() -> EncodingKey {
    EncodingKey::from_secret(b"fedcba9876543210fedcba9876543210")
}

fn refusal(token: &str, ring: &KeyRing) -> TokenError {
    verify(token, ring, &rules(), NOW).expect_err(token)
}

fn unsigned(header: &str, claims: &str, signature: &[u8]) -> String {
    let parts = [header.as_bytes(), claims.as_bytes(), signature];
    parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".")
}

/// A ring as a deployment has it.
fn deployment() -> KeyRing {
    ring(&Algorithm::ALL.map(|algorithm| (Some(algorithm.as_str()), algorithm)))
}

#[test]
fn alg_none() {
    for name in ["none", "None", "NONE", "nOnE", "", "null", " none"] {
        for signature in [&b""[..], b"x"] {
            let header = json!({"alg": name, "typ": "JWT"}).to_string();
            let token = unsigned(&header, &alive().to_string(), signature);
            assert_eq!(refusal(&token, &one_secret()), TokenError::Algorithm, "{name}");
            let header = json!({"alg": name, "kid": "HS256"}).to_string();
            let token = unsigned(&header, &alive().to_string(), signature);
            assert_eq!(refusal(&token, &deployment()), TokenError::Algorithm, "{name}");
        }
    }
    for header in [r#"{"typ":"JWT"}"#, r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#, r#"{"alg":0}"#] {
        let token = unsigned(header, &alive().to_string(), b"");
        assert_eq!(refusal(&token, &one_secret()), TokenError::Malformed, "{header}");
    }
    let stripped = hs256(alive());
    let (message, _) = stripped.rsplit_once('.').unwrap();
    assert_eq!(refusal(&format!("{message}."), &one_secret()), TokenError::Signature);
    assert_eq!(refusal(message, &one_secret()), TokenError::Malformed);
}

#[test]
fn a_public_key_as_a_secret() {
    for (algorithm, pem) in
        [(Algorithm::Rs256, RSA_PUBLIC), (Algorithm::Es256, P256_PUBLIC), (Algorithm::EdDsa, ED_PUBLIC)]
    {
        let text = std::str::from_utf8(pem).unwrap();
        let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let der = base64::engine::general_purpose::STANDARD.decode(body).unwrap();
        for secret in [pem, text.trim_end().as_bytes(), der.as_slice()] {
            let key = EncodingKey::from_secret(secret);
            let forge =
                |header: Value| signed_text(&header.to_string(), &alive().to_string(), &key, Library::HS256);
            let alone = ring(&[(None, algorithm)]);
            assert_eq!(refusal(&forge(json!({"alg": "HS256"})), &alone), TokenError::Algorithm);
            let named = json!({"alg": "HS256", "kid": algorithm.as_str()});
            assert_eq!(refusal(&forge(named), &deployment()), TokenError::Algorithm);
            let secret = json!({"alg": "HS256", "kid": "HS256"});
            assert_eq!(refusal(&forge(secret), &deployment()), TokenError::Signature);
        }
    }
}

#[test]
fn another_algorithm_of_the_same_key() {
    let claims = alive().to_string();
    for (name, library) in [("HS384", Library::HS384), ("HS512", Library::HS512)] {
        let header = json!({"alg": name}).to_string();
        let token = signed_text(&header, &claims, &signer(Algorithm::Hs256), library);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Algorithm, "{name}");
    }
    let rsa = ring(&[(None, Algorithm::Rs256)]);
    for (name, library) in [("RS384", Library::RS384), ("RS512", Library::RS512), ("PS256", Library::PS256)] {
        let header = json!({"alg": name}).to_string();
        let token = signed_text(&header, &claims, &signer(Algorithm::Rs256), library);
        assert_eq!(refusal(&token, &rsa), TokenError::Algorithm, "{name}");
        // Or with the name of the right one over the signature of another.
        let token = signed_text(r#"{"alg":"RS256"}"#, &claims, &signer(Algorithm::Rs256), library);
        assert_eq!(refusal(&token, &rsa), TokenError::Signature, "{name}");
    }
    for name in ["hs256", "HS256 ", "HS2\u{5}6"] {
        let token = signed_text(&json!({"alg": name}).to_string(), &claims, &forger(), Library::HS256);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Algorithm, "{name}");
    }
}

#[test]
fn kid_injection() {
    let kids = [
        "",
        "../../../../dev/null",
        "/dev/null",
        "/proc/self/environ",
        "file:///dev/null",
        "https://evil.example/jwks.json",
        "HS256' UNION SELECT 'secret",
        "HS256\u{0}",
        "HS256; cat /etc/passwd",
        "$(id)",
        "hs256",
        "*",
    ];
    for kid in kids {
        for secret in [&b""[..], b"\0", b"secret"] {
            let header = json!({"alg": "HS256", "kid": kid}).to_string();
            let key = EncodingKey::from_secret(secret);
            let token = signed_text(&header, &alive().to_string(), &key, Library::HS256);
            assert_eq!(refusal(&token, &deployment()), TokenError::UnknownKey, "{kid}");
        }
    }
    for kid in [json!(0), json!(["HS256"]), json!({"$ne": null}), json!(true)] {
        let header = json!({"alg": "HS256", "kid": kid}).to_string();
        let token = signed_text(&header, &alive().to_string(), &forger(), Library::HS256);
        assert_eq!(refusal(&token, &deployment()), TokenError::Malformed, "{kid}");
    }
}

#[test]
fn the_key_of_another_tenant() {
    let other = AuthKey { id: Some("b".into()), key: Key::from_secret(&[7; 32]).unwrap() };
    let ours = AuthKey { id: Some("a".into()), key: key(Algorithm::Hs256) };
    let ring = KeyRing::new(&[ours, other], None);
    let token = token(Algorithm::Hs256, Some("b"), &alive());
    assert_eq!(refusal(&token, &ring), TokenError::Signature);
}

#[test]
fn keys_in_the_header() {
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&forger(), Library::HS256).unwrap();
    let members = [
        ("jwk", serde_json::to_value(jwk).unwrap()),
        ("jwk", json!("not even a key")),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/certificate.pem")),
        ("x5c", json!(["MIIB"])),
        ("x5t#S256", json!("AAAA")),
    ];
    for (name, value) in members {
        let mut header = json!({"alg": "HS256"});
        header[name] = value;
        let forged = signed_text(&header.to_string(), &alive().to_string(), &forger(), Library::HS256);
        assert_eq!(refusal(&forged, &one_secret()), TokenError::Signature, "{name}");
        // An issuer may write what it likes there: nobody looks.
        let honest =
            signed_text(&header.to_string(), &alive().to_string(), &signer(Algorithm::Hs256), Library::HS256);
        assert!(verify(&honest, &one_secret(), &rules(), NOW).is_ok(), "{name}");
    }
}

#[test]
fn critical_extensions() {
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null), json!("b64")] {
        let header = json!({"alg": "HS256", "crit": crit, "b64": false}).to_string();
        let token = signed_text(&header, &alive().to_string(), &signer(Algorithm::Hs256), Library::HS256);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Critical, "{crit}");
    }
}

#[test]
fn wrong_signatures() {
    let honest = hs256(alive());
    let parts: Vec<&str> = honest.split('.').collect();
    let changed = |at: usize, text: &str| {
        let mut parts = parts.clone();
        parts[at] = text;
        parts.join(".")
    };
    let mallory = URL_SAFE_NO_PAD.encode(with("sub", json!("mallory")).to_string());
    assert_eq!(refusal(&changed(1, &mallory), &one_secret()), TokenError::Signature);
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    assert_eq!(refusal(&changed(0, &header), &one_secret()), TokenError::Signature);
    let elsewhere = hs256(with("sub", json!("mallory")));
    let (_, signature) = elsewhere.rsplit_once('.').unwrap();
    assert_eq!(refusal(&changed(2, signature), &one_secret()), TokenError::Signature);
    assert_eq!(refusal(&changed(2, &parts[2][..40]), &one_secret()), TokenError::Signature);
    assert_eq!(refusal(&changed(2, &format!("{}=", parts[2])), &one_secret()), TokenError::Malformed);
    let foreign = signed_text(r#"{"alg":"HS256"}"#, &alive().to_string(), &forger(), Library::HS256);
    assert_eq!(refusal(&foreign, &one_secret()), TokenError::Signature);
}

#[test]
fn signatures_of_zeros() {
    // r = s = 0 once verified under every key of a well-known library.
    for (algorithm, bytes) in [(Algorithm::Es256, 64), (Algorithm::EdDsa, 64), (Algorithm::Rs256, 256)] {
        let header = json!({"alg": algorithm.as_str()}).to_string();
        for signature in [vec![0; bytes], vec![0xff; bytes], Vec::new(), vec![0; 8]] {
            let token = unsigned(&header, &alive().to_string(), &signature);
            let alone = ring(&[(None, algorithm)]);
            assert_eq!(refusal(&token, &alone), TokenError::Signature, "{algorithm:?}");
        }
    }
}

#[test]
fn expired() {
    for exp in [0, 1, NOW - 3600, NOW - 30] {
        assert_eq!(judged(with("exp", json!(exp)), &rules()), Err(TokenError::Expired), "{exp}");
    }
    for exp in [json!("2100-01-01"), json!(null), json!(true), json!([NOW + 60]), json!(-1)] {
        assert_eq!(judged(with("exp", exp.clone()), &rules()), Err(TokenError::Missing("exp")), "{exp}");
    }
    assert_eq!(judged(json!({"sub": "alice"}), &rules()), Err(TokenError::Missing("exp")));
    // A session may be meant to last for ever; nothing may overflow.
    for exp in [json!(u64::MAX), json!(1e300), json!(u64::MAX - 1)] {
        assert!(judged(with("exp", exp.clone()), &rules()).is_ok(), "{exp}");
    }
}

#[test]
fn not_yet_valid() {
    for nbf in [json!(NOW + 31), json!(u64::MAX), json!(1e300)] {
        assert_eq!(judged(with("nbf", nbf.clone()), &rules()), Err(TokenError::NotYetValid), "{nbf}");
    }
    for nbf in [json!("now"), json!(null), json!(-1), json!([0])] {
        let told = judged(with("nbf", nbf.clone()), &rules());
        assert_eq!(told, Err(TokenError::BadClaim("nbf".into())), "{nbf}");
    }
}

#[test]
fn wrong_audience() {
    let own = TokenRules { audience: Some("presence".into()), ..rules() };
    let others = [
        json!("billing"),
        json!("Presence"),
        json!("presence "),
        json!("presence,billing"),
        json!([]),
        json!(["billing", ["presence"]]),
        json!({"presence": true}),
        json!(7),
    ];
    for audience in others {
        let told = judged(with("aud", audience.clone()), &own);
        assert_eq!(told, Err(TokenError::Audience), "{audience}");
    }
    assert_eq!(judged(alive(), &own), Err(TokenError::Missing("aud")));
    // A token for another service of the same issuer, at a host that was given no name.
    for audience in [json!("billing"), json!(["presence"]), json!([])] {
        let told = judged(with("aud", audience.clone()), &rules());
        assert_eq!(told, Err(TokenError::NoAudience), "{audience}");
    }
}

#[test]
fn wrong_issuer() {
    let rules = TokenRules { issuer: Some("https://app.example".into()), ..rules() };
    let others = [
        json!("https://evil.example"),
        json!("https://app.example/"),
        json!("https://app.example.evil.example"),
        json!(["https://app.example"]),
        json!(["https://evil.example", "https://app.example"]),
        json!(7),
    ];
    for issuer in others {
        let told = judged(with("iss", issuer.clone()), &rules);
        assert_eq!(told, Err(TokenError::Issuer), "{issuer}");
    }
    assert_eq!(judged(alive(), &rules), Err(TokenError::Missing("iss")));
}

#[test]
fn no_subject() {
    assert_eq!(judged(json!({"exp": NOW + 60}), &rules()), Err(TokenError::Missing("sub")));
    for sub in [json!(null), json!(7), json!(["alice"]), json!({"id": "alice"}), json!(true)] {
        assert_eq!(judged(with("sub", sub.clone()), &rules()), Err(TokenError::Missing("sub")), "{sub}");
    }
    for sub in ["", ".", "..", "alice\n", "a\u{0}", &"x".repeat(257)] {
        let told = judged(with("sub", json!(sub)), &rules());
        assert!(matches!(told, Err(TokenError::Subject(_))), "{sub}");
    }
}

#[test]
fn duplicate_names() {
    let key = signer(Algorithm::Hs256);
    let exp = NOW + 60;
    let header = r#"{"alg":"HS256"}"#;
    let claims = [
        format!(r#"{{"sub":"alice","sub":"mallory","exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"s\u0075b":"alice"}}"#),
        format!(r#"{{"sub":"alice","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"aud":"a","aud":"b"}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"role":"a","role":"b"}}"#),
    ];
    for claims in claims {
        let token = signed_text(header, &claims, &key, Library::HS256);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Ambiguous, "{claims}");
    }
    for header in [
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","kid":"a","kid":"b"}"#,
        r#"{"alg":"HS256","x":1,"x":1}"#,
    ] {
        let token = signed_text(header, &alive().to_string(), &key, Library::HS256);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Ambiguous, "{header}");
    }
}

#[test]
fn huge_tokens() {
    let huge = hs256(with("padding", json!("x".repeat(MAX_TOKEN_BYTES))));
    assert_eq!(refusal(&huge, &one_secret()), TokenError::TooLong);
    assert_eq!(refusal(&"x".repeat(MAX_TOKEN_BYTES + 1), &one_secret()), TokenError::TooLong);
    assert_eq!(refusal(&".".repeat(MAX_TOKEN_BYTES), &one_secret()), TokenError::Malformed);
    // As deep as the length allows: refused without a stack of that depth.
    for opening in ["[", "{\"a\":"] {
        let deep = opening.repeat(5000 / opening.len());
        let in_header = unsigned(&deep, "{}", b"");
        assert_eq!(refusal(&in_header, &one_secret()), TokenError::Malformed);
        let key = signer(Algorithm::Hs256);
        let in_claims = signed_text(r#"{"alg":"HS256"}"#, &deep, &key, Library::HS256);
        assert_eq!(refusal(&in_claims, &one_secret()), TokenError::Malformed);
    }
    let long = hs256(with("padding", json!("x".repeat(5000))));
    assert!(verify(&long, &one_secret(), &rules(), NOW).is_ok(), "{} bytes", long.len());
}

#[test]
fn other_things_than_tokens() {
    let honest = hs256(alive());
    let others = [
        String::new(),
        "x".into(),
        "a.b".into(),
        "a.b.c".into(),
        "..".into(),
        "a.b.c.d".into(),
        format!("{honest}.{honest}"),
        format!("{honest}.e30.e30"),
        format!(" {honest}"),
        format!("{honest}\n"),
        format!("Bearer {honest}"),
        honest.replace('.', "%2E"),
        unsigned("\"HS256\"", "{}", b"x"),
        unsigned("{\"alg\":\"HS256\"} ,", "{}", b"x"),
        unsigned("\u{feff}{\"alg\":\"HS256\"}", "{}", b"x"),
        r#"{"payload":"e30","signatures":[{"protected":"e30","signature":""}]}"#.into(),
    ];
    for other in others {
        assert_eq!(refusal(&other, &one_secret()), TokenError::Malformed, "{other}");
    }
    for claims in ["", "null", "[]", "\"alice\"", "{\"sub\":\"alice\"", "{\"sub\":\"alice\"}{}"] {
        let key = signer(Algorithm::Hs256);
        let token = signed_text(r#"{"alg":"HS256"}"#, claims, &key, Library::HS256);
        assert_eq!(refusal(&token, &one_secret()), TokenError::Malformed, "{claims}");
    }
}

/// The table of docs/authentication.md names each of these tests, and no other.
#[test]
fn every_attack_is_in_the_document() {
    let page = include_str!("../../../../docs/authentication.md");
    let mut documented: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | refused"))
        .map(|(name, _)| name)
        .collect();
    let source = include_str!("attacks.rs");
    let mut tests: Vec<&str> = source
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|test| test.split_once("()"))
        .map(|(name, _)| name)
        .filter(|name| *name != "every_attack_is_in_the_document")
        .collect();
    documented.sort_unstable();
    tests.sort_unstable();
    assert_eq!(documented, tests);
    assert!(tests.len() >= 15, "{tests:?}");
}
