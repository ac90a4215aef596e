//! The libraries to preload: this workspace's, and others to compare with.

use std::io;
use std::path::{Path, PathBuf};

/// Where Debian and others keep libraries.
const DIRECTORIES: [&str; 6] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/lib",
];

/// Other allocators: their name, and those of their library.
const OTHERS: [(&str, &[&str]); 4] = [
    // Preloaded too: a program may bring an allocator along, as Debian's redis-server does.
    ("glibc", &["libc.so.6"]),
    ("mimalloc", &["libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so"]),
    ("jemalloc", &["libjemalloc.so.2", "libjemalloc.so"]),
    ("tcmalloc", &["libtcmalloc_minimal.so.4", "libtcmalloc_minimal.so", "libtcmalloc.so.4"]),
];

const OURS: &str = "libbuddyslab.so";

/// An allocator that a program can be run on.
pub struct Allocator {
    /// What it is called.
    pub name: &'static str,
    /// What is preloaded.
    pub library: PathBuf,
}

impl Allocator {
    /// This workspace's.
    ///
    /// # Errors
    /// The library is not where it is built.
    pub fn ours() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let built = program.parent().unwrap_or(Path::new("."));
        // Cargo builds it among the dependencies, and beside the programs if it is asked for it.
        let places = [built.join("deps").join(OURS), built.join(OURS)];
        let age = |place: &PathBuf| place.metadata().and_then(|file| file.modified()).ok();
        let newest = places.into_iter().filter(|place| place.is_file()).max_by_key(age);
        let library = newest.ok_or_else(|| {
            let place = built.display();
            io::Error::other(format!("{OURS} is not in {place} (cargo build builds it)"))
        })?;
        Ok(Self { name: "buddy-slab", library })
    }

    /// This workspace's, the C library's, and every other that is installed.
    ///
    /// # Errors
    /// As [`ours`](Self::ours).
    pub fn all() -> io::Result<Vec<Self>> {
        let mut all = vec![Self::ours()?];
        for (name, files) in OTHERS {
            let mut places =
                files.iter().flat_map(|file| DIRECTORIES.map(|at| Path::new(at).join(file)));
            if let Some(library) = places.find(|place| place.is_file()) {
                all.push(Self { name, library });
            }
        }
        Ok(all)
    }
}
