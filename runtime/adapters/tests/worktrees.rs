//! What holds of `git` workspaces, with real repositories and real commands.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use amphi_adapters::process::{GuardCommand, ProcessConfig, ProcessEngine};
use amphi_adapters::tools::{Engines, ToolEngine};
use amphi_adapters::worktree::{GitWorkspaces, WorktreeConfig};
use amphi_ports::{Engine, JobOrder, OutputSource, Pins, StoreError};
use amphi_protocol::document::{Work, Workspace};
use amphi_protocol::ids::{AttemptRef, EpicId, RoleName, Token};
use amphi_protocol::journal::{AttemptEnd, Outcome};
use amphi_protocol::node::Job;
use futures::future::BoxFuture;
use serde_json::json;
use support::{Memory, Running, job, shell};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
    let out = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(out.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Commits of tasks need an author.
const WHO: &str = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b\n";

/// What several nodes share.
#[derive(Default)]
struct Decided(Mutex<BTreeMap<String, String>>);

impl Pins for Decided {
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move { Ok(self.0.lock().unwrap().get(name).cloned()) })
    }

    fn decide<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, Result<String, StoreError>> {
        Box::pin(async move { Ok(self.0.lock().unwrap().entry(name.to_owned()).or_insert_with(|| value.to_owned()).clone()) })
    }
}

/// A repository, and nodes that work on it.
struct Stage {
    folder: tempfile::TempDir,
    decided: Arc<Decided>,
}

struct Node {
    engine: GitWorkspaces,
    memory: Arc<Memory>,
    data: PathBuf,
    url: String,
}

impl Stage {
    /// The origin is bare, so that tasks can push to it: `main` with one commit, which has `a.txt` and ignores `*.o`.
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().unwrap(), decided: Arc::default() };
        let seed = stage.path("seed");
        std::fs::create_dir(&seed).unwrap();
        git(&seed, &["init", "--quiet"]);
        std::fs::write(seed.join("a.txt"), "one").unwrap();
        std::fs::write(seed.join(".gitignore"), "*.o\n").unwrap();
        git(&seed, &["add", "."]);
        git(&seed, &["commit", "--quiet", "-m", "first"]);
        git(stage.folder.path(), &["clone", "--quiet", "--bare", "seed", "origin.git"]);
        git(&seed, &["remote", "add", "origin", "../origin.git"]);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One more commit on `main` of the origin.
    fn move_on(&self) {
        let seed = self.path("seed");
        std::fs::write(seed.join("a.txt"), "two").unwrap();
        git(&seed, &["commit", "--quiet", "-am", "second"]);
        git(&seed, &["push", "--quiet", "origin", "main"]);
    }

    fn node(&self, name: &str) -> Node {
        self.node_that_keeps(name, 50)
    }

    fn node_that_keeps(&self, name: &str, worktrees_max: usize) -> Node {
        let data = self.path(name);
        let home = self.path("home").display().to_string();
        let mut config = ProcessConfig::new(data.clone(), home);
        config.guard = GuardCommand { program: env!("CARGO_BIN_EXE_amphi-test-node").into(), arguments: vec!["guard".into()] };
        let (guard, basics) = (config.guard.clone(), config.basics.clone());
        let memory = Arc::new(Memory::default());
        let tools = ToolEngine::new(data.clone(), &BTreeMap::new()).with_programs(basics.clone(), guard.clone());
        let processes = ProcessEngine::open(config, memory.clone(), memory.clone()).unwrap();
        let engines = Arc::new(Engines::new(Arc::new(processes), Arc::new(tools)));
        let config = WorktreeConfig { data_dir: data.clone(), guard, basics, worktrees_max };
        let engine = GitWorkspaces::open(config, engines, memory.clone(), self.decided.clone(), &BTreeMap::new()).unwrap();
        Node { engine, memory, data, url: self.path("origin.git").display().to_string() }
    }
}

impl Node {
    fn start(&self, task: &str, attempt: u32, job: Job) -> Running {
        let url = self.url.clone();
        self.start_at(task, attempt, Workspace::Git { url, reference: Some("main".to_owned()) }, job)
    }

    fn start_at(&self, task: &str, attempt: u32, workspace: Workspace, job: Job) -> Running {
        let i = task.bytes().map(u32::from).sum();
        let attempt = AttemptRef { epic: EpicId::parse("epic-1").unwrap(), i, run: 1, attempt };
        let order = JobOrder {
            attempt,
            task: task.to_owned(),
            token: Token(7),
            job: Arc::new(Job { workspace, ..job }),
            hurry: CancellationToken::new(),
            role: RoleName::parse("BuildMaster").unwrap(),
        };
        let (news, heard) = mpsc::unbounded_channel();
        let cancel = CancellationToken::new();
        Running { end: tokio::spawn(self.engine.run(order, news, cancel.clone())), heard, cancel }
    }

    /// Runs a script in a worktree; it must succeed. Returns what it wrote.
    async fn run(&self, task: &str, attempt: u32, script: &str) -> String {
        let before = self.memory.text(OutputSource::Out).len();
        let end = self.start(task, attempt, shell(&format!("set -e\n{WHO}{script}"))).end().await;
        assert_eq!(end.outcome, Outcome::Succeeded, "{end:?} {}", self.memory.text(OutputSource::Err));
        self.memory.text(OutputSource::Out)[before..].trim().to_owned()
    }

    fn said(&self) -> String {
        self.memory.text(OutputSource::Err)
    }

    /// The worktrees that are there.
    fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.data.join("worktrees"))
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    fn branches(&self) -> String {
        let mirror = std::fs::read_dir(self.data.join("git/mirrors")).unwrap().next().unwrap().unwrap().path();
        git(&mirror.join("repository.git"), &["for-each-ref", "--format=%(refname:short)", "refs/heads"])
    }
}

fn failed(end: &AttemptEnd, outcome: Outcome) -> &str {
    assert_eq!(end.outcome, outcome, "{end:?}");
    end.error.as_deref().unwrap()
}

#[tokio::test]
async fn each_run_has_a_worktree_of_its_own_on_a_branch_of_its_own() {
    let stage = Stage::new();
    let node = stage.node("n1");
    let script = "git rev-parse --abbrev-ref HEAD; cat a.txt; echo; git status --porcelain; pwd";
    let (one, two) = tokio::join!(node.run("build", 1, script), node.run("unit[a,b]", 1, "pwd; git branch --show-current"));
    let expected = format!("amphi/epic-1/build/1\none\n{}", node.data.canonicalize().unwrap().join("worktrees/epic-1.build.1").display());
    assert!(one.contains(&expected) || two.contains(&expected), "{one}\n--\n{two}");
    assert!(format!("{one}{two}").contains("amphi/epic-1/unit-a-b-"), "{one}\n--\n{two}");
    // Nothing was left in them, ignored files do not count, and so nothing of them stays.
    node.run("clean", 1, "touch x.o").await;
    assert_eq!((node.kept(), node.branches()), (vec![], String::new()));
    assert!(std::fs::read_dir(node.data.join("git/runs")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_worktree_with_work_that_is_nowhere_else_is_kept_and_said() {
    let stage = Stage::new();
    let node = stage.node("n1");
    for (task, script, why) in [
        ("changed", "echo more > a.txt", "1 file that is not committed"),
        ("new", "touch b c", "2 files that are not committed"),
        ("committed", "echo 2 > a.txt; git commit -qam x; echo 3 > a.txt; git commit -qam y", "2 commits that the origin does not have"),
        ("detached", "git checkout -q --detach; echo 2 > a.txt; git commit -qam x", "1 commit that"),
        ("elsewhere", "git checkout -qb other; echo 2 > a.txt; git commit -qam x; git checkout -q -", "1 commit that"),
        ("stashed", "echo 2 > a.txt; git stash -q", "a stash"),
        ("hidden", "git update-index --assume-unchanged a.txt; echo changed > a.txt", "a change that the index hides"),
        (
            "merging",
            "git commit -q --allow-empty -m x; git push -q origin HEAD:refs/heads/m; git merge --no-ff --no-commit -q HEAD~0 || true; touch $(git rev-parse --git-dir)/MERGE_HEAD",
            "a merge or rebase that is not finished",
        ),
    ] {
        node.run(task, 1, script).await;
        let line = format!("amphi: the worktree is kept ({why}");
        let said = node.said();
        assert!(said.lines().any(|said| said.starts_with(&line) && said.contains(&format!("worktrees/epic-1.{task}.1"))), "{task}: {said}");
    }
    assert_eq!(node.kept().len(), 8);
    // The next life of the node keeps them too.
    drop(node);
    let node = stage.node("n1");
    node.engine.sweep().await;
    assert_eq!(node.kept().len(), 8);
    let tree = node.data.join("worktrees/epic-1.changed.1");
    assert_eq!(std::fs::read_to_string(tree.join("a.txt")).unwrap(), "more\n");
    // Once a person has done something about it, it goes.
    git(&tree, &["checkout", "--quiet", "."]);
    node.engine.sweep().await;
    assert!(!tree.exists());
    assert_eq!(node.kept().len(), 7);
}

#[tokio::test]
async fn what_was_pushed_need_not_be_kept() {
    let stage = Stage::new();
    let node = stage.node("n1");
    node.run("branch", 1, "echo 2 > a.txt; git commit -qam x; git push -q origin HEAD:refs/heads/feature").await;
    // A push by URL, and of a tag only, leaves no trace in this repository.
    let url = node.url.clone();
    node.run("tag", 1, &format!("echo 3 > a.txt; git commit -qam y; git tag v9; git push -q {url} v9")).await;
    assert_eq!((node.kept(), node.branches()), (vec![], String::new()), "{}", node.said());
    let origin = stage.path("origin.git");
    assert_eq!(git(&origin, &["show", "feature:a.txt"]), "2");
    assert_eq!(git(&origin, &["show", "v9:a.txt"]), "3");
}

#[tokio::test]
async fn all_runs_of_an_epic_begin_at_the_same_commit_on_all_nodes() {
    let stage = Stage::new();
    let (one, two) = (stage.node("n1"), stage.node("n2"));
    assert_eq!(one.run("a", 1, "cat a.txt").await, "one");
    stage.move_on();
    assert_eq!(one.run("b", 1, "git fetch -q; cat a.txt").await, "one");
    assert_eq!(two.run("c", 1, "cat a.txt; git show origin/main:a.txt").await, "onetwo");
    // The commit stays reachable to them when the origin forgets it.
    let seed = stage.path("seed");
    git(&seed, &["commit", "--quiet", "--amend", "-m", "rewritten"]);
    git(&seed, &["push", "--quiet", "--force", "origin", "main"]);
    assert_eq!(two.run("d", 1, "cat a.txt").await, "one");
}

#[tokio::test]
async fn attempts_of_a_run_share_their_worktree_on_a_node_and_begin_again_on_another() {
    let stage = Stage::new();
    let (one, two) = (stage.node("n1"), stage.node("n2"));
    one.run("t", 1, "echo half > a.txt; touch $(git rev-parse --git-dir)/index.lock").await;
    drop(one);
    let one = stage.node("n1");
    assert_eq!(one.run("t", 2, "cat a.txt; git commit -qam done; git push -q origin HEAD:refs/heads/t").await, "half");
    assert!(one.said().contains("going on in the worktree"), "{}", one.said());
    assert_eq!(one.kept(), Vec::<String>::new());
    assert_eq!(two.run("t", 3, "cat a.txt").await, "one");
    // One that git does not understand is put aside, not removed.
    two.run("u", 1, "echo mine > a.txt; rm .git").await;
    assert_eq!(two.run("u", 2, "cat a.txt").await, "one");
    let kept = two.kept();
    assert!(kept.len() == 1 && kept[0].starts_with("epic-1.u.aside-"), "{kept:?}");
    assert_eq!(std::fs::read_to_string(two.data.join("worktrees").join(&kept[0]).join("a.txt")).unwrap(), "mine\n");
}

#[tokio::test]
async fn what_a_killed_node_left_does_not_stand_in_the_way() {
    let stage = Stage::new();
    let node = stage.node("n1");
    let mut running = node.start("t", 1, shell("sleep 1000"));
    running.started().await;
    // As if the node was killed: nobody gives the worktree back.
    running.end.abort();
    let _ = running.end.await;
    let mirror = std::fs::read_dir(node.data.join("git/mirrors")).unwrap().next().unwrap().unwrap().path().join("repository.git");
    drop(node);
    for lock in
        ["config.lock", "packed-refs.lock", "refs/amphi/tags/x.lock", "worktrees/epic-1.t.1/index.lock", "worktrees/epic-1.t.1/HEAD.lock"]
    {
        std::fs::create_dir_all(mirror.join(lock).parent().unwrap()).unwrap();
        std::fs::write(mirror.join(lock), "").unwrap();
    }
    let node = stage.node("n1");
    node.engine.sweep().await;
    assert_eq!(node.kept(), Vec::<String>::new(), "{}", node.said());
    assert_eq!(node.run("t", 2, "git config user.name x; cat a.txt; git pack-refs --all").await, "one");
}

#[tokio::test]
async fn a_worktree_that_cannot_be_made_says_why_in_the_words_of_git() {
    let stage = Stage::new();
    let node = stage.node("n1");
    let at = |url: &str, reference: Option<&str>| Workspace::Git { url: url.to_owned(), reference: reference.map(str::to_owned) };
    let url = node.url.clone();
    let end = node.start_at("a", 1, at(&url, Some("nope")), shell("true")).end().await;
    assert!(failed(&end, Outcome::Exit).ends_with("has no branch, tag or commit `nope`"), "{end:?}");
    let end = node.start_at("b", 1, at("/nowhere/x", None), shell("true")).end().await;
    assert!(failed(&end, Outcome::Resource).contains("'/nowhere/x' does not appear to be a git repository"), "{end:?}");
    std::fs::create_dir(stage.path("empty")).unwrap();
    git(&stage.path("empty"), &["init", "--quiet", "--bare"]);
    let end = node.start_at("c", 1, at(stage.path("empty").to_str().unwrap(), None), shell("true")).end().await;
    assert!(failed(&end, Outcome::Exit).contains("has no head to begin at"), "{end:?}");
    let unused = node.start_at("d", 1, at(&url, None), shell("cat a.txt"));
    assert_eq!(unused.end().await.outcome, Outcome::Succeeded);
    let first = git(&stage.path("origin.git"), &["rev-parse", "main"]);
    let stage = Stage { decided: Arc::default(), ..stage };
    let node = stage.node("n2");
    let end =
        node.start_at("e", 1, at(&url, Some(&first[..12])), shell("test $(git rev-parse HEAD) = $(git rev-parse origin/main)")).end().await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(node.kept(), Vec::<String>::new());
}

#[tokio::test]
async fn a_node_keeps_only_so_many_and_refuses_clearly() {
    let stage = Stage::new();
    let node = stage.node_that_keeps("n1", 2);
    node.run("a", 1, "touch x").await;
    node.run("b", 1, "touch x").await;
    let end = node.start("c", 1, shell("true")).end().await;
    let error = failed(&end, Outcome::Resource);
    assert!(error.contains("2 are kept on this node") && error.contains("worktrees"), "{error}");
    std::fs::remove_file(node.data.join("worktrees/epic-1.a.1/x")).unwrap();
    node.run("c", 1, "true").await;
    assert_eq!(node.kept(), vec!["epic-1.b.1"]);
}

#[tokio::test]
async fn tools_work_in_worktrees_and_a_workdir_is_below_them() {
    let stage = Stage::new();
    let node = stage.node("n1");
    let write = job(Work::Tool { tool: "file.write".to_owned(), with: json!({"path": "b.txt", "text": "b"}) });
    let end = node.start("w", 1, write).end().await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    let commit = job(Work::Tool { tool: "git.commit".to_owned(), with: json!({"path": ".", "message": "b", "all": true}) });
    let end = node.start("w", 2, commit).end().await;
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    assert_eq!(git(&node.data.join("worktrees/epic-1.w.1"), &["log", "-1", "--format=%s"]), "b");
    let end = node.start("v", 1, Job { workdir: Some("missing".to_owned()), ..shell("true") }).end().await;
    assert!(failed(&end, Outcome::Exit).contains("`missing` cannot be used: it is not there"), "{end:?}");
}

#[tokio::test]
async fn a_cancel_ends_a_worktree_under_way() {
    let stage = Stage::new();
    let node = stage.node("n1");
    let running = node.start("t", 1, shell("sleep 1000"));
    running.cancel.cancel();
    assert_eq!(running.end().await.outcome, Outcome::Cancelled);
    assert_eq!(node.kept(), Vec::<String>::new());
}
