//! Claims a block of loopback addresses for a cluster, so that clusters of one machine do not meet.

use std::{
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
    path::Path,
};

use anyhow::{Context as _, bail};
use naru_model::loopback::{BLOCKS, Block};

/// A block that is this cluster's own while the value lives.
///
/// The claim is a socket in the kernel's abstract namespace: it ends with the process, however that ends.
pub struct Claim {
    pub block: Block,
    _socket: UnixListener,
}

/// Claims the block that `dir` remembers, or a free one, which `dir` then remembers.
pub fn claim(dir: &Path) -> anyhow::Result<Claim> {
    let file = dir.join("loopback-block");
    if let Ok(text) = std::fs::read_to_string(&file) {
        let number = text.trim().parse().ok().and_then(Block::new);
        let block = number
            .with_context(|| format!("{} does not hold a block number from 1 to 63", file.display()))?;
        return try_claim(block)?.with_context(|| {
            format!(
                "the addresses of this cluster (loopback block {}) are in use by another cluster",
                block.number()
            )
        });
    }
    let start = rand_start();
    for offset in 0..BLOCKS {
        let block = Block::new((start + offset) % BLOCKS + 1).expect("1 to 63 are blocks");
        if let Some(claim) = try_claim(block)? {
            std::fs::write(&file, format!("{}\n", block.number()))
                .with_context(|| format!("cannot write {}", file.display()))?;
            return Ok(claim);
        }
    }
    bail!("all {BLOCKS} blocks of loopback addresses are taken by running clusters; stop one of them")
}

fn try_claim(block: Block) -> anyhow::Result<Option<Claim>> {
    let address = SocketAddr::from_abstract_name(format!("naru-loopback-block-{}", block.number()))?;
    match UnixListener::bind_addr(&address) {
        Ok(socket) => Ok(Some(Claim { block, _socket: socket })),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error).context("cannot claim loopback addresses"),
    }
}

/// Where to start looking: differs between processes, so that stale listeners of a block are not met again at once.
fn rand_start() -> u8 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    ((nanos ^ std::process::id()) % u32::from(BLOCKS)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clusters_never_share_a_block() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = claim(one.path()).unwrap();
        let second = claim(two.path()).unwrap();
        assert_ne!(first.block, second.block);
    }

    #[test]
    fn a_cluster_gets_its_block_again() {
        let dir = tempfile::tempdir().unwrap();
        let number = claim(dir.path()).unwrap().block.number();
        assert_eq!(claim(dir.path()).unwrap().block.number(), number);
    }

    #[test]
    fn a_block_in_use_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let _held = claim(dir.path()).unwrap();
        let error = claim(dir.path()).err().expect("it is taken");
        assert!(error.to_string().contains("in use by another cluster"), "{error}");
    }
}
