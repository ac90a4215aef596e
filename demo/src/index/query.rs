//! Queries: the most frequent words, and the words that begin with a prefix.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use super::{Hit, Index};

/// A word that answers a query.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The word, in lower case.
    pub word: String,
    /// How often it occurs.
    pub count: usize,
    /// In how many files.
    pub files: usize,
    /// Its first occurrence: `path:line: text`.
    pub first: String,
}

impl Index {
    /// The `limit` most frequent words; those that occur equally often in alphabetical order.
    pub fn top_words(&self, limit: usize) -> Vec<Found> {
        let all = self.shards.iter().flatten();
        self.most_frequent(all, limit)
    }

    /// The `limit` most frequent words that begin with `prefix` (whose case does not matter),
    /// and how many words there are that do.
    pub fn with_prefix(&self, prefix: &str, limit: usize) -> (Vec<Found>, usize) {
        let prefix = prefix.to_lowercase();
        let matching = || {
            self.shards.iter().flat_map(|shard| {
                shard
                    .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                    .take_while(|(word, _)| word.starts_with(&prefix))
            })
        };
        (self.most_frequent(matching(), limit), matching().count())
    }

    /// Keeps the best `limit` of `candidates` in a heap, worst on top.
    fn most_frequent<'a>(
        &'a self,
        candidates: impl Iterator<Item = (&'a String, &'a Vec<Hit>)>,
        limit: usize,
    ) -> Vec<Found> {
        let mut best = BinaryHeap::new();
        for (word, hits) in candidates {
            best.push((Reverse(hits.len()), word));
            if best.len() > limit {
                best.pop();
            }
        }
        best.into_sorted_vec().into_iter().filter_map(|(_, word)| self.describe(word)).collect()
    }

    fn describe(&self, word: &str) -> Option<Found> {
        let hits = self.shards.iter().find_map(|shard| shard.get(word))?;
        let first = hits.first()?;
        let document = self.documents.get(&first.document)?;
        let text = document.lines.get(first.line as usize)?;
        let mut files: Vec<u32> = hits.iter().map(|hit| hit.document).collect();
        files.dedup();
        Some(Found {
            word: String::from(word),
            count: hits.len(),
            files: files.len(),
            first: format!("{}:{}: {}", document.name, first.line + 1, text.trim()),
        })
    }
}
