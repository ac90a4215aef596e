# rustc compiling the library of this workspace, and at length all of it.
# needs: cargo rustc
# A rustc that brings its own malloc along (rustup's does) tests nothing but its linker: one that does not is taken.
for rustc in "$(command -v rustc)" /usr/bin/rustc; do
    driver=$("$rustc" --print sysroot 2>/dev/null)/bin/rustc
    [ -x "$driver" ] && ! nm -D --defined-only "$driver" 2>/dev/null | grep -q ' T malloc$' && break
    rustc=
done
[ -n "$rustc" ] || { echo "every rustc here has a malloc of its own" >&2; exit 77; }
# As anybody builds it, whatever a gate asks for to save its disk.
unset CARGO_PROFILE_DEV_DEBUG
export CARGO_TARGET_DIR="$PWD/target" CARGO_INCREMENTAL=0 RUSTC="$rustc"
package="--package buddy-slab-allocator"; [ "$LONG" = 1 ] && package="--workspace --exclude figures"
cargo build --quiet --offline --manifest-path "$REPOSITORY/Cargo.toml" $package 2>&1 | grep -E '^(error|warning: unused)'
ls target/debug/*.rlib | sed 's/.*\///'
