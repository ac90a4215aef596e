//! Two words of thread-local storage, zero when a thread begins, without a destructor and without a
//! call: which index the thread has, and where its heap is.
//!
//! `thread_local!` in a shared library asks `__tls_get_addr` where the word is, at every access.
//! The *initial-exec* model reads its place from the library's offset table instead: one load. It
//! wants the library to be there when the program starts (linked, or preloaded), or little enough
//! data to fit the space that the loader keeps for latecomers; two words do. Rust offers the model
//! only to unstable code, so on the common processors they are declared and read in assembly.
//! In an executable the linker turns the access into a constant offset.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod words {
    use core::arch::{asm, global_asm};

    global_asm!(
        ".pushsection .tbss.buddy_slab_malloc_thread, \"awT\", @nobits",
        ".balign 8",
        ".globl buddy_slab_malloc_thread",
        ".hidden buddy_slab_malloc_thread",
        ".type buddy_slab_malloc_thread, @object",
        ".size buddy_slab_malloc_thread, 16",
        "buddy_slab_malloc_thread:",
        ".zero 16",
        ".popsection",
    );

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn read<const WORD: usize>() -> usize {
        let value;
        // SAFETY: reads one of the words above, which every thread has from its beginning to its end.
        unsafe {
            asm!(
                "mov {value}, qword ptr [rip + buddy_slab_malloc_thread@GOTTPOFF]",
                "mov {value}, qword ptr fs:[{value} + 8 * {word}]",
                value = out(reg) value,
                word = const WORD,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn write<const WORD: usize>(value: usize) {
        // SAFETY: writes one of the words above, which only this thread and its handlers use.
        unsafe {
            asm!(
                "mov {place}, qword ptr [rip + buddy_slab_malloc_thread@GOTTPOFF]",
                "mov qword ptr fs:[{place} + 8 * {word}], {value}",
                place = out(reg) _,
                word = const WORD,
                value = in(reg) value,
                options(nostack, preserves_flags),
            );
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn place() -> *mut usize {
        let place: *mut usize;
        // SAFETY: computes the address of the words above in this thread.
        unsafe {
            asm!(
                "mrs {place}, tpidr_el0",
                "adrp {offset}, :gottprel:buddy_slab_malloc_thread",
                "ldr {offset}, [{offset}, :gottprel_lo12:buddy_slab_malloc_thread]",
                "add {place}, {place}, {offset}",
                place = out(reg) place,
                offset = out(reg) _,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        place
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(super) fn read<const WORD: usize>() -> usize {
        // SAFETY: one of this thread's words; volatile, since its handlers use them too.
        unsafe { place().add(WORD).read_volatile() }
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn write<const WORD: usize>(value: usize) {
        // SAFETY: as above.
        unsafe { place().add(WORD).write_volatile(value) }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod words {
    use std::cell::Cell;

    std::thread_local! {
        static WORDS: [Cell<usize>; 2] = const { [const { Cell::new(0) }; 2] };
    }

    #[inline(always)]
    pub(super) fn read<const WORD: usize>() -> usize {
        WORDS.with(|words| words[WORD].get())
    }

    pub(super) fn write<const WORD: usize>(value: usize) {
        WORDS.with(|words| words[WORD].set(value));
    }
}

/// What the thread's index is, as `threads` writes it.
#[inline(always)]
pub(crate) fn get() -> usize {
    words::read::<0>()
}

/// Sets what the thread's index is.
pub(crate) fn set(value: usize) {
    words::write::<0>(value);
}

/// Where the thread's heap is; null if that is not known.
#[inline(always)]
pub(crate) fn heap() -> *mut () {
    core::ptr::with_exposed_provenance_mut(words::read::<1>())
}

/// Sets where the thread's heap is.
pub(crate) fn set_heap(heap: *mut ()) {
    words::write::<1>(heap.expose_provenance());
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_thread_has_words_of_its_own() {
        let mine = super::get();
        super::set(41);
        // The test harness allocates nothing from this crate's heap, so the words are free to use.
        let other = std::thread::spawn(|| {
            let fresh = (super::get(), super::heap());
            super::set(7);
            super::set_heap(core::ptr::without_provenance_mut(8));
            (fresh.0, fresh.1.addr(), super::get(), super::heap().addr())
        });
        assert_eq!(other.join().expect("no panic"), (0, 0, 7, 8));
        assert_eq!((super::get(), super::heap()), (41, core::ptr::null_mut()));
        super::set(mine);
    }
}
