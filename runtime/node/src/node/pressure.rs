//! What this machine is short of: pressure stall information, memory that is left, the limits of the own control group.
//!
//! Where a file is not there, it says nothing: no shortage is ever guessed. With `AMPHI_FAULTS=1` the file that `AMPHI_PRESSURE_FILE`
//! names is read instead, one line: `memory`, `cpu` or anything else for no shortage.

use std::path::{Path, PathBuf};

use amphi_config::{Environment, HealthConfig};
use amphi_supervisors::scaling::Shortage;

/// Less than this share of all memory left (in percent) is a shortage, whatever the pressure says.
const MEMORY_LEFT_MIN: u64 = 4;

/// Looks at the machine.
#[derive(Debug, Clone)]
pub struct Gauge {
    injected: Option<PathBuf>,
    memory_max: f64,
    cpu_max: f64,
}

impl Gauge {
    /// A gauge with the thresholds of `health`.
    pub fn new(health: &HealthConfig, environment: &Environment) -> Self {
        let faults = environment.get("AMPHI_FAULTS") == Some("1");
        let injected = environment.get("AMPHI_PRESSURE_FILE").filter(|_| faults).map(PathBuf::from);
        Self { injected, memory_max: health.memory_pressure as f64, cpu_max: health.cpu_pressure as f64 }
    }

    /// What the machine is short of now; memory before processor time. Reads a few small files.
    pub fn look(&self) -> Option<Shortage> {
        if let Some(file) = &self.injected {
            return match std::fs::read_to_string(file).unwrap_or_default().trim() {
                "memory" => Some(Shortage::Memory),
                "cpu" => Some(Shortage::Cpu),
                _ => None,
            };
        }
        let over = |what: &str, max: f64| some_avg10(&read(format!("/proc/pressure/{what}"))).is_some_and(|share| share >= max);
        let left = [left_of_machine(&read("/proc/meminfo")), left_of_group(Path::new("/sys/fs/cgroup"))];
        if over("memory", self.memory_max) || left.into_iter().flatten().any(|left| left < MEMORY_LEFT_MIN) {
            return Some(Shortage::Memory);
        }
        over("cpu", self.cpu_max).then_some(Shortage::Cpu)
    }
}

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// `some avg10=1.23 avg60=…` → 1.23.
fn some_avg10(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

/// Percent of the machine's memory that is available.
fn left_of_machine(meminfo: &str) -> Option<u64> {
    let of = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    };
    share(of("MemAvailable:")?, of("MemTotal:")?)
}

/// Percent of the control group's memory that is left, if it has a limit. What could be given back at once is not counted as used.
fn left_of_group(folder: &Path) -> Option<u64> {
    let max: u64 = read(folder.join("memory.max")).trim().parse().ok()?;
    let used: u64 = read(folder.join("memory.current")).trim().parse().ok()?;
    let stat = read(folder.join("memory.stat"));
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "))?.trim().parse().ok()?;
    share(max.saturating_sub(used.saturating_sub(cache)), max)
}

fn share(part: u64, whole: u64) -> Option<u64> {
    part.saturating_mul(100).checked_div(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_words_are_read_and_anything_else_says_nothing() {
        assert_eq!(some_avg10("some avg10=12.50 avg60=3.00 avg300=1.00 total=1\nfull avg10=0.00"), Some(12.5));
        assert_eq!((some_avg10(""), some_avg10("some"), some_avg10("some avg10=x")), (None, None, None));
        assert_eq!(left_of_machine("MemTotal: 1000 kB\nMemAvailable: 250 kB\n"), Some(25));
        assert_eq!((left_of_machine("MemTotal: 0 kB\nMemAvailable: 1 kB"), left_of_machine("x")), (None, None));
        assert_eq!(left_of_group(Path::new("/nowhere")), None);
    }
}
