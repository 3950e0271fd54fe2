//! Keys that can be used and keys that can't; documents with sets of them.

use super::*;

const RSA_1024: &[u8] = include_bytes!("../../../../tests/fixtures/keys/rsa-1024-public.pem");
const P384: &[u8] = include_bytes!("../../../../tests/fixtures/keys/p384-public.pem");

fn changed(mut jwk: Value, name: &str, value: Value) -> Value {
    jwk[name] = value;
    jwk
}

fn parse(keys: &[Value], with_secrets: bool) -> Result<KeySet, BadSet> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes(), with_secrets)
}

/// What is said of one key, beside another one that is good.
fn left_out(other: Value) -> NotTaken {
    let set = parse(&[jwk(Algorithm::EdDsa, "good"), other], false).unwrap();
    assert_eq!(set.keys.len(), 1);
    set.left_out[0].1.clone()
}

#[test]
fn a_pem_file_holds_the_public_key_of_its_algorithm_or_is_refused() {
    for algorithm in Algorithm::ALL {
        for pem in [RSA_PUBLIC, P256_PUBLIC, ED_PUBLIC] {
            let fits = match algorithm {
                Algorithm::Hs256 => false,
                Algorithm::Rs256 => pem == RSA_PUBLIC,
                Algorithm::Es256 => pem == P256_PUBLIC,
                Algorithm::EdDsa => pem == ED_PUBLIC,
            };
            assert_eq!(Key::from_pem(algorithm, pem).is_ok(), fits, "{algorithm:?}");
        }
        for pem in [RSA_PRIVATE, P256_PRIVATE, ED_PRIVATE, P384, b"nonsense", b""] {
            let error = Key::from_pem(algorithm, pem).unwrap_err();
            assert_eq!(error, BadKey::NotPem(algorithm));
        }
    }
    assert_eq!(Key::from_pem(Algorithm::Rs256, RSA_1024).unwrap_err(), BadKey::RsaBits(1024));
    let ed = Key::from_pem(Algorithm::EdDsa, b"nonsense").unwrap_err().to_string();
    assert_eq!(ed, "holds no Ed25519 public key in PEM form (`-----BEGIN PUBLIC KEY-----`)");
}

#[test]
fn short_secrets_are_refused_and_no_key_is_shown() {
    assert_eq!(Key::from_secret(&SECRET[..31]).unwrap_err(), BadKey::ShortSecret(31));
    assert_eq!(format!("{:?}", key(Algorithm::Hs256)), "Key { algorithm: Hs256, .. }");
}

#[test]
fn a_set_has_keys_of_every_algorithm() {
    let keys = Algorithm::ALL.map(|algorithm| jwk(algorithm, algorithm.as_str()));
    let set = parse(&keys, true).unwrap();
    assert_eq!((set.keys.len(), set.left_out.len()), (4, 0));
    let ring = KeyRing::new(&[], Some(&set));
    for algorithm in Algorithm::ALL {
        let token = token(algorithm, Some(algorithm.as_str()), &alive());
        assert!(verify(&token, &ring, &rules(), NOW).is_ok(), "{algorithm:?}");
    }
    // Whoever can read a published secret can sign.
    let published = parse(&keys, false).unwrap();
    assert_eq!(published.keys.len(), 3);
    assert_eq!(published.left_out, [(Some("HS256".into()), NotTaken::Secret)]);
}

#[test]
fn the_algorithm_of_a_key_is_that_of_its_kind() {
    for algorithm in [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa] {
        let mut silent = jwk(algorithm, "k");
        silent.as_object_mut().unwrap().remove("alg");
        assert_eq!(parse(&[silent], false).unwrap().keys[0].key.algorithm(), algorithm);
    }
    let renamed = changed(jwk(Algorithm::EdDsa, "k"), "alg", json!("Ed25519"));
    assert!(parse(&[renamed], false).is_ok());
    for alg in ["HS256", "RS512", "PS256", "none", "RSA-OAEP", "ES256"] {
        let other = changed(jwk(Algorithm::Rs256, "k"), "alg", json!(alg));
        assert_eq!(left_out(other), NotTaken::OtherAlgorithm, "{alg}");
    }
}

#[test]
fn keys_for_something_else_are_left_out() {
    let rsa = || jwk(Algorithm::Rs256, "k");
    assert_eq!(left_out(changed(rsa(), "use", json!("enc"))), NotTaken::OtherUse);
    assert_eq!(left_out(changed(rsa(), "key_ops", json!(["encrypt"]))), NotTaken::OtherUse);
    assert_eq!(left_out(changed(rsa(), "key_ops", json!("verify"))), NotTaken::Malformed);
    assert_eq!(left_out(changed(rsa(), "d", json!("AQAB"))), NotTaken::Private);
    assert_eq!(left_out(changed(rsa(), "kty", json!("AKP"))), NotTaken::OtherAlgorithm);
    assert_eq!(left_out(json!({"kid": "k"})), NotTaken::OtherAlgorithm);
    assert_eq!(left_out(json!(7)), NotTaken::Malformed);
    assert_eq!(left_out(changed(rsa(), "kid", json!(7))), NotTaken::Malformed);
    assert_eq!(left_out(changed(rsa(), "kid", json!("x".repeat(257)))), NotTaken::Malformed);
    assert_eq!(left_out(jwk(Algorithm::Rs256, "good")), NotTaken::SameId);
    let both = changed(changed(rsa(), "use", json!("sig")), "key_ops", json!(["sign", "verify"]));
    assert!(parse(&[both], false).is_ok());
}

#[test]
fn keys_that_are_not_sound_are_left_out() {
    let encoded = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(bytes));
    let unsound = |algorithm| NotTaken::Bad(BadKey::Unsound(algorithm));
    for short in [0, 1, 31, 33] {
        let ed = changed(jwk(Algorithm::EdDsa, "k"), "x", encoded(&vec![1; short]));
        assert_eq!(left_out(ed), unsound(Algorithm::EdDsa), "{short}");
        let ec = changed(jwk(Algorithm::Es256, "k"), "x", encoded(&vec![1; short]));
        assert_eq!(left_out(ec), unsound(Algorithm::Es256), "{short}");
    }
    // A point that is not on the curve would give parts of a private key away, were we to use one.
    let off = changed(jwk(Algorithm::Es256, "k"), "y", encoded(&[1; 32]));
    assert_eq!(left_out(off), unsound(Algorithm::Es256));
    let rsa = |name, bytes: &[u8]| left_out(changed(jwk(Algorithm::Rs256, "k"), name, encoded(bytes)));
    assert_eq!(rsa("n", &[0xff; 128]), NotTaken::Bad(BadKey::RsaBits(1024)));
    assert_eq!(rsa("n", &[0xff; 513]), NotTaken::Bad(BadKey::RsaBits(4104)));
    assert_eq!(rsa("n", &[0; 300]), NotTaken::Bad(BadKey::RsaBits(0)));
    assert_eq!(rsa("n", &[0xfe; 256]), unsound(Algorithm::Rs256), "even");
    for exponent in [&[1][..], &[0], &[], &[2], &[0xff; 5], &[0xff; 9]] {
        assert_eq!(rsa("e", exponent), unsound(Algorithm::Rs256), "{exponent:?}");
    }
    let missing = changed(jwk(Algorithm::Rs256, "k"), "e", json!(null));
    assert_eq!(left_out(missing), NotTaken::Malformed);
    let padded = changed(jwk(Algorithm::Rs256, "k"), "e", json!("AQAB=="));
    assert_eq!(left_out(padded), NotTaken::Malformed);
}

#[test]
fn a_document_that_gives_no_keys_is_refused_as_a_whole() {
    for document in ["", "{}", "[]", "null", "{\"keys\":{}}", "{\"keys\":[", "<html>"] {
        assert_eq!(KeySet::parse(document.as_bytes(), false).unwrap_err(), BadSet::NotASet, "{document}");
    }
    assert_eq!(parse(&[], false).unwrap_err(), BadSet::NoKeys(0));
    assert_eq!(parse(&[json!({}), json!(1)], false).unwrap_err(), BadSet::NoKeys(2));
    let many: Vec<Value> = (0..101).map(|n| jwk(Algorithm::EdDsa, &n.to_string())).collect();
    assert_eq!(parse(&many, false).unwrap_err(), BadSet::TooMany(101));
    assert_eq!(parse(&many[..100], false).unwrap().keys.len(), 100);
    let large = vec![b' '; MAX_SET_BYTES + 1];
    assert_eq!(KeySet::parse(&large, false).unwrap_err(), BadSet::TooLarge);
}
