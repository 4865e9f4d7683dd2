//! `AMPHI_DEMO_BREAK`: the release fails somewhere for a real reason, and what it did is undone.

use amphi_config::Environment;

use super::judge::last;
use super::voice::Voice;
use super::watch::Ended;
use crate::cli::failure::Failure;
use crate::cli::screen::text_of;

/// The variable.
const VARIABLE: &str = "AMPHI_DEMO_BREAK";

/// Where the release fails; `ops/sabotage.py` sees to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The source does not compile.
    Build,
    /// Production's data stop the migration halfway.
    Migration,
    /// The new API finds itself unhealthy.
    Health,
    /// The smoke test finds the page wrong.
    Smoke,
}

impl Break {
    const ALL: [Self; 4] = [Self::Build, Self::Migration, Self::Health, Self::Smoke];

    /// What the variable says.
    pub(super) fn wanted(environment: &Environment, chaos: bool) -> Result<Option<Self>, Failure> {
        let Some(word) = environment.get(VARIABLE).filter(|word| !word.is_empty()) else { return Ok(None) };
        let words = Self::ALL.map(Self::word).join(", ");
        let Some(found) = Self::ALL.into_iter().find(|known| known.word() == word) else {
            return Err(Failure::usage(format!("{VARIABLE}={word}: the release cannot be broken there")).hint(format!("one of {words}")));
        };
        if chaos {
            return Err(Failure::usage(format!("{VARIABLE} and --chaos exclude each other")).hint("take one of them"));
        }
        Ok(Some(found))
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Migration => "migration",
            Self::Health => "health",
            Self::Smoke => "smoke",
        }
    }

    /// The task that fails.
    fn task(self) -> &'static str {
        match self {
            Self::Build => "compile_api",
            Self::Migration => "apply_migration",
            Self::Health => "deploy_api",
            Self::Smoke => "run_smoke_tests",
        }
    }

    /// What has succeeded then and must be undone, in this order.
    fn undone(self) -> &'static [&'static str] {
        match self {
            Self::Build => &[],
            Self::Migration => &["create_snapshot"],
            Self::Health => &["apply_migration", "create_snapshot"],
            Self::Smoke => &["deploy_web", "deploy_api", "apply_migration", "create_snapshot"],
        }
    }

    /// The release failed where it should, and took back what it had done: `(task that failed, tasks that were undone)`.
    pub(super) fn judge(self, voice: &mut Voice, ended: &Ended) -> Result<(&'static str, Vec<String>), Failure> {
        let task = self.task();
        voice.check("the epic failed", ended.state == "failed", &ended.state)?;
        let failed = last(ended, "task.failed", task);
        voice.check(&format!("{task} failed"), failed.is_some(), &failed.map_or(String::new(), |seq| format!("#{seq}")))?;
        let undone: Vec<String> =
            ended.events.iter().filter(|event| event["type"] == "task.undone").map(|event| text_of(event, "task")).collect();
        let what = match self.undone() {
            [] => "nothing had been done that must be undone",
            _ => "what had been done was undone, the last first",
        };
        voice.check(what, undone == self.undone(), &undone.join(", "))?;
        Ok((task, undone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(value: &str, chaos: bool) -> Result<Option<Break>, Failure> {
        Break::wanted(&Environment::from_iter([(VARIABLE.to_owned(), value.to_owned())]), chaos)
    }

    #[test]
    fn each_word_is_a_place_where_the_release_breaks() {
        for known in Break::ALL {
            assert_eq!(wanted(known.word(), false).expect("known"), Some(known));
        }
        assert_eq!(wanted("", false).expect("nothing"), None);
    }

    #[test]
    fn another_word_or_chaos_at_the_same_time_is_a_usage_error() {
        assert_eq!(wanted("everything", false).expect_err("refused").exit_code(), 2);
        assert_eq!(wanted("smoke", true).expect_err("refused").exit_code(), 2);
    }
}
