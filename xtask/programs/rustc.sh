# rustc compiling the library of this workspace.
# needs: cargo rustc
export CARGO_TARGET_DIR="$PWD/target" CARGO_INCREMENTAL=0
package=buddy-slab-allocator; [ "$LONG" = 1 ] && package="--workspace"
[ "$package" = --workspace ] || package="--package $package"
cargo build --quiet --offline --manifest-path "$REPOSITORY/Cargo.toml" $package 2>&1 | grep -E '^(error|warning: unused)' ; ls target/debug/*.rlib | sed 's/.*\///'
