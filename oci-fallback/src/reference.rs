//! Names as users write them.
//!
//! A wasm file is imported under any plain name (`hello`, `hello:v1`); an image of a registry is known by its
//! normalised name (`docker.io/library/x:latest`). One look-up finds both, with or without `:latest`.

use oci_client::Reference;

use crate::{PullError, record::is_digest};

/// What to try, in order, for a name that a user wrote.
pub(crate) fn candidates(name: &str) -> Vec<String> {
    let mut candidates = vec![name.to_owned()];
    match name.strip_suffix(":latest") {
        Some(bare) => candidates.push(bare.to_owned()),
        None if !has_tag(name) && !name.contains('@') => candidates.push(format!("{name}:latest")),
        None => {}
    }
    if let Ok(reference) = name.parse::<Reference>() {
        candidates.push(reference.whole());
    }
    candidates
}

/// The digest that a reference pins or is: `sha256:…`, `name@sha256:…`, or the bare digits of an image id.
pub(crate) fn digest_of(reference: &str) -> Option<String> {
    let digest = reference.rsplit_once('@').map_or(reference, |(_, digest)| digest);
    if is_digest(digest) {
        return Some(digest.to_owned());
    }
    let long = format!("sha256:{digest}");
    is_digest(&long).then_some(long)
}

pub(crate) fn parse(name: &str) -> Result<Reference, PullError> {
    name.parse()
        .map_err(|error: oci_client::ParseError| PullError::InvalidName(name.to_owned(), error.to_string()))
}

/// Registries on loopback addresses speak plain HTTP, as every container tool assumes.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

fn has_tag(name: &str) -> bool {
    name.rsplit_once('/').map_or(name, |(_, last)| last).contains(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_is_what_a_name_without_tag_means() {
        assert_eq!(candidates("hello"), ["hello", "hello:latest", "docker.io/library/hello:latest"]);
        assert_eq!(candidates("hello:latest"), ["hello:latest", "hello", "docker.io/library/hello:latest"]);
        assert_eq!(candidates("hello:v1"), ["hello:v1", "docker.io/library/hello:v1"]);
        assert_eq!(candidates("localhost:5000/x")[1], "localhost:5000/x:latest");
    }

    #[test]
    fn a_digest_is_found_in_every_spelling() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert_eq!(digest_of(&digest).as_ref(), Some(&digest));
        assert_eq!(digest_of(&format!("example.com/x@{digest}")).as_ref(), Some(&digest));
        assert_eq!(digest_of(&"a1".repeat(32)).as_ref(), Some(&digest));
        assert_eq!(digest_of("hello:v1"), None);
        assert_eq!(digest_of("sha256:../../etc/passwd"), None);
    }

    #[test]
    fn only_loopback_registries_are_spoken_to_in_the_clear() {
        assert!(is_loopback("localhost:5000") && is_loopback("127.64.3.2:80") && is_loopback("127.0.0.1"));
        assert!(
            !is_loopback("example.com:5000")
                && !is_loopback("10.0.0.1")
                && !is_loopback("localhost.example.com")
        );
    }
}
