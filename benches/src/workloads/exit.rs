//! Threads that start, allocate and end, and leave half of their objects to others.

use std::thread;

use super::live::{alloc, layout};
use super::{ObjectWorkload, Round, Scale};
use crate::engines::Engine;
use crate::platforms::become_cpu;
use crate::stats::time_per;

const OBJECTS: usize = 1000;
const THREADS: usize = 4;

/// Four threads one after the other: each allocates 1,000 objects from 64 to 1,024 bytes, frees
/// every other one, and ends; the main thread frees the rest. Per object, thread and all.
pub struct ThreadExit;

/// Objects that a thread has left, with their sizes.
struct Left(Vec<(*mut u8, usize)>);

// SAFETY: it owns its objects, and any thread may free them.
unsafe impl Send for Left {}

impl ObjectWorkload for ThreadExit {
    fn prepare<E: Engine>(scale: Scale) -> Round {
        let count = scale.of(OBJECTS);
        Box::new(move || {
            time_per(THREADS * count, || {
                for _ in 0..THREADS {
                    let left = thread::spawn(move || live_and_leave::<E>(count)).join();
                    for (object, size_bytes) in left.expect("no panic").0 {
                        // SAFETY: live, with its layout, and not used again.
                        unsafe { E::default().dealloc(object, layout(size_bytes)) };
                    }
                }
            })
        })
    }
}

fn live_and_leave<E: Engine>(count: usize) -> Left {
    // SAFETY: the one thread with this number: each is joined before the next starts.
    unsafe { become_cpu(1) };
    E::enter_thread();
    let engine = E::default();
    let mut objects = Vec::with_capacity(count);
    for number in 0..count {
        let size_bytes = 64 << (number % 5);
        objects.push((alloc(&engine, layout(size_bytes)), size_bytes));
    }
    let mut number = 0;
    objects.retain(|&(object, size_bytes)| {
        number += 1;
        if number % 2 == 0 {
            // SAFETY: live, with its layout, and taken out of the list.
            unsafe { engine.dealloc(object, layout(size_bytes)) };
        }
        number % 2 != 0
    });
    E::leave_thread();
    Left(objects)
}
