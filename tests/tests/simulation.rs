//! The simulation inside the ordinary tests: some hundred histories. `make test` plays 10,000 with the program `simulate`, which also
//! demands that every fault was injected and every state reached.

use amphi_tests::simulation::sweep::{STEPS, sweep};
use amphi_tests::simulation::{Options, run};

#[test]
fn histories_full_of_faults_break_no_law() {
    // Other seeds than those of `simulate`.
    let report = sweep(1_000_000..1_000_500, Options { steps: STEPS, trace: false }, false);
    println!("{}", report.text());
    assert!(report.failures.is_empty(), "{}", report.text());
    assert!(report.steps_min >= 200, "a history has only {} steps", report.steps_min);
}

#[test]
fn the_same_seed_is_the_same_history() {
    let options = Options { steps: STEPS, trace: false };
    for seed in 0..20 {
        let (one, other) = (run(seed, options), run(seed, options));
        assert_eq!((one.steps, one.commits, one.tally.table()), (other.steps, other.commits, other.tally.table()));
    }
}
