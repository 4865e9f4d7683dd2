//! `amphi up`: reads flags and configuration, then hands over to [`crate::up`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use amphi_adapters::nats::managed::Durability;
use amphi_config::{Environment, FlagValue, NatsTarget, Sources, TeamConfig, load};
use clap::Args;

use super::Global;
use super::client::data_dir;
use super::failure::Failure;
use super::screen::talk;

/// `amphi up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Node processes to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    nodes: u32,
    /// The team file [default: ./amphi.yaml if it is there]
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Also write the ready object to this file (mode 0600)
    #[arg(long, value_name = "F")]
    ready_file: Option<PathBuf>,
    /// Tasks that a node runs at once [default: 4 per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    capacity: Option<u32>,
    /// A label of the nodes
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Goes before the node ids
    #[arg(long, value_name = "P")]
    node_prefix: Option<String>,
    /// The URL of the clients' account, beside the nodes' account of --nats, on a server that has both (see deploy/nats)
    #[arg(long, value_name = "URL", env = "AMPHI_NATS_EDGE_URL", hide_env_values = true)]
    nats_edge: Option<String>,
    /// Run no Manager here; another node of the cluster must
    #[arg(long)]
    no_manager: bool,
    /// Leave a dead node dead
    #[arg(long)]
    no_restart: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("expected k=v")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Runs a cluster in the foreground.
pub async fn up(global: &Global, args: UpArgs) -> Result<u8, Failure> {
    let team = team(global, &args)?;
    let nats = match team.cluster.nats {
        NatsTarget::Managed => None,
        NatsTarget::Url(url) => Some(url),
        NatsTarget::Context(name) => {
            return Err(Failure::usage(format!("NATS contexts are not supported yet (`{name}`)")).hint("give the URL: --nats URL"));
        }
    };
    let mut labels = BTreeMap::new();
    for (key, value) in args.labels {
        if labels.insert(key.clone(), value).is_some() {
            return Err(Failure::usage(format!("the label `{key}` is given twice")));
        }
    }
    let options = crate::up::UpOptions {
        nodes: args.nodes,
        data: data_dir(global)?,
        config: args.config,
        nats,
        nats_edge: args.nats_edge,
        ready_file: args.ready_file,
        capacity: args.capacity,
        labels,
        node_prefix: args.node_prefix,
        no_manager: args.no_manager,
        no_restart: args.no_restart,
        durability: match team.cluster.durability {
            amphi_config::Durability::Power => Durability::Power,
            amphi_config::Durability::Process => Durability::Process,
        },
        durability_confirmed: team.cluster.durability_confirmed,
        ..Default::default()
    };
    Ok(crate::up::run(options).await)
}

/// The configuration that the nodes will read too, with the flags of this command over it.
fn team(global: &Global, args: &UpArgs) -> Result<TeamConfig, Failure> {
    let folder = std::env::current_dir().map_err(|error| Failure::usage(format!("there is no working folder: {error}")))?;
    let nats = global.nats.iter().map(|url| FlagValue { path: "cluster.nats".into(), flag: "--nats".into(), value: url.clone() });
    // The variable tells clients where their cluster is; whoever has it set and starts another cluster must not join that one.
    let environment = Environment::capture().without("AMPHI_NATS_URL");
    let sources = Sources { environment, flags: nats.collect(), file: args.config.clone(), folder };
    let loaded = load(&sources).map_err(|error| Failure::from(error.to_api()))?;
    for warning in &loaded.warnings {
        let place = warning.file.as_ref().map_or(String::new(), |file| format!("{file}:{}:{}: ", warning.line, warning.column));
        talk(&format!("warning: {place}{}", warning.message));
    }
    Ok(loaded.team)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_a_key_and_a_value() {
        assert_eq!(label("zone=a=b"), Ok(("zone".to_owned(), "a=b".to_owned())));
        assert!(label("zone").is_err() && label("=a").is_err());
    }
}
