//! `fail {message}`: fails with a message.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct Fail;

impl Tool for Fail {
    fn name(&self) -> &'static str {
        "fail"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "message", kind: Kind::Text, is_required: false }]
    }

    fn run<'a>(&'a self, _: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move { Err(ToolError::failed(arguments.text("message").unwrap_or("failed on request"))) }.boxed()
    }
}
