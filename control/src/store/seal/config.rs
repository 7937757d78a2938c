//! The file of `--encryption-provider-config`: `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::cipher::{Cipher, Provider};

/// The keys of a file, by resource.
pub struct Keyring {
    rules: Vec<Rule>,
}

struct Rule {
    /// As in the file: `secrets`, `pandas.example.com`, `*.apps`, `*.`, `*.*`.
    resources: Vec<String>,
    providers: Vec<Provider>,
    /// Tells the first provider and its key from any other.
    writer: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    resources: Vec<FileRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    resources: Vec<String>,
    providers: Vec<FileProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProvider {
    aesgcm: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Value>,
    aescbc: Option<Keys>,
    kms: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<FileKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileKey {
    name: String,
    secret: String,
}

impl Keyring {
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("cannot read the encryption configuration {}: {error}", path.display())
        })?;
        Self::parse(&text).map_err(|error| {
            format!("the encryption configuration {} cannot be used: {error}", path.display())
        })
    }

    pub fn parse(text: &str) -> Result<Self, String> {
        // The parser's own message might quote a secret.
        let file: File = serde_yaml::from_str(text).map_err(|error| {
            let place = error.location().map_or_else(String::new, |at| format!(" at line {}", at.line()));
            format!(
                "it is not an EncryptionConfiguration: a field{place} is missing, unknown or of another type"
            )
        })?;
        if (file.api_version.as_str(), file.kind.as_str())
            != ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
        {
            let (kind, version) = (file.kind, file.api_version);
            return Err(format!(
                "it is a {kind} of {version}, not an EncryptionConfiguration of apiserver.config.k8s.io/v1"
            ));
        }
        let mut rules = Vec::new();
        for (index, rule) in file.resources.into_iter().enumerate() {
            let explain = |error| format!("resources[{index}].{error}");
            let rule = Rule::new(rule).map_err(explain)?;
            rule.check_against(&rules).map_err(explain)?;
            rules.push(rule);
        }
        if rules.is_empty() {
            return Err("it names no resources".into());
        }
        Ok(Self { rules })
    }

    /// The providers for a resource (`secrets`, `deployments.apps`), the one that writes first; None where it is not
    /// encrypted.
    pub fn providers(&self, resource: &str) -> Option<impl Iterator<Item = &Provider>> {
        let pattern = self.rules.iter().find_map(|rule| rule.pattern_for(resource))?;
        // What several rules name has the providers of all of them.
        let rules = self.rules.iter().filter(move |rule| rule.resources.iter().any(|of| of == pattern));
        Some(rules.flat_map(|rule| &rule.providers))
    }

    /// Tells how everything is written.
    pub fn fingerprint(&self) -> String {
        let mut text = String::new();
        for rule in &self.rules {
            let _ = writeln!(text, "{} {}", rule.resources.join(","), rule.writer);
        }
        text
    }
}

impl Rule {
    fn new(file: FileRule) -> Result<Self, String> {
        if file.resources.is_empty() || file.resources.iter().any(String::is_empty) {
            return Err("resources: at least one resource must be named".into());
        }
        let (mut providers, mut writer) = (Vec::new(), None);
        for (index, provider) in file.providers.into_iter().enumerate() {
            let explain = |error| format!("providers[{index}]{error}");
            for (provider, mark) in provider.into_providers().map_err(explain)? {
                writer.get_or_insert(mark);
                providers.push(provider);
            }
        }
        let writer = writer.ok_or("providers: at least one provider must be named")?;
        Ok(Self { resources: file.resources, providers, writer })
    }

    /// That nothing before it, in this rule or one of the `earlier` ones, keeps what it names from being chosen by it.
    fn check_against(&self, earlier: &[Self]) -> Result<(), String> {
        for (index, resource) in self.resources.iter().enumerate() {
            if resource.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(format!(
                    "resources: {resource}: resource name should not contain capital letters"
                ));
            }
            let group = resource.split_once('.').map_or("", |(_, group)| group);
            let refused = match resource.as_str() {
                "*" => {
                    "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
                }
                "*.*" | "*." if self.resources.len() > 1 => {
                    "using resources other than '*.*' and '*.' in the same resource list is not allowed as they will be \
                     masked"
                }
                _ if group == "events.k8s.io" => {
                    "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in \
                     the config file"
                }
                _ if group == "extensions" => {
                    "'extensions' group has been removed and cannot be used for encryption"
                }
                _ => "",
            };
            if !refused.is_empty() {
                return Err(format!("resources: {resource}: {refused}"));
            }
            let of_group = format!("*.{group}");
            let before = earlier.iter().flat_map(|rule| &rule.resources).chain(&self.resources[..index]);
            let mut before = before.filter(|pattern| **pattern == of_group || *pattern == "*.*");
            if let Some(pattern) = before.next() {
                return Err(format!(
                    "resources: resource {resource:?} is masked by earlier rule {pattern:?}"
                ));
            }
        }
        Ok(())
    }

    /// By which of its patterns it is there for a resource.
    fn pattern_for(&self, resource: &str) -> Option<&str> {
        let group = resource.split_once('.').map_or("", |(_, group)| group);
        let found = self.resources.iter().find(|pattern| match pattern.strip_prefix("*.") {
            Some("*") => true,
            Some(of) => of == group,
            None => *pattern == resource,
        });
        found.map(String::as_str)
    }
}

impl FileProvider {
    /// A provider for each key, with what tells it from others.
    fn into_providers(self) -> Result<Vec<(Provider, String)>, String> {
        if self.kms.is_some() {
            return Err(".kms: is not offered; use aesgcm or secretbox".into());
        }
        match (self.aesgcm, self.aescbc, self.secretbox, self.identity) {
            (Some(keys), None, None, None) => keys.into_providers("aesgcm", Cipher::aes_gcm),
            (None, Some(keys), None, None) => keys.into_providers("aescbc", Cipher::aes_cbc),
            (None, None, Some(keys), None) => keys.into_providers("secretbox", Cipher::secretbox),
            (None, None, None, Some(_)) => Ok(vec![(Provider::Identity, "identity".into())]),
            _ => Err(": exactly one of aesgcm, aescbc, secretbox and identity must be given".into()),
        }
    }
}

impl Keys {
    fn into_providers(
        self,
        kind: &str,
        cipher: fn(&[u8]) -> Result<Cipher, String>,
    ) -> Result<Vec<(Provider, String)>, String> {
        let (mut providers, mut names) = (Vec::new(), BTreeSet::new());
        for (index, key) in self.keys.into_iter().enumerate() {
            let explain = |error: &str| format!(".{kind}.keys[{index}].{error}");
            if key.name.is_empty() || key.name.contains(':') || !names.insert(key.name.clone()) {
                return Err(explain("name: must be given, differ from the others, and not contain ':'"));
            }
            let secret = BASE64.decode(key.secret.trim()).map_err(|_| explain("secret: must be base64"))?;
            let cipher = cipher(&secret).map_err(|error| explain(&format!("secret: {error}")))?;
            let digest = Sha256::new().chain_update(b"naru key mark").chain_update(&secret).finalize();
            let prefix = format!("k8s:enc:{kind}:v1:{}:", key.name);
            let mark = format!("{prefix}{}", hex::encode(&digest[..8]));
            providers.push((Provider::Key { prefix, cipher }, mark));
        }
        if providers.is_empty() {
            return Err(format!(".{kind}.keys: at least one key must be given"));
        }
        Ok(providers)
    }
}
