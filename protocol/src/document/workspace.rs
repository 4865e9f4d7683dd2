//! `workspace`: where the tasks of an epic work. A folder is made absolute here; a repository is only named, nodes fetch it.
//!
//! A URL never carries a password: the document is kept in the journal, and nothing there is secret.

use std::path::{Component, Path, PathBuf};

use crate::api::ErrorCode;
use crate::document::check::{Check, References, Scope};
use crate::document::report::shown;
use crate::document::yaml::{self, Entry, Node};
use crate::document::{Workspace, keys, read};

/// Longest path or URL.
const PLACE_BYTES_MAX: usize = 4096;
/// Longest name of a branch, tag or commit.
const REF_BYTES_MAX: usize = 200;
const HINT: &str = "write `none`, `{path: DIR}` or `{git: URL, ref: BRANCH}`";

impl Check<'_> {
    /// Reads the epic's `workspace`.
    pub(super) fn workspace(&mut self, entry: &Entry) -> Option<Workspace> {
        let node = &entry.value;
        if let yaml::Kind::Scalar(scalar) = &node.kind {
            if scalar.text == "none" {
                return Some(Workspace::None);
            }
            let message = format!("workspace cannot be `{}`", shown(&scalar.text));
            self.report.error_hint(node.place, ErrorCode::EpicType, message, HINT);
            return None;
        }
        let fields = read::fields(&mut self.report, node, "workspace", &[keys::WORKSPACE])?;
        let field = |key: &str| fields.iter().copied().find(|field| field.key == key);
        match (field("path"), field("git")) {
            (Some(path), None) => {
                if let Some(reference) = field("ref") {
                    self.report.wrong(reference.place, "`ref` belongs to `git`");
                }
                self.folder(&path.value)
            }
            (None, Some(git)) => {
                let url = self.repository(&git.value);
                let reference = field("ref").map(|reference| self.revision(&reference.value));
                Some(Workspace::Git { url: url?, reference: reference.map_or(Some(None), |reference| reference.map(Some))? })
            }
            _ => {
                let message = "the workspace needs exactly one of `path` and `git`";
                self.report.error_hint(node.place, ErrorCode::EpicType, message, HINT);
                None
            }
        }
    }

    fn folder(&mut self, node: &Node) -> Option<Workspace> {
        let text = read::text(&mut self.report, node, "path")?;
        if text.is_empty() || text.len() > PLACE_BYTES_MAX || text.contains("${{") || text.chars().any(char::is_control) {
            self.report.wrong(node.place, "`path` must be a path without references");
            return None;
        }
        self.absolute(node, text, "workspace").map(Workspace::Path)
    }

    /// A path that starts from the epic's file, if there is one.
    fn absolute(&mut self, node: &Node, text: &str, what: &str) -> Option<String> {
        let path = match (&self.options.workspace_base, Path::new(text).is_absolute()) {
            (_, true) => PathBuf::from(text),
            (Some(base), false) => base.join(text),
            (None, false) => {
                let message = format!("the {what} `{}` is relative, and there is no file that it could be relative to", shown(text));
                self.report.error_hint(node.place, ErrorCode::EpicType, message, "write an absolute path");
                return None;
            }
        };
        let path = normal(&path);
        match path.to_str() {
            Some(path) => Some(path.to_owned()),
            None => {
                self.report.wrong(node.place, format!("the path of the {what} is not UTF-8"));
                None
            }
        }
    }

    /// A text in which inputs may stand. `None` if it is wrong, or if the value of an input is still missing.
    fn with_values(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = read::text(&mut self.report, node, what)?;
        let before = self.report.count();
        let mut refs = References::of(&[]);
        self.references(node, text, Scope::Document, &mut refs);
        let text = self.with_inputs(text);
        (self.report.count() == before && !text.contains("${{")).then_some(text)
    }

    /// Where a repository is: a URL, `user@host:path`, or a path, which becomes absolute.
    fn repository(&mut self, node: &Node) -> Option<String> {
        let text = self.with_values(node, "git")?;
        match place_of(&text) {
            Ok(Repository::There) => Some(text),
            Ok(Repository::Path) => self.absolute(node, &text, "repository"),
            Err(why) => {
                let message = format!("`git` cannot be `{}`: {}", shown(&without_login(&text)), why.message);
                self.report.error_hint(node.place, ErrorCode::EpicType, message, why.hint);
                None
            }
        }
    }

    fn revision(&mut self, node: &Node) -> Option<String> {
        let text = self.with_values(node, "ref")?;
        if is_revision(&text) {
            return Some(text);
        }
        let message = format!("`ref` cannot be `{}`", shown(&text));
        self.report.error_hint(node.place, ErrorCode::EpicType, message, "write the name of a branch or a tag, or a commit");
        None
    }
}

const LOGIN: &str = "a login does not belong into a document, which everybody can read";
const LOGIN_HINT: &str = "leave it out; the node's git takes it from a credential helper, `~/.netrc` or an SSH key";

enum Repository {
    There,
    Path,
}

struct Refused {
    message: &'static str,
    hint: &'static str,
}

fn place_of(text: &str) -> Result<Repository, Refused> {
    let refused = |message, hint| Err(Refused { message, hint });
    const FORMS: &str = "https, http, ssh, git and file URLs, `user@host:path` and paths are understood";
    if text.is_empty() || text.len() > PLACE_BYTES_MAX || text.starts_with('-') || text.chars().any(char::is_control) {
        return refused("that is no place of a repository", FORMS);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return match text.split_once(':') {
            // `ext::sh -c …` would name a program.
            Some((_, rest)) if rest.starts_with(':') => refused("it names a helper program", FORMS),
            Some((_, rest)) if rest.contains('@') => refused(LOGIN, LOGIN_HINT),
            Some((host, _)) if !host.contains('/') => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"@.-_".contains(&b);
                let is_host = !host.is_empty() && host.bytes().all(plain) && !host.contains("@-");
                if is_host { Ok(Repository::There) } else { refused("that is no host", FORMS) }
            }
            _ => Ok(Repository::Path),
        };
    };
    let host = rest.split('/').next().unwrap_or_default();
    if !matches!(scheme, "https" | "http" | "ssh" | "git" | "file") || host.starts_with('-') || host.contains("@-") {
        return refused("that is no place of a repository", FORMS);
    }
    let has_login = host.rsplit_once('@').is_some_and(|(login, _)| scheme != "ssh" || login.contains(':'));
    if has_login { refused(LOGIN, LOGIN_HINT) } else { Ok(Repository::There) }
}

/// The URL as it may be shown.
fn without_login(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return text.rsplit_once('@').map_or(text.to_owned(), |(_, host)| format!("***@{host}"));
    };
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit_once('@').map_or(host.to_owned(), |(_, host)| format!("***@{host}"));
    path.map_or(format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
}

/// True for what git takes as the name of a branch, a tag or a commit, and never as an option or an expression.
fn is_revision(text: &str) -> bool {
    let is_banned = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let part_is_bad = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock");
    let has_bad = text.contains(is_banned) || text.contains("..") || text.contains("@{") || text.split('/').any(part_is_bad);
    text.len() <= REF_BYTES_MAX && !text.starts_with('-') && text != "@" && !has_bad
}

/// Without `.` and `..`, by the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = out.pop(),
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => out.push(part),
        }
    }
    out
}
