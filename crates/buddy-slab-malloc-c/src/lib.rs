//! The C `malloc` and everything that glibc lets a program replace with it, on buddy-slab-malloc.
//!
//! `libbuddyslab.so` is preloaded (`LD_PRELOAD=…/libbuddyslab.so program`) or linked
//! (`cc … -lbuddyslab`); `libbuddyslab.a` is linked. `include/buddyslab.h` declares what is not in
//! the system's headers.
//!
//! - `c`: `malloc`, `free` and their kin
//! - `cxx`: C++'s `new` and `delete`
//! - `stats`: `mallinfo2`, `malloc_stats`, `malloc_trim`
//!
//! # What C leaves open
//! Every allocation is a multiple of 16 bytes from address 0, of whatever size. `malloc(0)` is an
//! allocation of its own. `realloc(p, 0)` frees and returns null, as glibc's does. Sizes above
//! `PTRDIFF_MAX` are refused. What fails sets `errno` to `ENOMEM` (`EINVAL` for an alignment that
//! is none); `free` leaves `errno` alone.
#![cfg(target_os = "linux")]

// Elsewhere the thread's word would be found by a call into the dynamic loader, which allocates.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "buddy-slab-malloc-c wants x86_64 or aarch64: buddy-slab-malloc's `tls` knows no others"
);

mod c;
mod cxx;
mod stats;
