//! How much a guest may hold, over all its memories and tables. Knows no plugin.

use wasmtime::{ResourceLimiter, Result};

/// Elements over all tables of a guest.
pub(super) const MAX_TABLE_ELEMENTS: usize = 200_000;
/// Core instances of a guest: components of JavaScript and Python have a few dozen.
pub(super) const MAX_INSTANCES: usize = 200;
pub(super) const MAX_TABLES: usize = 200;
pub(super) const MAX_MEMORIES: usize = 50;

/// What there was no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Memory.
    Memory,
    /// Elements of tables.
    Elements,
}

/// Counts what one guest holds. Nothing is given back before the guest is dropped.
pub(super) struct GuestLimits {
    memory_limit: usize,
    memory: usize,
    elements: usize,
    /// What the guest was refused last: explains what it does next.
    pub(super) refused: Option<Refused>,
}

impl GuestLimits {
    pub(super) fn new(memory_limit: u64) -> GuestLimits {
        GuestLimits {
            memory_limit: usize::try_from(memory_limit).unwrap_or(usize::MAX),
            memory: 0,
            elements: 0,
            refused: None,
        }
    }

    /// Bytes over all memories: at the end of a guest's life, the most it ever held.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    fn grow(total: &mut usize, limit: usize, current: usize, desired: usize) -> bool {
        let after = total.saturating_add(desired.saturating_sub(current));
        let fits = after <= limit;
        if fits {
            *total = after;
        }
        fits
    }
}

impl ResourceLimiter for GuestLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let fits = GuestLimits::grow(&mut self.memory, self.memory_limit, current, desired);
        if !fits {
            self.refused = Some(Refused::Memory);
        }
        Ok(fits)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let fits = GuestLimits::grow(&mut self.elements, MAX_TABLE_ELEMENTS, current, desired);
        if !fits {
            self.refused = Some(Refused::Elements);
        }
        Ok(fits)
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

    #[test]
    fn memories_are_summed() {
        let mut limits = GuestLimits::new(100);
        assert!(limits.memory_growing(0, 60, None).unwrap());
        assert!(!limits.memory_growing(0, 60, None).unwrap());
        assert_eq!(limits.refused, Some(Refused::Memory));
        assert!(limits.memory_growing(60, 70, None).unwrap());
        assert!(limits.memory_growing(0, 30, None).unwrap());
        assert!(!limits.memory_growing(70, 71, None).unwrap());
        assert!(!limits.table_growing(0, MAX_TABLE_ELEMENTS + 1, None).unwrap());
        assert!(limits.table_growing(0, MAX_TABLE_ELEMENTS - 1, None).unwrap());
        assert!(!limits.table_growing(0, 2, None).unwrap(), "tables are summed");
        assert_eq!(limits.memory(), 100);
    }
}
