//! Signed JSON web tokens: reading, checking and making them.
//!
//! On `ring`, which TLS brings anyway; the crates for JWTs would each bring a second library of cryptography. Only
//! asymmetric algorithms are known, so that no token can be checked with a public key taken for a secret.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use rcgen::{KeyPair, PublicKeyData as _};
use ring::{
    rand::SystemRandom,
    signature::{
        self, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RsaPublicKeyComponents,
        UnparsedPublicKey,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Longer texts are not looked at.
const MAX_LENGTH: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
}

/// A token as it came in: well-formed, its signature not checked yet.
#[derive(Debug)]
pub struct Token<'a> {
    header: Header,
    claims: Vec<u8>,
    signed: &'a str,
    signature: Vec<u8>,
}

impl<'a> Token<'a> {
    pub fn parse(text: &'a str) -> Option<Self> {
        if text.len() > MAX_LENGTH {
            return None;
        }
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |text: &str| BASE64URL.decode(text).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: decode(claims)?,
            signed,
            signature: decode(signature)?,
        })
    }

    /// Which key the token says it was signed with, "" for none.
    pub fn key_id(&self) -> &str {
        &self.header.kid
    }

    /// The claims, not to be believed before `is_signed_by`.
    pub fn claims<T: for<'de> Deserialize<'de>>(&self) -> Option<T> {
        serde_json::from_slice(&self.claims).ok()
    }

    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify(&self.header.alg, self.signed.as_bytes(), &self.signature)
    }

    pub fn algorithm(&self) -> &str {
        &self.header.alg
    }
}

/// A key that signatures are checked with.
#[derive(Debug, Clone)]
pub enum PublicKey {
    /// An uncompressed point, and the algorithm that its curve goes with.
    Ec {
        point: Vec<u8>,
        algorithm: &'static str,
    },
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

impl PublicKey {
    /// From a member of a JSON web key set; `None` where it is of another type, or not for signatures.
    pub fn from_jwk(jwk: &Value) -> Option<Self> {
        if jwk["use"].as_str().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |name: &str| BASE64URL.decode(jwk[name].as_str()?).ok();
        match jwk["kty"].as_str()? {
            "RSA" => Some(Self::Rsa { modulus: bytes("n")?, exponent: bytes("e")? }),
            "EC" => {
                let algorithm = match jwk["crv"].as_str()? {
                    "P-256" => "ES256",
                    "P-384" => "ES384",
                    _ => return None,
                };
                Some(Self::Ec { point: [vec![4], bytes("x")?, bytes("y")?].concat(), algorithm })
            }
            _ => None,
        }
    }

    fn verify(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> bool {
        match self {
            Self::Ec { point, algorithm: own } if *own == algorithm => {
                let curve: &dyn signature::VerificationAlgorithm = match algorithm {
                    "ES256" => &signature::ECDSA_P256_SHA256_FIXED,
                    _ => &signature::ECDSA_P384_SHA384_FIXED,
                };
                UnparsedPublicKey::new(curve, point).verify(message, signed).is_ok()
            }
            Self::Ec { .. } => false,
            Self::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
                    "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
                    "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
                    "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signed).is_ok()
            }
        }
    }
}

/// A key on the curve P-256 that tokens are signed with (ES256).
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    id: String,
    header: String,
}

impl SigningKey {
    /// A new key, PEM.
    pub fn generate() -> Result<String, rcgen::Error> {
        Ok(KeyPair::generate()?.serialize_pem())
    }

    /// # Errors
    /// Why the text is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(pem).map_err(|error| error.to_string())?;
        let random = SystemRandom::new();
        let der = key.serialize_der();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &random)
            .map_err(|error| error.to_string())?;
        let id = BASE64URL.encode(Sha256::digest(key.subject_public_key_info()));
        let header = BASE64URL.encode(json!({ "alg": "ES256", "kid": id }).to_string());
        Ok(Self { pair, random, id, header })
    }

    pub fn sign(&self, claims: &impl Serialize) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are plain data");
        let signed = format!("{}.{}", self.header, BASE64URL.encode(claims));
        let signature =
            self.pair.sign(&self.random, signed.as_bytes()).expect("the system gives random bytes");
        format!("{signed}.{}", BASE64URL.encode(signature))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::Ec { point: self.pair.public_key().as_ref().into(), algorithm: "ES256" }
    }

    /// The public half as a member of a JSON web key set.
    pub fn jwk(&self) -> Value {
        let point = &self.pair.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": BASE64URL.encode(x),
            "y": BASE64URL.encode(y),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_pem(&SigningKey::generate().expect("a key")).expect("usable")
    }

    #[test]
    fn any_token_is_survived_and_only_the_whole_one_is_believed() {
        let key = key();
        let text = key.sign(&json!({ "sub": "jane", "groups": ["a"] }));
        let signed = text.rsplit_once('.').map(|(signed, _)| signed.to_owned());
        let jwk = key.jwk();
        crate::fuzz::run(|fuzz| {
            let changed = fuzz.text(&text);
            if let Some(token) = Token::parse(&changed) {
                let _ = token.claims::<Value>();
                let is_whole = changed.rsplit_once('.').map(|(signed, _)| signed) == signed.as_deref();
                assert!(is_whole || !token.is_signed_by(&key.public()), "{changed}");
            }
            if let Some(other) = PublicKey::from_jwk(&fuzz.json(&jwk)) {
                let token = Token::parse(&text).expect("well-formed");
                let _ = token.is_signed_by(&other);
            }
        });
    }

    #[test]
    fn a_signed_token_is_read_back() {
        let key = key();
        let text = key.sign(&json!({ "sub": "jane" }));
        let token = Token::parse(&text).expect("well-formed");
        let published = PublicKey::from_jwk(&key.jwk()).expect("a key");
        assert!(token.is_signed_by(&key.public()) && token.is_signed_by(&published));
        assert_eq!(token.claims::<Value>(), Some(json!({ "sub": "jane" })));
        assert_eq!(token.key_id(), key.jwk()["kid"]);
    }

    #[test]
    fn another_key_or_a_changed_token_does_not_pass() {
        let (key, other) = (key(), key());
        let text = key.sign(&json!({ "sub": "jane" }));
        assert!(!Token::parse(&text).expect("well-formed").is_signed_by(&other.public()));
        let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        parts[1] = BASE64URL.encode(r#"{"sub":"root"}"#);
        assert!(!Token::parse(&parts.join(".")).expect("well-formed").is_signed_by(&key.public()));
        for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"RS256"}"#] {
            parts[0] = BASE64URL.encode(header);
            assert!(!Token::parse(&parts.join(".")).expect("well-formed").is_signed_by(&key.public()));
        }
    }

    #[test]
    fn an_rsa_signature_of_the_specification_passes() {
        // RFC 7515, appendix A.2.
        let n = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
        let jwk = json!({ "kty": "RSA", "n": n, "e": "AQAB" });
        let text = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
        let key = PublicKey::from_jwk(&jwk).expect("a key");
        assert!(Token::parse(text).expect("well-formed").is_signed_by(&key));
        let changed = text.replace("cC4hi", "cC4hj");
        assert!(!Token::parse(&changed).expect("well-formed").is_signed_by(&key));
    }

    #[test]
    fn what_is_no_token_is_none() {
        for text in ["", ".", "..", "a.b.c", "e30.e30.e30", "abcdef.0123456789abcdef", &"a".repeat(70_000)] {
            assert!(Token::parse(text).is_none(), "{text:.20}");
        }
    }
}
