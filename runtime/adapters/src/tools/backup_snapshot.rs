//! `backup.snapshot {path, to}`: a copy of a folder, a file or a SQLite database at one moment, and a record of its content.
//!
//! An older snapshot at `to` is replaced once the new one is complete; anything else there is left alone and an error. A folder is
//! copied file by file; a database inside a folder gets no special care, name it itself. Outputs: `kind`, `hash`, `bytes`, `entries`,
//! `method` (`copy`, `online`, `locked`), `integrity` (`ok`, `unchecked`, `none`), `ms`.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::backup::{Record, Shape, blocking, clear, put_in_place};
use super::copy::{Pulse, read_through};
use super::inside::{Spot, names_of};
use super::sqlite::{check_integrity, copy_database};
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct BackupSnapshot;

impl Tool for BackupSnapshot {
    fn name(&self) -> &'static str {
        "backup.snapshot"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "path", kind: Kind::Text, is_required: true }, Parameter { name: "to", kind: Kind::Text, is_required: true }]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        ["path", "to"].into_iter().filter_map(|name| arguments.text(name)).try_for_each(|path| names_of(path).map(drop))
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let began = Instant::now();
            let (path, to) = (arguments.text("path").unwrap_or_default(), arguments.text("to").unwrap_or_default());
            let from = Spot::find(&context.workspace, path, false)?;
            let Some(kind) = Shape::of(&from)? else { return Err(ToolError::failed(format!("`{path}` is not there"))) };
            let to = Spot::find(&context.workspace, to, true)?;
            let (source, target) = (from.real()?, to.real()?);
            if source.starts_with(&target) || target.starts_with(&source) {
                return Err(ToolError::failed("a snapshot and what it is of must not stand in each other"));
            }
            if to.look()?.is_some() && Record::read(&to)?.is_none() {
                return Err(ToolError::failed(format!("`{}` is there and is no snapshot", to.name.display())));
            }
            let staged = to.temporary()?;
            let taken = take(context, kind, &from, &staged).await;
            let made = match taken {
                Ok(taken) => publish(taken, staged.beside(&staged.name)?, to).await,
                Err(error) => Err(error),
            };
            // Half a copy, or the older snapshot.
            clear(&staged);
            let Taken { record, method, integrity } = made?;
            let mut outputs = record.outputs(began);
            outputs.extend([("method".to_owned(), method.to_owned()), ("integrity".to_owned(), integrity.to_owned())]);
            Ok(outputs)
        }
        .boxed()
    }
}

struct Taken {
    record: Record,
    method: &'static str,
    integrity: &'static str,
}

async fn take(context: &Context, kind: Shape, from: &Spot, staged: &Spot) -> Result<Taken, ToolError> {
    let mut pulse = Pulse::new(context);
    let (method, integrity) = match kind {
        Shape::Sqlite => (copy_database(context, from, staged).await?, check_integrity(context, staged).await?),
        Shape::Folder | Shape::File => ("copy", "none"),
    };
    let (from, staged) = (from.beside(&from.name)?, staged.beside(&staged.name)?);
    let content = blocking(move || match kind {
        Shape::Sqlite => read_through(&staged, None, &mut pulse),
        Shape::Folder | Shape::File => read_through(&from, Some(&staged), &mut pulse),
    });
    Ok(Taken { record: Record::new(kind, &content.await?), method, integrity })
}

/// The record first: a crash in between leaves a snapshot that does not verify, never one that passes for what it is not.
async fn publish(taken: Taken, staged: Spot, to: Spot) -> Result<Taken, ToolError> {
    blocking(move || {
        taken.record.write(&to)?;
        put_in_place(&staged, &to)?;
        Ok(taken)
    })
    .await
}
