//! `amphi version`.

use amphi_protocol::PROTOCOL;
use serde_json::json;

use super::failure::{Failure, exit};
use super::screen::Screen;

/// `{"version","commit","protocol"}`.
pub fn version(screen: Screen) -> Result<u8, Failure> {
    let value = json!({ "version": env!("CARGO_PKG_VERSION"), "commit": env!("AMPHI_COMMIT"), "protocol": PROTOCOL });
    screen.show(&value, |_, _| format!("amphi {} ({}), protocol {PROTOCOL}\n", env!("CARGO_PKG_VERSION"), env!("AMPHI_COMMIT")))?;
    Ok(exit::OK)
}
