//! Runs QEMU, watches the serial line, reads the exit code.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::machine::Machine;
use crate::runner;

/// How much of a failed run's output is shown.
const SHOWN_LINES: usize = 60;
const SECTORS: u64 = 256;
const SECTOR_BYTES: usize = 512;

/// One boot of a kernel.
pub struct Boot<'a> {
    /// On what.
    pub machine: &'static Machine,
    /// The kernel.
    pub image: &'a Path,
    /// How many CPUs.
    pub cpus: usize,
    /// How much memory, if not the machine's usual.
    pub memory: Option<&'a str>,
    /// The kernel's command line.
    pub append: &'a str,
    /// Whether the machine's clock counts instructions.
    pub counts: bool,
    /// When it is given up.
    pub timeout: Duration,
    /// Whether the serial line is shown as it comes.
    pub is_shown: bool,
}

/// How a boot ended.
pub struct Outcome {
    /// Whether the kernel said so by its exit code.
    pub passed: bool,
    /// What it wrote.
    pub output: String,
}

impl Outcome {
    /// The last lines that the kernel wrote.
    pub fn end(&self) -> String {
        last_lines(&self.output)
    }

    /// The kernel's last word.
    pub fn verdict(&self) -> String {
        let mut lines = self.output.lines().skip_while(|line| !line.starts_with("FAIL"));
        match lines.next() {
            Some(line) => [line, lines.next().unwrap_or("")].join("\n"),
            None => "no verdict on the serial line".to_owned(),
        }
    }
}

impl Boot<'_> {
    /// Boots, and waits for the end.
    ///
    /// # Errors
    ///
    /// QEMU is missing or cannot be started, or the kernel does not end in time.
    pub fn run(&self, root: &Path) -> Result<Outcome> {
        if self.cpus == 0 || self.cpus > self.machine.max_cpus {
            bail!("{} has 1 to {} CPUs", self.machine.name, self.machine.max_cpus);
        }
        let disk = self.disk_path(root);
        write_disk(&disk)?;
        let outcome = self.run_on(&disk);
        // A leftover disk harms nobody: it is written anew for each boot.
        let _ = fs::remove_file(&disk);
        outcome
    }

    /// QEMU's command line.
    pub fn shown(&self, root: &Path) -> Result<String> {
        let disk = self.disk_path(root);
        write_disk(&disk)?;
        Ok(runner::shown(&self.command(&disk)))
    }

    fn disk_path(&self, root: &Path) -> PathBuf {
        let name = format!("kernel-disk-{}.img", std::process::id());
        crate::target_directory(root).join(name)
    }

    fn command(&self, disk: &Path) -> Command {
        let mut command = Command::new(self.machine.qemu);
        command
            .args(["-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot"])
            .args(self.machine.arguments)
            .arg("-kernel")
            .arg(self.image);
        if self.machine.max_cpus > 1 {
            command.args(["-smp", &self.cpus.to_string()]);
        }
        if let Some(memory) = self.memory.or(self.machine.memory) {
            command.args(["-m", memory]);
        }
        if !self.append.is_empty() {
            command.args(["-append", self.append]);
        }
        if let Some(device) = self.machine.disk {
            let drive = format!("if=none,id=disk,format=raw,file={}", disk.display());
            command.args(["-drive", &drive, "-device", device]);
        }
        if self.counts {
            command.args(["-icount", "shift=0"]);
        }
        command
    }

    fn run_on(&self, disk: &Path) -> Result<Outcome> {
        let start = Instant::now();
        let spawned = self
            .command(disk)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "{} is missing: apt-get install {}",
                self.machine.qemu,
                self.machine.debian_package
            ),
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot start", self.machine.qemu));
            }
        };
        let serial = child.stdout.take().context("QEMU has no serial line")?;
        let is_shown = self.is_shown;
        let reader = thread::spawn(move || read(serial, is_shown));
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > self.timeout {
                child.kill()?;
                child.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(20));
        };
        let output = reader.join().unwrap_or_default();
        let Some(status) = status else {
            bail!(
                "{} with {} CPU(s) did not end in {} s; the last it wrote:\n{}",
                self.machine.package,
                self.cpus,
                self.timeout.as_secs(),
                last_lines(&output)
            );
        };
        let passed = status.code() == Some(self.machine.success)
            && output.lines().any(|line| line.starts_with("PASS"));
        Ok(Outcome { passed, output })
    }
}

/// The end of a long text.
fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

/// Reads the serial line to its end.
fn read(serial: impl std::io::Read, is_shown: bool) -> String {
    let mut output = String::new();
    let mut serial = BufReader::new(serial);
    let mut line = Vec::new();
    while matches!(serial.read_until(b'\n', &mut line), Ok(count) if count != 0) {
        let text = String::from_utf8_lossy(&line).replace('\r', "");
        if is_shown {
            print!("{text}");
            let _ = std::io::stdout().flush();
        }
        output += &text;
        line.clear();
    }
    output
}

/// Writes the disk that the kernel expects: each sector begins with a word and its number.
fn write_disk(path: &Path) -> Result<()> {
    let mut image = Vec::new();
    for number in 0..SECTORS {
        let mut sector = [0u8; SECTOR_BYTES];
        sector[..8].copy_from_slice(b"sector..");
        sector[8..16].copy_from_slice(&number.to_le_bytes());
        image.extend_from_slice(&sector);
    }
    fs::write(path, image).with_context(|| format!("cannot write {}", path.display()))
}
