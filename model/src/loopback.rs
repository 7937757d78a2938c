//! How a cluster in loopback mode divides `127.0.0.0/8`.
//!
//! Each cluster of a machine owns one block, a /14: its first /16 holds service addresses and, at the top, node
//! addresses; the other three hold pod addresses, cut into one range per node. Linux answers on every address of
//! `127.0.0.0/8` without any set-up, so none of this needs privileges.

use std::net::Ipv4Addr;

/// One cluster's share of the loopback addresses. Block 0 is the system's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block(u8);

/// How many blocks there are for clusters: numbers 1 to 63.
pub const BLOCKS: u8 = 63;

impl Block {
    /// The block with this number, if there is one.
    pub fn new(number: u8) -> Option<Self> {
        (1..=BLOCKS).contains(&number).then_some(Self(number))
    }

    /// The block that an address lies in.
    pub fn of(address: Ipv4Addr) -> Option<Self> {
        let [first, second, ..] = address.octets();
        if first == 127 { Self::new(second / 4) } else { None }
    }

    pub fn number(self) -> u8 {
        self.0
    }

    /// Service addresses: `127.4k.0.0/17`.
    pub fn service_cidr(self) -> String {
        format!("127.{}.0.0/17", self.0 * 4)
    }

    /// The address of node `index`, counted from 0; `None` beyond 253 × 64 nodes.
    pub fn node_address(self, index: u32) -> Option<Ipv4Addr> {
        let (high, low) = (u8::try_from(index / 253).ok()?, u8::try_from(index % 253).ok()?);
        (high < 64).then(|| Ipv4Addr::new(127, self.0 * 4, 255 - high, low + 1))
    }

    /// All pod addresses: three /16, which the nodes' ranges are cut from.
    pub fn pod_pool(self) -> Vec<String> {
        (1..4).map(|part| format!("127.{}.0.0/16", self.0 * 4 + part)).collect()
    }

    /// The prefix length of a node's pod range where there are `nodes` nodes: /18 (16,382 pods) for up to twelve.
    pub fn node_cidr_prefix(nodes: u32) -> u8 {
        // Three /16 make 12 ranges of a /18; every further bit doubles that.
        18 + Self::extra_bits(nodes)
    }

    fn extra_bits(nodes: u32) -> u8 {
        (0..=10).find(|bits| 12u32 << bits >= nodes).unwrap_or(10)
    }

    /// The pod range of each of `nodes` nodes.
    pub fn pod_cidrs(self, nodes: u32) -> Vec<String> {
        let extra_bits = Self::extra_bits(nodes);
        let prefix = Self::node_cidr_prefix(nodes);
        let size = 1u32 << (32 - prefix);
        let first = u32::from(Ipv4Addr::new(127, self.0 * 4 + 1, 0, 0));
        (0..nodes.min(12 << extra_bits))
            .map(|node| format!("{}/{prefix}", Ipv4Addr::from(first + node * size)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_keeps_services_nodes_and_pods_apart() {
        let block = Block::new(3).expect("block 3 exists");
        assert_eq!(block.service_cidr(), "127.12.0.0/17");
        assert_eq!(block.node_address(0), Some(Ipv4Addr::new(127, 12, 255, 1)));
        assert_eq!(block.pod_cidrs(2), ["127.13.0.0/18", "127.13.64.0/18"]);
    }

    #[test]
    fn the_last_pod_range_ends_inside_the_block() {
        let block = Block::new(63).expect("block 63 exists");
        for nodes in [1, 12, 13, 100, 1000] {
            let ranges = block.pod_cidrs(nodes);
            assert_eq!(ranges.len(), nodes as usize);
            let (last, prefix) = ranges.last().and_then(|range| range.split_once('/')).expect("a range");
            let last = u32::from(last.parse::<Ipv4Addr>().expect("an address"));
            let end = last + ((1u64 << (32 - prefix.parse::<u32>().expect("a prefix"))) - 1) as u32;
            assert!(Ipv4Addr::from(end) <= Ipv4Addr::new(127, 255, 255, 255), "{nodes}: {ranges:?}");
        }
    }

    #[test]
    fn there_is_no_block_for_the_system() {
        assert_eq!(Block::new(0), None);
        assert_eq!(Block::new(64), None);
    }
}
