//! Instructions per operation, counted by callgrind: the same at every run, whatever else the
//! machine does. `cargo xtask instructions` runs this and holds the counts to their budgets.
//!
//! Every benchmark runs in a process of its own, so that its heap is as its `setup` left it.

mod hot;
mod scaling;
mod worst;

use figures::engines::{
    Engine, Floor, OursLocked, OursPinned, OursThread, PinnedMagazines, ThreadMagazines,
};
use gungraun::main;

/// An object in use, and its size.
pub type Object = (*mut u8, usize);

/// Makes an engine ready.
pub fn ready<E: Engine>() -> E {
    E::start();
    E::enter_thread();
    E::default()
}

/// `ready` by the name of an engine.
pub fn pinned() -> OursPinned {
    ready()
}

/// `ready` by the name of an engine.
pub fn thread() -> OursThread {
    ready()
}

/// `ready` by the name of an engine.
pub fn pinned_mag() -> PinnedMagazines {
    ready()
}

/// `ready` by the name of an engine.
pub fn thread_mag() -> ThreadMagazines {
    ready()
}

/// `ready` by the name of an engine.
pub fn locked() -> OursLocked {
    ready()
}

/// `ready` by the name of an engine.
pub fn floor() -> Floor {
    ready()
}

use hot::hot_paths;
use scaling::at_scale;
use worst::worst_cases;

main!(library_benchmark_groups = hot_paths, worst_cases, at_scale);
