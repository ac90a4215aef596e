//! The layer check: the library's modules import from the layers below them only.
//!
//! It walks the modules from `lib.rs` as the compiler would, leaves out what is compiled for tests only, and
//! looks at every path that starts at the crate's root: `crate::…`, as many `super::` as lead there, in `use`
//! items, in code and in macros. A name that `lib.rs` re-exports counts as the module that it comes from. It
//! reads tokens, not text: comments, docs and strings do not count.
//!
//! Neighbours on one rung may use each other, unless they are [`STRANGERS`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The library's modules, from the top layer to the bottom one.
const LADDER: [&[&str]; 5] = [
    &["global", "inspect"],
    &["percpu"],
    &["slab", "buddy"],
    &["platform", "sync"],
    &["units", "error"],
];

/// Neighbours that must know nothing of each other.
const STRANGERS: [&str; 2] = ["slab", "buddy"];

/// Checks the library of the workspace at `root`.
///
/// # Errors
///
/// Lists every import that goes up or sideways as `file:line`, or says which file cannot be read.
pub fn check(root: &Path) -> Result<String> {
    let sources = Path::new("crates").join(crate::LIBRARY).join("src");
    let read = |path: &Path| std::fs::read_to_string(root.join(path)).ok();
    let walk = Walk::new(&read, &sources)?;
    if walk.faults.is_empty() {
        return Ok(format!("the layers hold, over {} imports", walk.imports));
    }
    bail!("imports against the layers\n{}", walk.faults.join("\n"))
}

/// Where the walk is.
#[derive(Clone)]
struct Place {
    /// The module path from the root; empty in `lib.rs`.
    module: Vec<String>,
    /// The file that holds it.
    file: PathBuf,
    /// The directory of the files of its child modules.
    children: PathBuf,
}

/// One pass over the module tree.
struct Walk<'a> {
    /// Gives a file's text.
    read: &'a dyn Fn(&Path) -> Option<String>,
    /// The names that `lib.rs` imports, and the top-level module that each comes from.
    root_names: BTreeMap<String, String>,
    imports: usize,
    faults: Vec<String>,
}

impl<'a> Walk<'a> {
    /// Walks the crate whose `lib.rs` lies in `sources`.
    fn new(read: &'a dyn Fn(&Path) -> Option<String>, sources: &Path) -> Result<Self> {
        let file = sources.join("lib.rs");
        let tokens = tokens(read, &file)?;
        let mut root_names = BTreeMap::new();
        for (at, token) in tokens.iter().enumerate() {
            if is_word(Some(token), "use") {
                let end = (at..tokens.len()).find(|&end| is_mark(tokens.get(end), ';'));
                collect_names(&tokens[at + 1..end.unwrap_or(tokens.len())], None, &mut root_names);
            }
        }
        let mut walk = Walk { read, root_names, imports: 0, faults: Vec::new() };
        let root = Place { module: Vec::new(), file, children: sources.to_path_buf() };
        walk.tokens(&tokens, &root)?;
        Ok(walk)
    }

    fn tokens(&mut self, tokens: &[TokenTree], place: &Place) -> Result<()> {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if is_mark(Some(token), '#') {
                let inner = is_mark(tokens.get(at + 1), '!');
                let group = at + 1 + usize::from(inner);
                if let Some(attribute) = bracketed(tokens.get(group)) {
                    at = group + 1;
                    if is_for_tests(&attribute) {
                        if inner {
                            return Ok(());
                        }
                        at = after_item(tokens, at);
                    }
                    continue;
                }
            }
            at = match token {
                TokenTree::Ident(word) if *word == "mod" => self.module(tokens, at, place)?,
                TokenTree::Ident(word) if *word == "crate" => self.path(tokens, at + 1, place),
                TokenTree::Ident(word) if *word == "super" => {
                    let (levels, end) = climb(tokens, at);
                    if levels == place.module.len() { self.path(tokens, end, place) } else { end }
                }
                TokenTree::Group(group) => {
                    let inside: Vec<_> = group.stream().into_iter().collect();
                    self.tokens(&inside, place)?;
                    at + 1
                }
                _ => at + 1,
            };
        }
        Ok(())
    }

    /// Enters the module declared at `tokens[at]`. Returns where its declaration ends.
    fn module(&mut self, tokens: &[TokenTree], at: usize, place: &Place) -> Result<usize> {
        let Some(TokenTree::Ident(name)) = tokens.get(at + 1) else {
            return Ok(at + 1);
        };
        let name = name.to_string();
        let mut module = place.module.clone();
        module.push(name.clone());
        if module.len() == 1 && rung(&name).is_none() {
            let line = tokens[at].span().start().line;
            self.fault(place, line, &format!("module `{name}` is on no rung of the ladder"));
        }
        match tokens.get(at + 2) {
            Some(TokenTree::Group(body)) if body.delimiter() == Delimiter::Brace => {
                let inside: Vec<_> = body.stream().into_iter().collect();
                let inner = Place {
                    module,
                    file: place.file.clone(),
                    children: place.children.join(&name),
                };
                self.tokens(&inside, &inner)?;
            }
            Some(token) if is_mark(Some(token), ';') => {
                let flat = place.children.join(format!("{name}.rs"));
                let file = match (self.read)(&flat) {
                    Some(_) => flat,
                    None => place.children.join(&name).join("mod.rs"),
                };
                let inner = Place { module, children: place.children.join(&name), file };
                let inside = self::tokens(self.read, &inner.file)?;
                self.tokens(&inside, &inner)?;
            }
            _ => {}
        }
        Ok(at + 3)
    }

    /// Judges what a path names first after the crate's root, whose `::` is at `tokens[at]`. Returns where to go on.
    fn path(&mut self, tokens: &[TokenTree], at: usize, place: &Place) -> usize {
        if !(is_mark(tokens.get(at), ':') && is_mark(tokens.get(at + 1), ':')) {
            return at;
        }
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(name)) if !is_mark(tokens.get(at + 3), '!') => {
                self.judge(place, &name.to_string(), name.span().start().line);
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                let inside: Vec<_> = group.stream().into_iter().collect();
                for part in inside.split(|token| is_mark(Some(token), ',')) {
                    if let Some(first) = part.first() {
                        self.judge(place, &first.to_string(), first.span().start().line);
                    }
                }
            }
            Some(token) if is_mark(Some(token), '*') => {
                self.judge(place, "*", token.span().start().line);
            }
            _ => {}
        }
        at + 3
    }

    /// Judges an import of `name`, as the root knows it, into the module at `place`.
    fn judge(&mut self, place: &Place, name: &str, line: usize) {
        let Some(importer) = place.module.first() else {
            return; // The root sees everything.
        };
        let from = self.root_names.get(name).map_or(name, String::as_str).to_owned();
        if *importer == from {
            return;
        }
        self.imports += 1;
        let (Some(above), Some(below)) = (rung(importer), rung(&from)) else {
            if rung(&from).is_none() {
                let what = format!("`crate::{name}` leads to no module of the ladder");
                self.fault(place, line, &what);
            }
            return; // An importer without a rung is reported where it is declared.
        };
        let strangers =
            STRANGERS.contains(&importer.as_str()) && STRANGERS.contains(&from.as_str());
        let wrong = if above > below {
            "a layer above"
        } else if strangers {
            "its sibling"
        } else {
            return;
        };
        let what = format!("`{importer}` imports `crate::{name}` from `{from}`, {wrong}");
        self.fault(place, line, &what);
    }

    fn fault(&mut self, place: &Place, line: usize, what: &str) {
        self.faults.push(format!("{}:{line}: {what}", place.file.display()));
    }
}

/// The index in [`LADDER`] of a top-level module.
fn rung(module: &str) -> Option<usize> {
    LADDER.iter().position(|rung| rung.contains(&module))
}

/// The tokens of `file`.
fn tokens(read: &dyn Fn(&Path) -> Option<String>, file: &Path) -> Result<Vec<TokenTree>> {
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let stream = TokenStream::from_str(&text)
        .map_err(|error| anyhow!("{}:{}: {error}", file.display(), error.span().start().line))?;
    Ok(stream.into_iter().collect())
}

/// Follows `super::super::…` from `tokens[at]`: how many levels it climbs, and where the `::` after the last one is.
fn climb(tokens: &[TokenTree], mut at: usize) -> (usize, usize) {
    let mut levels = 1;
    while is_mark(tokens.get(at + 1), ':')
        && is_mark(tokens.get(at + 2), ':')
        && is_word(tokens.get(at + 3), "super")
    {
        levels += 1;
        at += 3;
    }
    (levels, at + 1)
}

/// Notes the names that a `use` tree of `lib.rs` brings in, each with the top-level module, `first`, that it comes from.
fn collect_names(tree: &[TokenTree], first: Option<&str>, names: &mut BTreeMap<String, String>) {
    let mut first = first.map(str::to_owned);
    let mut last = None;
    for token in tree {
        match token {
            TokenTree::Ident(word) if *word == "crate" || *word == "self" || *word == "as" => {}
            TokenTree::Ident(word) => {
                last = Some(word.to_string());
                first.get_or_insert(word.to_string());
            }
            TokenTree::Group(group) => {
                let inside: Vec<_> = group.stream().into_iter().collect();
                for part in inside.split(|token| is_mark(Some(token), ',')) {
                    collect_names(part, first.as_deref(), names);
                }
                return;
            }
            _ => {}
        }
    }
    if let (Some(first), Some(last)) = (first, last) {
        names.insert(last, first);
    }
}

/// Whether the content of an attribute says that its item is compiled for tests only.
fn is_for_tests(attribute: &[TokenTree]) -> bool {
    let condition = match attribute {
        [TokenTree::Ident(cfg), TokenTree::Group(condition)] if *cfg == "cfg" => condition,
        _ => return false,
    };
    requires_test(&condition.stream().into_iter().collect::<Vec<_>>())
}

/// Whether a `cfg` condition holds in tests only: `test`, or an `all(…)` with such a part.
fn requires_test(condition: &[TokenTree]) -> bool {
    match condition {
        [TokenTree::Ident(word)] => *word == "test",
        [TokenTree::Ident(word), TokenTree::Group(parts)] if *word == "all" => {
            let parts: Vec<_> = parts.stream().into_iter().collect();
            parts.split(|token| is_mark(Some(token), ',')).any(requires_test)
        }
        _ => false,
    }
}

/// Where the item (or field, or arm) that starts at `tokens[at]` ends: past its `;`, its braces, or its comma.
fn after_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let mut angles = 0_usize;
    while let Some(token) = tokens.get(at) {
        at += 1;
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return at,
            TokenTree::Punct(mark) => match mark.as_char() {
                ';' => return at,
                ',' if angles == 0 => return at,
                '<' => angles += 1,
                '>' => angles = angles.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
    }
    at
}

/// The content of `token` if it is a group in square brackets.
fn bracketed(token: Option<&TokenTree>) -> Option<Vec<TokenTree>> {
    match token {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => {
            Some(group.stream().into_iter().collect())
        }
        _ => None,
    }
}

fn is_mark(token: Option<&TokenTree>, mark: char) -> bool {
    matches!(token, Some(TokenTree::Punct(found)) if found.as_char() == mark)
}

fn is_word(token: Option<&TokenTree>, word: &str) -> bool {
    matches!(token, Some(TokenTree::Ident(found)) if found == word)
}

#[cfg(test)]
mod tests;
