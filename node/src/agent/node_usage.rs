//! What this node has used: all of its machine, or, where it shares that with other nodes, what its containers have.
//!
//! Several nodes of one machine would otherwise each tell the same, and be added up. What the agents, the runtimes and
//! everybody else on such a machine use is no node's.

use std::{collections::HashMap, time::Duration};

use tokio::sync::Mutex;

use super::machine_usage::Usage;

/// Where a node's figures come from.
pub enum NodeUsage {
    Machine,
    /// Held over a question to the runtime, so that answers are counted in the order in which they were given.
    Containers(Mutex<ContainersUsage>),
}

impl NodeUsage {
    pub fn new(is_machine_shared: bool) -> Self {
        if is_machine_shared { Self::Containers(Mutex::default()) } else { Self::Machine }
    }
}

/// The sum of containers, which goes on counting those that have ended.
#[derive(Default)]
pub struct ContainersUsage {
    /// Nanoseconds of CPU of those that ran at the last look, by id.
    running: HashMap<String, u64>,
    /// The same of those that have ended, as far as it was seen.
    ended: u64,
}

impl ContainersUsage {
    /// With the containers that run now: id, nanoseconds of CPU, bytes of memory.
    pub fn with<'a>(&mut self, running: impl Iterator<Item = (&'a str, u64, u64)>) -> Usage {
        let mut before = std::mem::take(&mut self.running);
        let (mut cpu, mut memory) = (0_u64, 0_u64);
        for (id, nanos, bytes) in running {
            before.remove(id);
            self.running.insert(id.to_owned(), nanos);
            (cpu, memory) = (cpu.saturating_add(nanos), memory.saturating_add(bytes));
        }
        self.ended = before.into_values().fold(self.ended, u64::saturating_add);
        Usage { cpu: Duration::from_nanos(self.ended.saturating_add(cpu)), working_set_bytes: memory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_of_containers_is_counted_when_they_have_ended_and_memory_is_not() {
        let mut usage = ContainersUsage::default();
        let mut with = |running: &[(&str, u64, u64)]| {
            let usage = usage.with(running.iter().copied());
            (usage.cpu.as_nanos(), usage.working_set_bytes)
        };
        assert_eq!(with(&[("a", 100, 10), ("b", 50, 5)]), (150, 15));
        assert_eq!(with(&[("a", 120, 10)]), (170, 10));
        assert_eq!(with(&[("a", 120, 10), ("c", 1, 1)]), (171, 11));
        assert_eq!(with(&[]), (171, 0));
        assert_eq!(with(&[]), (171, 0));
    }
}
