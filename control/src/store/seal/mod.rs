//! Encryption at rest: what of the store reaches the disk as ciphertext, and how it is read again.
//!
//! An object's JSON is sealed where it is written, in the log and in checkpoints alike, and opened where it is read;
//! memory holds it plain. A sealed value begins with its provider's and key's names, as in Kubernetes
//! (`k8s:enc:aesgcm:v1:KEY:`), which no JSON does. aesgcm and secretbox bind the object's key to it and notice damage,
//! so that ciphertexts cannot be exchanged; aescbc, as in Kubernetes, does neither. `config` reads the file, `cipher`
//! encrypts.
//!
//! **Invariant:** what cannot be opened keeps the store from starting, before anything is written.

mod cipher;
mod config;
mod keep;

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use arc_swap::ArcSwap;

use super::Key;
use cipher::Provider;
use config::Keyring;

pub use keep::keep;

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the keys.
        formatter.write_str(if self.file.is_some() { "Sealer(by a file)" } else { "Sealer(none)" })
    }
}

/// How every sealed value begins.
pub const PREFIX: &[u8] = b"k8s:enc:";

/// Seals and opens by the keys of a file, or lets everything pass.
#[derive(Default)]
pub struct Sealer {
    file: Option<Source>,
}

struct Source {
    path: PathBuf,
    keyring: ArcSwap<Keyring>,
}

/// Which file was read: it is read again when this changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(Option<(SystemTime, u64)>);

/// Why a value cannot be read. The text names the object, and says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SealError(String);

impl Sealer {
    /// Reads the configuration in `path`.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn open(path: &Path) -> Result<Self, String> {
        let keyring = ArcSwap::from_pointee(Keyring::read(path)?);
        Ok(Self { file: Some(Source { path: path.to_owned(), keyring }) })
    }

    /// Reads the file again. What is wrong with it leaves the keys as they were.
    pub fn reload(&self) -> Result<(), String> {
        if let Some(file) = &self.file {
            file.keyring.store(Keyring::read(&file.path)?.into());
        }
        Ok(())
    }

    /// Tells one state of the file from another.
    pub fn stamp(&self) -> Stamp {
        let metadata = self.file.as_ref().and_then(|file| std::fs::metadata(&file.path).ok());
        Stamp(metadata.and_then(|of| Some((of.modified().ok()?, of.len()))))
    }

    /// Tells how everything is written now; "" for plainly.
    pub fn fingerprint(&self) -> String {
        self.file.as_ref().map(|file| file.keyring.load().fingerprint()).unwrap_or_default()
    }

    /// Whether there is a file with keys.
    pub fn is_configured(&self) -> bool {
        self.file.is_some()
    }

    /// `json` as it goes to disk.
    pub fn seal<'a>(&self, key: &Key, json: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(file) = &self.file else { return Cow::Borrowed(json) };
        let keyring = file.keyring.load();
        match keyring.providers(key.resource()).and_then(|mut providers| providers.next()) {
            None => Cow::Borrowed(json),
            Some(provider) => provider.seal(key.as_str(), json),
        }
    }

    /// What [`Sealer::seal`] was given; None where `stored` is that already.
    pub fn unseal(&self, key: &Key, stored: &[u8]) -> Result<Option<Vec<u8>>, SealError> {
        let object = || format!("{} \"{}/{}\"", key.resource(), key.namespace(), key.name());
        let is_sealed = stored.starts_with(PREFIX);
        let Some(file) = &self.file else {
            if !is_sealed {
                return Ok(None);
            }
            let (provider, name) = names(stored);
            return Err(SealError(format!(
                "{} is encrypted with key {name:?} of {provider}: start with --encryption-provider-config and a file \
                 that has this key (nothing was changed)",
                object()
            )));
        };
        let keyring = file.keyring.load();
        let (path, providers) = (file.path.display(), keyring.providers(key.resource()));
        if !is_sealed {
            let is_readable = providers.is_none_or(|mut providers| providers.any(Provider::is_identity));
            return if is_readable {
                Ok(None)
            } else {
                Err(SealError(format!(
                    "{} is stored unencrypted, and {path} has no provider identity for {}: add \"- identity: {{}}\" \
                     as the last of its providers (nothing was changed)",
                    object(),
                    key.resource()
                )))
            };
        }
        let (provider, name) = names(stored);
        let mut is_known = false;
        for candidate in providers.into_iter().flatten().filter(|of| of.wrote(stored)) {
            if let Some(json) = candidate.open(key.as_str(), stored) {
                return Ok(Some(json));
            }
            is_known = true;
        }
        Err(SealError(if is_known {
            format!(
                "{} cannot be decrypted with key {name:?} of {provider} in {path}: that is not the key it was encrypted \
                 with, or the data was damaged; put the right key there (nothing was changed)",
                object()
            )
        } else {
            format!(
                "{} is encrypted with key {name:?} of {provider}, which {path} does not have for {}: add that key to \
                 its providers (nothing was changed)",
                object(),
                key.resource()
            )
        }))
    }
}

/// The provider's and the key's name in a sealed value.
fn names(stored: &[u8]) -> (String, String) {
    let head = String::from_utf8_lossy(&stored[PREFIX.len()..stored.len().min(256)]).into_owned();
    let mut parts = head.split(':');
    let provider = parts.next().unwrap_or_default().to_owned();
    (provider, parts.nth(1).unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
