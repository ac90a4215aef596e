//! Which page lists a CPU has: orders, batches, and where their places lie in one array.

use crate::units::Order;

/// How many lists there are: orders 0 to 8 as far as that is at most 2 MiB, and the order of 2 MiB.
/// On 32 bits, where memory may be small: orders 0 to 2, and that of 2 MiB.
pub(super) const LISTS: usize = if usize::BITS >= 64 { 10 } else { 4 };

/// Up to this order there is a list whatever the size of a page.
const ALWAYS: usize = if usize::BITS >= 64 { 3 } else { 2 };

/// The largest blocks that are kept.
const MOST_BYTES: usize = 2 << 20;

/// How many blocks a refill of each list asks for, and at once a drain gives back.
#[cfg(target_pointer_width = "64")]
const BATCH: [usize; LISTS] = [64, 24, 16, 8, 8, 7, 4, 4, 2, 2];
#[cfg(not(target_pointer_width = "64"))]
const BATCH: [usize; LISTS] = [2, 1, 1, 1];

/// How many blocks a list keeps at most.
pub(super) const fn capacity(list: usize) -> usize {
    2 * BATCH[list]
}

/// Where the places of each list begin.
pub(super) const START: [usize; LISTS + 1] = {
    let mut start = [0; LISTS + 1];
    let mut list = 0;
    while list < LISTS {
        start[list + 1] = start[list] + capacity(list);
        list += 1;
    }
    start
};

/// The most pages that the lists of one CPU keep: two batches a list.
pub(crate) const fn max_kept_pages(page_size: usize) -> usize {
    let mut pages = 0;
    let mut list = 0;
    while list < LISTS {
        if let Some(order) = order_of(list, page_size) {
            pages += capacity(list) << order;
        }
        list += 1;
    }
    pages
}

/// The order that list `list` keeps; `None` if a page of this size has no such list.
pub(super) const fn order_of(list: usize, page_size: usize) -> Option<u32> {
    if list < LISTS - 1 {
        let kept = list <= ALWAYS || page_size << list <= MOST_BYTES;
        return if kept { Some(list as u32) } else { None };
    }
    let huge = MOST_BYTES / page_size;
    if huge >= 1 << (LISTS - 1) && huge <= 1 << crate::buddy::MAX_ORDER {
        Some(huge.trailing_zeros())
    } else {
        None
    }
}

/// How many blocks of each list a shared heap has in stock for handlers.
#[cfg(target_pointer_width = "64")]
pub(super) const STOCK: [usize; LISTS] = [16, 8, 8, 8, 0, 0, 0, 0, 0, 1];
#[cfg(not(target_pointer_width = "64"))]
pub(super) const STOCK: [usize; LISTS] = [4, 2, 2, 1];

/// A list of a CPU's page lists, which keeps blocks of one order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListIndex(pub(super) u8);

impl ListIndex {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..LISTS as u8).map(Self)
    }

    #[inline(always)]
    pub(super) fn get(self) -> usize {
        usize::from(self.0)
    }

    #[inline(always)]
    pub(super) fn order(self, page_size: usize) -> Order {
        let order = order_of(self.get(), page_size).unwrap_or(0);
        Order::new(order as u8).unwrap_or(Order::ZERO)
    }

    /// Blocks that a refill asks for.
    pub(super) fn batch(self) -> usize {
        BATCH[self.get()]
    }
}
