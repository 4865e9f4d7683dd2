//! Epic files on this machine: reading them with a bound, compiling them for early errors, `epic validate`.
//!
//! The cluster compiles again what is submitted; what is found here is only found earlier and shown with the line it is about.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use amphi_protocol::api::{ApiError, ErrorCode, Problem};
use amphi_protocol::document::{Catalog, CompileOptions, Compiled, Included, SUB_EPIC_LEVELS_MAX, beside, compile, named_files};
use clap::Args;
use serde_json::{Value, json};

use super::arguments::inputs;
use super::failure::{Failure, exit, problem_text, source_of};
use super::screen::{Paint, Screen, talk};

/// An epic file with values for its inputs.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The epic file; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// A value for an input of the epic
    #[arg(long = "input", short = 'i', value_name = "K=V")]
    pub inputs: Vec<String>,
    /// Warnings are errors: unknown roles and tools, inputs without a value
    #[arg(long)]
    pub strict: bool,
}

/// A document as it was read.
#[derive(Debug)]
pub struct Document {
    /// The file as the user named it.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Folder from which relative paths in it start, absolute.
    pub base: PathBuf,
    /// The files that it names as sub-epics, and those that these name.
    pub files: Arc<BTreeMap<String, Included>>,
}

impl Document {
    /// The texts that problems may be about, by file.
    pub fn sources(&self) -> BTreeMap<String, String> {
        let included = self.files.iter().filter_map(|(name, file)| match file {
            Included::Text { text, .. } => Some((name.clone(), text.clone())),
            Included::Unreadable { .. } => None,
        });
        included.chain([(self.name.clone(), self.text.clone())]).collect()
    }
}

/// Reads a document, at most as many bytes as a document may have.
pub fn read(path: &Path) -> Result<Document, Failure> {
    let limit = super::catalog::limits().document_bytes;
    let (reader, name): (Box<dyn Read>, String) = if path == Path::new("-") {
        (Box::new(io::stdin()), "(stdin)".to_owned())
    } else {
        (Box::new(File::open(path).map_err(|error| Failure::file("read", path, &error))?), path.display().to_string())
    };
    let mut bytes = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(|error| Failure::file("read", path, &error))?;
    if bytes.len() > limit {
        return Err(Failure::new(ErrorCode::EpicLimit, format!("{name} is larger than {limit} bytes, the most that an epic may have")));
    }
    let text = String::from_utf8(bytes).map_err(|error| not_text(&name, &error))?;
    let folder = path.parent().filter(|folder| path != Path::new("-") && !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base = std::path::absolute(folder).map_err(|error| Failure::file("find", folder, &error))?;
    // `a/.` and `a` are the same folder; the shorter one is shown to people.
    let root = (path != Path::new("-")).then_some(name.as_str());
    let files = Arc::new(included(root, &text));
    Ok(Document { name, text, base: base.components().collect(), files })
}

/// The files that a document names as sub-epics, and those that these name. What cannot be read is told where it is named.
fn included(root: Option<&str>, text: &str) -> BTreeMap<String, Included> {
    let mut files: BTreeMap<String, Included> = BTreeMap::new();
    let mut room = super::catalog::limits().document_bytes.saturating_sub(text.len());
    let mut level: Vec<(Option<String>, String)> = vec![(root.map(|root| beside(None, root)), text.to_owned())];
    for _ in 0..=SUB_EPIC_LEVELS_MAX {
        let mut next = Vec::new();
        for (file, text) in level {
            for name in named_files(&text) {
                let path = beside(file.as_deref(), &name);
                if files.contains_key(&path) || root.is_some_and(|root| beside(None, root) == path) {
                    continue;
                }
                let found = include(&path, &mut room);
                if let Included::Text { text, .. } = &found {
                    next.push((Some(path.clone()), text.clone()));
                }
                files.insert(path, found);
            }
        }
        level = next;
    }
    files
}

fn include(path: &str, room: &mut usize) -> Included {
    let unreadable = |why: String| Included::Unreadable { why };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return unreadable(error.to_string()),
    };
    // A pipe or a device might never end.
    if !file.metadata().is_ok_and(|about| about.is_file()) {
        return unreadable("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    if let Err(error) = file.take(*room as u64 + 1).read_to_end(&mut bytes) {
        return unreadable(error.to_string());
    }
    if bytes.len() > *room {
        let limit = super::catalog::limits().document_bytes;
        return unreadable(format!(
            "with it the epic and its sub-epics are larger than {limit} bytes, the most that they may have together"
        ));
    }
    *room -= bytes.len();
    let folder = Path::new(path).parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (String::from_utf8(bytes), std::path::absolute(folder)) {
        (Ok(text), Ok(base)) => Included::Text { text, base: base.components().collect() },
        (Err(error), _) => unreadable(format!("it is not UTF-8 text from byte {}", error.utf8_error().valid_up_to())),
        (_, Err(error)) => unreadable(error.to_string()),
    }
}

fn not_text(name: &str, error: &std::string::FromUtf8Error) -> Failure {
    let at = error.utf8_error().valid_up_to();
    let before = &error.as_bytes()[..at];
    let line = before.iter().filter(|byte| **byte == b'\n').count() as u32 + 1;
    let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() as u32 + 1;
    let mut refused = ApiError::new(ErrorCode::EpicSyntax, format!("{name} is not UTF-8 text"));
    let message = "these bytes are not UTF-8".to_owned();
    refused.problems = vec![Problem { file: Some(name.to_owned()), line, column, code: ErrorCode::EpicSyntax, message, hint: None }];
    refused.into()
}

/// Compiles a document as far as this machine can judge it.
pub fn check(document: &Document, pairs: &[String], strict: bool, catalog: Option<Catalog>) -> Result<Compiled, Failure> {
    let knows_names = catalog.is_some();
    let options = CompileOptions {
        file: Some(document.name.clone()),
        inputs: inputs(pairs)?.into_iter().collect(),
        catalog: catalog.unwrap_or_default(),
        strict: strict && knows_names,
        limits: super::catalog::limits(),
        workspace_base: Some(document.base.clone()),
        files: document.files.clone(),
        unknown_names_are_errors: false,
    };
    let mut compiled = compile(&document.text, &options);
    if !knows_names {
        // Which roles and tools there are is the cluster's to say.
        compiled.warnings.retain(|warning| !matches!(warning.code, ErrorCode::RoleUnknown | ErrorCode::ToolUnknown));
    }
    Ok(compiled)
}

/// The problems of a document as one error.
pub fn invalid(document: &Document, problems: Vec<Problem>) -> Failure {
    let code = problems.first().map_or(ErrorCode::EpicSyntax, |problem| problem.code);
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    let mut error = ApiError::new(code, format!("{} has {count} {noun}", document.name));
    error.problems = problems;
    Failure::from(error).with_sources(document.sources())
}

/// Says on standard error what is allowed but probably not meant.
pub fn warn(screen: Screen, document: &Document, warnings: &[Problem]) {
    for warning in warnings {
        let text = problem_text(warning, source_of(&document.sources(), warning), screen.talk_style);
        talk(&format!("{}: {}", screen.talk_style.paint(Paint::Warn, "warning"), text.trim_end()));
    }
}

/// `epic validate FILE`: `{"ok","problems"}`, exit 2 if there are any.
pub fn validate(screen: Screen, args: &FileArgs) -> Result<u8, Failure> {
    let document = read(&args.file)?;
    let compiled = check(&document, &args.inputs, args.strict, Some(super::catalog::local()?))?;
    if screen.json {
        screen.json(&validation(&compiled))?;
        return Ok(if compiled.problems.is_empty() { exit::OK } else { ErrorCode::EpicSyntax.exit_code() });
    }
    warn(screen, &document, &compiled.warnings);
    if !compiled.problems.is_empty() {
        return Err(invalid(&document, compiled.problems));
    }
    screen.line(&format!("{} {} is valid", screen.style.paint(Paint::Good, "✓"), document.name))?;
    Ok(exit::OK)
}

fn validation(compiled: &Compiled) -> Value {
    json!({ "ok": compiled.problems.is_empty(), "problems": compiled.problems, "warnings": compiled.warnings })
}
