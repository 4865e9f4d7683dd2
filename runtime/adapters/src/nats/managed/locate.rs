//! Finds a nats-server program that is new enough.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ManagedError;

/// The oldest version that works: key-value buckets with markers and message expiry.
const VERSION_MIN: (u32, u32) = (2, 11);
/// Where the tool folder has it.
const IN_TOOLS: &str = "bin/nats-server";

/// The first usable `nats-server`: `tools/bin`, `.tools/bin` of the working folder and of the folders above this program, then PATH.
/// Blocking. An unusable one is passed over, and named in the error if none is usable.
pub fn find_server(tools: Option<&Path>) -> Result<PathBuf, ManagedError> {
    let mut places: Vec<PathBuf> = tools.map(|t| t.join(IN_TOOLS)).into_iter().collect();
    let beside = |folder: &Path| folder.join(".tools").join(IN_TOOLS);
    places.extend(std::env::current_dir().ok().map(|folder| beside(&folder)));
    if let Ok(program) = std::env::current_exe() {
        places.extend(program.ancestors().skip(1).map(beside));
    }
    // PATH is where the operating system looks for programs, not a setting of ours.
    let path = std::env::var_os("PATH").unwrap_or_default();
    places.extend(std::env::split_paths(&path).filter(|p| p.is_absolute()).map(|p| p.join("nats-server")));

    let mut looked = Vec::new();
    for place in places {
        if !place.is_file() {
            continue;
        }
        match version(&place) {
            Ok(found) if found >= VERSION_MIN => return Ok(place),
            Ok((major, minor)) => looked.push(format!("{} is {major}.{minor}", place.display())),
            Err(why) => looked.push(format!("{}: {why}", place.display())),
        }
    }
    let looked = if looked.is_empty() { "none in the tool folder or on PATH".to_owned() } else { looked.join(", ") };
    Err(ManagedError::NotFound { looked })
}

fn version(program: &Path) -> Result<(u32, u32), String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| "it does not say its version".to_owned())
}

/// `nats-server: v2.15.1` to `(2, 15)`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.trim().strip_prefix("nats-server: v")?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn a_version_is_read_from_what_the_server_prints() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.12.0-RC.1"), Some((2, 12)));
        assert_eq!(parse_version("something else"), None);
    }
}
