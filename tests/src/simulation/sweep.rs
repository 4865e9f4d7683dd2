//! Many seeds on all the threads that there are, and the report on them.

use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{Options, Outcome, Tally, catch_panics, run};

/// Seeds of `make test`.
pub const SEEDS: Range<u64> = 0..10_000;
/// Steps with faults of each of them.
pub const STEPS: u64 = 240;
/// Seeds within which a planted defect must be noticed.
#[cfg(feature = "mutants")]
const MUTANT_SEEDS: u64 = 500;
const THREADS: usize = 2;

/// What the command line asks for.
#[derive(Debug, Clone)]
pub struct Command {
    seeds: Range<u64>,
    options: Options,
    single: bool,
    mutant: Option<String>,
    mutants: bool,
}

impl Default for Command {
    fn default() -> Self {
        Self { seeds: SEEDS, options: Options { steps: STEPS, trace: false }, single: false, mutant: None, mutants: false }
    }
}

impl Command {
    /// Reads the arguments; the error says what is wrong.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut command = Self::default();
        let (mut arguments, mut from) = (arguments, 0);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
            let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number"));
            match argument.as_str() {
                "--seeds" => {
                    let text = value()?;
                    command.seeds = match text.split_once("..") {
                        Some((from, to)) => number(from)?..number(to)?,
                        None => 0..number(&text)?,
                    };
                }
                "--from" => from = number(&value()?)?,
                "--seed" => {
                    let seed = number(&value()?)?;
                    command.seeds = seed..seed + 1;
                    command.single = true;
                }
                "--steps" => command.options.steps = number(&value()?)?,
                "--trace" => command.options.trace = true,
                "--mutant" => command.mutant = Some(value()?),
                "--mutants" => command.mutants = true,
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        command.seeds = command.seeds.start + from..command.seeds.end + from;
        Ok(command)
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Report {
    /// Counts over all seeds.
    pub tally: Tally,
    /// Seeds played.
    pub seeds: u64,
    /// Events over all seeds.
    pub steps: u64,
    /// Fewest events of a seed.
    pub steps_min: u64,
    /// Records over all seeds.
    pub commits: u64,
    /// The failures, in the order of their seeds.
    pub failures: Vec<Outcome>,
}

/// Plays `seeds`. With `until_first`, stops at the first violation.
pub fn sweep(seeds: Range<u64>, options: Options, until_first: bool) -> Report {
    catch_panics();
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let work = || {
        let mut report = Report { steps_min: u64::MAX, ..Report::default() };
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run(seed, options);
            report.seeds += 1;
            report.steps += outcome.steps;
            report.commits += outcome.commits;
            report.tally.merge(&outcome.tally);
            if outcome.violation.is_some() {
                stop.store(until_first, Ordering::Relaxed);
                report.failures.push(outcome);
            } else {
                report.steps_min = report.steps_min.min(outcome.steps);
            }
        }
        report
    };
    let reports: Vec<Report> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a player does not panic")).collect()
    });
    let mut all = Report { steps_min: u64::MAX, ..Report::default() };
    for report in reports {
        all.seeds += report.seeds;
        all.steps += report.steps;
        all.steps_min = all.steps_min.min(report.steps_min);
        all.commits += report.commits;
        all.tally.merge(&report.tally);
        all.failures.extend(report.failures);
    }
    all.failures.sort_by_key(|outcome| outcome.seed);
    all
}

impl Report {
    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} seeds, {} steps (fewest {}), {} commits, {} violations\n{}",
            self.seeds,
            self.steps,
            self.steps_min,
            self.commits,
            self.failures.len(),
            self.tally.table()
        );
        for outcome in self.failures.iter().take(20) {
            text.push_str(&format!("{}\n", replay_line(outcome)));
        }
        text
    }
}

/// The line that plays a failure again.
pub fn replay_line(outcome: &Outcome) -> String {
    let words = outcome.violation.as_deref().unwrap_or("no violation");
    let steps = if outcome.steps_asked == STEPS { String::new() } else { format!(" --steps {}", outcome.steps_asked) };
    format!("seed {}: {words}\n  cargo run -p amphi-tests --bin simulate -- --seed {}{steps}", outcome.seed, outcome.seed)
}

/// Does what the command line asks for.
pub fn perform(command: &Command) -> ExitCode {
    if command.mutants || command.mutant.is_some() {
        return perform_mutants(command);
    }
    let report = sweep(command.seeds.clone(), command.options, false);
    print!("{}", report.text());
    let missing = if command.single { Vec::new() } else { report.tally.missing() };
    if !missing.is_empty() {
        println!("never reached: {}", missing.join(", "));
    }
    if report.failures.is_empty() && missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(feature = "mutants"))]
fn perform_mutants(_: &Command) -> ExitCode {
    eprintln!("this build has no planted defects: cargo run -p amphi-tests --features mutants --bin simulate -- --mutants");
    ExitCode::from(2)
}

#[cfg(feature = "mutants")]
fn perform_mutants(command: &Command) -> ExitCode {
    use amphi_coordination::mutants::{Mutant, plant};
    let wanted = |name: &str| command.mutants || command.mutant.as_deref() == Some(name);
    let chosen: Vec<(Mutant, &str)> = Mutant::ALL.into_iter().filter(|(_, name)| wanted(name)).collect();
    if chosen.is_empty() {
        eprintln!("known mutants: {}", Mutant::ALL.map(|(_, name)| name).join(", "));
        return ExitCode::from(2);
    }
    let mut all_noticed = true;
    for (mutant, name) in chosen {
        plant(mutant);
        let report = sweep(0..MUTANT_SEEDS, command.options, true);
        match report.failures.first() {
            Some(outcome) => {
                let words: String = outcome.violation.as_deref().unwrap_or_default().chars().take(110).collect();
                println!("{name:<22} noticed after {:>3} seeds (seed {}): {words}", report.seeds, outcome.seed);
            }
            None => {
                println!("{name:<22} NOT NOTICED in {} seeds", report.seeds);
                all_noticed = false;
            }
        }
    }
    if all_noticed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
