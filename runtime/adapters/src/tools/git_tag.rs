//! `git.tag {path, name, message}`: a tag on the last commit, annotated if there is a message. A tag is never moved.
//!
//! The tag stands in the effect ledger: an attempt that finds an intent without an end looks whether the tag is on the commit.
//! `path` is the repository or a folder in it. Outputs: `sha` of the commit, and `created`, which is false where the tag stood on that
//! commit already.

use std::collections::BTreeMap;

use amphi_protocol::journal::EffectIntent;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::git::{Git, check_message, check_name};
use super::inside::names_of;
use super::ledger::{Acted, Asked};
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
            let there = git.commit_of(&format!("refs/tags/{name}")).await?;
            if let Some(tagged) = there.as_ref().filter(|tagged| **tagged != sha) {
                return Err(ToolError::failed(format!("the tag `{name}` is there already, on {tagged} and not on {sha}")));
            }
            let ledger = context.ledger.as_ref().ok_or_else(|| ToolError::failed("effects cannot be brought about here"))?;
            let outputs =
                |is_created: bool| BTreeMap::from([("sha".to_owned(), sha.clone()), ("created".to_owned(), is_created.to_string())]);
            if there.is_some() && !ledger.is_open("git.tag") {
                return Ok(outputs(false));
            }
            let about = format!("tag {name} on {sha} in `{path}`");
            let intent = EffectIntent { effect: "git.tag".to_owned(), tool: "git.tag".to_owned(), askable: true, about };
            // The repository is the one that knows: the tag is on this commit, or there is none.
            let ask = || async {
                match git.commit_of(&format!("refs/tags/{name}")).await {
                    Ok(Some(tagged)) if tagged == sha => Asked::There(outputs(true)),
                    Ok(Some(tagged)) => Asked::NotThere(format!("the tag `{name}` is on {tagged}")),
                    Ok(None) => Asked::NotThere(format!("there is no tag `{name}`")),
                    Err(error) => Asked::Nobody(error.text),
                }
            };
            let act = || async {
                let made = match arguments.text("message") {
                    Some(text) => {
                        let message = format!("--message={text}");
                        git.must("tag", &["tag", "--annotate", "--cleanup=whitespace", &message, "--"], &[name, &sha]).await
                    }
                    None => git.must("tag", &["tag", "--no-sign", "--"], &[name, &sha]).await,
                };
                match made {
                    Ok(_) => Acted::Done(outputs(true)),
                    // It may have been ended in the middle.
                    Err(error) => Acted::Unheard(error.text),
                }
            };
            ledger.once(intent, ask, act).await
        }
        .boxed()
    }
}
