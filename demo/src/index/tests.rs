//! The index against a corpus small enough to count by hand.

use std::fs;
use std::path::PathBuf;

use super::build;
use crate::corpus;

/// A folder of its own for one test, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &[u8])]) -> Self {
        let path =
            std::env::temp_dir().join(format!("buddy-slab-index-{name}-{}", std::process::id()));
        fs::create_dir_all(path.join("sub")).expect("a temporary folder");
        for (file, content) in files {
            fs::write(path.join(file), content).expect("a file in it");
        }
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn words_are_counted_and_found_whatever_the_number_of_threads() {
    let folder = Folder::new(
        "counts",
        &[
            ("a.txt", b"page Pages page\nblock"),
            ("sub/b.txt", b"pager block page\n\n"),
            ("sub/c.bin", b"page \xff page"),
        ],
    );
    let corpus = corpus::collect(Some(&folder.0), u64::MAX).expect("three files");
    for thread_count in [1, 2, 5] {
        let index = build(&corpus, thread_count, &|_| {});
        let totals = index.totals();
        assert_eq!((totals.files, totals.skipped, totals.words, totals.distinct), (2, 1, 7, 4));
        let top: Vec<_> = index.top_words(2).into_iter().map(|f| (f.word, f.count)).collect();
        assert_eq!(top, [("page".into(), 3), ("block".into(), 2)]);
        let (found, count) = index.with_prefix("PAGE", 10);
        let words: Vec<_> = found.iter().map(|f| (f.word.as_str(), f.count, f.files)).collect();
        assert_eq!(words, [("page", 3, 2), ("pager", 1, 1), ("pages", 1, 1)]);
        assert_eq!(count, 3);
        assert_eq!(found[0].first, "a.txt:1: page Pages page");
        index.dismantle(thread_count);
    }
}

#[test]
fn a_limit_cuts_the_corpus_at_a_file() {
    let folder = Folder::new("limit", &[("a.txt", b"12345"), ("b.txt", b"12345")]);
    let corpus = corpus::collect(Some(&folder.0), 9).expect("one file");
    assert_eq!((corpus.files.len(), corpus.left_out, corpus.bytes), (1, 1, 5));
    assert!(corpus::collect(Some(&folder.0), 4).is_err());
}
