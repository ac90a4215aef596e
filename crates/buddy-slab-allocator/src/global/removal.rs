//! Taking a region back while running, in two steps.

use super::GlobalAllocator;
use crate::buddy::{RemovalError, RemovalToken, Wait};
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;

/// A section that is isolated and empty, on its way out. Dropping it puts the section back.
pub struct SectionRemoval<'a, const PAGE_SIZE: usize, P: Platform> {
    allocator: &'a GlobalAllocator<PAGE_SIZE, P>,
    /// Taken when the removal is finished or cancelled.
    token: Option<RemovalToken<'a, PAGE_SIZE, P::Lock>>,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// First step: stops allocation from the section that contains `addr`, drains what caches
    /// keep of it, and answers whether it is empty.
    ///
    /// Neither this, nor the second step, nor the drop of what is returned is for a handler that
    /// may have interrupted the allocator.
    ///
    /// # Complexity
    /// That of [`shrink`](Self::shrink), and O(sections). Takes the topology and node locks.
    ///
    /// # Errors
    /// [`AllocError::NotFound`] if no section contains `addr`; [`AllocError::InvalidParam`] for
    /// the section that holds the heaps, or one that holds the allocator's own structures;
    /// [`AllocError::NoMemory`] if some of it is in use: try again later.
    pub fn isolate_section(&self, addr: usize) -> AllocResult<SectionRemoval<'_, PAGE_SIZE, P>> {
        self.ready()?;
        self.shrink();
        let token = self.announced(|wait| {
            if wait == Wait::Try {
                return Err(AllocError::NoMemory); // a handler must not wait for what it interrupted
            }
            self.core.isolate(addr).map_err(|error| match error {
                RemovalError::NotFound => AllocError::NotFound,
                RemovalError::Pinned => AllocError::InvalidParam,
                RemovalError::Busy => AllocError::NoMemory,
            })
        })?;
        Ok(SectionRemoval { allocator: self, token: Some(token) })
    }

    /// Second step: forgets the section. Returns the region's address and length in bytes, which
    /// are the caller's again.
    ///
    /// # Safety
    /// - Every CPU has passed a quiescent point since [`isolate_section`](Self::isolate_section)
    ///   returned: a moment at which it was not inside the allocator.
    pub unsafe fn finish_removal(
        &self,
        mut removal: SectionRemoval<'_, PAGE_SIZE, P>,
    ) -> (usize, usize) {
        let Some(token) = removal.token.take() else { return (0, 0) };
        let core = &removal.allocator.core;
        // SAFETY: the same condition; the token is of that core.
        self.announced(|_| unsafe { core.finish_removal(token) })
    }
}

impl<const PAGE_SIZE: usize, P: Platform> Drop for SectionRemoval<'_, PAGE_SIZE, P> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.allocator.announced(|_| drop(token));
        }
    }
}
