//! The text to index: which files there are, in an order that does not depend on the disk.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that hold no sources.
const SKIPPED_FOLDERS: [&str; 2] = ["target", ".git"];

/// The files to index, sorted by path.
#[derive(Debug, Default)]
pub struct Corpus {
    /// Path and length in bytes of every file.
    pub files: Vec<(PathBuf, u64)>,
    /// Sum of the lengths.
    pub bytes: u64,
    /// Where the files were looked for.
    pub roots: Vec<PathBuf>,
    /// Files beyond the limit, which are left out.
    pub left_out: usize,
}

impl Corpus {
    /// `path` as seen from the place in which it was found.
    pub fn short<'a>(&self, path: &'a Path) -> &'a Path {
        let mut inside = self.roots.iter().filter_map(|root| path.strip_prefix(root).ok());
        inside.find(|rest| !rest.as_os_str().is_empty()).unwrap_or(path)
    }
}

/// Collects the corpus: the file or folder that was named, or the usual Rust sources.
///
/// A folder that was named contributes every file; the usual places contribute `.rs` files.
///
/// # Errors
/// A named path that cannot be read, or nothing to index at all.
pub fn collect(named: Option<&Path>, limit_bytes: u64) -> io::Result<Corpus> {
    let mut corpus = Corpus::default();
    match named {
        Some(path) => {
            walk(path, &|_| true, &mut corpus.files).map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            corpus.roots.push(path.to_path_buf());
        }
        None => {
            for root in usual_roots() {
                // A place that is not there, or not ours to read, contributes nothing.
                if walk(&root, &is_rust, &mut corpus.files).is_ok() {
                    corpus.roots.push(root);
                }
            }
        }
    }
    corpus.files.sort();
    corpus.files.dedup();
    let mut total = 0_u64;
    let kept = corpus
        .files
        .iter()
        .take_while(|(_, len)| {
            total = total.saturating_add(*len);
            total <= limit_bytes
        })
        .count();
    corpus.left_out = corpus.files.len() - kept;
    corpus.files.truncate(kept);
    corpus.bytes = corpus.files.iter().map(|(_, len)| len).sum();
    if corpus.files.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, nothing_found(named, corpus.left_out)));
    }
    Ok(corpus)
}

fn nothing_found(named: Option<&Path>, left_out: usize) -> String {
    match named {
        _ if left_out > 0 => String::from("the first file is larger than --corpus-mib allows"),
        Some(path) => format!("no file to index in {}", path.display()),
        None => String::from(
            "no Rust sources in the cargo registry, and this repository is not where it was \
             built: name a file or folder to index",
        ),
    }
}

/// The sources of each cargo registry, and this repository where it was built.
fn usual_roots() -> impl Iterator<Item = PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf);
    let registries = cargo_home
        .and_then(|home| fs::read_dir(home.join("registry").join("src")).ok())
        .into_iter()
        .flatten()
        .flatten()
        .map(|registry| registry.path());
    registries.chain(repository)
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Appends the files at or below `path` that `wanted` accepts. Follows no symbolic links below it.
fn walk(
    path: &Path,
    wanted: &dyn Fn(&Path) -> bool,
    files: &mut Vec<(PathBuf, u64)>,
) -> io::Result<()> {
    let status = fs::metadata(path)?;
    if status.is_file() {
        files.push((path.to_path_buf(), status.len()));
        return Ok(());
    }
    let mut folders = vec![path.to_path_buf()];
    let mut first = true;
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if first => return Err(error),
            // A folder further down that cannot be read is passed over.
            Err(_) => continue,
        };
        first = false;
        for entry in entries.flatten() {
            let (Ok(kind), found) = (entry.file_type(), entry.path()) else { continue };
            if kind.is_dir() {
                if SKIPPED_FOLDERS.iter().all(|name| entry.file_name() != *name) {
                    folders.push(found);
                }
            } else if kind.is_file() && wanted(&found) {
                let len = entry.metadata().map_or(0, |status| status.len());
                files.push((found, len));
            }
        }
    }
    Ok(())
}
