# The library of this workspace, optimised.
# needs: rustc
exec "$RUSTC" --edition 2024 --crate-type lib --cap-lints allow -O -o "$PWD/library.rlib" "$REPOSITORY/crates/buddy-slab-allocator/src/lib.rs"
