//! What a worktree holds that is nowhere else. A doubt is an error, and whoever gets one keeps the worktree.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tools::{Git, ToolError};

use super::about::About;

/// Files in a worktree's own git folder that say that something was begun and not finished.
const UNFINISHED: [&str; 6] = ["rebase-merge", "rebase-apply", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG"];
/// How far back the movements of its head are looked at.
const MOVES_MAX: &str = "1000";

/// Work that is nowhere else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Files that are changed or new and not committed.
    pub files: usize,
    /// Commits that the origin does not have, as far as this node knows.
    pub commits: usize,
    /// Anything else, in words.
    pub others: Vec<&'static str>,
}

impl Work {
    pub fn is_none(&self) -> bool {
        self.files == 0 && self.commits == 0 && self.others.is_empty()
    }

    /// For people.
    pub fn in_words(&self) -> String {
        let count = |number: usize, one: &str, many: &str| match number {
            0 => None,
            1 => Some(format!("1 {one}")),
            _ => Some(format!("{number} {many}")),
        };
        let files = count(self.files, "file that is not committed", "files that are not committed");
        let commits = count(self.commits, "commit that the origin does not have", "commits that the origin does not have");
        files.into_iter().chain(commits).chain(self.others.iter().map(|other| (*other).to_owned())).collect::<Vec<_>>().join(", ")
    }
}

/// Looks at the worktree in which `git` stands.
pub(super) async fn look(git: &Git<'_>, about: &About) -> Result<Work, ToolError> {
    let words = ["status", "--porcelain=v1", "--no-renames", "--untracked-files=all", "--ignore-submodules=none"];
    let files = git.must("look for changes", &words, &[]).await?.lines().count();
    let mut others = Vec::new();
    // Also of files that the index was told to take for unchanged.
    if files == 0 && git.run(&["update-index", "--really-refresh"], &[]).await?.code != 0 {
        others.push("a change that the index hides");
    }
    let own = git.must("find its folder", &["rev-parse", "--absolute-git-dir"], &[]).await?;
    if UNFINISHED.iter().any(|name| Path::new(&own).join(name).exists()) {
        others.push("a merge or rebase that is not finished");
    }
    let stashes = git.must("look for stashes", &["stash", "list", "--format=%gs"], &[]).await?;
    if stashes.lines().any(|line| line.contains(&format!("n {}: ", about.branch))) {
        others.push("a stash");
    }
    Ok(Work { files, commits: commits(git, about).await?, others })
}

/// Commits on its head, on its branch, and on branches that its head was on, which no ref of the origin leads to.
async fn commits(git: &Git<'_>, about: &About) -> Result<usize, ToolError> {
    let head = git.commit_of("HEAD").await?;
    let moves = git.run(&["reflog", "show", "--format=%H", "-n", MOVES_MAX, "HEAD"], &[]).await?;
    let moves: BTreeSet<&str> = moves.stdout.lines().collect();
    let listed = git.must("list the branches", &["for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/"], &[]).await?;
    let own = format!("refs/heads/{}", about.branch);
    let branches = listed.lines().filter_map(|line| line.split_once(' '));
    let mut tips: BTreeSet<&str> =
        branches.filter(|(commit, name)| *name == own || moves.contains(commit)).map(|(commit, _)| commit).collect();
    tips.extend(head.as_deref());
    if tips.is_empty() {
        return Ok(0);
    }
    let mut values: Vec<&str> = tips.into_iter().collect();
    // The commit at which it began came from the origin, whatever became of it there.
    values.extend(["--not", "--remotes=origin", "--glob=refs/amphi/*", &about.commit]);
    let counted = git.must("count the commits", &["rev-list", "--count"], &values).await?;
    counted.parse().map_err(|_| ToolError::failed(format!("git counts `{counted}` commits")))
}
