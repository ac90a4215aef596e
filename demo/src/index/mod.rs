//! A word index over lines of text: which words there are, where, and how often.
//!
//! It is a client of the allocator and nothing else: strings, vectors and maps of the standard
//! library, built by many threads, merged by others and dropped by others again.
//!
//! - `build`: files to documents and hash maps, then hash maps to ordered maps.
//! - `query`: the most frequent words, and the words with a prefix.

mod build;
mod query;

use std::collections::BTreeMap;
use std::sync::Mutex;

pub use build::build;
pub use query::Found;

/// Words are spread over this many maps, so that threads merge them without sharing one.
const SHARD_COUNT: usize = 32;

/// Where a word occurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    /// Place of the document in [`Index::documents`].
    document: u32,
    /// Line, counted from 0.
    line: u32,
}

/// A file that was read.
#[derive(Debug)]
struct Document {
    /// Its path, as seen from where the corpus lies.
    name: String,
    lines: Vec<String>,
}

/// One map of words, in order, with the places of each in order.
type Shard = BTreeMap<String, Vec<Hit>>;

/// The whole index.
#[derive(Debug)]
pub struct Index {
    /// By file, in the order of the corpus. What could not be read as text has no lines.
    documents: BTreeMap<u32, Document>,
    shards: Vec<Shard>,
    totals: Totals,
}

/// What was counted while indexing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Files read.
    pub files: usize,
    /// Files that are no UTF-8 text, or could not be read.
    pub skipped: usize,
    /// Bytes of the files read.
    pub bytes: usize,
    /// Lines in them.
    pub lines: usize,
    /// Words in them.
    pub words: usize,
    /// Different words in them.
    pub distinct: usize,
}

impl Index {
    /// What was counted while indexing.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Drops everything on `thread_count` new threads: none of them allocated what it frees.
    pub fn dismantle(self, thread_count: usize) {
        enum Part {
            Words(#[expect(dead_code, reason = "held to be dropped")] Shard),
            Texts(#[expect(dead_code, reason = "held to be dropped")] Vec<Document>),
        }
        let mut parts: Vec<Part> = self.shards.into_iter().map(Part::Words).collect();
        let mut documents = self.documents.into_values();
        loop {
            let texts: Vec<_> = documents.by_ref().take(64).collect();
            if texts.is_empty() {
                break;
            }
            parts.push(Part::Texts(texts));
        }
        drop(documents);
        let parts = Mutex::new(parts);
        on_threads(thread_count, |_| {
            while let Some(part) = pop(&parts) {
                drop(part);
            }
        });
    }
}

/// Takes the last item; the lock is given back before the caller uses it.
fn pop<T>(items: &Mutex<Vec<T>>) -> Option<T> {
    items.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop()
}

/// Runs `work` on `thread_count` threads and collects what they return.
///
/// Every thread is joined, not merely seen to finish: when this returns, what the threads kept
/// for themselves (their per-CPU heaps too) has been handed back.
///
/// # Panics
/// If `work` does.
fn on_threads<T: Send>(thread_count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..thread_count).map(|number| scope.spawn(move || work(number))).collect();
        let results = threads.into_iter().map(|thread| thread.join());
        results.map(|r| r.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests;
