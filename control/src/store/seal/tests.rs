//! Sealing and opening through the front door, by files as users write them.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use super::*;

const JSON: &[u8] = br#"{"data":{"password":"aHVudGVyMg=="}}"#;

fn key(resource: &str) -> Key {
    Key::new(resource, "shop", "db")
}

fn aesgcm(name: &str, secret: &str) -> String {
    format!("aesgcm: {{keys: [{{name: {name}, secret: {}}}]}}", BASE64.encode(secret))
}

fn secretbox(name: &str, secret: &str) -> String {
    aesgcm(name, secret).replace("aesgcm", "secretbox")
}

fn aescbc(name: &str, secret: &str) -> String {
    aesgcm(name, secret).replace("aesgcm", "aescbc")
}

const LONG: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn text(resources: &str, providers: &[&str]) -> String {
    let providers: Vec<String> = providers.iter().map(|provider| format!("  - {provider}\n")).collect();
    let providers = providers.concat();
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [{resources}]\n  \
         providers:\n{providers}"
    )
}

fn sealer(resources: &str, providers: &[&str]) -> Sealer {
    let keyring = Keyring::parse(&text(resources, providers)).expect("a configuration");
    Sealer { file: Some(Source { path: "keys.yaml".into(), keyring: ArcSwap::from_pointee(keyring) }) }
}

#[test]
fn what_was_sealed_is_opened_and_says_who_wrote_it() {
    for (provider, prefix) in [
        (aesgcm("k1", LONG), "k8s:enc:aesgcm:v1:k1:"),
        (aesgcm("k1", &LONG[..16]), "k8s:enc:aesgcm:v1:k1:"),
        (aesgcm("k1", &LONG[..24]), "k8s:enc:aesgcm:v1:k1:"),
        (secretbox("k1", LONG), "k8s:enc:secretbox:v1:k1:"),
    ] {
        let sealer = sealer("secrets", &[&provider]);
        let sealed = sealer.seal(&key("secrets"), JSON);
        assert!(sealed.starts_with(prefix.as_bytes()));
        assert!(!sealed.windows(8).any(|window| window == b"password"));
        assert_ne!(sealed, sealer.seal(&key("secrets"), JSON), "a nonce is used once");
        assert_eq!(sealer.unseal(&key("secrets"), &sealed), Ok(Some(JSON.to_vec())));
        // Neither another object's nor a changed one is taken.
        assert!(sealer.unseal(&Key::new("secrets", "shop", "other"), &sealed).is_err());
        for at in prefix.len()..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert!(sealer.unseal(&key("secrets"), &changed).is_err(), "byte {at}");
        }
        assert!(sealer.unseal(&key("secrets"), &sealed[..prefix.len() + 4]).is_err());
    }
}

#[test]
fn cipher_block_chaining_hides_values_as_kubernetes_does() {
    for len in [16, 24, 32] {
        let sealer = sealer("secrets", &[&aescbc("k1", &LONG[..len])]);
        let sealed = sealer.seal(&key("secrets"), JSON);
        assert!(sealed.starts_with(b"k8s:enc:aescbc:v1:k1:") && sealed != sealer.seal(&key("secrets"), JSON));
        assert!(!sealed.windows(8).any(|window| window == b"password"));
        assert_eq!(sealer.unseal(&key("secrets"), &sealed), Ok(Some(JSON.to_vec())));
        for cut in 1..=16 {
            assert!(sealer.unseal(&key("secrets"), &sealed[..sealed.len() - cut]).is_err());
        }
    }
    // `openssl enc -aes-256-cbc` with a key of the bytes 0 to 31 and a first block of the bytes 15 to 0.
    let secret: Vec<u8> = (0..32).collect();
    let provider = format!("aescbc: {{keys: [{{name: k1, secret: {}}}]}}", BASE64.encode(secret));
    let mut stored = b"k8s:enc:aescbc:v1:k1:".to_vec();
    stored.extend((0..16).rev());
    stored.extend(BASE64.decode("6YKt4KY05KcUc/b/FneyyUSEeZMPSSPCc41M2c+VJoQ=").expect("base64"));
    let opened = sealer("secrets", &[&provider]).unseal(&key("secrets"), &stored);
    assert_eq!(opened, Ok(Some(b"the price of tea is 3".to_vec())));
}

#[test]
fn the_first_provider_writes_and_all_read() {
    let old = sealer("secrets", &[&aesgcm("k1", LONG), "identity: {}"]);
    let new = sealer("secrets", &[&secretbox("k2", OTHER), &aesgcm("k1", LONG), "identity: {}"]);
    let sealed = old.seal(&key("secrets"), JSON);
    assert_eq!(new.unseal(&key("secrets"), &sealed), Ok(Some(JSON.to_vec())));
    assert_eq!(new.unseal(&key("secrets"), JSON), Ok(None));
    assert!(new.seal(&key("secrets"), JSON).starts_with(b"k8s:enc:secretbox:v1:k2:"));
    assert_ne!(old.fingerprint(), new.fingerprint());
    let plain = sealer("secrets", &["identity: {}", &aesgcm("k1", LONG)]);
    assert_eq!(plain.seal(&key("secrets"), JSON), JSON);
}

#[test]
fn resources_are_chosen_by_name_and_group() {
    for (resources, covered, not) in [
        ("secrets", &["secrets"][..], &["configmaps", "secrets.example.com"][..]),
        ("'*.apps'", &["deployments.apps"], &["secrets", "jobs.batch"]),
        ("'*.'", &["secrets", "configmaps"], &["deployments.apps"]),
        ("'*.*'", &["secrets", "pandas.example.com"], &[]),
        ("secrets, pandas.example.com", &["secrets", "pandas.example.com"], &["configmaps"]),
    ] {
        let sealer = sealer(resources, &[&aesgcm("k1", LONG)]);
        let is_sealed = |resource: &&str| sealer.seal(&key(resource), JSON) != JSON;
        assert!(covered.iter().all(is_sealed) && !not.iter().any(is_sealed), "{resources}");
        assert!(not.iter().all(|resource| sealer.unseal(&key(resource), JSON) == Ok(None)));
    }
}

/// A configuration of rules for `resources`, each with a key of its own.
fn rules(resources: &[&str]) -> String {
    let provider = |index: usize| aesgcm(&format!("k{index}"), LONG);
    let rule = |(index, names): (usize, &&str)| {
        format!("- resources: [{names}]\n  providers:\n  - {}\n", provider(index))
    };
    let rules: String = resources.iter().enumerate().map(rule).collect();
    format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{rules}")
}

#[test]
fn a_rule_that_would_never_count_is_refused() {
    for (resources, expected) in [
        (&["'*.'", "secrets"][..], r#"resource "secrets" is masked by earlier rule "*.""#),
        (&["'*.*'", "'*.apps'"], r#"resource "*.apps" is masked by earlier rule "*.*""#),
        (&["'*.apps'", "'*.apps'"], r#"resource "*.apps" is masked by earlier rule "*.apps""#),
        (
            &["'*.apps', deployments.apps"],
            r#"resource "deployments.apps" is masked by earlier rule "*.apps""#,
        ),
        (&["'*.', secrets"], "using resources other than '*.*' and '*.' in the same resource list"),
        (&["'*'"], "use '*.' to encrypt all the resources from core API group"),
        (&["Secrets"], "resource name should not contain capital letters"),
        (&["events.events.k8s.io"], "Use 'events' instead in the config file"),
    ] {
        let error = Keyring::parse(&rules(resources)).err().expect("refused");
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_comes_first_counts_and_what_two_rules_name_has_the_keys_of_both() {
    let keyring = Keyring::parse(&rules(&["secrets, configmaps", "secrets", "'*.'", "'*.*'"])).expect("fine");
    let keys = |resource| {
        let providers = keyring.providers(resource).expect("it is encrypted");
        let names = providers.map(|provider| match provider {
            Provider::Identity => "none".to_owned(),
            Provider::Key { prefix, .. } => prefix.clone(),
        });
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys("secrets"), "k8s:enc:aesgcm:v1:k0: k8s:enc:aesgcm:v1:k1:");
    assert_eq!(keys("configmaps"), "k8s:enc:aesgcm:v1:k0:");
    assert_eq!(keys("pods"), "k8s:enc:aesgcm:v1:k2:");
    assert_eq!(keys("jobs.batch"), "k8s:enc:aesgcm:v1:k3:");
}

#[test]
fn what_cannot_be_read_is_explained() {
    let sealed = sealer("secrets", &[&aesgcm("k1", LONG)]).seal(&key("secrets"), JSON).into_owned();
    let explain = |sealer: &Sealer, stored: &[u8]| {
        sealer.unseal(&key("secrets"), stored).expect_err("it cannot be read").to_string()
    };
    let text = explain(&Sealer::default(), &sealed);
    assert!(
        text.starts_with("secrets \"shop/db\" is encrypted with key \"k1\" of aesgcm: start with"),
        "{text}"
    );
    let text = explain(&sealer("secrets", &[&aesgcm("k2", LONG), "identity: {}"]), &sealed);
    assert!(text.contains("which keys.yaml does not have for secrets: add that key"), "{text}");
    let text = explain(&sealer("configmaps", &[&aesgcm("k1", LONG)]), &sealed);
    assert!(text.contains("does not have for secrets"), "{text}");
    let text = explain(&sealer("secrets", &[&aesgcm("k1", OTHER)]), &sealed);
    assert!(text.contains("cannot be decrypted with key \"k1\" of aesgcm in keys.yaml"), "{text}");
    let text = explain(&sealer("secrets", &[&aesgcm("k1", LONG)]), JSON);
    assert!(text.contains("is stored unencrypted, and keys.yaml has no provider identity"), "{text}");
    assert!(explain(&Sealer::default(), b"k8s:enc:").contains("is encrypted"));
}

#[test]
fn a_bad_file_is_explained_without_showing_secrets() {
    let refused = |text: &str| Keyring::parse(text).err().expect("refused");
    for (providers, expected) in [
        (&[][..], "resources[0].providers: at least one provider"),
        (&["aescbc: {keys: []}"], "providers[0].aescbc.keys: at least one key must be given"),
        (&[&aescbc("k1", "short")], "secret: has 5 bytes: aescbc takes keys of 16, 24 or 32"),
        (&["kms: {name: x}"], "providers[0].kms: is not offered"),
        (&["identity: {}", "aesgcm: {keys: []}"], "providers[1].aesgcm.keys: at least one key"),
        (&["aesgcm: {keys: [{name: a, secret: '%%hush%%'}]}"], "aesgcm.keys[0].secret: must be base64"),
        (
            &["aesgcm: {keys: [{name: a, secret: aHVzaA==}]}"],
            "has 4 bytes: aesgcm takes keys of 16, 24 or 32",
        ),
        (&["secretbox: {keys: [{name: a, secret: aHVzaA==}]}"], "has 4 bytes: secretbox takes keys of 32"),
        (&["aesgcm: {keys: [{name: '', secret: aHVzaA==}]}"], "keys[0].name: must be given"),
        (&["aesgcm: {keys: [{name: a, secret: [hush]}]}"], "it is not an EncryptionConfiguration"),
        (&["identity: {}\n    aesgcm: {keys: []}"], "exactly one of"),
    ] {
        let error = refused(&text("secrets", providers));
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("hush"), "{error}");
    }
    assert!(refused("apiVersion: v1\nkind: Pod\nresources: []\n").contains("it is a Pod of v1"));
    let missing = Sealer::open(Path::new("/nonexistent/keys")).expect_err("no file");
    assert!(missing.contains("/nonexistent/keys"), "{missing}");
}
