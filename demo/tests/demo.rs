//! The demo as its users see it: what it prints, and how it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A corpus of its own for one test, removed when dropped.
struct Corpus(PathBuf);

impl Corpus {
    fn new(name: &str) -> Self {
        let path =
            std::env::temp_dir().join(format!("buddy-slab-demo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn with(self, file: &str, content: &str) -> Self {
        fs::write(self.0.join(file), content).expect("a file in the corpus");
        self
    }
}

impl Drop for Corpus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(path: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_buddy-slab"))
        .arg(path)
        .args(options)
        .output()
        .expect("the demo starts")
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complained(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The rows of the list under `title`: word, count, files.
fn rows(text: &str, title: &str) -> Vec<(String, usize, usize)> {
    let heading = format!("== {title} ==");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with(' '))
        .map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let [word, count, "in", files, "files"] = fields[..] else {
                panic!("an unexpected row: {line}")
            };
            (word.into(), count.parse().expect("a count"), files.parse().expect("a count"))
        })
        .collect()
}

fn row(word: &str, count: usize, files: usize) -> (String, usize, usize) {
    (word.into(), count, files)
}

#[test]
fn answers_are_exact_and_nothing_of_the_index_is_left() {
    let corpus = Corpus::new("exact")
        .with("one.txt", "buddy slab page\nBuddy page, page!\n")
        .with("two.txt", "page_list pager slab\n42 0x2a x\n")
        .with("three.txt", "");
    for threads in ["1", "2", "7"] {
        let output = run(
            &corpus.0,
            &["--threads", threads, "--top", "3", "--prefix", "pag", "--prefix", "zebra"],
        );
        let text = printed(&output);
        assert!(output.status.success(), "{text}{}", complained(&output));
        assert_eq!(
            rows(&text, "The 3 most frequent words"),
            [row("page", 3, 1), row("buddy", 2, 1), row("slab", 2, 2)]
        );
        assert_eq!(
            rows(&text, "pag*: 3 words"),
            [row("page", 3, 1), row("page_list", 1, 1), row("pager", 1, 1)]
        );
        assert_eq!(rows(&text, "zebra*: 0 words"), []);
        assert!(text.contains("\n    one.txt:1: buddy slab page\n"), "{text}");
        assert!(text.contains("Indexed 3 files (0 skipped)"), "{text}");
        assert!(text.contains("Nothing of the index is left."), "{text}");
    }
}

#[test]
fn threads_beyond_the_indices_are_served_too() {
    let mut corpus = Corpus::new("crowd");
    for file in 0..200 {
        corpus = corpus.with(&format!("{file}.txt"), "word ".repeat(100).as_str());
    }
    let output = run(&corpus.0, &["--threads", "100", "--top", "1", "--quiet-progress"]);
    let text = printed(&output);
    assert!(output.status.success(), "{text}{}", complained(&output));
    assert_eq!(rows(&text, "The 1 most frequent words"), [row("word", 20_000, 200)]);
}

#[test]
fn a_region_too_small_is_said_loudly() {
    let lines: String = (0..100_000).map(|i| format!("word{i} and another{i}\n")).collect();
    let corpus = Corpus::new("small").with("large.txt", &lines);
    let output = run(&corpus.0, &["--region-mib", "8", "--threads", "2"]);
    let complaint = complained(&output);
    assert!(!output.status.success());
    assert!(complaint.contains("the region of 8.0 MiB is too small"), "{complaint}");
    assert!(complaint.contains("asked: "), "{complaint}");
    assert!(complaint.contains("left: "), "{complaint}");
    assert!(complaint.contains("--region-mib 16"), "{complaint}");

    let output = run(&corpus.0, &["--region-mib=128", "--threads", "2"]);
    assert!(output.status.success(), "{}{}", printed(&output), complained(&output));
}

#[test]
fn no_corpus_is_said_clearly() {
    let corpus = Corpus::new("empty");
    let output = run(&corpus.0, &[]);
    assert!(!output.status.success());
    assert!(complained(&output).contains("no file to index"), "{}", complained(&output));

    let output = run(&corpus.0.join("absent"), &[]);
    assert!(!output.status.success());
    assert!(complained(&output).contains("absent"), "{}", complained(&output));
}

#[cfg(target_os = "linux")]
fn run_program(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_buddy-slab"))
        .arg("run")
        .args(options)
        .output()
        .expect("the command starts")
}

#[cfg(target_os = "linux")]
#[test]
fn another_program_runs_on_the_heap_and_a_report_says_what_happened() {
    let output = run_program(&["--", "ls", "/"]);
    assert!(output.status.success(), "{}", complained(&output));
    assert!(printed(&output).contains("tmp"), "its output is as ever");
    let said = complained(&output);
    assert!(said.contains("in use at the end") && said.contains("free blocks by order"), "{said}");

    let file = std::env::temp_dir().join(format!("buddy-slab-run-{}.json", std::process::id()));
    let place = file.to_str().expect("a plain path");
    let output = run_program(&["--json", "--report", place, "--", "ls", "/"]);
    assert!(output.status.success(), "{}", complained(&output));
    let text = fs::read_to_string(&file).expect("a report");
    let _ = fs::remove_file(&file);
    assert!(text.contains("\"peak_bytes\"") && text.contains("\"classes\""), "{text}");

    let output = run_program(&["--", "sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", complained(&output));
}

#[cfg(target_os = "linux")]
#[test]
fn what_cannot_be_run_on_the_heap_is_said() {
    for (program, what) in [
        ("/no/such/program", "no such program"),
        ("no-such-program", "no such program in PATH"),
        ("/etc/passwd", "not executable"),
        ("/", "a directory"),
    ] {
        let output = run_program(&["--", program]);
        assert!(!output.status.success());
        assert!(complained(&output).contains(what), "{}", complained(&output));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn it_runs_again_on_other_allocators_for_comparison() {
    let output = run_program(&["--compare", "--runs", "1", "--", "ls", "/"]);
    let said = complained(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("buddy-slab") && said.contains("glibc"), "{said}");
}
