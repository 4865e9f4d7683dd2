//! `git.clone {url, ref, path}`: a clone of a repository at a new place inside the workspace, all of it or nothing.
//!
//! `ref` is a branch, a tag or a commit; without it the default branch. Submodules are left out. Outputs: `sha`, `ref`, `ms`.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use nix::errno::Errno;
use nix::fcntl::renameat;

use super::arguments::Kind;
use super::git::{Git, Source, check_name, parse_source};
use super::inside::{Spot, names_of, open_folder, real};
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct GitClone;

impl Tool for GitClone {
    fn name(&self) -> &'static str {
        "git.clone"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "url", kind: Kind::Text, is_required: true },
            Parameter { name: "ref", kind: Kind::Text, is_required: false },
            Parameter { name: "path", kind: Kind::Text, is_required: true },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        arguments.text("url").map_or(Ok(()), |url| parse_source(url).map(drop))?;
        arguments.text("ref").map_or(Ok(()), |name| check_name("ref", name))?;
        arguments.text("path").map_or(Ok(()), |path| names_of(path).map(drop))
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let began = Instant::now();
            let path = arguments.text("path").unwrap_or_default();
            let url = match parse_source(arguments.text("url").unwrap_or_default()).map_err(ToolError::failed)? {
                Source::There(url) => url.to_owned(),
                Source::Inside(path) => real(&open_folder(&context.workspace, path)?)?.display().to_string(),
            };
            let spot = Spot::find(&context.workspace, path, true)?;
            if spot.look()?.is_some_and(|found| !found.is_dir())
                || std::fs::read_dir(spot.path()).is_ok_and(|mut files| files.next().is_some())
            {
                return Err(occupied(path));
            }
            let temporary = spot.temporary()?;
            let cloned = clone(context, &url, arguments.text("ref"), &temporary).await;
            let placed = cloned.and_then(|cloned| {
                // Replaces an empty folder, nothing else.
                match renameat(&temporary.folder, temporary.name.as_os_str(), &spot.folder, spot.name.as_os_str()) {
                    Ok(()) => Ok(cloned),
                    Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOTDIR) => Err(occupied(path)),
                    Err(errno) => Err(io::Error::from(errno).into()),
                }
            });
            if placed.is_err()
                && let Err(error) = temporary.remove()
            {
                tracing::warn!(folder = %temporary.path().display(), %error, "what was left of a clone stays");
            }
            let (sha, name) = placed?;
            let ms = began.elapsed().as_millis().to_string();
            Ok(BTreeMap::from([("sha".to_owned(), sha), ("ref".to_owned(), name), ("ms".to_owned(), ms)]))
        }
        .boxed()
    }
}

fn occupied(path: &str) -> ToolError {
    ToolError::failed(format!("`{path}` is there already and not an empty folder"))
}

/// Clones and checks out. Returns the commit, and the name of what was asked for.
async fn clone(context: &Context, url: &str, name: Option<&str>, to: &Spot) -> Result<(String, String), ToolError> {
    let (parent, folder): (PathBuf, PathBuf) = (real(&to.folder)?, to.real()?);
    let target = folder.to_str().ok_or_else(|| ToolError::failed("the workspace has a name that is not UTF-8"))?;
    let git = Git::new(context, parent)?;
    // `--no-local`: no hard links into somebody else's repository.
    let words = ["clone", "--quiet", "--no-checkout", "--no-local", "--no-recurse-submodules", "--template=", "--origin=origin", "--"];
    git.must("clone", &words, &[url, target]).await?;
    let git = git.in_folder(folder);
    let Some(name) = name else {
        let Some(sha) = git.commit_of("HEAD").await? else { return Err(ToolError::failed(format!("`{url}` has no commit to check out"))) };
        git.must("check out", &["reset", "--quiet", "--hard"], &[]).await?;
        let branch = git.run(&["symbolic-ref", "--quiet", "--short", "HEAD"], &[]).await?;
        let name = if branch.code == 0 { branch.stdout.trim().to_owned() } else { sha.clone() };
        return Ok((sha, name));
    };
    let remote = format!("refs/remotes/origin/{name}");
    if let Some(sha) = git.commit_of(&remote).await? {
        git.must("check out", &["checkout", "--quiet", "-B", name, "--track", &remote, "--"], &[]).await?;
        return Ok((sha, name.to_owned()));
    }
    let is_hash = (7..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_hexdigit());
    let mut found = git.commit_of(&format!("refs/tags/{name}")).await?;
    if found.is_none() && is_hash {
        found = git.commit_of(name).await?;
    }
    let Some(sha) = found else { return Err(ToolError::failed(format!("`{url}` has no branch, tag or commit `{name}`"))) };
    git.must("check out", &["checkout", "--quiet", "--detach", &sha, "--"], &[]).await?;
    Ok((sha, name.to_owned()))
}
