//! What a word is, and how figures are printed.

use core::fmt;

/// The words of a line: runs of letters, digits and `_` that begin with no digit, are at least
/// two characters long and contain a letter.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|run| {
        run.len() > 1
            && !run.starts_with(char::is_numeric)
            && run.chars().nth(1).is_some()
            && run.contains(char::is_alphabetic)
    })
}

/// Puts `word` in lower case into `folded`, whose memory is used again from word to word.
pub fn fold_case(word: &str, folded: &mut String) {
    folded.clear();
    if word.is_ascii() {
        folded.push_str(word);
        folded.make_ascii_lowercase();
    } else {
        folded.extend(word.chars().flat_map(char::to_lowercase));
    }
}

/// A number of bytes, printed in the largest unit that keeps it at 1 or above.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl Bytes {
    /// From a count in the machine's word.
    pub fn of(bytes: usize) -> Self {
        Self(bytes as u64)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u32, &str); 3] = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
        for (shift, unit) in UNITS {
            if self.0 >> shift > 0 {
                let tenths = (self.0 >> (shift - 10)) * 10 / 1024;
                return write!(f, "{}.{} {unit}", tenths / 10, tenths % 10);
            }
        }
        write!(f, "{} B", self.0)
    }
}

/// `part` as a percentage of `whole`, with one decimal; `-` when there is no whole.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// What is measured.
    pub part: usize,
    /// What it is measured against.
    pub whole: usize,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.whole == 0 {
            return f.write_str("-");
        }
        write!(f, "{:.1} %", self.part as f64 * 100.0 / self.whole as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bytes, fold_case, words};

    #[test]
    fn words_are_identifiers_and_plain_words() {
        let found: Vec<_> = words("let x_1 = 0x1f + né(é) - __ + _a;").collect();
        assert_eq!(found, ["let", "x_1", "né", "_a"]);
    }

    #[test]
    fn case_is_folded_into_the_same_buffer() {
        let mut folded = String::from("before");
        fold_case("HashMap", &mut folded);
        assert_eq!(folded, "hashmap");
        fold_case("ÄÖ", &mut folded);
        assert_eq!(folded, "äö");
    }

    #[test]
    fn bytes_print_in_the_largest_unit() {
        let printed: Vec<_> =
            [7, 1024, 1536 * 1024, 3 << 30].map(|n| Bytes(n).to_string()).into_iter().collect();
        assert_eq!(printed, ["7 B", "1.0 KiB", "1.5 MiB", "3.0 GiB"]);
    }
}
