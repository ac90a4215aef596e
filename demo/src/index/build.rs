//! Building: files to documents and words (one harvest a thread), harvests to shards.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Document, Hit, Index, SHARD_COUNT, Shard, Totals, on_threads, pop};
use crate::corpus::Corpus;
use crate::text::{fold_case, words};

/// Words that one thread has met, for one shard.
type Harvested = HashMap<String, Vec<Hit>>;

/// What one thread has read.
struct Harvest {
    documents: Vec<(u32, Document)>,
    shards: Vec<Harvested>,
    totals: Totals,
}

/// Reads and indexes the corpus on `thread_count` threads; `progress` is told the bytes done.
///
/// The result does not depend on the number of threads.
pub fn build(corpus: &Corpus, thread_count: usize, progress: &(dyn Fn(u64) + Sync)) -> Index {
    let next = AtomicUsize::new(0);
    let harvests = on_threads(thread_count, |_| {
        let mut harvest = Harvest::new();
        // A thread takes one file at a time, so that a large one holds up nobody.
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, len)) = corpus.files.get(number) else { break };
            // The corpus is cut long before its files outgrow 32 bits.
            let Ok(document) = u32::try_from(number) else { break };
            harvest.read(document, path, corpus.short(path));
            progress(*len);
        }
        harvest
    });
    merge(harvests, thread_count)
}

/// Turns the threads' hash maps into ordered maps, shard by shard: every thread takes over, and
/// frees, memory that the others allocated.
fn merge(harvests: Vec<Harvest>, thread_count: usize) -> Index {
    let mut totals = Totals::default();
    let mut documents = super::BTreeMap::new();
    let mut by_shard: Vec<(usize, Vec<Harvested>)> =
        (0..SHARD_COUNT).map(|shard| (shard, Vec::with_capacity(harvests.len()))).collect();
    for harvest in harvests {
        totals.add(&harvest.totals);
        documents.extend(harvest.documents);
        for ((_, sources), source) in by_shard.iter_mut().zip(harvest.shards) {
            sources.push(source);
        }
    }
    let todo = Mutex::new(by_shard);
    let mut merged: Vec<(usize, Shard)> = on_threads(thread_count, |_| {
        let mut done = Vec::new();
        while let Some((number, sources)) = pop(&todo) {
            done.push((number, merge_shard(sources)));
        }
        done
    })
    .into_iter()
    .flatten()
    .collect();
    merged.sort_by_key(|(number, _)| *number);
    let shards: Vec<Shard> = merged.into_iter().map(|(_, shard)| shard).collect();
    totals.distinct = shards.iter().map(Shard::len).sum();
    Index { documents, shards, totals }
}

fn merge_shard(sources: Vec<Harvested>) -> Shard {
    let mut shard = Shard::new();
    for source in sources {
        for (word, mut hits) in source {
            shard.entry(word).or_default().append(&mut hits);
        }
    }
    for hits in shard.values_mut() {
        hits.sort_unstable();
        hits.shrink_to_fit();
    }
    shard
}

impl Harvest {
    fn new() -> Self {
        Self {
            documents: Vec::new(),
            shards: (0..SHARD_COUNT).map(|_| Harvested::new()).collect(),
            totals: Totals::default(),
        }
    }

    /// Reads one file whole, keeps its lines under its `name` and notes every word in them.
    fn read(&mut self, document: u32, path: &Path, name: &Path) {
        let Ok(text) = fs::read_to_string(path) else {
            self.totals.skipped += 1;
            return;
        };
        self.totals.files += 1;
        self.totals.bytes += text.len();
        let mut folded = String::new();
        let mut lines = Vec::new();
        for (line, content) in (0_u32..).zip(text.lines()) {
            for word in words(content) {
                fold_case(word, &mut folded);
                self.note(&folded, Hit { document, line });
            }
            lines.push(String::from(content.trim_end()));
        }
        self.totals.lines += lines.len();
        self.documents.push((document, Document { name: name.display().to_string(), lines }));
    }

    fn note(&mut self, word: &str, hit: Hit) {
        self.totals.words += 1;
        let shard = &mut self.shards[shard_of(word)];
        match shard.get_mut(word) {
            Some(hits) => hits.push(hit),
            None => {
                shard.insert(String::from(word), vec![hit]);
            }
        }
    }
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.skipped += other.skipped;
        self.bytes += other.bytes;
        self.lines += other.lines;
        self.words += other.words;
    }
}

/// The shard of a word: FNV-1a, the same in every run.
fn shard_of(word: &str) -> usize {
    let hash = word
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16) as usize % SHARD_COUNT
}
