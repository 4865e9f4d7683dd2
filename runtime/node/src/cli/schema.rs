//! `amphi schema print`: JSON Schemas of the files that users write and of the events they read.
//!
//! A schema helps editors and other programs; `epic validate` judges more than a schema can say.

use clap::{Args, Subcommand, ValueEnum};

use super::failure::{Failure, exit};
use super::screen::Screen;

/// `amphi schema …`.
#[derive(Debug, Subcommand)]
pub enum SchemaCommand {
    /// Print a JSON Schema
    Print(PrintArgs),
}

/// `schema print`.
#[derive(Debug, Args)]
pub struct PrintArgs {
    /// Of what
    #[arg(value_enum)]
    what: Subject,
}

/// What has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The epic file
    Epic,
    /// The team file, amphi.yaml
    Config,
    /// A public event
    Event,
}

impl Subject {
    fn text(self) -> &'static str {
        match self {
            Self::Epic => amphi_protocol::schema::EPIC,
            Self::Config => amphi_config::CONFIG_SCHEMA,
            Self::Event => amphi_protocol::schema::EVENT,
        }
    }
}

/// Prints a schema; it is JSON with and without `--json`.
pub fn schema(screen: Screen, command: SchemaCommand) -> Result<u8, Failure> {
    let SchemaCommand::Print(args) = command;
    screen.write(args.what.text())?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use amphi_protocol::event::EventType;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_schema_is_json_and_closed_to_unknown_keys() {
        for subject in Subject::value_variants() {
            let schema: Value = serde_json::from_str(subject.text()).expect("JSON");
            assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
            assert!(subject.text().ends_with("}\n"));
        }
    }

    #[test]
    fn the_event_schema_knows_exactly_the_events_there_are() {
        let schema: Value = serde_json::from_str(Subject::Event.text()).expect("JSON");
        let known: Vec<&str> = schema["properties"]["type"]["enum"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let there: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(known, there);
    }
}
