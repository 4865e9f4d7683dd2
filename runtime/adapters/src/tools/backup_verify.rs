//! `backup.verify {path}`: a snapshot still holds what was recorded when it was taken; a database is also checked by SQLite where the
//! node has `sqlite3`. Changes nothing. Outputs: `kind`, `hash`, `bytes`, `entries`, `integrity` (`ok`, `unchecked`, `none`), `ms`.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::backup::{Record, Shape, blocking};
use super::copy::{Pulse, read_through};
use super::inside::{Spot, names_of};
use super::sqlite::check_integrity;
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct BackupVerify;

impl Tool for BackupVerify {
    fn name(&self) -> &'static str {
        "backup.verify"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "path", kind: Kind::Text, is_required: true }]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        arguments.text("path").map_or(Ok(()), |path| names_of(path).map(drop))
    }

    /// It runs a program.
    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let began = Instant::now();
            let spot = Spot::find(&context.workspace, arguments.text("path").unwrap_or_default(), false)?;
            let record = Record::demand(&spot)?;
            let (read, mut pulse) = (spot.beside(&spot.name)?, Pulse::new(context));
            let content = blocking(move || read_through(&read, None, &mut pulse)).await?;
            record.compare(&content)?;
            let integrity = if record.kind == Shape::Sqlite { check_integrity(context, &spot).await? } else { "none" };
            let mut outputs = record.outputs(began);
            outputs.insert("integrity".to_owned(), integrity.to_owned());
            Ok(outputs)
        }
        .boxed()
    }
}
