//! Configuration: the team file, flags and environment in layers, default roles, secrets.
//!
//! This crate reads files and the environment once, when it is told to, and decides nothing about work. Every value remembers where
//! it came from. All problems of a file are reported at once, each with its place. Start at [`load`].

mod duration;
mod layers;
mod load;
mod paths;
mod read;
mod role_files;
mod roles;
mod secrets;
mod team;
mod yaml;

pub use duration::{InvalidDuration, parse_duration, show_duration};
pub use layers::{Environment, FlagValue, Origin, OriginedValue};
pub use load::{ConfigError, Loaded, Sources, load};
pub use paths::{config_folder, data_folder};
pub use role_files::{RejectedRole, RoleBase, RoleFiles, RoleTable, role_folders};
pub use roles::{DEFAULT_ROLES, Replicas, RoleConfig, RoleEngine, RoleRestart, RoleStrategy, Roles};
pub use secrets::{Secret, SecretError, SecretSource, Secrets, resolve_secrets};
pub use team::{ClusterConfig, Durability, HealthConfig, LimitsConfig, NatsTarget, OnExhausted, OnFailed, OnStuck, TeamConfig};

/// The JSON schema of the team file, for editors and `amphi schema print config`.
pub const CONFIG_SCHEMA: &str = include_str!("../schema/config-v1.json");

#[cfg(test)]
mod schema_test;
