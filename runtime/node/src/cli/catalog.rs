//! The roles and tools that are known without asking a cluster: what ships, and what the team file in this folder makes of it.

use amphi_adapters::tools::tool_names;
use amphi_config::{Environment, Sources, load};
use amphi_protocol::document::Catalog;

use super::failure::Failure;

/// Roles and tools as `amphi up` in this folder would know them.
pub fn local() -> Result<Catalog, Failure> {
    let folder = std::env::current_dir().map_err(|error| Failure::usage(format!("there is no working folder: {error}")))?;
    let environment = Environment::capture();
    let tools = tool_names(environment.get("AMPHI_FAULTS") == Some("1"));
    let sources = Sources { environment, folder, ..Default::default() };
    let roles = load(&sources).map_err(|error| Failure::from(error.to_api()))?.team.roles;
    Ok(Catalog { roles: roles.skills_by_role(), role_tools: roles.tools_by_role(&(&tools - &tool_names(false))), tools })
}
