//! Folders by the XDG rules.

use std::path::PathBuf;

use crate::layers::Environment;

/// `$XDG_DATA_HOME/amphi`, else `~/.local/share/amphi`; `None` without a home. A relative XDG path is ignored, as XDG says.
pub fn data_folder(environment: &Environment) -> Option<PathBuf> {
    folder(environment, "XDG_DATA_HOME", ".local/share")
}

/// `$XDG_CONFIG_HOME/amphi`, else `~/.config/amphi`.
pub fn config_folder(environment: &Environment) -> Option<PathBuf> {
    folder(environment, "XDG_CONFIG_HOME", ".config")
}

fn folder(environment: &Environment, variable: &str, below_home: &str) -> Option<PathBuf> {
    let xdg = environment.get(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || environment.get("HOME").map(|home| PathBuf::from(home).join(below_home));
    xdg.or_else(home).map(|base| base.join("amphi"))
}
