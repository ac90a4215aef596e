//! One word of thread-local storage, zero when a thread begins, without a destructor and without a
//! call.
//!
//! `thread_local!` in a shared library asks `__tls_get_addr` where the word is, at every access.
//! The *initial-exec* model reads its place from the library's offset table instead: one load. It
//! wants the library to be there when the program starts (linked, or preloaded), or little enough
//! data to fit the space that the loader keeps for latecomers; a word does. Rust offers the model
//! only to unstable code, so on the common processors the word is declared and read in assembly.
//! In an executable the linker turns the access into a constant offset.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod word {
    use core::arch::{asm, global_asm};

    global_asm!(
        ".pushsection .tbss.buddy_slab_malloc_thread, \"awT\", @nobits",
        ".balign 8",
        ".globl buddy_slab_malloc_thread",
        ".hidden buddy_slab_malloc_thread",
        ".type buddy_slab_malloc_thread, @object",
        ".size buddy_slab_malloc_thread, 8",
        "buddy_slab_malloc_thread:",
        ".zero 8",
        ".popsection",
    );

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn get() -> usize {
        let value;
        // SAFETY: reads the word above, which every thread has from its beginning to its end.
        unsafe {
            asm!(
                "mov {value}, qword ptr [rip + buddy_slab_malloc_thread@GOTTPOFF]",
                "mov {value}, qword ptr fs:[{value}]",
                value = out(reg) value,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        value
    }

    #[cfg(target_arch = "x86_64")]
    pub(crate) fn set(value: usize) {
        // SAFETY: writes the word above, which only this thread and its handlers use.
        unsafe {
            asm!(
                "mov {place}, qword ptr [rip + buddy_slab_malloc_thread@GOTTPOFF]",
                "mov qword ptr fs:[{place}], {value}",
                place = out(reg) _,
                value = in(reg) value,
                options(nostack, preserves_flags),
            );
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn place() -> *mut usize {
        let place: *mut usize;
        // SAFETY: computes the address of the word above in this thread.
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
    pub(crate) fn get() -> usize {
        // SAFETY: this thread's word; volatile, since its handlers use it too.
        unsafe { place().read_volatile() }
    }

    #[cfg(target_arch = "aarch64")]
    pub(crate) fn set(value: usize) {
        // SAFETY: as above.
        unsafe { place().write_volatile(value) }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod word {
    use std::cell::Cell;

    std::thread_local! {
        static WORD: Cell<usize> = const { Cell::new(0) };
    }

    #[inline(always)]
    pub(crate) fn get() -> usize {
        WORD.get()
    }

    pub(crate) fn set(value: usize) {
        WORD.set(value);
    }
}

pub(crate) use word::{get, set};

#[cfg(test)]
mod tests {
    #[test]
    fn every_thread_has_a_word_of_its_own() {
        let mine = super::get();
        super::set(41);
        // The test harness allocates nothing from this crate's heap, so the word is free to use.
        let other = std::thread::spawn(|| {
            let fresh = super::get();
            super::set(7);
            (fresh, super::get())
        });
        assert_eq!(other.join().expect("no panic"), (0, 7));
        assert_eq!(super::get(), 41);
        super::set(mine);
    }
}
