//! `noop`: succeeds at once.

use std::collections::BTreeMap;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct Noop;

impl Tool for Noop {
    fn name(&self) -> &'static str {
        "noop"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[]
    }

    fn run<'a>(&'a self, _: &'a Context, _: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async { Ok(BTreeMap::new()) }.boxed()
    }
}
