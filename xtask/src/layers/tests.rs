//! The layer check against small crates held in memory.

use std::path::{Path, PathBuf};

use super::Walk;

/// What the check says about a crate made of `files`.
fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let read = |path: &Path| {
        let file = files.iter().find(|(name, _)| Path::new(name) == path);
        file.map(|(_, text)| (*text).to_owned())
    };
    Walk::new(&read, &PathBuf::new()).expect("the crate can be read").faults
}

/// The faults of a crate with a full ladder, whose `buddy/section.rs` holds `code`.
fn faults_in_buddy(code: &str) -> Vec<String> {
    faults(&[
        (
            "lib.rs",
            "mod units; mod sync; mod buddy; mod slab; mod global;
             pub use global::{GlobalAllocator, Config as Settings};
             pub use self::units::Order;",
        ),
        ("units.rs", "pub struct Order;"),
        ("sync.rs", ""),
        ("slab.rs", "pub struct Slab;"),
        ("global.rs", "use crate::{buddy::Section, slab::Slab};"),
        ("buddy/mod.rs", "mod section; #[cfg(test)] mod tests;"),
        ("buddy/section.rs", code),
    ])
}

#[test]
fn imports_from_below_and_from_the_own_layer_pass() {
    let code = "use crate::units::Order;
                use crate::{sync::Lock, buddy::Node};
                use super::super::units;
                use super::slab;
                fn f() -> crate::Order { crate::assert_page!(); crate::sync::spin() }
                pub(crate) fn g() {} pub(in crate::buddy) fn h() {}";
    assert_eq!(faults_in_buddy(code), [""; 0]);
}

#[test]
fn a_planted_import_of_the_sibling_is_found_with_its_line() {
    let found = faults_in_buddy("use crate::units::Order;\n\nuse crate::slab::Slab;\n");
    assert_eq!(
        found,
        ["buddy/section.rs:3: `buddy` imports `crate::slab` from `slab`, its sibling"]
    );
}

#[test]
fn an_import_from_above_is_found_however_it_is_written() {
    for code in [
        "use crate::global::Heap;",
        "use crate::{units::Order, global::{self, Heap}};",
        "use super::super::global;",
        "mod inner { use super::super::super::global::Heap; }",
        "fn f() { crate::global::run() }",
        "fn f(_: &dyn Fn(crate::GlobalAllocator)) {}",
        "fn f(_: crate::Settings) {}",
        "macro_rules! m { () => { $crate::global::run() } }",
        "impl Section { #[inline] fn f() { assert!(crate::global::ON); } }",
    ] {
        let found = faults_in_buddy(code);
        assert_eq!(found.len(), 1, "{code}: {found:?}");
        assert!(found[0].ends_with("a layer above"), "{found:?}");
    }
}

#[test]
fn code_for_tests_comments_and_strings_do_not_count() {
    let code = "//! [`crate::global`]
                /// See [`crate::slab::Slab`].
                #[doc = \"crate::global\"]
                fn f() { let _ = \"crate::global::X\"; } // crate::global::X
                #[cfg(test)]
                use crate::global::Heap;
                #[cfg(all(test, loom))]
                fn g<A, B>(_: crate::global::Heap) { crate::slab::f() }
                struct S { #[cfg(test)] a: crate::global::Heap, b: crate::units::Order }
                #[cfg(test)]
                mod tests { use crate::global::Heap; }";
    assert_eq!(faults_in_buddy(code), [""; 0]);
    assert_eq!(faults_in_buddy("#![cfg(test)] use crate::global::Heap;"), [""; 0]);
}

#[test]
fn code_that_tests_merely_may_compile_does_count() {
    for code in [
        "#[cfg(any(test, debug_assertions))] use crate::global::Heap;",
        "#[cfg(not(test))] use crate::global::Heap;",
        "struct S { #[cfg(test)] a: u8, b: crate::global::Heap }",
    ] {
        assert_eq!(faults_in_buddy(code).len(), 1, "{code}");
    }
}

#[test]
fn a_module_or_a_name_outside_the_ladder_is_found() {
    let found = faults(&[("lib.rs", "mod helpers { } mod units;"), ("units.rs", "")]);
    assert_eq!(found, ["lib.rs:1: module `helpers` is on no rung of the ladder"]);
    let found = faults_in_buddy("use crate::*;\nuse crate::unknown;");
    assert_eq!(found.len(), 2, "{found:?}");
}
