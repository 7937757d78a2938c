//! Pod addresses of this node, from the range that the agent hands down.
//!
//! Invariant: an address is given to one pod at a time. Released addresses come back as late as possible, so that
//! a connection meant for an old pod does not reach a new one.

use std::{collections::HashSet, net::Ipv4Addr};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("\"{0}\" is no IPv4 range such as 10.1.0.0/24")]
    InvalidRange(String),
    #[error("the node has no pod CIDR yet")]
    NoRange,
    #[error("all {0} addresses of the node's pod CIDR are in use")]
    Exhausted(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    first: u32,
    count: u32,
}

#[derive(Debug, Default)]
pub(super) struct AddressPool {
    range: Option<Range>,
    next: u32,
    used: HashSet<Ipv4Addr>,
}

impl AddressPool {
    /// Takes addresses from `cidr` from now on. Those that are in use stay valid.
    pub(super) fn set_range(&mut self, cidr: &str) -> Result<(), AddressError> {
        // In a dual-stack cluster the ranges come as a list; the first is the primary one.
        let first = cidr.split(',').next().unwrap_or_default().trim();
        let range = parse(first).ok_or_else(|| AddressError::InvalidRange(cidr.to_owned()))?;
        if self.range != Some(range) {
            self.range = Some(range);
            self.next = 0;
        }
        Ok(())
    }

    pub(super) fn has_range(&self) -> bool {
        self.range.is_some()
    }

    /// Any address of the range: it tells the cluster's block in loopback mode.
    pub(super) fn sample(&self) -> Option<Ipv4Addr> {
        self.range.map(|range| Ipv4Addr::from(range.first))
    }

    pub(super) fn allocate(&mut self) -> Result<Ipv4Addr, AddressError> {
        let range = self.range.ok_or(AddressError::NoRange)?;
        for _ in 0..range.count {
            let address = Ipv4Addr::from(range.first + self.next);
            self.next = (self.next + 1) % range.count;
            if self.used.insert(address) {
                return Ok(address);
            }
        }
        Err(AddressError::Exhausted(range.count))
    }

    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.used.remove(&address);
    }
}

/// The usable addresses of a range: not the network's own and not the broadcast address.
fn parse(cidr: &str) -> Option<Range> {
    let (address, prefix) = cidr.split_once('/')?;
    let (address, prefix) = (u32::from(address.parse::<Ipv4Addr>().ok()?), prefix.parse::<u32>().ok()?);
    if !(8..=30).contains(&prefix) {
        return None;
    }
    let size = 1u32 << (32 - prefix);
    (address & (size - 1) == 0).then_some(Range { first: address + 1, count: size - 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> AddressPool {
        let mut pool = AddressPool::default();
        pool.set_range(cidr).unwrap();
        pool
    }

    #[test]
    fn every_address_is_given_once_and_comes_back_last() {
        let mut pool = pool("127.5.0.0/29");
        let given: Vec<_> = (0..6).map(|_| pool.allocate().unwrap()).collect();
        assert_eq!(given.iter().collect::<HashSet<_>>().len(), 6);
        assert_eq!((given[0], given[5]), (Ipv4Addr::new(127, 5, 0, 1), Ipv4Addr::new(127, 5, 0, 6)));
        assert_eq!(pool.allocate(), Err(AddressError::Exhausted(6)));
        pool.release(given[4]);
        pool.release(given[1]);
        assert_eq!([pool.allocate().unwrap(), pool.allocate().unwrap()], [given[1], given[4]]);
    }

    #[test]
    fn a_released_address_rests_while_others_are_free() {
        let mut pool = pool("127.5.0.0/24");
        let first = pool.allocate().unwrap();
        pool.release(first);
        assert_ne!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn the_same_range_again_changes_nothing() {
        let mut pool = pool("127.5.0.0/24");
        let first = pool.allocate().unwrap();
        pool.set_range("127.5.0.0/24").unwrap();
        assert_ne!(pool.allocate().unwrap(), first);
    }

    #[test]
    fn nonsense_is_refused() {
        for cidr in ["", "127.5.0.0", "127.5.0.1/24", "127.5.0.0/33", "fd00::/64"] {
            assert!(AddressPool::default().set_range(cidr).is_err(), "{cidr}");
        }
        assert_eq!(AddressPool::default().allocate(), Err(AddressError::NoRange));
    }
}
