//! `amphi role …`: roles that agents can have.

use amphi_protocol::api::ErrorCode;
use amphi_protocol::ids::RoleName;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Global;
use super::client::Client;
use super::failure::{Failure, exit};
use super::screen::{Cell, Screen, Style, facts, items, table, text_of, visible};

/// `amphi role …`.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// All roles
    Ls,
    /// One role
    Show(RoleArgs),
}

/// The role.
#[derive(Debug, Args)]
pub struct RoleArgs {
    /// The role, for instance BuildMaster
    #[arg(value_name = "ROLE")]
    role: RoleName,
}

/// Runs a `role` command.
pub async fn role(global: &Global, screen: Screen, command: RoleCommand) -> Result<u8, Failure> {
    let client = Client::connect(global).await?;
    let reply = client.list("role.list", "roles", json!({}), None).await?;
    match command {
        RoleCommand::Ls => screen.show(&reply, roles_table)?,
        RoleCommand::Show(args) => {
            let role = items(&reply, "roles").iter().find(|role| name_of(role) == args.role.as_str());
            let role = role.ok_or_else(|| unknown(&reply, &args.role))?;
            screen.show(role, role_text)?;
        }
    }
    Ok(exit::OK)
}

fn name_of(role: &Value) -> String {
    let field = if role["role"].is_null() { "name" } else { "role" };
    text_of(role, field)
}

fn unknown(reply: &Value, wanted: &RoleName) -> Failure {
    let names: Vec<String> = items(reply, "roles").iter().map(name_of).collect();
    let mut error = amphi_protocol::api::ApiError::new(ErrorCode::RoleUnknown, format!("there is no role `{wanted}`"));
    error.hint = Some(format!("there are: {}", names.join(", ")));
    Failure::from(error)
}

fn roles_table(reply: &Value, style: Style) -> String {
    let list = |role: &Value, field: &str| items(role, field).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    let rows: Vec<Vec<Cell>> = items(reply, "roles")
        .iter()
        .map(|role| {
            let cells =
                [name_of(role), text_of(role, "replicas"), list(role, "skills"), list(role, "responsibilities"), text_of(role, "source")];
            cells.iter().map(Cell::new).collect()
        })
        .collect();
    if rows.is_empty() {
        return "no roles\n".to_owned();
    }
    let heads = ["ROLE", "REPLICAS", "SKILLS", "RESPONSIBILITIES", "SOURCE"];
    table(&heads, &rows, style) + &rejected_text(reply)
}

/// Role files that are wrong, with the places.
fn rejected_text(reply: &Value) -> String {
    let mut text = String::new();
    for rejected in items(reply, "rejected") {
        for problem in items(rejected, "problems") {
            let place = format!("{}:{}:{}", text_of(rejected, "file"), text_of(problem, "line"), text_of(problem, "column"));
            let hint = problem["hint"].as_str().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let kept = if rejected["former_in_effect"] == true { "; its former version is in effect" } else { "" };
            text.push_str(&visible(&format!(
                "rejected {} {place}: {}{hint}{kept}",
                text_of(rejected, "role"),
                text_of(problem, "message")
            )));
            text.push('\n');
        }
    }
    text
}

fn role_text(role: &Value, style: Style) -> String {
    let text = |field: &str| match &role[field] {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => text_of(role, field),
    };
    // Whatever a role says, in the order of its names.
    let pairs: Vec<(&str, String)> = role.as_object().into_iter().flatten().map(|(key, _)| (key.as_str(), text(key))).collect();
    facts(&pairs, style)
}
