//! What is to be run: found as a shell would, and looked at before it is started.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf::{FileHeader32, FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

/// How much of a file is looked at: its headers.
const HEAD_BYTES: u64 = 64 << 10;

/// A program that can be run with a library preloaded, as far as its file tells.
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
}

impl Program {
    /// Finds a program by its path, or by its name among the directories of `PATH`.
    ///
    /// # Errors
    /// What is wrong with it: missing, not executable, linked statically, no program.
    pub fn find(name: &OsStr) -> io::Result<Self> {
        let path = locate(name)?;
        check(&path).map_err(|why| complaint(&path, &why))?;
        Ok(Self { path })
    }
}

fn complaint(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

fn locate(name: &OsStr) -> io::Result<PathBuf> {
    let path = Path::new(name);
    if path.components().count() > 1 || path.is_absolute() {
        return Ok(path.to_path_buf());
    }
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&directories).map(|directory| directory.join(name));
    let found: Vec<_> = places.filter(|place| place.is_file()).collect();
    let runnable = found.iter().find(|place| is_executable(place)).or(found.first());
    runnable.cloned().ok_or_else(|| complaint(path, "no such program in PATH"))
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

fn check(path: &Path) -> Result<(), String> {
    let file = path.metadata().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "no such program".to_owned(),
        _ => error.to_string(),
    })?;
    if file.is_dir() {
        return Err("a directory, not a program".to_owned());
    }
    if !is_executable(path) {
        return Err("not executable (chmod +x makes it so)".to_owned());
    }
    if file.permissions().mode() & 0o6000 != 0 {
        return Err("runs with another user's rights, so the system preloads nothing".to_owned());
    }
    let mut head = Vec::new();
    let reader = File::open(path).map_err(|error| error.to_string())?;
    reader.take(HEAD_BYTES).read_to_end(&mut head).map_err(|error| error.to_string())?;
    if head.starts_with(b"#!") {
        return Ok(()); // its interpreter gets the library
    }
    let loader = wants_loader::<FileHeader64<Endianness>>(&head)
        .or_else(|| wants_loader::<FileHeader32<Endianness>>(&head));
    match loader {
        Some(true) => Ok(()),
        Some(false) => Err("linked statically: there is no malloc in it to replace".to_owned()),
        None => Err("neither a program of this system nor a script".to_owned()),
    }
}

/// Whether an ELF file of this width asks for the dynamic loader; `None` if it is no such file.
fn wants_loader<H: FileHeader<Endian = Endianness>>(head: &[u8]) -> Option<bool> {
    let header = H::parse(head).ok()?;
    let endian = header.endian().ok()?;
    let programs = header.program_headers(endian, head).ok()?;
    Some(programs.iter().any(|program| program.p_type(endian) == PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_said() {
        let said = |name: &str| match Program::find(OsStr::new(name)) {
            Ok(program) => program.path.display().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(said("no-such-program-anywhere").contains("no such program in PATH"));
        assert!(said("/no/such/place").contains("no such program"));
        assert!(said("/").contains("directory"));
        assert!(said("/etc/passwd").contains("not executable"));
        assert!(said("sh").ends_with("/sh"), "{}", said("sh"));
    }
}
