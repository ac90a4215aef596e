//! How the shared library is linked.

use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    // Memory from a library that was closed would be lost, and its handlers gone.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libbuddyslab.so");
    // Rust's standard library asks for libgcc_s, which every program would load at its start, for
    // panics that never come. The archive has the same functions.
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu")
        && let Some(out) = std::env::var_os("OUT_DIR").map(PathBuf::from)
        && std::fs::write(out.join("libgcc_s.so"), "GROUP ( -lgcc_eh -lgcc -lc )\n").is_ok()
    {
        println!("cargo:rustc-cdylib-link-arg=-L{}", out.display());
    }
}
