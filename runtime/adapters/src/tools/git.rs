//! How tools run git: hooks off, no prompts, no helpers that a URL names, nothing that the repository's own configuration would run.
//!
//! What is left to trust is the configuration of the user and of the system (credentials, filters such as LFS), as it is for `run`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::child::{Child, Ended};
use super::inside::{names_of, open_folder, real};
use super::{Context, ToolError};

/// Command line configuration wins over that of files.
const CONFIGURATION: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.askPass=",
    "protocol.ext.allow=never",
    "submodule.recurse=false",
    "commit.gpgSign=false",
    "tag.gpgSign=false",
    "tag.forceSignAnnotated=false",
    // What they leave in the background would be killed with the command.
    "gc.auto=0",
    "maintenance.auto=false",
    "advice.detachedHead=false",
];
/// Who commits and tags, and who wrote it unless `author` says otherwise.
const COMMITTER: (&str, &str) = ("amphi", "amphi@localhost");
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Git in one folder.
pub(crate) struct Git<'a> {
    context: &'a Context,
    program: PathBuf,
    folder: PathBuf,
    author: (String, String),
}

impl<'a> Git<'a> {
    /// Git in a folder, which need not be a repository. `folder` is a real path inside the workspace.
    pub fn new(context: &'a Context, folder: PathBuf) -> Result<Self, ToolError> {
        let program = context.launcher.program("git").ok_or_else(|| ToolError::failed("this node has no `git`"))?;
        Ok(Self { context, program, folder, author: (COMMITTER.0.to_owned(), COMMITTER.1.to_owned()) })
    }

    /// Git in the repository at `path`. Refused unless its files and its history are inside the workspace, or it is a worktree of the
    /// repository that it names.
    pub async fn open(context: &'a Context, path: &str) -> Result<Self, ToolError> {
        let folder = real(&open_folder(&context.workspace, path)?)?;
        let git = Self::new(context, folder)?;
        let questions = ["--path-format=absolute", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"];
        let answer = git.run(&["rev-parse"], &questions).await?;
        let lines: Vec<&Path> = answer.stdout.lines().map(Path::new).collect();
        let &[top, own, common] = &lines[..] else {
            let why = if answer.stderr.is_empty() { "git does not say where it is" } else { &answer.stderr };
            return Err(ToolError::failed(format!("`{path}` is no git repository with files: {why}")));
        };
        let is_inside = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&context.workspace));
        if !is_inside(top) || !(is_inside(own) && is_inside(common) || is_worktree(top, own, common)) {
            return Err(ToolError::failed(format!("the repository of `{path}` is not inside the workspace")));
        }
        git.refuse_filters().await?;
        Ok(git)
    }

    /// A filter is a command that git runs on files; one that the repository brings itself could be anything.
    async fn refuse_filters(&self) -> Result<(), ToolError> {
        let listed = self.must("list the configuration", &["config", "--list", "--show-scope", "--name-only", "-z"], &[]).await?;
        let texts: Vec<&str> = listed.split('\0').collect();
        let is_command = |key: &str| {
            let key = key.to_ascii_lowercase();
            key.starts_with("filter.") && [".clean", ".smudge", ".process"].iter().any(|end| key.ends_with(end))
        };
        match texts.chunks_exact(2).find(|pair| matches!(pair[0], "local" | "worktree") && is_command(pair[1])) {
            Some(pair) => Err(ToolError::failed(format!("the repository's own configuration names a command: {}", pair[1]))),
            None => Ok(()),
        }
    }

    /// The author of what follows.
    pub fn with_author(mut self, author: Option<&str>) -> Result<Self, ToolError> {
        if let Some(author) = author {
            self.author = parse_author(author).map_err(ToolError::failed)?;
        }
        Ok(self)
    }

    /// The same in another folder.
    pub fn in_folder(&self, folder: PathBuf) -> Self {
        Self { context: self.context, program: self.program.clone(), folder, author: self.author.clone() }
    }

    /// Runs git; `words` then `values`. The error says that it could not be run.
    pub async fn run(&self, words: &[&str], values: &[&str]) -> Result<Ended, ToolError> {
        let mut arguments: Vec<OsString> = Vec::new();
        for setting in CONFIGURATION {
            arguments.extend(["-c".into(), (*setting).into()]);
        }
        arguments.extend(words.iter().chain(values).map(OsString::from));
        if arguments.iter().any(|argument| argument.as_encoded_bytes().contains(&0)) {
            return Err(ToolError::failed("an argument holds a NUL byte"));
        }
        // Looking for a repository must not leave the workspace.
        let ceiling = self.context.workspace.parent().unwrap_or(Path::new("/")).display().to_string();
        let environment = [
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
            ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
            ("GIT_EDITOR", "false"),
            ("GIT_CEILING_DIRECTORIES", &ceiling),
            ("GIT_COMMITTER_NAME", COMMITTER.0),
            ("GIT_COMMITTER_EMAIL", COMMITTER.1),
            ("GIT_AUTHOR_NAME", &self.author.0),
            ("GIT_AUTHOR_EMAIL", &self.author.1),
        ];
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.context.child(Child { program: self.program.clone(), arguments, folder: self.folder.clone(), environment }).await
    }

    /// Runs git, which must succeed. Returns what it wrote, without the last line end.
    pub async fn must(&self, what: &str, words: &[&str], values: &[&str]) -> Result<String, ToolError> {
        let ended = self.run(words, values).await?;
        if ended.code == 0 {
            return Ok(ended.stdout.trim_end_matches('\n').to_owned());
        }
        let said = [ended.stderr.as_str(), ended.stdout.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or("it did not say why");
        Err(ToolError::failed(format!("git could not {what} (exit code {}): {said}", ended.code)))
    }

    /// The commit that `name` stands for.
    pub async fn commit_of(&self, name: &str) -> Result<Option<String>, ToolError> {
        let ended = self.run(&["rev-parse", "--verify", "--quiet"], &[&format!("{name}^{{commit}}")]).await?;
        Ok((ended.code == 0).then(|| ended.stdout.trim().to_owned()))
    }
}

/// The repository outside knows this worktree: only it can have written that down.
fn is_worktree(top: &Path, own: &Path, common: &Path) -> bool {
    let back = std::fs::read_to_string(own.join("gitdir")).unwrap_or_default();
    let (back, front) = (Path::new(back.trim()).canonicalize(), top.join(".git").canonicalize());
    own.parent().is_some_and(|worktrees| worktrees == common.join("worktrees"))
        && matches!((back, front), (Ok(back), Ok(front)) if back == front)
}

/// Reads `Name <mail>`.
pub(super) fn parse_author(text: &str) -> Result<(String, String), String> {
    let parts = text.trim().strip_suffix('>').and_then(|rest| rest.split_once('<'));
    let (name, mail) = parts.map(|(name, mail)| (name.trim(), mail.trim())).unwrap_or_default();
    let is_plain = |text: &str| !text.is_empty() && !text.chars().any(|c| c.is_control() || matches!(c, '<' | '>'));
    if text.len() <= 512 && !text.starts_with('-') && is_plain(name) && is_plain(mail) {
        Ok((name.to_owned(), mail.to_owned()))
    } else {
        Err("the author must look like `Name <mail@example.org>`".to_owned())
    }
}

/// Checks the name of a branch, a tag or a commit: what git takes as such, and never an option.
pub(super) fn check_name(what: &str, text: &str) -> Result<(), String> {
    let is_banned = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let part_is_bad = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock");
    let is_bad = text.len() > 200 || text.starts_with('-') || text.contains(is_banned) || text.contains("..") || text.contains("@{");
    if is_bad || text == "@" || text.split('/').any(part_is_bad) {
        return Err(format!("the {what} `{}` is no name that git takes", text.chars().take(64).collect::<String>()));
    }
    Ok(())
}

/// Checks a message.
pub(super) fn check_message(text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err("the message is empty".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        return Err(format!("the message must be text of at most {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Where to clone from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source<'a> {
    /// A URL, or an absolute path on this node.
    There(&'a str),
    /// A path inside the workspace.
    Inside(&'a str),
}

/// Reads where to clone from: a URL (https, http, ssh, git, file), `user@host:path`, an absolute path, or one inside the workspace.
pub(super) fn parse_source(text: &str) -> Result<Source<'_>, String> {
    let shown: String = text.chars().take(128).filter(|c| !c.is_control()).collect();
    if text.is_empty() || text.starts_with('-') || text.len() > 4096 || text.chars().any(char::is_control) {
        return Err(format!("`{shown}` is no place to clone from"));
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let host_is_option = rest.starts_with('-') || rest.split('/').next().is_some_and(|host| host.contains("@-"));
        return match scheme {
            "https" | "http" | "ssh" | "git" | "file" if !host_is_option => Ok(Source::There(text)),
            _ => Err(format!("`{shown}` is no place to clone from: https, http, ssh, git and file URLs are")),
        };
    }
    if text.starts_with('/') {
        return Ok(Source::There(text));
    }
    match text.split_once(':') {
        // `ext::sh -c …` would name a helper program.
        Some((_, rest)) if rest.starts_with(':') => Err(format!("`{shown}` is no place to clone from: remote helpers are not allowed")),
        Some((host, _)) if !host.contains('/') => {
            let is_plain =
                !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"@.-_".contains(&b)) && !host.contains("@-");
            if is_plain { Ok(Source::There(text)) } else { Err(format!("`{shown}` is no place to clone from")) }
        }
        _ => names_of(text).map(|_| Source::Inside(text)),
    }
}
