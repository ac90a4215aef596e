//! Where and when a figure was measured.

use std::fs;
use std::process::Command;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// The circumstances of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Circumstances {
    /// When it ran (UTC).
    pub date: String,
    /// The commit it was built from, with `+` if the tree had changes.
    pub commit: String,
    /// The compiler.
    pub rustc: String,
    /// The processor.
    pub cpu: String,
    /// How many cores the system has.
    pub cores: usize,
    /// The kernel.
    pub system: String,
}

impl Circumstances {
    /// Those of this process, as far as they can be found out.
    pub fn now() -> Self {
        let first_line = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output().ok()?;
            let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
            Some(text.lines().next().unwrap_or_default().to_owned())
        };
        let unknown = || "unknown".to_owned();
        let changed = first_line("git", &["status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|line| !line.is_empty());
        let commit =
            first_line("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(unknown);
        Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: if changed { commit + "+" } else { commit },
            rustc: first_line("rustc", &["--version"]).unwrap_or_else(unknown),
            cpu: fs::read_to_string("/proc/cpuinfo")
                .ok()
                .and_then(|text| cpu_model(&text))
                .unwrap_or_else(unknown),
            cores: crate::team::core_count(),
            system: first_line("uname", &["-sr"]).unwrap_or_else(unknown),
        }
    }
}

/// The processor's name in the text of `/proc/cpuinfo`, with its family and model where its name
/// says little.
fn cpu_model(text: &str) -> Option<String> {
    let field = |wanted: &str| {
        text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == wanted).then(|| value.trim().to_owned())
        })
    };
    let name = field("model name")?;
    Some(match (field("cpu family"), field("model")) {
        (Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        _ => name,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_processor_is_named_with_family_and_model() {
        let text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n";
        assert_eq!(super::cpu_model(text).as_deref(), Some("AMD EPYC (family 25, model 17)"));
        assert_eq!(super::cpu_model("model name : X").as_deref(), Some("X"));
        assert_eq!(super::cpu_model("Hardware : Y"), None);
    }
}
