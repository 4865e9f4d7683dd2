//! `amphi backup` and `amphi restore`: a whole cluster with a NATS server of its own, as a folder.

use std::path::PathBuf;

use amphi_protocol::api::ErrorCode;
use clap::Args;
use serde_json::json;

use super::Global;
use super::client::data_dir;
use super::failure::{Failure, exit};
use super::screen::{Screen, talk};
use crate::backup::{self, RestoreError, RestoreOptions};

/// `amphi backup`.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The folder to write; it must not exist
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
}

/// `amphi restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Also into a data folder that holds this cluster; its store is moved aside, not deleted
    #[arg(long)]
    force: bool,
    /// Also if nodes remember commits that the backup does not hold: what happened in them is lost
    #[arg(long)]
    accept_older: bool,
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// Writes a backup of the cluster that runs in the data folder.
pub async fn backup(global: &Global, screen: Screen, args: BackupArgs) -> Result<u8, Failure> {
    if global.nats.is_some() || global.context.is_some() {
        return Err(
            Failure::usage("a backup is taken where the NATS server's data folder is").hint("leave --nats out; --data DIR names it")
        );
    }
    let data = data_dir(global)?;
    if args.to.exists() {
        return Err(Failure::new(ErrorCode::StateConflict, format!("{} is there already", args.to.display())).hint("give a new folder"));
    }
    let made = backup::backup(&data, &args.to, now()).await.map_err(|error| {
        Failure::new(ErrorCode::ClusterUnreachable, format!("no backup was made: {error:#}")).hint("`amphi up` must run in the data folder")
    })?;
    let bytes: u64 = made.parts.iter().map(|part| part.copy.bytes).sum();
    let shown = json!({ "backup": args.to, "cluster": made.cluster, "made_at": made.made_at, "bytes": bytes, "shards": made.shards });
    screen.show(&shown, |_, _| {
        let shards: Vec<String> = made.shards.iter().map(|tail| format!("shard {} to record {}", tail.shard, tail.index)).collect();
        format!("{}: {} ({bytes} bytes), restored once to prove it\n", args.to.display(), shards.join(", "))
    })?;
    Ok(exit::OK)
}

/// Makes the store of a data folder from a backup.
pub async fn restore(global: &Global, screen: Screen, args: RestoreArgs) -> Result<u8, Failure> {
    let data = data_dir(global)?;
    let options = RestoreOptions { from: args.from, data: data.clone(), force: args.force, accept_older: args.accept_older, now: now() };
    let restored = backup::restore(&options).await.map_err(failure)?;
    let shown = serde_json::to_value(&restored).unwrap_or_default();
    screen.show(&shown, |_, _| {
        let shards: Vec<String> = restored.shards.iter().map(|tail| format!("shard {} to record {}", tail.shard, tail.index)).collect();
        format!("{} is restored: {}\n", data.display(), shards.join(", "))
    })?;
    if !screen.json {
        for lost in &restored.forgotten {
            talk(&format!(
                "{} had seen shard {} up to record {}: what happened after {} is lost, and its tokens may be given again",
                lost.node, lost.shard, lost.remembered, lost.restored
            ));
        }
        if let Some(former) = &restored.former_store {
            talk(&format!("the former store is {}", former.display()));
        }
        talk(&format!("amphi up --data {} goes on from there", data.display()));
    }
    Ok(exit::OK)
}

fn failure(error: RestoreError) -> Failure {
    let message = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match error {
        RestoreError::Backup(_) => Failure::new(ErrorCode::BackupDamaged, message).hint("nothing was changed; take another backup"),
        RestoreError::InUse(_) => Failure::new(ErrorCode::StateConflict, message).hint("stop `amphi up` there first"),
        RestoreError::NotEmpty { .. } => Failure::new(ErrorCode::StateConflict, message)
            .hint("give an empty folder, or --force: the store of this cluster is moved aside then"),
        RestoreError::OtherCluster { .. } => Failure::new(ErrorCode::StateConflict, message).hint("give another data folder"),
        RestoreError::Older { .. } => Failure::new(ErrorCode::StateConflict, message).hint(
            "a newer backup loses less; --accept-older takes this one, gives up what happened since, and notes it in restores.ndjson",
        ),
        RestoreError::Unproven { .. } => {
            Failure::new(ErrorCode::BackupDamaged, message).hint("the folder is as it was; take another backup")
        }
        RestoreError::File { .. } => Failure::new(ErrorCode::Internal, message),
    }
}
