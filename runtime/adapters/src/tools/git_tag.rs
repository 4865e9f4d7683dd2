//! `git.tag {path, name, message}`: a tag on the last commit, annotated if there is a message. A tag is never moved.
//!
//! `path` is the repository or a folder in it. Outputs: `sha` of the commit, and `created`, which is false where the tag stood on that
//! commit already.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::git::{Git, check_message, check_name};
use super::inside::names_of;
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct GitTag;

impl Tool for GitTag {
    fn name(&self) -> &'static str {
        "git.tag"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[
            Parameter { name: "path", kind: Kind::Text, is_required: true },
            Parameter { name: "name", kind: Kind::Text, is_required: true },
            Parameter { name: "message", kind: Kind::Text, is_required: false },
        ]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        arguments.text("path").map_or(Ok(()), |path| names_of(path).map(drop))?;
        arguments.text("name").map_or(Ok(()), |name| check_name("tag", name))?;
        arguments.text("message").map_or(Ok(()), check_message)
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let path = arguments.text("path").unwrap_or_default();
            let name = arguments.text("name").unwrap_or_default();
            let git = Git::open(context, path).await?;
            let head = git.commit_of("HEAD").await?;
            let Some(sha) = head else { return Err(ToolError::failed(format!("the repository of `{path}` has no commit yet"))) };
            let is_created = match git.commit_of(&format!("refs/tags/{name}")).await? {
                Some(tagged) if tagged == sha => false,
                Some(tagged) => return Err(ToolError::failed(format!("the tag `{name}` is there already, on {tagged} and not on {sha}"))),
                None => {
                    match arguments.text("message") {
                        Some(text) => {
                            let message = format!("--message={text}");
                            git.must("tag", &["tag", "--annotate", "--cleanup=whitespace", &message, "--"], &[name, &sha]).await?;
                        }
                        None => drop(git.must("tag", &["tag", "--no-sign", "--"], &[name, &sha]).await?),
                    }
                    true
                }
            };
            Ok(BTreeMap::from([("sha".to_owned(), sha), ("created".to_owned(), is_created.to_string())]))
        }
        .boxed()
    }
}
