//! Limits the memory of one call of a plugin: all instances, memories and tables of its component together.
//!
//! Wasmtime's own `StoreLimits` checks each memory separately, so a component with eight memories would get eight times
//! as much.

use wasmtime::ResourceLimiter;

/// Instances of core modules in a component. A Rust plugin has four. Python, linked from 38 libraries, has 108, most of
/// which only re-export functions of others.
const INSTANCES_MAX: usize = 256;

/// Memories. A component needs one.
const MEMORIES_MAX: usize = 8;

/// Tables. Each instance of a component has one of its own and one for its imports.
const TABLES_MAX: usize = 32;

/// Elements of all tables together, one pointer each. A large interpreter has about ten thousand functions.
const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The limit that a plugin exceeded in one call. The message follows "the plugin …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// Linear memory.
    #[error("needs more than {mib_max} MiB of memory")]
    Memory {
        /// The limit in MiB.
        mib_max: usize,
    },
    /// Elements of tables.
    #[error("needs more than {TABLE_ELEMENTS_MAX} elements in its tables")]
    Tables,
    /// Streams of dumps and archives.
    #[error("opened more than {} streams", super::STREAMS_MAX)]
    Streams,
}

/// Counts the memory of a store's instances.
#[derive(Debug)]
pub struct Limiter {
    memory_bytes: usize,
    memory_bytes_max: usize,
    table_elements: usize,
}

impl Limiter {
    /// A limiter that has counted nothing yet.
    pub(super) const fn new(memory_bytes_max: usize) -> Self {
        Self { memory_bytes: 0, memory_bytes_max, table_elements: 0 }
    }
}

/// The new sum, or `None` if it exceeds `max`.
fn grown(sum: usize, current: usize, desired: usize, max: usize) -> Option<usize> {
    sum.checked_add(desired.saturating_sub(current)).filter(|sum| *sum <= max)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let sum = grown(self.memory_bytes, current, desired, self.memory_bytes_max);
        self.memory_bytes = sum.ok_or(LimitReached::Memory { mib_max: self.memory_bytes_max >> 20 })?;
        Ok(true)
    }

    /// The machine is out of memory. The call ends here, so the sum need not be corrected.
    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let sum = grown(self.table_elements, current, desired, TABLE_ELEMENTS_MAX);
        self.table_elements = sum.ok_or(LimitReached::Tables)?;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(error)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_memories_together_are_checked_against_the_limit() {
        let mut limiter = Limiter::new(2 << 20);
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap());
        assert!(limiter.memory_growing(0, 1 << 20, None).unwrap(), "exactly the limit");
        let error = limiter.memory_growing(1 << 20, (1 << 20) + 65_536, None).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&LimitReached::Memory { mib_max: 2 }));
        assert!(limiter.memory_growing(0, usize::MAX, None).is_err(), "the sum does not overflow");
    }

    #[test]
    fn growth_beyond_the_declared_maximum_of_a_module_is_not_counted() {
        let mut limiter = Limiter::new(2 << 20);
        assert!(!limiter.memory_growing(0, 2 << 20, Some(65_536)).unwrap());
        assert!(limiter.memory_growing(0, 2 << 20, Some(2 << 20)).unwrap());
        assert!(!limiter.table_growing(0, 10, Some(9)).unwrap());
        assert!(limiter.table_growing(0, TABLE_ELEMENTS_MAX, None).unwrap());
        assert!(limiter.table_growing(0, 1, None).is_err());
    }
}
