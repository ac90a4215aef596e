//! The order of a block: the base-2 logarithm of its page count.

use core::fmt;

/// The largest order that the buddy system manages: blocks of 2^20 pages.
pub const MAX_ORDER: usize = 20;

/// The order of a block. Holding one proves `order <= MAX_ORDER`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Order(u8);

impl Order {
    /// One page.
    pub const ZERO: Self = Self(0);
    /// The largest block.
    pub const MAX: Self = Self(MAX_ORDER as u8);

    /// The order `order`, if the buddy system has it.
    #[inline]
    pub const fn new(order: u8) -> Option<Self> {
        if order as usize <= MAX_ORDER { Some(Self(order)) } else { None }
    }

    /// The smallest order whose block holds `page_count` pages; `None` for 0 pages and for more
    /// than the largest block has.
    #[inline]
    pub const fn for_pages(page_count: usize) -> Option<Self> {
        if page_count == 0 || page_count > 1 << MAX_ORDER {
            return None;
        }
        Some(Self((usize::BITS - (page_count - 1).leading_zeros()) as u8))
    }

    /// The smallest order whose block holds `page_count` pages, capped by [`Order::MAX`].
    #[inline(always)]
    pub(crate) const fn holding(page_count: usize) -> Self {
        let order = usize::BITS - page_count.saturating_sub(1).leading_zeros();
        if order as usize > MAX_ORDER { Self::MAX } else { Self(order as u8) }
    }

    /// The largest order whose block has at most `page_count` pages, capped by [`Order::MAX`];
    /// `None` for 0 pages.
    #[inline]
    pub const fn within_pages(page_count: usize) -> Option<Self> {
        match page_count.checked_ilog2() {
            None => None,
            Some(log) if log as usize >= MAX_ORDER => Some(Self::MAX),
            Some(log) => Some(Self(log as u8)),
        }
    }

    /// The order of the largest block that may start at page number `absolute_page` and has at
    /// most `page_count` pages; `None` for 0 pages.
    #[inline]
    pub const fn fitting(absolute_page: usize, page_count: usize) -> Option<Self> {
        match Self::within_pages(page_count) {
            Some(size) => {
                let aligned = absolute_page.trailing_zeros();
                if aligned < size.0 as u32 { Some(Self(aligned as u8)) } else { Some(size) }
            }
            None => None,
        }
    }

    /// Pages in a block of this order.
    #[inline]
    pub const fn pages(self) -> usize {
        1 << self.0
    }

    /// The order as a number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The order as an index into a table with `MAX_ORDER + 1` rows.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The order of the block that two buddies of this order form.
    #[inline]
    pub const fn parent(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// The order of each half; `None` for a single page.
    #[inline]
    pub const fn half(self) -> Option<Self> {
        match self.0 {
            0 => None,
            order => Some(Self(order - 1)),
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "order:{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_up_for_a_request_and_down_for_a_run() {
        for count in 1..5000_usize {
            assert_eq!(Order::for_pages(count).unwrap().pages(), count.next_power_of_two());
            let within = Order::within_pages(count).unwrap().pages();
            assert!(within <= count && count < 2 * within);
        }
        assert_eq!(Order::for_pages(0), None);
        assert_eq!(Order::within_pages(0), None);
        assert_eq!(Order::for_pages(1 << 20), Some(Order::MAX));
        assert_eq!(Order::for_pages((1 << 20) + 1), None);
        assert_eq!(Order::for_pages(usize::MAX), None);
        assert_eq!(Order::within_pages(usize::MAX), Some(Order::MAX));
    }

    #[test]
    fn fitting_blocks_are_aligned_and_inside() {
        for start in 0..200_usize {
            for count in 1..200_usize {
                let order = Order::fitting(start, count).unwrap();
                assert!(order.pages() <= count);
                assert_eq!(start % order.pages(), 0);
            }
        }
        assert_eq!(Order::fitting(0, usize::MAX), Some(Order::MAX));
    }

    #[test]
    fn stops_at_both_ends() {
        assert_eq!(Order::new(21), None);
        assert_eq!(Order::MAX.parent(), None);
        assert_eq!(Order::ZERO.half(), None);
        assert_eq!(Order::ZERO.parent(), Order::new(1));
        assert_eq!(Order::MAX.half(), Order::new(19));
    }
}
