//! The C interface, tested from C: programs that the system's compiler builds during the test, with
//! the library preloaded, linked as a shared library, linked as an archive, and opened at run time.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The directory that Cargo builds this test and the library in.
fn built() -> PathBuf {
    let mut path = std::env::current_exe().expect("this test is a file");
    path.pop();
    path
}

fn library(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.exists(), "{} was not built with this test", path.display());
    path
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c")
}

/// A program made of one C file, removed when dropped.
struct Program(PathBuf);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn compile(source: &str, purpose: &str, more: &[&str]) -> Program {
    let name = format!("bsa-{source}-{purpose}-{}", std::process::id());
    let program = Program(std::env::temp_dir().join(name));
    let output = Command::new("cc")
        .args(["-std=gnu11", "-g", "-O1", "-fno-builtin", "-Wall", "-Wextra", "-pthread"])
        .args(["-Wno-deprecated-declarations", "-Wno-alloc-size-larger-than", "-o"])
        .arg(&program.0)
        .arg(sources().join(format!("{source}.c")))
        .args(more)
        .output()
        .expect("a C compiler, `cc`, is there");
    assert!(output.status.success(), "cc: {}", String::from_utf8_lossy(&output.stderr));
    program
}

impl Program {
    fn run(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(&self.0);
        command.args(arguments).envs(environment.iter().copied());
        command.output().expect("the program starts")
    }

    fn run_preloaded(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let library = library("libbuddyslab.so");
        let mut all = vec![("LD_PRELOAD", library.to_str().expect("a plain path"))];
        all.extend_from_slice(environment);
        self.run(arguments, &all)
    }
}

/// What only this library has is looked for when the program starts.
const UNRESOLVED: &[&str] = &["-DPRELOADED", "-fPIC", "-pie", "-Wl,-z,dynamic-undefined-weak"];

#[track_caller]
fn assert_ok(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

#[test]
fn every_function_keeps_its_promises_preloaded() {
    let program = compile("api", "preload", UNRESOLVED);
    assert_ok(&program.run_preloaded(&[], &[]));
}

#[test]
fn every_function_keeps_its_promises_linked() {
    let directory = built();
    let search = format!("-L{}", directory.display());
    let rpath = format!("-Wl,-rpath,{}", directory.display());
    library("libbuddyslab.so");
    let program = compile("api", "linked", &[&search, &rpath, "-lbuddyslab"]);
    assert_ok(&program.run(&[], &[]));
}

#[test]
fn every_function_keeps_its_promises_in_an_archive() {
    let archive = library("libbuddyslab.a");
    let archive = archive.to_str().expect("a plain path");
    let program = compile("api", "archive", &[archive, "-lpthread", "-ldl", "-lm", "-lgcc_s"]);
    assert_ok(&program.run(&[], &[]));
}

#[test]
fn every_function_keeps_its_promises_where_address_space_is_short() {
    let program = compile("api", "short", UNRESOLVED);
    let library = library("libbuddyslab.so");
    let script = "ulimit -v 1000000 && exec env LD_PRELOAD=\"$1\" \"$2\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(library).arg(&program.0);
    assert_ok(&command.output().expect("a shell"));
}

#[test]
fn a_limit_is_kept_and_the_region_grows_up_to_it() {
    let program = compile("api", "grown", UNRESOLVED);
    // Regions far smaller than what the program needs at a time.
    assert_ok(&program.run_preloaded(&[], &[("BSA_RESERVE", "8M")]));
    assert!(!program.run_preloaded(&[], &[("BSA_LIMIT", "16M")]).status.success());
}

#[test]
fn without_a_delay_everything_is_purged_and_works() {
    let program = compile("api", "purged", UNRESOLVED);
    assert_ok(&program.run_preloaded(&[], &[("BSA_PURGE_DELAY", "0")]));
    assert_ok(&program.run_preloaded(&[], &[("BSA_PURGE_DELAY", "never")]));
    assert_ok(&program.run_preloaded(&[], &[("BSA_HUGE_PAGES", "always")]));
}

#[test]
fn a_library_that_is_opened_late_and_closed_again_serves_its_callers() {
    let program = compile("opened", "late", &["-ldl"]);
    let library = library("libbuddyslab.so");
    assert_ok(&program.run(&[library.to_str().expect("a plain path")], &[]));
}

#[test]
fn a_bad_free_ends_the_program_or_has_no_effect() {
    let program = compile("misuse", "check", &["-Wno-free-nonheap-object"]);
    for what in ["twice", "inside", "large", "foreign", "wild"] {
        let output = program.run_preloaded(&[what], &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&output.status),
            Some(6),
            "{what}"
        );
        assert!(said.contains("buddy-slab-malloc: bad free of 0x"), "{what}: {said}");
        let output = program.run_preloaded(&[what], &[("BSA_CHECK", "report")]);
        assert_ok(&output);
        assert!(String::from_utf8_lossy(&output.stderr).contains("bad free"), "{what}");
        let output = program.run_preloaded(&[what], &[("BSA_CHECK", "ignore")]);
        assert_ok(&output);
        assert!(output.stderr.is_empty(), "{what}");
    }
}

#[test]
fn forks_of_a_threaded_program_have_a_whole_heap() {
    let program = compile("storms", "forks", &[]);
    assert_ok(&program.run_preloaded(&["forks"], &[]));
}

#[test]
fn ten_thousand_threads_come_and_go_without_growth() {
    let program = compile("storms", "threads", &[]);
    assert_ok(&program.run_preloaded(&["threads"], &[]));
}

#[test]
fn hundreds_of_threads_at_once_are_served() {
    let program = compile("storms", "crowd", &[]);
    assert_ok(&program.run_preloaded(&["crowd"], &[]));
    // More than there is room for heaps; and several such programs, so that most threads do not run
    // while others wait for what they hold (which once took minutes).
    std::thread::scope(|scope| {
        let run = || program.run_preloaded(&["crowd"], &[("BSA_RESERVE", "2M")]);
        let all = [(); 5].map(|()| scope.spawn(run));
        for program in all {
            assert_ok(&program.join().expect("it ran"));
        }
    });
}

#[test]
fn destructors_of_a_thread_allocate_and_free_to_its_end() {
    let program = compile("storms", "destructors", &[]);
    assert_ok(&program.run_preloaded(&["destructors"], &[]));
}

#[test]
fn handlers_allocate_whatever_they_interrupt() {
    let program = compile("storms", "signals", &[]);
    assert_ok(&program.run_preloaded(&["signals"], &[]));
}

#[test]
fn a_report_is_written_where_and_as_it_is_wanted() {
    let program = compile("storms", "report", &[]);
    let path = std::env::temp_dir().join(format!("bsa-report-{}-%p.json", std::process::id()));
    let pattern = path.to_str().expect("a plain path");
    let mut command = Command::new(&program.0);
    command.arg("destructors").env("LD_PRELOAD", library("libbuddyslab.so"));
    command.env("BSA_REPORT", pattern).env("BSA_REPORT_FORMAT", "json");
    let mut running = command.spawn().expect("the program starts");
    let pid = running.id();
    assert!(running.wait().expect("it ends").success());
    let path = pattern.replace("%p", &pid.to_string());
    let text = std::fs::read_to_string(&path).expect("a report");
    let _ = std::fs::remove_file(&path);
    assert!(text.starts_with("{\"current_bytes\":") && text.ends_with("}}\n"), "{text}");

    let output = program.run_preloaded(&["destructors"], &[("BSA_REPORT", "stderr")]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("in use, at most") && text.contains("zone Normal"), "{text}");
}
