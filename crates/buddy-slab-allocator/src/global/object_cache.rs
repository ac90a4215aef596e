//! Typed object caches: a name, a constructor, an alignment, and a `Box`-like handle.
//!
//! A cache draws on the per-CPU slabs of the class that fits its type, so it costs no memory of
//! its own and scales as the heap does; what it adds is the type, the count and the name.

use core::alloc::Layout;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use super::GlobalAllocator;
use crate::error::{AllocError, AllocResult};
use crate::platform::{OsPlatform, Platform};
use crate::sync::atomic::{AtomicUsize, Ordering};

/// A source of objects of type `T`, made by one constructor.
///
/// ```
/// # use buddy_slab_allocator::{GlobalAllocator, OsImpl, global::ObjectCache};
/// # struct Os;
/// # impl OsImpl for Os {
/// #     fn current_cpu_idx(&self) -> usize { 0 }
/// #     fn virt_to_phys(&self, vaddr: usize) -> usize { vaddr }
/// # }
/// # static HEAP: GlobalAllocator = GlobalAllocator::new();
/// # unsafe { HEAP.init(vec![0u8; 1 << 20].leak(), 1, &Os) }?;
/// static TASKS: ObjectCache<[u32; 16]> = ObjectCache::new("task", &HEAP, || [0; 16]);
/// let mut task = TASKS.alloc()?;
/// task[3] = 7;
/// assert_eq!(TASKS.live(), 1);
/// drop(task);
/// assert_eq!(TASKS.live(), 0);
/// # Ok::<(), buddy_slab_allocator::AllocError>(())
/// ```
pub struct ObjectCache<T: 'static, const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    name: &'static str,
    heap: &'static GlobalAllocator<PAGE_SIZE, P>,
    construct: fn() -> T,
    align_bytes: usize,
    live: AtomicUsize,
}

impl<T, const PAGE_SIZE: usize, P: Platform> ObjectCache<T, PAGE_SIZE, P> {
    /// A cache of objects that `construct` makes.
    pub const fn new(
        name: &'static str,
        heap: &'static GlobalAllocator<PAGE_SIZE, P>,
        construct: fn() -> T,
    ) -> Self {
        Self { name, heap, construct, align_bytes: align_of::<T>(), live: AtomicUsize::new(0) }
    }

    /// The same, with objects aligned to at least `align_bytes`, a power of two: a cache line,
    /// say, or what a device asks for. A value that is none is refused by [`alloc`](Self::alloc).
    pub const fn aligned_to(mut self, align_bytes: usize) -> Self {
        if align_bytes > self.align_bytes {
            self.align_bytes = align_bytes;
        }
        self
    }

    /// The name that was given.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How many objects are alive.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    fn layout(&self) -> AllocResult<Layout> {
        Layout::from_size_align(size_of::<T>(), self.align_bytes)
            .map_err(|_| AllocError::InvalidParam)
    }

    /// Makes an object.
    ///
    /// # Errors
    /// As [`GlobalAllocator::alloc`].
    pub fn alloc(&self) -> AllocResult<CacheBox<'_, T, PAGE_SIZE, P>> {
        // Constructed first: a constructor that panics leaves no memory behind.
        let object = (self.construct)();
        let memory = self.heap.alloc(self.layout()?)?.cast::<T>();
        // SAFETY: fresh memory of this type's layout.
        unsafe { memory.write(object) };
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(CacheBox { cache: self, object: memory })
    }

    /// Makes objects until `objects` is full or memory runs out; returns how many.
    pub fn alloc_bulk<'a>(
        &'a self,
        objects: &mut [MaybeUninit<CacheBox<'a, T, PAGE_SIZE, P>>],
    ) -> usize {
        for (count, place) in objects.iter_mut().enumerate() {
            match self.alloc() {
                Ok(object) => place.write(object),
                Err(_) => return count,
            };
        }
        objects.len()
    }
}

impl<T, const PAGE_SIZE: usize, P: Platform> fmt::Debug for ObjectCache<T, PAGE_SIZE, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectCache({}, {} live)", self.name, self.live())
    }
}

/// An object of an [`ObjectCache`], owned like a `Box`.
///
/// # Invariants
/// - `object` is a live `T` in memory of the cache's layout, and only this handle frees it.
pub struct CacheBox<'a, T: 'static, const PAGE_SIZE: usize = 0x1000, P: Platform = OsPlatform> {
    cache: &'a ObjectCache<T, PAGE_SIZE, P>,
    object: NonNull<T>,
}

impl<T, const PAGE_SIZE: usize, P: Platform> Deref for CacheBox<'_, T, PAGE_SIZE, P> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: a live object (invariant), borrowed with the handle.
        unsafe { self.object.as_ref() }
    }
}

impl<T, const PAGE_SIZE: usize, P: Platform> DerefMut for CacheBox<'_, T, PAGE_SIZE, P> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: a live object (invariant), borrowed exclusively with the handle.
        unsafe { self.object.as_mut() }
    }
}

impl<T, const PAGE_SIZE: usize, P: Platform> Drop for CacheBox<'_, T, PAGE_SIZE, P> {
    fn drop(&mut self) {
        // SAFETY: a live object in memory of this layout, which nothing uses after its handle.
        unsafe {
            self.object.drop_in_place();
            if let Ok(layout) = self.cache.layout() {
                self.cache.heap.dealloc(self.object.cast(), layout);
            }
        }
        self.cache.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T: fmt::Debug, const PAGE_SIZE: usize, P: Platform> fmt::Debug
    for CacheBox<'_, T, PAGE_SIZE, P>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

// SAFETY: the handle owns the object, as a `Box` does.
unsafe impl<T: Send, const PAGE_SIZE: usize, P: Platform> Send for CacheBox<'_, T, PAGE_SIZE, P> {}
// SAFETY: as for `Send`.
unsafe impl<T: Sync, const PAGE_SIZE: usize, P: Platform> Sync for CacheBox<'_, T, PAGE_SIZE, P> {}
