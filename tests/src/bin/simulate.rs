//! Plays seeds of the simulation and prints what they reached.
//!
//! `simulate [--seeds A..B | --seeds N [--from A]] [--steps N] [--seed N] [--trace] [--mutant NAME | --mutants]`. Exits 1 if a law was broken or a name of the
//! table was never reached; with a mutant, if it was not noticed.

use std::process::ExitCode;

use amphi_tests::simulation::sweep::{self, Command};

fn main() -> ExitCode {
    match Command::parse(std::env::args().skip(1)) {
        Ok(command) => sweep::perform(&command),
        Err(words) => {
            eprintln!("{words}");
            ExitCode::from(2)
        }
    }
}
