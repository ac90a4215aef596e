//! `realloc`: in place where the class, the block or the pages behind it allow.

use core::alloc::Layout;
use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::buddy::Wait;
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;
use crate::slab::SizeClass;

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// Changes the size of an allocation; its contents stay, up to the smaller size. It stays
    /// where it is if the size class (or page count) is the same, if it shrinks by pages, or if
    /// the pages behind it are free; else it moves. What grows beyond a page moves to pages of its
    /// own, with as much room behind it as there is.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc), and [`AllocError::NotAllocated`] if `ptr` and `layout` do not
    /// name a live large allocation; the allocation is then as it was.
    ///
    /// # Complexity
    /// O(1) in place; O(size) when it moves.
    ///
    /// # Safety
    /// - `ptr` came from this allocator with `layout`, and was not freed since.
    /// - After success only the returned pointer is used.
    #[inline]
    pub unsafe fn realloc(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> AllocResult<NonNull<u8>> {
        if self.grow_fast(ptr, layout.size(), new_size) {
            return Ok(ptr);
        }
        // SAFETY: the same conditions.
        unsafe { self.realloc_slow(ptr, layout, new_size) }
    }

    /// What [`grow_fast`](Self::grow_fast) does not do.
    ///
    /// # Safety
    /// - As for `realloc`.
    #[inline(never)]
    unsafe fn realloc_slow(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> AllocResult<NonNull<u8>> {
        let new_layout = Layout::from_size_align(new_size, layout.align())
            .map_err(|_| AllocError::InvalidParam)?;
        // SAFETY: the caller's allocation, with its layout.
        if unsafe { self.try_in_place(ptr, layout, new_size) }? {
            return Ok(ptr);
        }
        let grows = new_size > layout.size();
        let new = if grows { self.alloc_to_grow(new_layout) } else { self.alloc(new_layout) }?;
        // SAFETY: both hold at least the smaller size, and the new one overlaps nothing that is
        // allocated; then the old one is freed with its layout, and not used again (condition).
        unsafe {
            let bytes = layout.size().min(new_size);
            new.as_ptr().copy_from_nonoverlapping(ptr.as_ptr(), bytes);
            self.dealloc(ptr, layout);
        }
        Ok(new)
    }

    /// [`realloc`](Self::realloc) as far as it can be done in place: `false` if the allocation has
    /// to move (or is none); it is as it was then.
    ///
    /// # Complexity
    /// O(1); for whole pages the node's lock.
    ///
    /// # Safety
    /// - `ptr` came from this allocator with `layout`, and was not freed since.
    pub unsafe fn resize_in_place(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> bool {
        // SAFETY: the condition.
        unsafe { self.try_in_place(ptr, layout, new_size) }.is_ok_and(|resized| resized)
    }

    /// # Safety
    /// - As for [`resize_in_place`](Self::resize_in_place).
    unsafe fn try_in_place(
        &self,
        ptr: NonNull<u8>,
        layout: Layout,
        new_size: usize,
    ) -> AllocResult<bool> {
        let old_class = SizeClass::for_request(layout.size(), layout.align(), PAGE_SIZE);
        let new_class = SizeClass::for_request(new_size, layout.align(), PAGE_SIZE);
        if old_class.is_some() && old_class == new_class {
            return Ok(true);
        }
        // What has grown before lies in pages of its own, whatever its class.
        let in_pages =
            old_class.is_none() || Self::is_paged(layout.size()) && self.slab_of(ptr).is_none();
        if in_pages && (new_class.is_none() || Self::is_paged(new_size)) {
            self.resize_large(ptr, layout.size(), new_size)
        } else {
            Ok(false)
        }
    }

    /// Whether an allocation that grows to this size gets pages of its own.
    fn is_paged(size: usize) -> bool {
        size > PAGE_SIZE
    }

    /// [`alloc`](Self::alloc) for what is growing, and will grow again: above a page it gets pages
    /// of its own, even if it has a class, with as much room behind them as there is. It is freed,
    /// resized and asked for its size like any other allocation.
    ///
    /// # Errors
    /// As [`alloc`](Self::alloc).
    ///
    /// # Complexity
    /// O(1); above a page the node's lock.
    pub fn alloc_to_grow(&self, layout: Layout) -> AllocResult<NonNull<u8>> {
        if Self::is_paged(layout.size())
            && layout.align() <= PAGE_SIZE
            && let Some(pages) = self.alloc_roomy(layout.size())
        {
            return Ok(pages);
        }
        self.alloc(layout)
    }

    /// Pages for an allocation that is growing, where there is most room behind them; `None` if
    /// they are not to be had just so.
    #[cold]
    fn alloc_roomy(&self, size: usize) -> Option<NonNull<u8>> {
        let mut session = self.enter()?;
        let (local, env) = session.parts();
        let page = local.blocks.alloc_roomy(Self::page_count(size), &env)?;
        drop(session);
        self.restock();
        Some(page.ptr())
    }

    /// Lets a large allocation grow where that takes no lock but this CPU's: into the pages that it
    /// keeps behind the block. Otherwise nothing has changed.
    #[inline(always)]
    fn grow_fast(&self, ptr: NonNull<u8>, size: usize, new_size: usize) -> bool {
        // (What an object of a page or less grows to is looked for elsewhere.)
        if size <= PAGE_SIZE || new_size < size {
            return false;
        }
        let (old, new) = ((size - 1) / PAGE_SIZE + 1, (new_size - 1) / PAGE_SIZE + 1);
        let Some(mut own) = self.enter_fast_or_leave() else { return false };
        let counts = own.heap().page_counts();
        // SAFETY: if it is a live allocation of `old` pages, its owner is resizing it, and so does
        // not free it meanwhile.
        unsafe { own.local().blocks.grow_at_hand(ptr.addr().get(), old, new, counts) }
    }

    /// Resizes a large allocation in place; `false` if it has to move.
    fn resize_large(&self, ptr: NonNull<u8>, size: usize, new_size: usize) -> AllocResult<bool> {
        let (old, new) = (Self::page_count(size), Self::page_count(new_size));
        let addr = ptr.addr().get();
        if let Err(kind) = self.check_large(addr, old) {
            self.report(addr, kind);
            return Err(AllocError::NotAllocated);
        }
        if old == new {
            return Ok(true);
        }
        let Some(page) = self.core.lookup(addr) else { return Ok(false) };
        // SAFETY: a live allocation of `old` pages, as just checked, which its owner is resizing
        // and so does not free meanwhile.
        let resized = unsafe {
            match self.enter() {
                Some(mut session) => {
                    let (local, env) = session.parts();
                    local.blocks.resize(page, old, new, &env)
                }
                None if new > old => self.core.grow(page, old, new, 0, Wait::Try),
                None => self.core.shrink(page, old, new, Wait::Try),
            }
        };
        Ok(resized.is_ok())
    }
}
