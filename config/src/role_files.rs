//! Roles as files that may come, change and go while a node runs: one role per file, `NAME.yaml`.
//!
//! Looked for, each over the ones before and all over the team file's `roles`: `$XDG_CONFIG_HOME/amphi/roles`, `roles` and `config/roles`
//! beside `amphi.yaml` (or in the working folder), `roles` in the data folder of `amphi up`. A file holds what stands under a role's
//! name in the team file, and may give the name itself with `name:`. A file that is wrong is rejected with its place, and what was in
//! effect stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use amphi_protocol::api::{ErrorCode, Problem};
use amphi_protocol::ids::RoleName;

use crate::layers::{Origin, merge};
use crate::read::Reader;
use crate::roles::{Roles, read_roles};
use crate::yaml::{Entry, Kind, Node, parse};

/// Files of one folder that are looked at.
const FILES_MAX: usize = 256;
/// Bytes of a role file.
const BYTES_MAX: u64 = 64 * 1024;

/// Where roles are looked for, the weakest first.
pub fn role_folders(user: Option<&Path>, beside: &Path, data: Option<&Path>) -> Vec<PathBuf> {
    let user = user.map(|folder| folder.join("roles"));
    let folders = user.into_iter().chain([beside.join("roles"), beside.join("config/roles")]);
    folders.chain(data.map(|folder| folder.join("roles"))).collect()
}

/// The roles of the team file and the defaults, over which files are laid.
#[derive(Debug, Clone, PartialEq)]
pub struct RoleBase(pub(crate) Option<Node>);

/// The roles in effect.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RoleTable {
    /// The roles.
    pub roles: Roles,
    /// For each role where it came from, the strongest last: `default`, or files.
    pub sources: BTreeMap<RoleName, Vec<String>>,
    /// Files that are not in effect as they are, and why.
    pub rejected: Vec<RejectedRole>,
}

/// A role file that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedRole {
    /// The role that it is about, as far as that can be told.
    pub role: String,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
    /// An earlier version of the file is in effect.
    pub former: bool,
}

/// Reads role files again and again.
#[derive(Debug)]
pub struct RoleFiles {
    base: RoleBase,
    folders: Vec<PathBuf>,
    files: BTreeMap<PathBuf, RoleFile>,
    last: Option<RoleTable>,
}

#[derive(Debug, Clone, PartialEq)]
struct RoleFile {
    text: Result<String, String>,
    /// The last version that was right.
    good: Option<(String, Node)>,
    problems: Vec<Problem>,
}

impl RoleFiles {
    /// Nothing is read yet.
    pub fn new(base: RoleBase, folders: Vec<PathBuf>) -> Self {
        Self { base, folders, files: BTreeMap::new(), last: None }
    }

    /// Looks at all folders; the roles in effect if they, their places or the rejected files have changed. Blocks on the disk.
    pub fn look(&mut self) -> Option<RoleTable> {
        let mut seen = Vec::new();
        for folder in &self.folders {
            seen.extend(files_of(folder));
        }
        self.files.retain(|path, _| seen.contains(path));
        for path in &seen {
            let text = read_bounded(path);
            let known = self.files.get(path);
            if known.is_some_and(|known| known.text == text) {
                continue;
            }
            let former = known.and_then(|known| known.good.clone());
            let file = judge(path, text, former);
            self.files.insert(path.clone(), file);
        }
        let table = self.table(&seen);
        if self.last.as_ref() == Some(&table) {
            return None;
        }
        self.last = Some(table.clone());
        Some(table)
    }

    fn table(&self, order: &[PathBuf]) -> RoleTable {
        let mut merged = self.base.0.clone().unwrap_or(Node { origin: Origin::Default, kind: Kind::Map(Vec::new()) });
        let mut sources: BTreeMap<String, Vec<String>> = BTreeMap::new();
        if let Kind::Map(entries) = &merged.kind {
            sources.extend(entries.iter().map(|entry| (entry.key.clone(), vec![source_of(&entry.origin)])));
        }
        let mut rejected = Vec::new();
        for path in order {
            let Some(file) = self.files.get(path) else { continue };
            if !file.problems.is_empty() {
                let (role, former) = (stem(path), file.good.is_some());
                rejected.push(RejectedRole { role, file: path.clone(), problems: file.problems.clone(), former });
            }
            let Some((name, node)) = &file.good else { continue };
            let entry = Entry { key: name.clone(), origin: node.origin.clone(), value: node.clone() };
            merge(&mut merged, Node { origin: node.origin.clone(), kind: Kind::Map(vec![entry]) });
            sources.entry(name.clone()).or_default().push(path.display().to_string());
        }
        // Each part was read by itself without a problem.
        let roles = read_roles(&mut Reader::default(), &merged);
        let sources = sources.into_iter().filter_map(|(name, from)| Some((RoleName::parse(&name).ok()?, from))).collect();
        RoleTable { roles, sources, rejected }
    }
}

fn judge(path: &Path, text: Result<String, String>, former: Option<(String, Node)>) -> RoleFile {
    let read = match &text {
        Ok(text) => read_one(path, text),
        Err(why) => Err(vec![problem(path, why.clone())]),
    };
    match read {
        Ok(good) => RoleFile { text, good: Some(good), problems: Vec::new() },
        Err(problems) => RoleFile { text, good: former, problems },
    }
}

/// The name and the keys of a role file.
fn read_one(path: &Path, text: &str) -> Result<(String, Node), Vec<Problem>> {
    let mut node = parse(text, Some(path)).map_err(|problem| vec![problem])?;
    let Kind::Map(entries) = &mut node.kind else {
        return Err(vec![problem(path, "a role file is a mapping such as `skills: [semgrep]`".to_owned())]);
    };
    let named = entries.iter().position(|entry| entry.key == "name").map(|position| entries.remove(position));
    let name = match named.map(|entry| entry.value.kind) {
        None => stem(path),
        Some(Kind::Text(name)) => name,
        Some(_) => return Err(vec![problem(path, "`name` must be a text".to_owned())]),
    };
    let entry = Entry { key: name.clone(), origin: node.origin.clone(), value: node.clone() };
    let alone = Node { origin: node.origin.clone(), kind: Kind::Map(vec![entry]) };
    let mut reader = Reader::default();
    if name == "broadcast" {
        reader.problem(&node.origin, "no role can be called `broadcast`", Some("messages to `broadcast` go to all roles".to_owned()));
    }
    read_roles(&mut reader, &alone);
    if reader.problems.is_empty() { Ok((name, node)) } else { Err(reader.problems) }
}

fn problem(path: &Path, message: String) -> Problem {
    Problem { file: Some(path.display().to_string()), line: 0, column: 0, code: ErrorCode::ConfigInvalid, message, hint: None }
}

fn source_of(origin: &Origin) -> String {
    match origin {
        Origin::File { path, .. } => path.display().to_string(),
        Origin::Flag { .. } | Origin::Environment { .. } | Origin::Default => origin.to_string(),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The role files of a folder by name; a folder that is not there has none.
fn files_of(folder: &Path) -> BTreeSet<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeSet::new() };
    let is_role = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml")) && path.is_file()
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_role).take(FILES_MAX).collect()
}

fn read_bounded(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > BYTES_MAX { Err(format!("a role file has at most {BYTES_MAX} bytes")) } else { Ok(text) }
}
