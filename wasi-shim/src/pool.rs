//! How the engine is built: the pool of instances, sized against what the kernel allows.
//!
//! A pooled instance costs address space, and memory mappings of which a process has few (`vm.max_map_count`): two per
//! stack when the pool is made and about four per live instance. The pool is made so small that it cannot run into
//! that limit; what waits for a free instance waits in the engine's own queue (see `engine`), not in the kernel's
//! errors.

use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::machine::Sort;

/// Mappings per instance: two of its stack, four of its memory and tables.
const MAPPINGS_PER_INSTANCE: u64 = 6;
/// Instances of the engine for WASI 0.3, which few modules need: its mappings are always left for it.
const CONCURRENT_INSTANCES: u32 = 1000;
/// Instances of the engine for single requests. A container that needs more at once is moved to the large one.
const BRIEF_INSTANCES: u32 = 500;
/// Left for those, and for code, heap, threads and everything else in the process.
const OTHER_MAPPINGS: u64 = (CONCURRENT_INSTANCES + BRIEF_INSTANCES) as u64 * MAPPINGS_PER_INSTANCE + 8192;
/// Each memory reserves 4 GiB and guards of a process's 128 TiB.
const MAX_INSTANCES: u32 = 16_000;

/// What a node gets where the kernel allows it and nobody asked for another number.
const DEFAULT_INSTANCES: u32 = 12_000;

/// With less than this a node is not worth starting.
const FEW: u32 = 32;

/// Wasm gets half a MiB, as elsewhere; the other half is for host functions, which run on the guest's stack.
const WASM_STACK: usize = 512 << 10;
const STACK: usize = 1 << 20;

/// A component is several core instances (its module, adapters, shims) with one or two memories among them.
const CORE_INSTANCES: u32 = 8;
const TABLES: u32 = 4;

/// The largest address, the largest offset, and what is read there.
const FARTHEST: u64 = (8 << 30) + (64 << 10);

/// What a free slot keeps of its last instance's memory: resetting it in place is faster than giving it back.
const KEEP_MEMORY: usize = 256 << 10;
const KEEP_TABLE: usize = 16 << 10;
const KEEP_STACK: usize = 32 << 10;

/// The engine, and how many instances its pool holds. A system that grants less address space (`ulimit -v`, overcommit
/// off) gets a smaller pool.
pub fn engine(sort: Sort, wanted: Option<u32>) -> wasmtime::Result<(Engine, u32)> {
    let mut instances = instances(sort, wanted);
    loop {
        match Engine::new(&config(sort, instances)) {
            Ok(engine) => return Ok((engine, instances)),
            Err(error) if instances <= FEW => return Err(error),
            Err(error) => {
                tracing::warn!(
                    instances,
                    error = format!("{error:#}"),
                    "no room for that many wasm instances"
                );
                instances /= 2;
            }
        }
    }
}

/// How many instances the pool is to hold; a wish that cannot be fulfilled is told to the log.
fn instances(sort: Sort, wanted: Option<u32>) -> u32 {
    let fixed = match sort {
        Sort::Sequential => None,
        Sort::Brief => Some(BRIEF_INSTANCES),
        Sort::Concurrent => Some(CONCURRENT_INSTANCES),
    };
    if let Some(fixed) = fixed {
        return wanted.unwrap_or(fixed).clamp(1, fixed);
    }
    let possible = possible_instances();
    if let Some(wanted) = wanted.filter(|wanted| *wanted > possible) {
        tracing::warn!(
            wanted,
            possible,
            "fewer wasm instances at once than asked for: raise vm.max_map_count (sysctl) for more"
        );
    }
    wanted.unwrap_or(DEFAULT_INSTANCES).min(possible).max(1)
}

/// How many instances a pool can hold so that the process stays below the kernel's limit of mappings.
fn possible_instances() -> u32 {
    let (Some(limit), Some(used)) = (max_map_count(), mappings_in_use()) else { return MAX_INSTANCES };
    fitting(limit, used).min(MAX_INSTANCES)
}

fn fitting(max_map_count: u64, used: u64) -> u32 {
    let free = max_map_count.saturating_sub(used).saturating_sub(OTHER_MAPPINGS);
    u32::try_from(free / MAPPINGS_PER_INSTANCE).unwrap_or(u32::MAX)
}

fn max_map_count() -> Option<u64> {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok()?.trim().parse().ok()
}

fn mappings_in_use() -> Option<u64> {
    Some(std::fs::read_to_string("/proc/self/maps").ok()?.lines().count() as u64)
}

fn config(sort: Sort, instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    // PAGEMAP_SCAN (Linux 6.7) is probed by wasmtime and used where it works.
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(2).min(MAX_INSTANCES.max(instances)))
        .total_tables(instances.saturating_mul(TABLES))
        .total_stacks(instances)
        .total_gc_heaps(instances.min(1000))
        .table_elements(100_000)
        .max_core_instance_size(4 << 20)
        .max_component_instance_size(4 << 20)
        .linear_memory_keep_resident(KEEP_MEMORY)
        .table_keep_resident(KEEP_TABLE)
        .async_stack_keep_resident(KEEP_STACK)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(STACK)
        .wasm_component_model(true)
        .concurrency_support(sort == Sort::Concurrent)
        .wasm_component_model_async(sort == Sort::Concurrent);
    if sort == Sort::Brief {
        check_every_access(&mut config);
    }
    config
}

/// Compiled code compares each address with the memory's size, and no page has to be guarded. Here wasmtime's code has no
/// defence against a processor that runs ahead of such a comparison. What it would reach with an address and an offset
/// of 32 bits each lies in the memory's own reservation, which is always zero there; so there are no memories with
/// longer addresses, and none that a collector manages.
fn check_every_access(config: &mut Config) {
    config
        .signals_based_traps(false)
        .memory_guard_size(0)
        .gc_heap_guard_size(0)
        .memory_reservation(FARTHEST)
        .gc_heap_reservation(FARTHEST)
        .wasm_memory64(false)
        .wasm_gc(false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_stays_below_the_kernels_limit_of_mappings() {
        let possible = fitting(65_530, 500);
        assert!(possible > 7_900);
        assert!(u64::from(possible) * MAPPINGS_PER_INSTANCE + 500 + OTHER_MAPPINGS <= 65_530);
        assert_eq!(fitting(1000, 900), 0);
    }
}
