//! Taking a region back while running, in two steps.

use super::GlobalAllocator;
use crate::buddy::RemovalToken;
use crate::error::{AllocError, AllocResult};
use crate::platform::Platform;

/// A section that is isolated and empty, on its way out. Dropping it puts the section back.
pub struct SectionRemoval<'a, const PAGE_SIZE: usize, P: Platform> {
    token: RemovalToken<'a, PAGE_SIZE, P::Lock>,
}

impl<const PAGE_SIZE: usize, P: Platform> GlobalAllocator<PAGE_SIZE, P> {
    /// First step: stops allocation from the section that contains `addr`, drains what caches
    /// keep of it, and answers whether it is empty.
    ///
    /// # Errors
    /// [`AllocError::NotFound`] if no section contains `addr`; [`AllocError::InvalidParam`] for
    /// the section that holds the heaps, or one that holds the allocator's own structures;
    /// [`AllocError::NoMemory`] if some of it is in use: try again later.
    pub fn isolate_section(&self, addr: usize) -> AllocResult<SectionRemoval<'_, PAGE_SIZE, P>> {
        self.ready()?;
        self.shrink();
        let token = self.core.isolate(addr).map_err(|error| match error {
            crate::buddy::RemovalError::NotFound => AllocError::NotFound,
            crate::buddy::RemovalError::Pinned => AllocError::InvalidParam,
            crate::buddy::RemovalError::Busy => AllocError::NoMemory,
        })?;
        Ok(SectionRemoval { token })
    }

    /// Second step: forgets the section. Returns the region's address and length in bytes, which
    /// are the caller's again.
    ///
    /// # Safety
    /// - Every CPU has passed a quiescent point since [`isolate_section`](Self::isolate_section)
    ///   returned: a moment at which it was not inside the allocator.
    pub unsafe fn finish_removal(
        &self,
        removal: SectionRemoval<'_, PAGE_SIZE, P>,
    ) -> (usize, usize) {
        // SAFETY: the same condition.
        unsafe { self.core.finish_removal(removal.token) }
    }
}
