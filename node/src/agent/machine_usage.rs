//! What the machine of this node has used so far, of the same sources as a kubelet's figures of its node.
//!
//! The node is the root of the cgroup tree that this process sees: all of the machine, or the container in which the
//! agent runs. Where several nodes share that, `node_usage` tells them apart.

use std::{fs, path::Path, time::Duration};

const CGROUP: &str = "/sys/fs/cgroup";

/// What a node has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, ever growing.
    pub cpu: Duration,
    /// Memory in use, without the page cache's part that can be dropped at once.
    pub working_set_bytes: u64,
}

impl Usage {
    /// Of everything that runs on the machine, since it started; `None` where the kernel does not tell.
    pub fn of_machine() -> Option<Self> {
        let read = |path: &Path| fs::read_to_string(path).ok();
        let of_cgroup = |file: &str| read(&Path::new(CGROUP).join(file));
        let cpu = of_cgroup("cpu.stat").and_then(|text| cpu_of_cgroup(&text)).or_else(|| {
            cpu_of_machine(&read(Path::new("/proc/stat"))?, rustix::param::clock_ticks_per_second())
        })?;
        // The machine's own root group has no such file.
        let working_set_bytes = match of_cgroup("memory.current") {
            Some(current) => memory_of_cgroup(&current, &of_cgroup("memory.stat")?)?,
            None => memory_of_machine(&read(Path::new("/proc/meminfo"))?)?,
        };
        Some(Self { cpu, working_set_bytes })
    }
}

/// The number behind `name` in a file of such lines.
fn number(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn cpu_of_cgroup(stat: &str) -> Option<Duration> {
    number(stat, "usage_usec").map(Duration::from_micros)
}

/// `cpu USER NICE SYSTEM IDLE IOWAIT IRQ SOFTIRQ STEAL …`, in ticks; what guests used is part of USER.
fn cpu_of_machine(stat: &str, ticks_per_second: u64) -> Option<Duration> {
    let ticks: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let &[user, nice, system, _idle, _waiting, irq, softirq, steal, ..] = ticks.as_slice() else {
        return None;
    };
    let busy = user + nice + system + irq + softirq + steal;
    Some(Duration::from_nanos(busy.saturating_mul(1_000_000_000 / ticks_per_second.max(1))))
}

fn memory_of_cgroup(current: &str, stat: &str) -> Option<u64> {
    let current: u64 = current.trim().parse().ok()?;
    Some(current.saturating_sub(number(stat, "inactive_file")?))
}

fn memory_of_machine(meminfo: &str) -> Option<u64> {
    let of = |name| number(meminfo, name);
    let used = of("MemTotal")?.checked_sub(of("MemFree")?)?;
    Some(used.saturating_sub(of("Inactive(file)")?) * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_what_was_not_idle() {
        let stat = "cpu  100 20 30 5000 700 4 6 40 11 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(cpu_of_machine(stat, 100), Some(Duration::from_secs(2)));
        assert_eq!(cpu_of_machine("cpu  1 2 3\n", 100), None);
        assert_eq!(cpu_of_cgroup("usage_usec 1500\nuser_usec 1000\n"), Some(Duration::from_micros(1500)));
    }

    #[test]
    fn memory_is_what_cannot_be_dropped_at_once() {
        let meminfo = "MemTotal:        1000 kB\nMemFree:          400 kB\nInactive:         300 kB\nInactive(file):    50 kB\n";
        assert_eq!(memory_of_machine(meminfo), Some(550 * 1024));
        assert_eq!(memory_of_cgroup("5000\n", "anon 10\ninactive_file 1000\n"), Some(4000));
    }

    #[test]
    fn this_machine_tells() {
        let one = Usage::of_machine().expect("Linux tells");
        let other = Usage::of_machine().expect("Linux tells");
        assert!(one.working_set_bytes > 0 && other.cpu >= one.cpu, "{one:?}, then {other:?}");
    }
}
