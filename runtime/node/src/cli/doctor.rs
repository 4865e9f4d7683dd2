//! `amphi doctor`: what is wrong with this machine or with the cluster, and what to do about it.
//!
//! It changes nothing. Each finding is one line; only a `fail` makes the exit code 1.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Failure, exit};
use super::screen::{Paint, Screen, Style, state_mark, visible};
use super::{Global, client, doctor_cluster};

/// `amphi doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Look at this machine only, not at a cluster
    #[arg(long)]
    local: bool,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// As it should be.
    Ok,
    /// It works, but.
    Warn,
    /// It cannot work.
    Fail,
}

impl Mark {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    check: &'static str,
    mark: Mark,
    found: String,
    fix: Option<String>,
}

impl Finding {
    /// Nothing to do.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, mark: Mark::Ok, found: found.into(), fix: None }
    }

    /// Worth knowing; `fix` says what to do.
    pub fn warn(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, mark: Mark::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    /// It cannot work like this; `fix` says what to do.
    pub fn fail(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, mark: Mark::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Free space under which a data folder is a worry: 1 GiB, and 64 MiB under which it cannot work.
const FREE_BYTES_WARN: u64 = 1 << 30;
const FREE_BYTES_MIN: u64 = 64 << 20;

/// Looks at everything.
pub async fn doctor(global: &Global, screen: Screen, args: DoctorArgs) -> Result<u8, Failure> {
    let data = client::data_dir(global)?;
    let mut findings = vec![server_program(), data_folder(&data), disk(&data), process_trees(), cgroup()];
    if !args.local {
        findings.extend(doctor_cluster::look(global, &data).await);
    }
    let ok = findings.iter().all(|finding| finding.mark != Mark::Fail);
    screen.show(&as_json(&findings, ok), |_, style| as_text(&findings, style))?;
    Ok(if ok { exit::OK } else { exit::FAILED })
}

fn as_json(findings: &[Finding], ok: bool) -> Value {
    let checks: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "check": finding.check, "result": finding.mark.as_str(), "found": finding.found, "fix": finding.fix }))
        .collect();
    json!({ "ok": ok, "checks": checks })
}

fn as_text(findings: &[Finding], style: Style) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let (glyph, paint) = state_mark(finding.mark.as_str());
        let mark = style.paint(paint, &format!("{glyph} {:4}", finding.mark.as_str()));
        out.push_str(&format!("{mark}  {:width$}  {}\n", finding.check, visible(&finding.found)));
        if let Some(fix) = &finding.fix {
            out.push_str(&format!("{}{} {}\n", " ".repeat(width + 10), style.paint(Paint::Mark, "→"), visible(fix)));
        }
    }
    out
}

fn server_program() -> Finding {
    match amphi_adapters::nats::managed::find_server(None) {
        Ok(path) => Finding::ok("nats-server", format!("{}{}", path.display(), version_of(&path))),
        Err(error) => Finding::fail("nats-server", error.to_string(), "`make setup` fetches it, or put one of at least 2.11 on PATH"),
    }
}

fn version_of(program: &Path) -> String {
    let output = std::process::Command::new(program).arg("--version").stdin(std::process::Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    text.rsplit(' ').next().filter(|version| !version.is_empty()).map_or(String::new(), |version| format!(" ({version})"))
}

/// The folder itself, or the nearest above it that exists.
fn nearest_existing(path: &Path) -> PathBuf {
    path.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/")).to_owned()
}

fn data_folder(data: &Path) -> Finding {
    let there = nearest_existing(data);
    let writable = nix::unistd::access(&there, nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK);
    match writable {
        Ok(()) if there == data => Finding::ok("data folder", format!("{} is writable", data.display())),
        Ok(()) => Finding::ok("data folder", format!("{} can be made", data.display())),
        Err(error) => {
            Finding::fail("data folder", format!("{} is not writable: {error}", there.display()), "name another one with --data DIR")
        }
    }
}

fn disk(data: &Path) -> Finding {
    let there = nearest_existing(data);
    let space = match nix::sys::statvfs::statvfs(&there) {
        Ok(space) => space,
        Err(error) => return Finding::warn("disk", format!("cannot be asked: {error}"), "look at it with `df`"),
    };
    // The widths of these fields differ between platforms.
    #[allow(clippy::useless_conversion, reason = "u32 on some platforms")]
    let free = u64::from(space.blocks_available()).saturating_mul(u64::from(space.fragment_size()));
    let found = format!("{} MiB free under {}", free >> 20, there.display());
    let fix = "free some space: a full disk stops the journal";
    match free {
        ..FREE_BYTES_MIN => Finding::fail("disk", found, fix),
        FREE_BYTES_MIN..FREE_BYTES_WARN => Finding::warn("disk", found, fix),
        _ => Finding::ok("disk", found),
    }
}

/// The guard of a task keeps its whole process tree: it must be able to become the reaper of orphans.
fn process_trees() -> Finding {
    let reaper = nix::sys::prctl::get_child_subreaper();
    let proc = Path::new("/proc/self/stat").exists();
    match (reaper, proc) {
        (Ok(_), true) => Finding::ok("process trees", "a guard can hold and end them (child subreaper, /proc)"),
        (Err(error), _) => Finding::fail("process trees", format!("no child subreaper: {error}"), "Linux 3.4 or later is needed"),
        (_, false) => Finding::fail("process trees", "/proc is not mounted", "mount it; guards find processes there"),
    }
}

fn cgroup() -> Finding {
    let fix = "not needed: guards walk the process tree instead; with a delegated cgroup2 folder they end it in one step";
    let Ok(own) = std::fs::read_to_string("/proc/self/cgroup") else {
        return Finding::warn("cgroup.kill", "no cgroups here", fix);
    };
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else {
        return Finding::warn("cgroup.kill", "no cgroup2 here", fix);
    };
    let folder: PathBuf = Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/')).components().collect();
    let writable = nix::unistd::access(&folder, nix::unistd::AccessFlags::W_OK).is_ok();
    if writable && (folder.join("cgroup.kill").exists() || has_kill(&folder)) {
        Finding::ok("cgroup.kill", format!("available under {}", folder.display()))
    } else {
        Finding::warn("cgroup.kill", format!("{} is not ours to use", folder.display()), fix)
    }
}

/// The root cgroup has no `cgroup.kill` of its own, the folders below it have.
fn has_kill(folder: &Path) -> bool {
    let below = std::fs::read_dir(folder).into_iter().flatten().flatten();
    below.take(64).any(|entry| entry.path().join("cgroup.kill").exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_say_what_to_do() {
        let findings = [Finding::ok("disk", "9 MiB free"), Finding::fail("nats-server", "none", "make setup")];
        assert_eq!(
            as_text(&findings, Style::PLAIN),
            "✓ ok    disk         9 MiB free\n✗ fail  nats-server  none\n                     → make setup\n"
        );
        assert_eq!(as_json(&findings, false)["checks"][1]["result"], "fail");
    }

    #[test]
    fn a_data_folder_that_does_not_exist_yet_can_be_made() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(data_folder(&dir.path().join("a/b")).mark, Mark::Ok);
        assert_eq!(disk(&dir.path().join("a/b")).check, "disk");
    }
}
