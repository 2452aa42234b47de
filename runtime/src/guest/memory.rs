//! The memory of an instance: the sum of all its memories and tables.

use wasmtime::ResourceLimiter;

use crate::engine::TABLE_ELEMENTS;

/// A table element is a pointer.
const ELEMENT_BYTES: usize = size_of::<usize>();
/// Core instances, tables and memories of one store, across all its modules.
const MAX_INSTANCES: usize = 100;
const MAX_TABLES: usize = 32;
const MAX_MEMORIES: usize = 8;

/// Counts what an instance allocates and refuses what exceeds its limit.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    limit: u64,
    used: u64,
    /// The most it ever had.
    pub(crate) peak: u64,
    /// Whether it was refused: a death after that is called by its cause.
    pub(crate) refused: bool,
}

impl MemoryLimit {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: 0, peak: 0, refused: false }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let more = desired.saturating_sub(current) as u64;
        let sum = self.used.saturating_add(more);
        if sum > self.limit {
            self.refused = true;
            return false;
        }
        self.used = sum;
        self.peak = self.peak.max(sum);
        true
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond its own maximum it fails anyway and must not be counted.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        Ok(self.grow(current, desired))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(true);
        }
        if desired > TABLE_ELEMENTS {
            self.refused = true;
            return Ok(false);
        }
        Ok(self.grow(current * ELEMENT_BYTES, desired * ELEMENT_BYTES))
    }

    fn instances(&self) -> usize {
        MAX_INSTANCES
    }

    fn tables(&self) -> usize {
        MAX_TABLES
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65536;

    #[test]
    fn the_limit_is_on_the_sum_of_all_memories() {
        let mut limit = MemoryLimit::new(10 * PAGE as u64);
        assert!(limit.memory_growing(0, 4 * PAGE, None).unwrap());
        assert!(limit.memory_growing(0, 4 * PAGE, None).unwrap(), "a second memory");
        assert!(!limit.refused);
        assert!(!limit.memory_growing(4 * PAGE, 7 * PAGE, None).unwrap());
        assert!(limit.refused);
        assert!(limit.memory_growing(4 * PAGE, 6 * PAGE, None).unwrap());
        assert!(!limit.table_growing(0, 1, None).unwrap());
        assert_eq!(limit.peak, 10 * PAGE as u64);
    }

    #[test]
    fn what_fails_by_itself_is_not_counted() {
        let mut limit = MemoryLimit::new(10 * PAGE as u64);
        assert!(limit.memory_growing(0, 9 * PAGE, Some(PAGE)).unwrap());
        assert!(limit.table_growing(0, 100, Some(10)).unwrap());
        assert_eq!(limit.used, 0);
        assert!(!limit.table_growing(0, TABLE_ELEMENTS + 1, None).unwrap());
    }
}
