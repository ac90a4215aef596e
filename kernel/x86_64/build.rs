//! Tells the linker where the kernel lies.

fn main() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/link.ld");
    println!("cargo::rerun-if-changed={script}");
    println!("cargo::rustc-link-arg-bins=-T{script}");
    // The host's own toolchain links by way of a C compiler, which would add its start files.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        for argument in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"]
        {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
