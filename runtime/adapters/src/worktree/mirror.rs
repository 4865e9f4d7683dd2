//! The repository of one URL on this node: fetched, asked for commits, and the origin of worktrees.
//!
//! The origin's branches stand under `refs/remotes/origin/`, its tags also under `refs/amphi/tags/`, where no task writes: what a task
//! makes is under `refs/heads/` and `refs/tags/`, so a fetch never takes anything away.

use std::fs;
use std::path::Path;

use crate::tools::{Context, Git, ToolError};
use amphi_protocol::journal::Outcome;

use super::about::About;
use super::places::{MirrorPlace, make_folder};

/// What is fetched: all branches and tags.
const REFSPECS: [&str; 2] = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/amphi/tags/*"];
/// Settings of a new repository.
const SETTINGS: [(&str, &str); 2] = [("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*"), ("core.logAllRefUpdates", "true")];
/// Names of a branch that are tried.
const NAMES_MAX: u32 = 100;

/// A repository, to be used while its lock is held.
pub(super) struct Mirror<'a> {
    git: Git<'a>,
    url: &'a str,
}

/// The node could not do it, which is not the task's fault.
fn shortage(error: ToolError) -> ToolError {
    match error.outcome {
        Outcome::Exit => ToolError { outcome: Outcome::Resource, ..error },
        _ => error,
    }
}

/// Git in one folder of this node. One that is not installed is no reason to fail the task: another node may have it.
pub(super) fn git<'a>(context: &'a Context, folder: &Path) -> Result<Git<'a>, ToolError> {
    Git::new(context, folder.to_owned()).map_err(|error| ToolError { outcome: Outcome::NotStarted, ..error })
}

impl<'a> Mirror<'a> {
    /// Opens the repository, made if it is not there.
    pub async fn open(context: &'a Context, place: &MirrorPlace, url: &'a str) -> Result<Self, ToolError> {
        if !place.repository.is_dir() {
            make_folder(&place.folder)?;
            let draft = place.folder.join("draft");
            if draft.exists() {
                fs::remove_dir_all(&draft)?;
            }
            make_folder(&draft)?;
            let git = git(context, &draft)?;
            git.must("make a repository", &["init", "--quiet", "--bare", "--template="], &[]).await.map_err(shortage)?;
            for (name, value) in SETTINGS.into_iter().chain([("remote.origin.url", url)]) {
                git.must("configure a repository", &["config"], &[name, value]).await.map_err(shortage)?;
            }
            fs::rename(&draft, &place.repository)?;
        }
        Ok(Self { git: git(context, &place.repository)?, url })
    }

    /// Brings what the origin has now.
    pub async fn fetch(&self) -> Result<(), ToolError> {
        self.fetch_these(&REFSPECS).await
    }

    async fn fetch_these(&self, refspecs: &[&str]) -> Result<(), ToolError> {
        let words = ["fetch", "--quiet", "--prune", "--force", "--no-recurse-submodules", "--no-write-fetch-head", "--"];
        let values: Vec<&str> = [self.url].into_iter().chain(refspecs.iter().copied()).collect();
        self.git.must(&format!("fetch from `{}`", self.url), &words, &values).await.map(drop).map_err(shortage)
    }

    /// The commit that `reference` means at the origin now, fetched; without a reference, that of its head.
    pub async fn resolve(&self, reference: Option<&str>) -> Result<String, ToolError> {
        let missing = |what: &str| ToolError::failed(format!("the repository `{}` has no {what}", self.url));
        let Some(name) = reference else {
            // The others stay as they are: whoever needs them fetches them.
            let head = self.fetch_these(&["+HEAD:refs/amphi/head"]).await;
            self.fetch().await?;
            head.map_err(|error| missing(&format!("head to begin at; name a branch with `ref` ({})", error.text)))?;
            return self.git.commit_of("refs/amphi/head").await?.ok_or_else(|| missing("commit"));
        };
        self.fetch().await?;
        for full in [format!("refs/remotes/origin/{name}"), format!("refs/amphi/tags/{name}")] {
            if let Some(commit) = self.git.commit_of(&full).await? {
                return Ok(commit);
            }
        }
        if name.starts_with("refs/") {
            self.fetch_these(&[&format!("+{name}:refs/amphi/other/{name}")]).await.map_err(|error| ToolError::failed(error.text))?;
            return self.git.commit_of(&format!("refs/amphi/other/{name}")).await?.ok_or_else(|| missing(&format!("`{name}`")));
        }
        let is_hash = (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hash && let Some(commit) = self.commit(name).await? {
            return Ok(commit);
        }
        Err(missing(&format!("branch, tag or commit `{name}`")))
    }

    /// Sees to it that `commit` is here.
    pub async fn bring(&self, commit: &str) -> Result<(), ToolError> {
        if self.git.commit_of(commit).await?.is_some() {
            return Ok(());
        }
        self.fetch().await?;
        match self.commit(commit).await? {
            Some(_) => Ok(()),
            None => Err(ToolError::failed(format!("`{}` no longer has the commit {commit}, at which this epic began", self.url))),
        }
    }

    /// A commit that no branch or tag may lead to: servers may give it away or not.
    async fn commit(&self, name: &str) -> Result<Option<String>, ToolError> {
        if let Some(commit) = self.git.commit_of(name).await? {
            return Ok(Some(commit));
        }
        if matches!(name.len(), 40 | 64) && self.fetch_these(&[name]).await.is_ok() {
            return self.git.commit_of(name).await;
        }
        Ok(None)
    }

    /// Makes a worktree at `tree` on a new branch; returns the branch's name. Commits under a name that is taken are somebody's work.
    pub async fn add(&self, tree: &Path, branch: &str, commit: &str) -> Result<String, ToolError> {
        // Worktrees whose folder a person has removed.
        self.git.must("look at the worktrees", &["worktree", "prune"], &[]).await.map_err(shortage)?;
        let mut name = branch.to_owned();
        for number in 2..=NAMES_MAX {
            if self.git.commit_of(&format!("refs/heads/{name}")).await?.is_none() {
                break;
            }
            name = format!("{branch}-{number}");
        }
        let tree = tree.to_str().ok_or_else(|| ToolError::failed("the data folder of this node has a name that is not UTF-8"))?;
        let words = ["worktree", "add", "--quiet", "--no-track", "-b"];
        self.git.must("make a worktree", &words, &[&name, tree, commit]).await.map_err(shortage)?;
        Ok(name)
    }

    /// Removes a worktree and its branch. Only of one that holds nothing of its own.
    pub async fn remove(&self, tree: &Path, about: &About) -> Result<(), ToolError> {
        let path = tree.to_str().ok_or_else(|| ToolError::failed("the worktree has a name that is not UTF-8"))?;
        self.git.must("remove a worktree", &["worktree", "remove", "--force"], &[path]).await?;
        self.git.must("remove a branch", &["update-ref", "-d"], &[&format!("refs/heads/{}", about.branch)]).await.map(drop)
    }
}
