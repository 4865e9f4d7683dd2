//! `amphi config show`: the configuration in effect in this folder, and what gave each value.
//!
//! It reads what `amphi up` would read here. Secrets are never read for it; only where a node would find them is shown.

use std::path::PathBuf;

use amphi_config::{Environment, FlagValue, Loaded, Origin, Sources, load};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Global;
use super::failure::{Failure, exit};
use super::screen::{Cell, Paint, Screen, Style, table, talk};

/// `amphi config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// The configuration in effect here
    Show(ShowArgs),
}

/// `config show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Say what gave each value: a flag, the environment, a file with its line, or the defaults
    #[arg(long)]
    origin: bool,
    /// The team file, instead of ./amphi.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only values under this path, for instance `health` or `roles.BuildMaster`
    #[arg(value_name = "PATH")]
    path: Option<String>,
}

/// Shows the configuration.
pub fn config(global: &Global, screen: Screen, command: ConfigCommand) -> Result<u8, Failure> {
    let ConfigCommand::Show(args) = command;
    let folder = std::env::current_dir().map_err(|error| Failure::usage(format!("there is no working folder: {error}")))?;
    let nats = global.nats.iter().map(|url| FlagValue { path: "cluster.nats".into(), flag: "--nats".into(), value: url.clone() });
    let sources = Sources { environment: Environment::capture(), flags: nats.collect(), file: args.config, folder };
    let loaded = load(&sources).map_err(|error| Failure::from(error.to_api()))?;
    for warning in &loaded.warnings {
        let place = warning.file.as_ref().map_or(String::new(), |file| format!("{file}:{}:{}: ", warning.line, warning.column));
        talk(&format!("warning: {place}{}", warning.message));
    }
    let shown = shown(&loaded, args.path.as_deref());
    if let (true, Some(path)) = (shown.is_empty(), &args.path) {
        return Err(Failure::usage(format!("there is no value under `{path}`")).hint("`amphi config show` lists all"));
    }
    if screen.json {
        screen.json(&as_json(&loaded, &shown, args.origin))?;
    } else {
        screen.write(&as_text(&shown, args.origin, screen.style))?;
    }
    Ok(exit::OK)
}

type Row<'l> = (&'l str, &'l Value, &'l Origin);

fn shown<'l>(loaded: &'l Loaded, under: Option<&str>) -> Vec<Row<'l>> {
    let wanted =
        |path: &str| under.is_none_or(|under| path.strip_prefix(under).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')));
    let rows = loaded.values.iter().filter(|(path, _)| wanted(path));
    rows.map(|(path, value)| (path.as_str(), &value.value, &value.origin)).collect()
}

/// `{"values":{"health.heartbeat":"2s"},"files":[]}`; with origins each value is `{"value","origin"}`.
fn as_json(loaded: &Loaded, rows: &[Row<'_>], origin: bool) -> Value {
    let entry = |(path, value, from): &Row<'_>| {
        let value = if origin { json!({ "value": value, "origin": from.to_string() }) } else { (*value).clone() };
        ((*path).to_owned(), value)
    };
    let values: Map<String, Value> = rows.iter().map(entry).collect();
    json!({ "values": values, "files": loaded.files })
}

fn as_text(rows: &[Row<'_>], origin: bool, style: Style) -> String {
    let row = |(path, value, from): &Row<'_>| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            other => other.to_string(),
        };
        let paint = if matches!(from, Origin::Default) { Paint::Dim } else { Paint::Plain };
        let mut cells = vec![Cell::new(path), Cell::new(text)];
        if origin {
            cells.push(Cell::painted(from.to_string(), paint));
        }
        cells
    };
    let rows: Vec<Vec<Cell>> = rows.iter().map(row).collect();
    let heads: &[&str] = if origin { &["VALUE OF", "IS", "FROM"] } else { &["VALUE OF", "IS"] };
    table(heads, &rows, style)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded() -> Loaded {
        let environment = [("AMPHI_HEALTH_NODE_DEAD", "20s"), ("AMPHI_NATS_URL", "nats://me:geheim@127.0.0.1:4222")];
        let flag = FlagValue { path: "cluster.http".into(), flag: "--http".into(), value: "127.0.0.1:8080".into() };
        let sources = Sources { environment: environment.into_iter().collect(), flags: vec![flag], ..Default::default() };
        load(&sources).expect("a configuration")
    }

    #[test]
    fn every_value_says_what_gave_it() {
        let loaded = loaded();
        let text = as_text(&shown(&loaded, Some("health")), true, Style::PLAIN);
        assert!(text.contains("environment AMPHI_HEALTH_NODE_DEAD") && text.contains("health.heartbeat"), "{text}");
        let json = as_json(&loaded, &shown(&loaded, None), true);
        assert_eq!(json["values"]["cluster.http"], json!({"value": "127.0.0.1:8080", "origin": "flag --http"}));
        assert_eq!(json["values"]["health.heartbeat"]["origin"], "default");
        assert_eq!(as_json(&loaded, &shown(&loaded, None), false)["values"]["cluster.http"], "127.0.0.1:8080");
    }

    #[test]
    fn credentials_are_not_shown() {
        let loaded = loaded();
        let text = as_text(&shown(&loaded, None), true, Style::PLAIN);
        assert!(!text.contains("geheim") && text.contains("nats://***@127.0.0.1:4222"), "{text}");
        assert!(!as_json(&loaded, &shown(&loaded, None), true).to_string().contains("geheim"));
    }

    #[test]
    fn a_path_selects_whole_keys() {
        let loaded = loaded();
        assert!(shown(&loaded, Some("heal")).is_empty());
        assert_eq!(shown(&loaded, Some("cluster.http")).len(), 1);
    }
}
