//! The providers: how one key seals and opens, in the forms of Kubernetes' encryption providers.

use std::borrow::Cow;

use aes::{Aes128, Aes192, Aes256, cipher::consts::U12};
use aes_gcm::aead::Payload;
use cbc::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _, block_padding::Pkcs7};
use crypto_secretbox::{
    KeyInit as _, XSalsa20Poly1305,
    aead::{Aead as _, generic_array::GenericArray},
};
use rand::RngCore as _;
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

/// One way to write and read values.
pub enum Provider {
    /// As they are.
    Identity,
    Key {
        /// `k8s:enc:aesgcm:v1:key1:`
        prefix: String,
        cipher: Cipher,
    },
}

type AesGcm192 = aes_gcm::AesGcm<Aes192, U12>;

pub enum Cipher {
    AesGcm(Box<LessSafeKey>),
    /// With a key of 24 bytes, which ring does not take; the form is the same.
    AesGcm192(Box<AesGcm192>),
    SecretBox(Box<XSalsa20Poly1305>),
    /// The key.
    AesCbc(Vec<u8>),
}

const SECRETBOX_NONCE: usize = 24;
const CBC_BLOCK: usize = 16;

impl Cipher {
    /// AES in Galois/counter mode with a random nonce.
    pub fn aes_gcm(secret: &[u8]) -> Result<Self, String> {
        let algorithm = match secret.len() {
            16 => &AES_128_GCM,
            24 => {
                let cipher = AesGcm192::new_from_slice(secret).map_err(|error| error.to_string())?;
                return Ok(Self::AesGcm192(Box::new(cipher)));
            }
            32 => &AES_256_GCM,
            len => return Err(format!("has {len} bytes: aesgcm takes keys of 16, 24 or 32")),
        };
        let key = UnboundKey::new(algorithm, secret).map_err(|_| "cannot be used".to_owned())?;
        Ok(Self::AesGcm(Box::new(LessSafeKey::new(key))))
    }

    /// AES in cipher block chaining mode with a random first block and PKCS#7 padding. It hides values, but does not
    /// notice that somebody changed them, or put one in the place of another: it is here for who must read what it
    /// wrote, or is told to use it.
    pub fn aes_cbc(secret: &[u8]) -> Result<Self, String> {
        match secret.len() {
            16 | 24 | 32 => Ok(Self::AesCbc(secret.to_vec())),
            len => Err(format!("has {len} bytes: aescbc takes keys of 16, 24 or 32")),
        }
    }

    /// XSalsa20 and Poly1305.
    pub fn secretbox(secret: &[u8]) -> Result<Self, String> {
        let cipher = XSalsa20Poly1305::new_from_slice(secret);
        let cipher = cipher.map_err(|_| format!("has {} bytes: secretbox takes keys of 32", secret.len()))?;
        Ok(Self::SecretBox(Box::new(cipher)))
    }
}

impl Provider {
    pub fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }

    /// Whether `stored` names this provider and key.
    pub fn wrote(&self, stored: &[u8]) -> bool {
        match self {
            Self::Identity => false,
            Self::Key { prefix, .. } => stored.starts_with(prefix.as_bytes()),
        }
    }

    /// `plain` as it is stored for the object at `place`.
    pub fn seal<'a>(&self, place: &str, plain: &'a [u8]) -> Cow<'a, [u8]> {
        let Self::Key { prefix, cipher } = self else { return Cow::Borrowed(plain) };
        let mut sealed = prefix.clone().into_bytes();
        match cipher {
            Cipher::AesGcm(key) => {
                let mut nonce = [0; NONCE_LEN];
                rand::rng().fill_bytes(&mut nonce);
                sealed.extend_from_slice(&nonce);
                let mut text = plain.to_vec();
                let nonce = Nonce::assume_unique_for_key(nonce);
                key.seal_in_place_append_tag(nonce, Aad::from(place.as_bytes()), &mut text)
                    .expect("objects are far smaller than what AES-GCM takes");
                sealed.extend_from_slice(&text);
            }
            Cipher::AesGcm192(cipher) => {
                let mut nonce = [0; NONCE_LEN];
                rand::rng().fill_bytes(&mut nonce);
                sealed.extend_from_slice(&nonce);
                let payload = Payload { msg: plain, aad: place.as_bytes() };
                let text = cipher
                    .encrypt(GenericArray::from_slice(&nonce), payload)
                    .expect("objects are far smaller than what AES-GCM takes");
                sealed.extend_from_slice(&text);
            }
            Cipher::SecretBox(cipher) => {
                let mut nonce = [0; SECRETBOX_NONCE];
                rand::rng().fill_bytes(&mut nonce);
                sealed.extend_from_slice(&nonce);
                let text = cipher
                    .encrypt(GenericArray::from_slice(&nonce), &*bound(place, plain))
                    .expect("objects are far smaller than what XSalsa20 takes");
                sealed.extend_from_slice(&text);
            }
            Cipher::AesCbc(key) => {
                let mut first = [0; CBC_BLOCK];
                rand::rng().fill_bytes(&mut first);
                sealed.extend_from_slice(&first);
                sealed.extend_from_slice(&cbc_encrypted(key, &first, plain));
            }
        }
        Cow::Owned(sealed)
    }

    /// What `stored` was made of; None where another key made it, or it is another object's, or damaged.
    pub fn open(&self, place: &str, stored: &[u8]) -> Option<Vec<u8>> {
        let Self::Key { prefix, cipher } = self else { return None };
        let body = stored.strip_prefix(prefix.as_bytes())?;
        match cipher {
            Cipher::AesGcm(key) => {
                let (nonce, text) = body.split_first_chunk::<NONCE_LEN>()?;
                let mut text = text.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let len = key.open_in_place(nonce, Aad::from(place.as_bytes()), &mut text).ok()?.len();
                text.truncate(len);
                Some(text)
            }
            Cipher::AesGcm192(cipher) => {
                let (nonce, text) = body.split_first_chunk::<NONCE_LEN>()?;
                let payload = Payload { msg: text, aad: place.as_bytes() };
                cipher.decrypt(GenericArray::from_slice(nonce), payload).ok()
            }
            Cipher::SecretBox(cipher) => {
                let (nonce, text) = body.split_first_chunk::<SECRETBOX_NONCE>()?;
                let text = cipher.decrypt(GenericArray::from_slice(nonce), text).ok()?;
                unbound(place, text)
            }
            Cipher::AesCbc(key) => {
                let (first, text) = body.split_first_chunk::<CBC_BLOCK>()?;
                cbc_decrypted(key, first, text)
            }
        }
    }
}

/// Encryptor or decryptor by the length of the key, which was checked.
macro_rules! cbc_of {
    ($mode:ident, $key:expr, $first:expr, |$cipher:ident| $work:expr) => {
        match $key.len() {
            16 => {
                let $cipher = cbc::$mode::<Aes128>::new_from_slices($key, $first).expect("the lengths fit");
                $work
            }
            24 => {
                let $cipher = cbc::$mode::<Aes192>::new_from_slices($key, $first).expect("the lengths fit");
                $work
            }
            _ => {
                let $cipher = cbc::$mode::<Aes256>::new_from_slices($key, $first).expect("the lengths fit");
                $work
            }
        }
    };
}

fn cbc_encrypted(key: &[u8], first: &[u8; CBC_BLOCK], plain: &[u8]) -> Vec<u8> {
    cbc_of!(Encryptor, key, first, |cipher| cipher.encrypt_padded_vec_mut::<Pkcs7>(plain))
}

/// `None` where the last block does not end as it must.
fn cbc_decrypted(key: &[u8], first: &[u8; CBC_BLOCK], text: &[u8]) -> Option<Vec<u8>> {
    cbc_of!(Decryptor, key, first, |cipher| cipher.decrypt_padded_vec_mut::<Pkcs7>(text).ok())
}

/// A secret box has nowhere to put what is authenticated but not encrypted, so the place goes inside.
fn bound(place: &str, plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(place.len() + 1 + plain.len());
    bytes.extend_from_slice(place.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(plain);
    bytes
}

fn unbound(place: &str, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let rest = bytes.strip_prefix(place.as_bytes())?.strip_prefix(&[0])?.len();
    bytes.drain(..bytes.len() - rest);
    Some(bytes)
}
