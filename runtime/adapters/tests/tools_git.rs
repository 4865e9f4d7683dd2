//! What the git tools do and refuse, with real repositories.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use amphi_adapters::tools::check_arguments;
use amphi_protocol::journal::{AttemptEnd, Outcome};
use serde_json::json;
use support::{ToolBench, is_alive, wait_until};

fn git(folder: &Path, arguments: &[&str]) -> String {
    let identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"];
    let out = Command::new("git").current_dir(folder).args(identity).args(arguments).output().unwrap();
    assert!(out.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// A repository outside of the workspace: `main` with two commits, the first tagged `v1`, and the branch `side`.
fn upstream(bench: &ToolBench) -> (PathBuf, String, String) {
    let folder = bench.outside("upstream");
    git(&folder, &["init", "--quiet"]);
    std::fs::write(folder.join("a.txt"), "one").unwrap();
    git(&folder, &["add", "."]);
    git(&folder, &["commit", "--quiet", "-m", "first"]);
    git(&folder, &["tag", "v1"]);
    git(&folder, &["branch", "side/one"]);
    std::fs::write(folder.join("a.txt"), "two").unwrap();
    git(&folder, &["commit", "--quiet", "-a", "-m", "second"]);
    let (first, second) = (git(&folder, &["rev-parse", "v1"]), git(&folder, &["rev-parse", "HEAD"]));
    (folder, first, second)
}

fn error(end: &AttemptEnd) -> &str {
    assert_eq!(end.outcome, Outcome::Exit, "{end:?}");
    end.error.as_deref().unwrap()
}

fn text<'a>(end: &'a AttemptEnd, name: &str) -> &'a str {
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    end.outputs[name].as_str().unwrap()
}

#[tokio::test]
async fn a_clone_has_the_branch_the_tag_or_the_commit_that_was_asked_for() {
    let bench = ToolBench::new();
    let (folder, first, second) = upstream(&bench);
    let url = format!("file://{}", folder.display());
    for (name, with, sha, content, branch) in [
        ("d", json!({"url": url, "path": "deep/er/d"}), &second, "two", "main"),
        ("b", json!({"url": url, "ref": "side/one", "path": "b"}), &first, "one", "side/one"),
        ("t", json!({"url": folder.to_str().unwrap(), "ref": "v1", "path": "t"}), &first, "one", "HEAD"),
        ("c", json!({"url": url, "ref": first, "path": "c"}), &first, "one", "HEAD"),
    ] {
        let end = bench.run("git.clone", with.clone()).await;
        assert_eq!(text(&end, "sha"), sha, "{name}");
        let clone = bench.workspace().join(with["path"].as_str().unwrap());
        assert_eq!(std::fs::read_to_string(clone.join("a.txt")).unwrap(), content, "{name}");
        assert_eq!(git(&clone, &["rev-parse", "--abbrev-ref", "HEAD"]), branch, "{name}");
        assert_eq!(git(&clone, &["status", "--porcelain"]), "", "{name}");
    }
    // A path inside the workspace is a source too.
    assert_eq!(text(&bench.run("git.clone", json!({"url": "b", "path": "again"})).await, "ref"), "side/one");
}

#[tokio::test]
async fn a_clone_that_fails_leaves_nothing_and_touches_nothing_that_was_there() {
    let bench = ToolBench::new();
    let (folder, ..) = upstream(&bench);
    let url = folder.to_str().unwrap();
    bench.write("full/file", "mine");
    bench.write("plain", "mine");
    std::fs::create_dir(bench.workspace().join("empty")).unwrap();
    std::os::unix::fs::symlink(bench.outside("other"), bench.workspace().join("way_out")).unwrap();
    let empty = bench.outside("empty");
    git(&empty, &["init", "--quiet"]);
    for (with, said) in [
        (json!({"url": url, "path": "full"}), "not an empty folder"),
        (json!({"url": url, "path": "plain"}), "not an empty folder"),
        (json!({"url": url, "path": "way_out"}), "not an empty folder"),
        (json!({"url": url, "path": "way_out/x"}), "symbolic link"),
        (json!({"url": url, "path": "../x"}), "must stay under the workspace"),
        (json!({"url": url, "path": "/tmp/x"}), "must stay under the workspace"),
        (json!({"url": url, "path": "new", "ref": "nope"}), "has no branch, tag or commit `nope`"),
        (json!({"url": bench.outside("nothing"), "path": "new"}), "git could not clone"),
        (json!({"url": empty, "path": "new"}), "has no commit"),
        (json!({"url": "http://127.0.0.1:1/x.git", "path": "new"}), "git could not clone"),
    ] {
        let end = bench.run("git.clone", with.clone()).await;
        assert!(error(&end).contains(said), "{with}: {end:?}");
    }
    assert_eq!(bench.names("."), ["empty", "full", "plain", "way_out"]);
    assert_eq!(bench.names("full"), ["file"]);
    assert_eq!(std::fs::read_dir(bench.outside("other")).unwrap().count(), 0);
    text(&bench.run("git.clone", json!({"url": url, "path": "empty"})).await, "sha");
}

#[test]
fn what_git_could_take_for_an_option_or_a_helper_is_refused_at_submission() {
    let bad = [
        ("git.clone", json!({"url": "--upload-pack=touch /tmp/x", "path": "x"})),
        ("git.clone", json!({"url": "ext::sh -c touch% /tmp/x", "path": "x"})),
        ("git.clone", json!({"url": "ssh://-oProxyCommand=x/y", "path": "x"})),
        ("git.clone", json!({"url": "ssh://a@-oProxyCommand=x/y", "path": "x"})),
        ("git.clone", json!({"url": "-oProxyCommand=x:y", "path": "x"})),
        ("git.clone", json!({"url": "ftp://host/x", "path": "x"})),
        ("git.clone", json!({"url": "a\nb", "path": "x"})),
        ("git.clone", json!({"url": "../x", "path": "x"})),
        ("git.clone", json!({"url": "", "path": "x"})),
        ("git.clone", json!({"url": "https://h/x", "path": "x", "ref": "--force"})),
        ("git.clone", json!({"url": "https://h/x", "path": "x", "ref": "a b"})),
        ("git.clone", json!({"url": "https://h/x", "path": "x", "ref": "HEAD@{1}"})),
        ("git.clone", json!({"url": "https://h/x", "path": "../x"})),
        ("git.tag", json!({"path": ".", "name": "-d"})),
        ("git.tag", json!({"path": ".", "name": ""})),
        ("git.tag", json!({"path": ".", "name": "a..b"})),
        ("git.commit", json!({"path": ".", "message": " "})),
        ("git.commit", json!({"path": "/", "message": "m"})),
        ("git.commit", json!({"path": ".", "message": "m", "all": "perhaps"})),
        ("git.commit", json!({"path": ".", "message": "m", "author": "nobody"})),
        ("git.commit", json!({"path": ".", "message": "m", "author": "--x <a@b>"})),
    ];
    for (tool, with) in bad {
        assert!(check_arguments(tool, &with).is_err(), "{tool} {with}");
    }
    let good = [
        ("git.clone", json!({"url": "git@host.example:team/repo.git", "path": "x", "ref": "release/1.0"})),
        ("git.clone", json!({"url": "ssh://git@host.example:22/repo.git", "path": "x"})),
        ("git.clone", json!({"url": "${{ inputs.url }}", "path": "${{ inputs.path }}"})),
        ("git.tag", json!({"path": ".", "name": "v2.0.0", "message": "- a list"})),
        ("git.commit", json!({"path": ".", "message": "-m", "all": true, "author": "A B <a@b.example>"})),
    ];
    for (tool, with) in good {
        assert_eq!(check_arguments(tool, &with), Ok(()), "{tool} {with}");
    }
}

fn repository(bench: &ToolBench, name: &str) -> PathBuf {
    let folder = bench.workspace().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    git(&folder, &["init", "--quiet"]);
    folder
}

#[tokio::test]
async fn a_commit_takes_what_is_staged_or_all_and_a_repeated_one_changes_nothing() {
    let bench = ToolBench::new();
    let folder = repository(&bench, "repo");
    bench.write("repo/staged", "1");
    bench.write("repo/sub/new", "1");
    git(&folder, &["add", "staged"]);
    let end = bench.run("git.commit", json!({"path": "repo", "message": "--amend\n\nbody", "author": "Ann <ann@example.org>"})).await;
    assert_eq!((text(&end, "sha"), text(&end, "committed")), (git(&folder, &["rev-parse", "HEAD"]).as_str(), "true"));
    assert_eq!(git(&folder, &["log", "-1", "--format=%an %ae %cn|%s"]), "Ann ann@example.org amphi|--amend");
    assert_eq!(git(&folder, &["status", "--porcelain"]), "?? sub/");
    bench.write("repo/sub/.amphi-1", "what another tool is writing");
    let all = json!({"path": "repo/sub", "message": "all", "all": true});
    let end = bench.run("git.commit", all.clone()).await;
    assert_eq!((text(&end, "committed"), git(&folder, &["status", "--porcelain"]).as_str()), ("true", "?? sub/.amphi-1"));
    let again = bench.run("git.commit", all).await;
    assert_eq!((text(&again, "committed"), text(&again, "sha")), ("false", text(&end, "sha")));
    assert_eq!(git(&folder, &["rev-list", "--count", "HEAD"]), "2");
}

#[tokio::test]
async fn a_tag_is_set_once_and_never_moved() {
    let bench = ToolBench::new();
    let folder = repository(&bench, "repo");
    assert!(error(&bench.run("git.tag", json!({"path": "repo", "name": "v0"})).await).contains("no commit yet"));
    bench.write("repo/a", "1");
    let sha = text(&bench.run("git.commit", json!({"path": "repo", "message": "m", "all": true})).await, "sha").to_owned();
    let end = bench.run("git.tag", json!({"path": "repo", "name": "v1", "message": "the first"})).await;
    assert_eq!((text(&end, "sha"), text(&end, "created")), (sha.as_str(), "true"));
    assert_eq!(git(&folder, &["cat-file", "-t", "v1"]), "tag");
    assert_eq!(text(&bench.run("git.tag", json!({"path": "repo", "name": "v1"})).await, "created"), "false");
    assert_eq!(text(&bench.run("git.tag", json!({"path": "repo", "name": "light"})).await, "created"), "true");
    assert_eq!(git(&folder, &["cat-file", "-t", "light"]), "commit");
    bench.write("repo/a", "2");
    bench.run("git.commit", json!({"path": "repo", "message": "m", "all": true})).await;
    assert!(error(&bench.run("git.tag", json!({"path": "repo", "name": "v1"})).await).contains("there already"));
    assert_eq!(git(&folder, &["rev-parse", "v1^{commit}"]), sha);
}

#[tokio::test]
async fn a_repository_that_is_not_inside_the_workspace_is_refused() {
    let bench = ToolBench::new();
    let (folder, _, second) = upstream(&bench);
    // Above the workspace.
    git(bench.workspace().parent().unwrap(), &["init", "--quiet"]);
    // Through a file, a configured work tree, a common folder, a link.
    bench.write("file/.git", &format!("gitdir: {}/.git\n", folder.display()));
    git(&repository(&bench, "tree"), &["config", "core.worktree", folder.to_str().unwrap()]);
    repository(&bench, "common");
    bench.write("common/.git/commondir", &format!("{}/.git\n", folder.display()));
    std::os::unix::fs::symlink(&folder, bench.workspace().join("link")).unwrap();
    bench.write("plain/file", "1");
    for path in [".", "plain", "file", "tree", "common", "link", "gone"] {
        for (tool, with) in
            [("git.commit", json!({"path": path, "message": "m", "all": true})), ("git.tag", json!({"path": path, "name": "escaped"}))]
        {
            let end = bench.run(tool, with).await;
            assert_eq!(end.outcome, Outcome::Exit, "{tool} {path}: {end:?}");
        }
    }
    assert_eq!((git(&folder, &["rev-parse", "HEAD"]), git(&folder, &["tag"])), (second, "v1".to_owned()));
    // A worktree that the repository outside knows of is what a workspace of kind git is.
    let worktree = bench.workspace().join("worktree");
    git(&folder, &["worktree", "add", "--quiet", "-b", "work", worktree.to_str().unwrap()]);
    bench.write("worktree/new", "1");
    let end = bench.run("git.commit", json!({"path": "worktree", "message": "m", "all": true})).await;
    assert_eq!(git(&folder, &["rev-parse", "work"]), text(&end, "sha"));
}

#[tokio::test]
async fn nothing_that_a_repository_brings_is_run() {
    let bench = ToolBench::new();
    let folder = repository(&bench, "repo");
    let trace = bench.outside("traces");
    let plant = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        let path = bench.outside("programs").join(name);
        std::fs::write(&path, format!("#!/bin/sh\ntouch {}/{name}\ncat\n", trace.display())).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    for hook in
        ["pre-commit", "commit-msg", "prepare-commit-msg", "post-commit", "post-checkout", "reference-transaction", "post-index-change"]
    {
        std::fs::copy(plant(hook), folder.join(".git/hooks").join(hook)).unwrap();
    }
    for (key, name) in [("core.fsmonitor", "fsmonitor"), ("gpg.program", "gpg"), ("core.editor", "editor"), ("core.pager", "pager")] {
        git(&folder, &["config", key, &plant(name)]);
    }
    git(&folder, &["config", "core.hooksPath", folder.join(".git/hooks").to_str().unwrap()]);
    git(&folder, &["config", "commit.gpgSign", "true"]);
    git(&folder, &["config", "tag.gpgSign", "true"]);
    bench.write("repo/a", "1");
    text(&bench.run("git.commit", json!({"path": "repo", "message": "m", "all": true})).await, "sha");
    text(&bench.run("git.tag", json!({"path": "repo", "name": "v1", "message": "m"})).await, "sha");
    git(&folder, &["config", "filter.evil.clean", &plant("filter")]);
    bench.write("repo/.gitattributes", "* filter=evil\n");
    let end = bench.run("git.commit", json!({"path": "repo", "message": "m", "all": true})).await;
    assert!(error(&end).contains("names a command: filter.evil.clean"), "{end:?}");
    let traces: Vec<_> = std::fs::read_dir(&trace).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(traces.is_empty(), "{traces:?}");
}

/// A git that makes half a clone, starts a child of its own and never ends; it writes both pids.
fn hanging_git(bench: &ToolBench) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let folder = bench.outside("bin");
    let pids = bench.outside("pids");
    let half = "for last; do :; done\nmkdir \"$last\" && echo half > \"$last/file\"";
    let script =
        format!("#!/bin/sh\ntrap '' TERM\n{half}\nsleep 1000 &\necho $$ $! > {0}/new\nmv {0}/new {0}/pids\nwait\nwait\n", pids.display());
    std::fs::write(folder.join("git"), script).unwrap();
    std::fs::set_permissions(folder.join("git"), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn pids(bench: &ToolBench) -> Vec<u32> {
    let file = bench.outside("pids").join("pids");
    wait_until("git runs", || file.exists());
    std::fs::read_to_string(file).unwrap().split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_returns_when_git_and_its_children_are_dead_and_leaves_no_half_clone() {
    let bench = ToolBench::new();
    let path = format!("{}:/usr/bin:/bin", hanging_git(&bench).display());
    let running = bench.start_with_path("git.clone", json!({"url": "https://host.invalid/x", "path": "new"}), &path);
    let pids = pids(&bench);
    assert!(pids.len() == 2 && pids.iter().all(|pid| is_alive(*pid)));
    assert_eq!(bench.names(".").len(), 1);
    running.cancel.cancel();
    assert_eq!(running.end().await.outcome, Outcome::Cancelled);
    assert!(pids.iter().all(|pid| !is_alive(*pid)));
    assert!(bench.names(".").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_job_leaves_no_git_behind() {
    let bench = ToolBench::new();
    let path = format!("{}:/usr/bin:/bin", hanging_git(&bench).display());
    let running = bench.start_with_path("git.clone", json!({"url": "https://host.invalid/x", "path": "new"}), &path);
    let pids = pids(&bench);
    running.end.abort();
    wait_until("git is ended by its guard", || pids.iter().all(|pid| !is_alive(*pid)));
}

#[tokio::test]
async fn a_node_without_git_says_so() {
    let bench = ToolBench::new();
    let none = bench.outside("nothing").display().to_string();
    let end = bench.start_with_path("git.clone", json!({"url": "https://host.invalid/x", "path": "new"}), &none).end().await;
    assert_eq!(error(&end), "this node has no `git`");
}
