//! `git.commit {path, message, all, author}`: a commit of what is staged; with `all: true` of all changes and new files.
//!
//! `path` is the repository or a folder in it. Outputs: `sha`, and `committed`, which is false where there was nothing to commit: an
//! attempt that is repeated after its commit was made succeeds.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::git::{Git, check_message, parse_author};
use super::inside::names_of;
use super::{Arguments, Context, Parameter, Tool, ToolError};

/// What other tools are writing at this moment, or left when their node died.
const NOT_OURS: &str = ":(top,exclude,glob)**/.amphi-*";

pub(super) struct GitCommit;

impl Tool for GitCommit {
    fn name(&self) -> &'static str {
        "git.commit"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "path", kind: Kind::Text, is_required: true },
            Parameter { name: "message", kind: Kind::Text, is_required: true },
            Parameter { name: "all", kind: Kind::Flag, is_required: false },
            Parameter { name: "author", kind: Kind::Text, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        arguments.text("path").map_or(Ok(()), |path| names_of(path).map(drop))?;
        arguments.text("message").map_or(Ok(()), check_message)?;
        arguments.text("author").map_or(Ok(()), |author| parse_author(author).map(drop))
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let git = Git::open(context, arguments.text("path").unwrap_or_default()).await?.with_author(arguments.text("author"))?;
            if arguments.flag("all") {
                git.must("stage the changes", &["add", "--all", "--", ":/", NOT_OURS], &[]).await?;
            }
            let before = git.commit_of("HEAD").await?;
            if let Some(sha) = before {
                let tree = git.must("read what is staged", &["write-tree"], &[]).await?;
                if tree == git.must("read the last commit", &["rev-parse", "--verify", "HEAD^{tree}"], &[]).await? {
                    return Ok(outputs(sha, false));
                }
            }
            let message = format!("--message={}", arguments.text("message").unwrap_or_default());
            git.must("commit", &["commit", "--quiet", "--no-verify", "--no-status", "--cleanup=whitespace"], &[&message]).await?;
            let sha = git.commit_of("HEAD").await?.ok_or_else(|| ToolError::failed("git committed, but there is no commit"))?;
            Ok(outputs(sha, true))
        }
        .boxed()
    }
}

fn outputs(sha: String, committed: bool) -> BTreeMap<String, String> {
    BTreeMap::from([("sha".to_owned(), sha), ("committed".to_owned(), committed.to_string())])
}
