//! What is decided once for a whole cluster.

use std::{fmt, net::Ipv4Addr, ops::RangeInclusive, str::FromStr};

/// An IPv4 range such as `127.4.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u32,
    bits: u8,
}

impl Cidr {
    /// The address `offset` places after the range's first.
    pub fn nth(&self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base.wrapping_add(offset))
    }
    /// How many addresses it has.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.bits))
    }
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u64::from(u32::from(address).wrapping_sub(self.base)) < self.size()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl FromStr for Cidr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not an IPv4 range such as 10.96.0.0/16");
        let (address, bits) = text.split_once('/').ok_or_else(refuse)?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse())?;
        let bits: u8 = bits.parse().ok().filter(|bits| (8..=30).contains(bits)).ok_or_else(refuse)?;
        let mask = u32::MAX << (32 - u32::from(bits));
        Ok(Self { base: u32::from(address) & mask, bits })
    }
}

/// The numbers and names that all members of a cluster share.
#[derive(Debug, Clone)]
pub struct ClusterSettings {
    /// Service addresses come from here; the first is the `kubernetes` service's.
    pub service_cidr: Cidr,
    pub node_ports: RangeInclusive<i32>,
    /// `cluster.local`
    pub domain: String,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            service_cidr: Cidr { base: u32::from(Ipv4Addr::new(127, 4, 0, 0)), bits: 16 },
            node_ports: 30_000..=32_767,
            domain: "cluster.local".into(),
        }
    }
}

impl ClusterSettings {
    /// The address of the `kubernetes` service.
    pub fn kubernetes_service(&self) -> Ipv4Addr {
        self.service_cidr.nth(1)
    }
}
