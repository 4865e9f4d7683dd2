//! `backup.restore {path, from}`: puts what a snapshot holds in the place of `path`, in one step.
//!
//! The snapshot is compared with its record first. What was there stays until the restored copy is complete and on disk. A database
//! that somebody uses is not replaced. Outputs: `kind`, `hash`, `bytes`, `entries`, `replaced`, `integrity`, `ms`.

use std::collections::BTreeMap;
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::arguments::Kind;
use super::backup::{Record, Shape, blocking, clear, put_in_place};
use super::copy::{Pulse, read_through};
use super::inside::{Spot, names_of};
use super::sqlite::{Displaced, check_integrity};
use super::{Arguments, Context, Parameter, Tool, ToolError};

pub(super) struct BackupRestore;

impl Tool for BackupRestore {
    fn name(&self) -> &'static str {
        "backup.restore"
    }

    fn parameters(&self) -> &'static [Parameter] {
        &[Parameter { name: "path", kind: Kind::Text, is_required: true }, Parameter { name: "from", kind: Kind::Text, is_required: true }]
    }

    fn check(&self, arguments: &Arguments) -> Result<(), String> {
        ["path", "from"].into_iter().filter_map(|name| arguments.text(name)).try_for_each(|path| names_of(path).map(drop))
    }

    fn must_finish(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, context: &'a Context, arguments: Arguments) -> BoxFuture<'a, Result<BTreeMap<String, String>, ToolError>> {
        async move {
            let began = Instant::now();
            let (path, from) = (arguments.text("path").unwrap_or_default(), arguments.text("from").unwrap_or_default());
            let from = Spot::find(&context.workspace, from, false)?;
            let record = Record::demand(&from)?;
            let to = Spot::find(&context.workspace, path, true)?;
            let (source, target) = (from.real()?, to.real()?);
            if source.starts_with(&target) || target.starts_with(&source) {
                return Err(ToolError::failed("a snapshot and what it is restored to must not stand in each other"));
            }
            let old = Shape::of(&to)?;
            if old.is_some_and(|old| (old == Shape::Folder) != (record.kind == Shape::Folder)) {
                return Err(ToolError::failed(format!("`{path}` and the snapshot are not both folders")));
            }
            let staged = to.temporary()?;
            let restored = restore(context, &record, &from, (&staged, &to)).await;
            // Half a copy, or what was there before.
            clear(&staged);
            let (is_replaced, integrity) = restored?;
            let mut outputs = record.outputs(began);
            outputs.extend([("replaced".to_owned(), is_replaced.to_string()), ("integrity".to_owned(), integrity.to_owned())]);
            Ok(outputs)
        }
        .boxed()
    }
}

async fn restore(context: &Context, record: &Record, from: &Spot, (staged, to): (&Spot, &Spot)) -> Result<(bool, &'static str), ToolError> {
    let mut pulse = Pulse::new(context);
    let (source, copy) = (from.beside(&from.name)?, staged.beside(&staged.name)?);
    let content = blocking(move || read_through(&source, Some(&copy), &mut pulse)).await?;
    record.compare(&content)?;
    let integrity = if record.kind == Shape::Sqlite { check_integrity(context, staged).await? } else { "none" };
    let (staged, to, mut pulse) = (staged.beside(&staged.name)?, to.beside(&to.name)?, Pulse::new(context));
    let is_replaced = blocking(move || {
        pulse.beat()?;
        let mut displaced = match Shape::of(&to)? {
            Some(Shape::Sqlite) => Some(Displaced::take(&to, &mut pulse)?),
            Some(Shape::Folder | Shape::File) | None => None,
        };
        let placed = put_in_place(&staged, &to);
        match (&placed, &mut displaced) {
            (Err(_), Some(displaced)) => displaced.put_back(),
            (Ok(_), _) => {
                if let Some(displaced) = displaced {
                    displaced.discard()?;
                }
            }
            (Err(_), None) => {}
        }
        placed
    });
    Ok((is_replaced.await?, integrity))
}
