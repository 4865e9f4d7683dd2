//! Puts the layers together: flags, environment, `./amphi.yaml` or `--config`, the user's file, defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use amphi_protocol::api::{ApiError, ErrorCode, Problem};

use crate::layers::{
    ENVIRONMENT_NAMES, ENVIRONMENT_PATHS, Environment, FlagValue, OriginedValue, environment_layer, flag_layer, flatten, merge, variable_of,
};
use crate::paths::config_folder;
use crate::read::{Reader, nearest};
use crate::role_files::RoleBase;
use crate::roles::default_roles_layer;
use crate::team::{TeamConfig, check_together, read_team};
use crate::yaml::{FILE_BYTES_MAX, Kind, Node, parse};

const DEFAULTS: &str = include_str!("../defaults.yaml");

/// Where configuration is looked for.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Of the process, or of a test.
    pub environment: Environment,
    /// Flags that set values of the team file.
    pub flags: Vec<FlagValue>,
    /// `--config F`: instead of `amphi.yaml` in the folder, and it must exist. Else `AMPHI_CONFIG` says so.
    pub file: Option<PathBuf>,
    /// The working folder; `amphi.yaml` in it is optional.
    pub folder: PathBuf,
}

/// The configuration in effect.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Typed.
    pub team: TeamConfig,
    /// Allowed, but without effect or probably not meant.
    pub warnings: Vec<Problem>,
    /// Every value by its path with its origin. Credentials in URLs are left out.
    pub values: BTreeMap<String, OriginedValue>,
    /// Files that were read, the weakest first.
    pub files: Vec<PathBuf>,
    /// What role files are laid over.
    pub role_base: RoleBase,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is wrong; all of it.
    #[error("the configuration has {} problem(s), first: {}", .0.len(), .0.first().map_or("", |problem| &problem.message))]
    Invalid(Vec<Problem>),
}

impl ConfigError {
    /// As users see it: exit code 2.
    pub fn to_api(&self) -> ApiError {
        let mut error = ApiError::new(ErrorCode::ConfigInvalid, self.to_string());
        match self {
            Self::Invalid(problems) => error.problems = problems.clone(),
            Self::Unreadable { source, .. } => error.hint = Some(source.to_string()),
        }
        error
    }
}

/// Reads and checks everything.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
    let mut reader = Reader::default();
    let mut files = Vec::new();
    let mut layers = vec![parse(DEFAULTS, None).expect("a test reads the defaults"), default_roles_layer()];
    let user_file = config_folder(&sources.environment).map(|folder| folder.join("config.yaml"));
    let chosen = sources.file.clone().or_else(|| sources.environment.get("AMPHI_CONFIG").map(PathBuf::from));
    let must_exist = chosen.is_some();
    let team_file = chosen.unwrap_or_else(|| sources.folder.join("amphi.yaml"));
    for (path, must_exist) in user_file.map(|path| (path, false)).into_iter().chain([(team_file, must_exist)]) {
        let Some(text) = read_file(&path, must_exist)? else { continue };
        match parse(&text, Some(&path)) {
            Ok(layer) => {
                // By itself, so that a higher layer hides no mistake.
                read_team(&mut reader, &layer);
                check_version(&mut reader, &layer);
                if matches!(layer.kind, Kind::Map(_)) {
                    layers.push(layer);
                }
            }
            Err(problem) => reader.problems.push(problem),
        }
        files.push(path);
    }
    layers.push(environment_layer(&sources.environment));
    layers.push(flag_layer(&sources.flags));

    let mut merged = crate::layers::empty();
    for layer in layers {
        merge(&mut merged, layer);
    }
    // Warnings are about what is in effect.
    reader.warnings.clear();
    let team = read_team(&mut reader, &merged);
    check_together(&mut reader, &team, &merged);
    warn_of_misspelt_variables(&mut reader, &sources.environment);
    in_order(&mut reader.problems);
    in_order(&mut reader.warnings);
    if reader.problems.is_empty() {
        Ok(Loaded { team, warnings: reader.warnings, values: flatten(&merged), files, role_base: RoleBase(merged.get("roles").cloned()) })
    } else {
        Err(ConfigError::Invalid(reader.problems))
    }
}

/// By place, each once.
fn in_order(problems: &mut Vec<Problem>) {
    problems.sort_by(|a, b| (&a.file, a.line, a.column, &a.message).cmp(&(&b.file, b.line, b.column, &b.message)));
    problems.dedup();
}

/// A file without a version could mean anything in a later release.
fn check_version(reader: &mut Reader, layer: &Node) {
    if matches!(layer.kind, Kind::Map(_)) && layer.get("version").is_none() {
        reader.problem(&layer.origin, "`version` is missing", Some("begin the file with `version: 1`".to_owned()));
    }
}

fn read_file(path: &Path, must_exist: bool) -> Result<Option<String>, ConfigError> {
    use std::io::Read;
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut text = String::new();
    // One byte more than allowed, so that the parser refuses what is too large.
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    Ok(Some(text))
}

/// Many variables begin with `AMPHI_`; only one that is almost right was probably meant.
fn warn_of_misspelt_variables(reader: &mut Reader, environment: &Environment) {
    let long: Vec<String> = ENVIRONMENT_PATHS.iter().map(|path| variable_of(path)).collect();
    let mut known: Vec<&str> = long.iter().map(String::as_str).collect();
    known.extend(ENVIRONMENT_NAMES.iter().map(|(name, _)| *name));
    for name in environment.names("AMPHI_") {
        if known.contains(&name) {
            continue;
        }
        if let Some(near) = nearest(name, &known).filter(|near| strsim::damerau_levenshtein(near, name) <= 2) {
            let origin = crate::layers::Origin::Environment { variable: name.into() };
            reader.warn(&origin, "this variable has no effect", Some(format!("did you mean `{near}`?")));
        }
    }
}
