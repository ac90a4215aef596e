//! Child processes as named, timed steps.
//!
//! A [`Runner`] either keeps a step's output in a log file and shows it only when the step fails, or
//! streams it. Steps run one after the other; the first failure ends the run through `?`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What happens to the output of a step.
enum Output {
    /// Goes to a file in this directory.
    Logged(PathBuf),
    /// Goes where the output of this process goes.
    Streamed,
}

/// Runs steps and remembers how long each took.
pub struct Runner {
    root: PathBuf,
    output: Output,
    finished: Vec<(String, Duration)>,
}

impl Runner {
    /// Makes a runner that shows the output of a step only when the step fails.
    pub fn logging(root: &Path) -> Result<Self> {
        let logs = crate::target_directory(root).join("xtask-logs");
        fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
        Ok(Self::new(root, Output::Logged(logs)))
    }

    /// Makes a runner that streams the output of its steps.
    pub fn streaming(root: &Path) -> Self {
        Self::new(root, Output::Streamed)
    }

    fn new(root: &Path, output: Output) -> Self {
        Self { root: root.to_path_buf(), output, finished: Vec::new() }
    }

    /// The directory that steps run in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `command` as the step `name`. Returns its output if it was logged, or nothing.
    ///
    /// # Errors
    ///
    /// The command cannot be started, or does not end with success.
    pub fn step(&mut self, name: &str, command: &mut Command) -> Result<String> {
        let shown = shown(command);
        let path = match &self.output {
            Output::Streamed => {
                self.stream(name, command)?;
                return Ok(String::new());
            }
            Output::Logged(logs) => logs.join(format!("{}.log", name.replace(' ', "-"))),
        };
        print!("{name:<24} ");
        std::io::stdout().flush()?;

        let log =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        command.current_dir(&self.root).stdout(log.try_clone()?).stderr(log);
        let start = Instant::now();
        let status = command.status();
        let took = start.elapsed();
        let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
        match status {
            Ok(status) if status.success() => {
                println!("ok {:>7.1} s", took.as_secs_f64());
                self.finished.push((name.to_owned(), took));
                Ok(text)
            }
            Ok(status) => {
                println!("FAILED {:>7.1} s\n$ {shown}\n{text}", took.as_secs_f64());
                bail!("step `{name}` failed: {status}")
            }
            Err(error) => {
                println!("FAILED\n$ {shown}");
                Err(error).with_context(|| format!("step `{name}` could not start"))
            }
        }
    }

    /// Runs `command` as the step `name`, its output shown as it comes, whatever the runner does else.
    ///
    /// # Errors
    ///
    /// As [`Runner::step`].
    pub fn stream(&mut self, name: &str, command: &mut Command) -> Result<()> {
        println!("{name}\n$ {}", shown(command));
        let start = Instant::now();
        let status = command
            .current_dir(&self.root)
            .status()
            .with_context(|| format!("step `{name}` could not start"))?;
        if !status.success() {
            bail!("step `{name}` failed: {status}");
        }
        self.finished.push((name.to_owned(), start.elapsed()));
        Ok(())
    }

    /// Runs a check that needs no child process as the step `name`.
    ///
    /// # Errors
    ///
    /// The check's own.
    pub fn check(&mut self, name: &str, check: impl FnOnce() -> Result<String>) -> Result<()> {
        print!("{name:<24} ");
        let start = Instant::now();
        let outcome = check();
        let took = start.elapsed();
        match outcome {
            Ok(_) => {
                println!("ok {:>7.1} s", took.as_secs_f64());
                self.finished.push((name.to_owned(), took));
                Ok(())
            }
            Err(error) => {
                println!("FAILED");
                Err(error).with_context(|| format!("step `{name}` failed"))
            }
        }
    }

    /// How long the finished steps took together.
    pub fn elapsed(&self) -> Duration {
        self.finished.iter().map(|(_, took)| *took).sum()
    }
}

/// A command line as a person would type it, with the variables that it sets.
pub fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        let value = value?.to_string_lossy();
        Some(format!("{}={}", name.to_string_lossy(), quoted(&value)))
    });
    let program = Path::new(command.get_program());
    // Cargo tells its children its own full path: say `cargo` for it.
    let program = if Some(program.as_os_str()) == std::env::var_os("CARGO").as_deref() {
        "cargo".into()
    } else {
        program.to_string_lossy()
    };
    let arguments = command.get_args().map(|argument| quoted(&argument.to_string_lossy()));
    variables
        .chain(std::iter::once(program.into_owned()))
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

/// `word`, in quotes if it is empty or holds a space.
fn quoted(word: &str) -> String {
    if word.is_empty() || word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

/// The compiler of the toolchain in use.
pub fn rustc(arguments: &[&str]) -> Command {
    let mut command = Command::new("rustc");
    command.args(arguments);
    command
}

/// The Cargo that runs this program, or the one on the path.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}
