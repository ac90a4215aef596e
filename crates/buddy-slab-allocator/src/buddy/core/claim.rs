//! From an address that somebody gives back to ownership of the block behind it, or to a report
//! of what is wrong.
//!
//! # Protocol
//! The state byte of the 4 MiB block is read before any page metadata in it. A claim is one
//! compare-and-swap of the head word from "allocated, this kind" to "allocated, cached": of two
//! racing frees exactly one wins, and the other finds a double free. The page count is compared
//! before, so that a wrong one changes nothing, and once more by the winner, since the block could
//! have been freed and allocated anew in between.

use super::super::section::{HeadWord, KeptPage, Kind, Page};
use super::{PageCore, PageRef};
use crate::sync::RawLock;
use crate::units::Misuse;

/// Which heads a claim accepts besides its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::buddy) enum SlabMark {
    /// None: a slab is freed by who made it.
    Refuse,
    /// A head on which the caller of the standalone allocator put `PageFlags::Slab`.
    Accept,
}

impl<const PAGE_SIZE: usize, L: RawLock> PageCore<PAGE_SIZE, L> {
    /// [`claim`](Self::claim) where nothing stands in the way: in the largest section, all of
    /// whose metadata around `addr` exists, of what is just such a block. Otherwise nothing has
    /// changed, and `claim` finds out.
    #[inline(always)]
    pub(crate) fn claim_fast(
        &self,
        addr: usize,
        count: usize,
        expect: Kind,
    ) -> Option<PageRef<'_, PAGE_SIZE>> {
        let (block, page) = self.carved_page(addr)?;
        Self::claim_as(page, addr, count, expect).then_some(block)
    }

    /// [`claim_fast`](Self::claim_fast) for who keeps the block.
    #[inline(always)]
    pub(crate) fn claim_kept(&self, addr: usize, count: usize, expect: Kind) -> Option<KeptPage> {
        let reach = self.reach();
        let (pfn, page) = reach.carved_page(addr)?;
        // (Before the claim, behind which a compiler has to compute it anew.)
        let meta = reach.meta_of(pfn);
        // INVARIANT: claimed: this caller's.
        Self::claim_as(page, addr, count, expect).then(|| KeptPage::new(reach.ptr_at(addr), meta))
    }

    /// Claims the block that `page` heads, in which `addr` lies, if it begins there, has `count` pages
    /// and was handed out as `expect`. Says whether it did.
    #[inline(always)]
    fn claim_as(page: Page<'_>, addr: usize, count: usize, expect: Kind) -> bool {
        let head = page.head();
        // A single page is one by its order, which is in the word that is claimed.
        let single = count == 1;
        let ours = head.is_handed_out_as(expect)
            && if single { head.order_byte() == 0 } else { page.prev() as usize == count };
        if !ours || addr & (PAGE_SIZE - 1) != 0 {
            return false;
        }
        if page.compare_exchange(head, head.retired()).is_err() {
            return false;
        }
        if !single && page.prev() as usize != count {
            // As in `claim`, which will say so.
            page.set_head(head);
            return false;
        }
        true
    }

    /// Claims the block of exactly `count` pages at `addr` that was handed out as `expect`. The
    /// winner owns it, as [`Kind::Cached`]: it can go on a page list as it is, or is passed to
    /// `free` or `push_deferred`.
    ///
    /// Lock-free; nothing changes on an error.
    ///
    /// # Errors
    /// Which fault it is; see [`Misuse`].
    #[inline]
    pub(crate) fn claim(
        &self,
        addr: usize,
        count: usize,
        expect: Kind,
    ) -> Result<PageRef<'_, PAGE_SIZE>, Misuse> {
        self.claim_block(addr, Some(count), expect, SlabMark::Refuse).map(|(page, _)| page)
    }

    /// Like [`claim`](Self::claim) for a caller that knows no count: also returns it.
    ///
    /// # Errors
    /// As `claim`.
    #[inline]
    pub(crate) fn claim_uncounted(
        &self,
        addr: usize,
        expect: Kind,
    ) -> Result<(PageRef<'_, PAGE_SIZE>, usize), Misuse> {
        self.claim_block(addr, None, expect, SlabMark::Refuse)
    }

    #[inline]
    pub(in crate::buddy) fn claim_block(
        &self,
        addr: usize,
        count: Option<usize>,
        expect: Kind,
        slab: SlabMark,
    ) -> Result<(PageRef<'_, PAGE_SIZE>, usize), Misuse> {
        let section = self.lookup_section(addr).ok_or(Misuse::Foreign)?;
        if addr & (PAGE_SIZE - 1) != 0 {
            return Err(Misuse::WrongAlign);
        }
        let pfn = section.pfn_of(addr).ok_or(Misuse::Foreign)?;
        // No valid metadata: the inside of a block that was never carved.
        let meta = section.page(pfn).ok_or(Misuse::Interior)?;
        loop {
            let head = meta.head();
            inspect(head, expect, slab)?;
            let held = meta.prev() as usize;
            if count.is_some_and(|count| count != held) {
                return Err(Misuse::WrongSize);
            }
            if meta.compare_exchange(head, head.retired()).is_err() {
                // Somebody else was faster: look what it is now.
                continue;
            }
            let owned = meta.prev() as usize;
            if count.is_some_and(|count| count != owned) {
                // Freed and allocated anew between the two looks: it is not what the caller
                // had. Nobody else can have touched the head since it was claimed.
                meta.set_head(head);
                return Err(Misuse::WrongSize);
            }
            return Ok((PageRef::new(section, pfn), owned));
        }
    }
}

/// Whether a head word is an allocated head of the kind.
#[inline]
fn inspect(head: HeadWord, expect: Kind, slab: SlabMark) -> Result<(), Misuse> {
    let marked =
        slab == SlabMark::Accept && head.is_slab() && !head.is_tail() && head.kind() == expect;
    if head.is_handed_out_as(expect) || marked {
        return Ok(());
    }
    Err(diagnose(head))
}

#[cold]
fn diagnose(head: HeadWord) -> Misuse {
    if head.zone().is_none() {
        // Reserved: never handed out.
        Misuse::NotAllocated
    } else if head.is_slab() {
        Misuse::WrongKind
    } else if head.is_tail() {
        Misuse::Interior
    } else if head.is_free_block()
        || matches!(head.kind(), Kind::Cached | Kind::Deferred | Kind::Run)
    {
        Misuse::DoubleFree
    } else if head.is_allocated() {
        Misuse::WrongKind
    } else {
        Misuse::NotAllocated
    }
}
