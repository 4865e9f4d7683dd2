//! Laws of the restart policy, over arbitrary histories.

use std::time::Duration;

use amphi_supervisors::policy::{Pace, Rules, Verdict, Window, judge};
use amphi_supervisors::{Backoff, ExitKind, Intensity, OnExhausted, Restart, Strategy};
use proptest::prelude::*;

const EXITS: [ExitKind; 4] = [ExitKind::Normal, ExitKind::Failed, ExitKind::Killed, ExitKind::Shutdown];

fn rules(restart: Restart, max: u32, within_ms: u64, on_exhausted: OnExhausted) -> Rules {
    let intensity = Intensity { max, within: Duration::from_millis(within_ms) };
    Rules { restart, intensity, backoff: Backoff::default(), on_exhausted }
}

#[test]
fn each_restart_type_follows_exactly_its_exits() {
    let table = [
        (Restart::Permanent, [true, true, true, true]),
        (Restart::Transient, [false, true, true, false]),
        (Restart::Temporary, [false, false, false, false]),
    ];
    for (restart, follows) in table {
        for (exit, follows) in EXITS.into_iter().zip(follows) {
            let rules = rules(restart, 3, 1000, OnExhausted::Escalate);
            let verdict = judge(&rules, exit, &mut Window::default(), &mut Pace::default(), Duration::ZERO);
            assert_eq!(matches!(verdict, Verdict::Restart { .. }), follows, "{restart:?} after {exit:?}");
            assert_eq!(verdict == Verdict::Forget, !follows, "{restart:?} after {exit:?}");
        }
    }
}

#[test]
fn a_group_is_the_child_all_or_the_rest() {
    assert_eq!(Strategy::OneForOne.group(1, 4), 1..2);
    assert_eq!(Strategy::OneForAll.group(1, 4), 0..4);
    assert_eq!(Strategy::RestForOne.group(1, 4), 1..4);
}

proptest! {
    #[test]
    fn no_period_ever_holds_more_than_max_restarts(
        max in 0u32..6,
        within_ms in 1u64..2000,
        steps in prop::collection::vec(0u64..700, 1..200),
    ) {
        let rules = rules(Restart::Permanent, max, within_ms, OnExhausted::Quarantine);
        let (mut window, mut pace, mut now) = (Window::default(), Pace::default(), Duration::ZERO);
        let mut restarts: Vec<Duration> = Vec::new();
        for step in steps {
            now += Duration::from_millis(step);
            let recent = restarts.iter().filter(|&&at| now - at < rules.intensity.within).count();
            match judge(&rules, ExitKind::Failed, &mut window, &mut pace, now) {
                Verdict::Restart { .. } => {
                    prop_assert!(recent < max as usize, "restarted though {recent} restarts are in the period");
                    restarts.push(now);
                }
                verdict => {
                    prop_assert_eq!(verdict, Verdict::Quarantine);
                    prop_assert_eq!(recent, max as usize, "refused though there was room");
                }
            }
            prop_assert!(window.len() <= max as usize, "memory is bounded by max");
        }
    }

    #[test]
    fn exits_that_are_not_followed_do_not_count(exits in prop::collection::vec(0usize..4, 1..100)) {
        let rules = rules(Restart::Transient, 3, 1000, OnExhausted::Escalate);
        let (mut window, mut pace) = (Window::default(), Pace::default());
        let mut failures = 0;
        for exit in exits {
            let exit = EXITS[exit];
            let verdict = judge(&rules, exit, &mut window, &mut pace, Duration::ZERO);
            failures += u32::from(exit.is_abnormal());
            let gave_up = exit.is_abnormal() && failures > 3;
            prop_assert_eq!(verdict == Verdict::GiveUp, gave_up);
        }
    }

    #[test]
    fn waits_double_up_to_the_cap_and_begin_anew_after_quiet(
        first_ms in 0u64..500,
        cap_ms in 0u64..10_000,
        quiet_ms in 1u64..5000,
        gaps in prop::collection::vec(0u64..6000, 1..100),
    ) {
        let backoff = Backoff {
            first: Duration::from_millis(first_ms),
            cap: Duration::from_millis(cap_ms),
            quiet: Duration::from_millis(quiet_ms),
        };
        let (mut pace, mut now, mut expected_ms) = (Pace::default(), Duration::ZERO, first_ms);
        for (position, gap) in gaps.into_iter().enumerate() {
            now += Duration::from_millis(gap);
            if position > 0 && gap >= quiet_ms {
                expected_ms = first_ms;
            }
            let delay = pace.next(&backoff, now);
            prop_assert_eq!(delay, Duration::from_millis(expected_ms.min(cap_ms)));
            expected_ms = (expected_ms * 2).min(cap_ms.max(first_ms));
            now += delay; // The child runs again from here on.
        }
    }
}

#[test]
fn a_backoff_that_grew_for_ever_stays_at_its_cap() {
    let backoff = Backoff { first: Duration::from_millis(1), cap: Duration::from_secs(30), quiet: Duration::MAX };
    let mut pace = Pace::default();
    let last = (0..10_000).map(|_| pace.next(&backoff, Duration::ZERO)).last();
    assert_eq!(last, Some(Duration::from_secs(30)));
}
