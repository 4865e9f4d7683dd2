//! Documents: submitted, validated, planned. A document is parsed here, at the door; behind it only typed epics exist.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use amphi_agents::manager::handle::no_leader;
use amphi_coordination::Refusal;
use amphi_coordination::seat::Answer as Committed;
use amphi_protocol::api::{ApiError, ErrorCode, Problem};
use amphi_protocol::document::{CompileOptions, Compiled, EpicSpec, Included, compile, plan_summary};
use amphi_protocol::ids::{EpicId, EpicName, ProjectId, SubmitKey};
use amphi_protocol::journal::{Input, Record, SpecRef, Submission};
use serde_json::{Map, Value, json};

use super::request::{Request, invalid};
use super::{Answer, Gateway, shape};

/// `epic.submit`: accepted means durable.
pub async fn submit(gateway: Arc<Gateway>, request: Request) -> Answer {
    let body_hash = Record::hash(&request.body);
    let envelope = Envelope::read(&request)?;
    let key = match (&request.message_id, &envelope.id) {
        (Some(header), Some(body)) if header != body => return Err(invalid("the header Nats-Msg-Id and the body's `id` differ")),
        (Some(key), _) | (None, Some(key)) => key.clone(),
        (None, None) => format!("auto-{}", uuid::Uuid::now_v7().simple()),
    };
    let key = SubmitKey::parse(&key).map_err(super::request::bad_id)?;
    let compiled = compile_apart(&gateway, envelope, true).await?;
    let spec = refuse(compiled)?;
    let (name, project) = (spec.name.clone(), spec.project.clone());
    let (spec, bytes) = SpecRef::new(Arc::new(spec));
    if spec.inline.is_none() {
        gateway.objects.put(&spec.hash, bytes.into()).await.map_err(|error| {
            tracing::warn!(%error, "a large document could not be stored");
            ApiError::new(ErrorCode::ClusterUnreachable, "the document could not be stored").hint("send it again with the same id")
        })?;
    }
    let submission =
        Submission { admission: Some(gateway.limits.admission), epic: new_id(&name), key, body_hash, by: request.by, project, spec };
    match gateway.manager.take(Input::Submit(submission)).await? {
        Committed::Committed { index, epoch, epic: Some(epic), .. } => {
            Ok(json!({ "epic": epic, "duplicate": false, "epoch": epoch, "index": index }))
        }
        Committed::Refused(Refusal::Duplicate(epic)) => Ok(json!({ "epic": epic, "duplicate": true })),
        Committed::Refused(Refusal::Error(error)) => Err(error),
        Committed::Committed { .. } | Committed::Refused(Refusal::Stale(_)) | Committed::NotLeading | Committed::Busy => Err(no_leader()),
    }
}

/// The project of the document in a request; `None` if it is no valid document.
pub async fn project(gateway: &Arc<Gateway>, request: &Request) -> Option<ProjectId> {
    let compiled = compile_apart(gateway, Envelope::read(request).ok()?, true).await.ok()?;
    Some(refuse(compiled).ok()?.project)
}

/// `epic.validate`: all problems, and nothing happens.
pub async fn validate(gateway: Arc<Gateway>, request: Request) -> Answer {
    let envelope = Envelope::read(&request)?;
    let strict = envelope.strict;
    let compiled = compile_apart(&gateway, envelope, strict).await?;
    Ok(json!({ "ok": compiled.problems.is_empty(), "problems": compiled.problems, "warnings": compiled.warnings }))
}

/// `epic.plan`: what would run, in which order, under which locks.
pub async fn plan(gateway: Arc<Gateway>, request: Request) -> Answer {
    let compiled = compile_apart(&gateway, Envelope::read(&request)?, false).await?;
    let spec = refuse(compiled)?;
    Ok(shape(&plan_summary(&spec)))
}

/// A document and what came with it.
struct Envelope {
    source: String,
    inputs: BTreeMap<String, Value>,
    id: Option<String>,
    file: Option<String>,
    workspace_base: Option<PathBuf>,
    /// Files that the document names as sub-epics; the command line brings them along.
    files: BTreeMap<String, Included>,
    strict: bool,
}

impl Envelope {
    /// The body is the document itself, or a JSON object with a `document` in it.
    fn read(request: &Request) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(&request.body)
            .map_err(|error| syntax(format!("the document is not UTF-8 from byte {}", error.valid_up_to())))?;
        let plain = |source: String| Self {
            source,
            inputs: BTreeMap::new(),
            id: None,
            file: None,
            workspace_base: None,
            files: BTreeMap::new(),
            strict: false,
        };
        if !text.trim_start().starts_with('{') || !text.contains("\"document\"") {
            return Ok(plain(text.to_owned()));
        }
        // A document that merely mentions the word is no envelope; its own parser says what is wrong with it.
        let Ok(Value::Object(mut fields)) = serde_json::from_str(text) else { return Ok(plain(text.to_owned())) };
        let Some(document) = fields.remove("document") else { return Ok(plain(text.to_owned())) };
        let source = match document {
            Value::String(source) => source,
            Value::Object(_) => document.to_string(),
            _ => return Err(invalid("`document` is neither a text nor an object")),
        };
        let inputs = match fields.remove("inputs") {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(Value::Object(inputs)) => inputs.into_iter().collect(),
            Some(_) => return Err(invalid("`inputs` is no object")),
        };
        let envelope = Self {
            source,
            inputs,
            id: text_field(&mut fields, "id")?,
            file: text_field(&mut fields, "file")?,
            workspace_base: text_field(&mut fields, "workspace_base")?.map(PathBuf::from),
            files: files(&mut fields)?,
            strict: fields.remove("strict").is_some_and(|strict| strict == Value::Bool(true)),
        };
        if envelope.workspace_base.as_ref().is_some_and(|base| !base.is_absolute()) {
            return Err(invalid("`workspace_base` is not absolute"));
        }
        match fields.keys().next() {
            Some(key) => {
                Err(invalid(format!("unknown field `{key}`")).hint("known are document, inputs, id, file, workspace_base, files, strict"))
            }
            None => Ok(envelope),
        }
    }
}

/// `{"NAME": {"text": {"text", "base"}}}` or `{"NAME": {"unreadable": {"why"}}}`.
fn files(fields: &mut Map<String, Value>) -> Result<BTreeMap<String, Included>, ApiError> {
    let files: BTreeMap<String, Included> = match fields.remove("files") {
        None | Some(Value::Null) => return Ok(BTreeMap::new()),
        Some(files) => serde_json::from_value(files).map_err(|error| invalid(format!("`files` cannot be read: {error}")))?,
    };
    let relative = |file: &Included| matches!(file, Included::Text { base, .. } if !base.is_absolute());
    match files.iter().find(|(_, file)| relative(file)) {
        Some((name, _)) => Err(invalid(format!("the `base` of file {name:?} is not absolute"))),
        None => Ok(files),
    }
}

fn text_field(fields: &mut Map<String, Value>, key: &str) -> Result<Option<String>, ApiError> {
    match fields.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("`{key}` is no text"))),
    }
}

/// Compiles on a thread of its own: a large document takes a while.
async fn compile_apart(gateway: &Arc<Gateway>, envelope: Envelope, names_are_errors: bool) -> Result<Compiled, ApiError> {
    let options = CompileOptions {
        file: envelope.file,
        inputs: envelope.inputs,
        catalog: gateway.catalog(),
        strict: envelope.strict,
        workspace_base: envelope.workspace_base,
        files: Arc::new(envelope.files),
        unknown_names_are_errors: names_are_errors,
        limits: gateway.limits.documents.clone(),
    };
    let source = envelope.source;
    let work = tokio::task::spawn_blocking(move || compile(&source, &options));
    work.await.map_err(|_| ApiError::new(ErrorCode::Internal, "the document made the parser fail; the log says why"))
}

/// The specification, or one error with all problems.
fn refuse(compiled: Compiled) -> Result<EpicSpec, ApiError> {
    match compiled.spec {
        Some(spec) if compiled.problems.is_empty() => Ok(spec),
        _ => Err(problems(compiled.problems)),
    }
}

fn problems(problems: Vec<Problem>) -> ApiError {
    let Some(first) = problems.first() else { return ApiError::new(ErrorCode::Internal, "the document was refused without a reason") };
    let more = if problems.len() > 1 { format!(" (and {} more)", problems.len() - 1) } else { String::new() };
    let place = if first.line > 0 { format!("line {}, column {}: ", first.line, first.column) } else { String::new() };
    let mut error = ApiError::new(first.code, format!("{place}{}{more}", first.message));
    error.hint.clone_from(&first.hint);
    error.problems = problems;
    error
}

fn syntax(message: String) -> ApiError {
    let problem = Problem { file: None, line: 0, column: 0, code: ErrorCode::EpicSyntax, message, hint: None };
    problems(vec![problem])
}

/// The epic's name and 60 random bits in lower-case base 32, so that an id is one word and one subject token.
fn new_id(name: &EpicName) -> EpicId {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut random = uuid::Uuid::now_v7().as_u128();
    let mut suffix = String::with_capacity(12);
    for _ in 0..12 {
        suffix.push(char::from(ALPHABET[(random & 31) as usize]));
        random >>= 5;
    }
    EpicId::parse(&format!("{name}-{suffix}")).expect("a name and base 32 are an epic id")
}
