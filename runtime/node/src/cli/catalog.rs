//! The roles and tools that are known without asking a cluster: what ships, and what the team file in this folder makes of it.

use amphi_adapters::tools::tool_names;
use amphi_config::{Environment, RoleFiles, Sources, config_folder, load, role_folders};
use amphi_protocol::document::{Catalog, Limits};

use super::failure::Failure;

/// Roles and tools as `amphi up` in this folder would know them.
pub fn local() -> Result<Catalog, Failure> {
    let folder = std::env::current_dir().map_err(|error| Failure::usage(format!("there is no working folder: {error}")))?;
    let environment = Environment::capture();
    let tools = tool_names(environment.get("AMPHI_FAULTS") == Some("1"));
    let user = config_folder(&environment);
    let sources = Sources { environment, folder: folder.clone(), ..Default::default() };
    let base = load(&sources).map_err(|error| Failure::from(error.to_api()))?.role_base;
    let roles = RoleFiles::new(base, role_folders(user.as_deref(), &folder, None)).look().unwrap_or_default().roles;
    Ok(Catalog { roles: roles.skills_by_role(), role_tools: roles.tools_by_role(&(&tools - &tool_names(false))), tools })
}

/// The limits of documents as `amphi up` in this folder would know them; where it would know nothing, those that ship.
pub fn limits() -> Limits {
    let folder = std::env::current_dir().unwrap_or_default();
    let sources = Sources { environment: Environment::capture(), folder, ..Default::default() };
    load(&sources).map_or_else(|_| Limits::default(), |loaded| loaded.team.limits.of_documents())
}
