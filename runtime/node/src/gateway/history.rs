//! History: an epic's events, the report on them, its exported journal, the verdict on it. All are computed from the journal itself,
//! by a replay beside the Manager, never from what the Manager remembers.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use amphi_agents::manager::archive::{Whereabouts, read_history};
use amphi_agents::manager::boot::{BootError, StateBefore, state_before};
use amphi_coordination::{EventSink, State};
use amphi_protocol::api::{ApiError, ErrorCode};
use amphi_protocol::graph::GraphView;
use amphi_protocol::ids::{CommitIndex, EpicId};
use amphi_protocol::journal::{Decision, Record};
use amphi_protocol::report::{ReportError, Reporter};
use amphi_verify::{Checker, ExportHeader, ExportLine, Law, LawResult};
use serde_json::{Value, json};

use super::epics::not_found;
use super::request::{PAGE_MAX, Request};
use super::{Answer, Gateway, retired, shape};

/// Bytes of one page of events or journal lines.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// How often a reading is tried while the journal is trimmed under it.
const TRIES: u32 = 3;
/// Replays whose events are kept for the next page.
const KEPT: usize = 8;

type Events = Arc<Vec<(u64, String)>>;

/// The last replays, by epic and the last record read.
#[derive(Default)]
pub(crate) struct History(Mutex<VecDeque<(EpicId, u64, Events)>>);

impl History {
    fn get(&self, epic: &EpicId, until: u64) -> Option<Events> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(id, at, _)| id == epic && *at == until).map(|(_, _, events)| events.clone())
    }

    fn keep(&self, epic: EpicId, until: u64, events: Events) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(id, _, _)| *id != epic);
        kept.push_back((epic, until, events));
        let surplus = kept.len().saturating_sub(KEPT);
        kept.drain(..surplus);
    }
}

/// `epic.events`: the whole history of an epic, in pages after `after` (a `seq`).
pub async fn events(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let after = fields.number_if_any("after")?.unwrap_or(0);
    let limit = if fields.number_if_any("limit")?.is_some() { fields.limit()? } else { PAGE_MAX };
    let events = events_of(&gateway, &epic).await?;
    let (mut page, mut bytes) = (Vec::new(), 0);
    let mut rest = events.iter().filter(|(seq, _)| *seq > after).peekable();
    while let Some((_, body)) = rest.next_if(|_| page.len() < limit && bytes < PAGE_BYTES) {
        bytes += body.len();
        page.push(serde_json::from_str::<Value>(body).expect("an event that was rendered can be read"));
    }
    let next = rest.peek().and(page.last()).map(|last| last["seq"].clone());
    Ok(json!({ "epic": epic, "events": page, "next": next }))
}

/// `epic.report`: what its events say about it; with `{"graph": true}` also its graph, as `{"graph", …}`.
pub async fn report(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let with_graph = fields.flag("graph")?;
    let events = events_of(&gateway, &epic).await?;
    let contradiction = |error: ReportError| ApiError::new(ErrorCode::Internal, format!("the events give no report: {error}"));
    let mut reporter = Reporter::new();
    for (_, body) in events.iter() {
        let event = serde_json::from_str(body).expect("an event that was rendered can be read");
        reporter.event(&event).map_err(contradiction)?;
    }
    let mut reply = shape(&reporter.finish().map_err(contradiction)?);
    if with_graph {
        let id = epic.clone();
        let spec = gateway.manager.read(move |at| at.state.epic(&id).map(|epic| epic.spec.clone())).await?;
        reply["graph"] = match spec {
            Some(spec) => shape(&GraphView::of(&spec)),
            None => retired::find(&gateway, &epic).await?.map_or(Value::Null, |put_away| put_away.graph),
        };
    }
    Ok(reply)
}

/// `epic.export`: the shard's journal up to now, which holds everything that the epic's laws need; in pages after `after` (an index).
pub async fn export(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let after = fields.number_if_any("after")?;
    let limit = if fields.number_if_any("limit")?.is_some() { fields.limit()? } else { PAGE_MAX };
    for _ in 1..TRIES {
        match export_page(&gateway, &epic, after, limit).await? {
            Err(error) if may_have_moved(&error) => {}
            page => return page.map_err(unreadable),
        }
    }
    export_page(&gateway, &epic, after, limit).await?.map_err(unreadable)
}

async fn export_page(gateway: &Gateway, epic: &EpicId, after: Option<u64>, limit: usize) -> Result<Result<Value, BootError>, ApiError> {
    let at = known(gateway, epic).await?.at;
    let (mut lines, mut bytes, mut next) = (Vec::new(), 0, None);
    if after.is_none() {
        lines.push(json_line(&ExportLine::Header(header(gateway, Some(epic), &at))));
    }
    let mut last: Option<(CommitIndex, String)> = None;
    let from = after.map_or(at.first, |after| CommitIndex(after).next().max(at.first));
    let read = read_history((&*gateway.journal, &*gateway.objects), &at, (from, at.last), |stored, record| {
        if lines.len() >= limit || bytes >= PAGE_BYTES {
            next = last.as_ref().map(|(index, _)| index.0);
            return Ok(ControlFlow::Break(()));
        }
        for line in export_lines(stored, record) {
            bytes += stored.len();
            lines.push(json_line(&line));
        }
        last = Some((record.index, Record::hash(stored)));
        Ok(ControlFlow::Continue(()))
    });
    if let Err(error) = read.await {
        return Ok(Err(error));
    }
    // A page that begins behind the end closes nothing: the page before did.
    if let (None, Some((index, hash))) = (next, last) {
        lines.push(json_line(&ExportLine::End { index, hash }));
    }
    Ok(Ok(json!({ "lines": lines, "next": next })))
}

/// `epic.verify`: the independent checker over the journal, and the replayed state against the live one. Without an epic it judges all.
pub async fn verify(gateway: Arc<Gateway>, request: Request) -> Answer {
    let epic = request.fields()?.epic_if_any()?;
    for _ in 1..TRIES {
        match judge(&gateway, epic.as_ref()).await? {
            Err(error) if may_have_moved(&error) => {}
            verdict => return verdict.map_err(unreadable),
        }
    }
    judge(&gateway, epic.as_ref()).await?.map_err(unreadable)
}

async fn judge(gateway: &Gateway, epic: Option<&EpicId>) -> Result<Result<Value, BootError>, ApiError> {
    let (at, before, digest) = match epic {
        Some(epic) => {
            let (known, digest) = known_and(gateway, epic, State::digest).await?;
            (known.at, known.before, digest)
        }
        None => gateway.manager.read(|at| (Whereabouts::of(at.state, at.sequence), StateBefore::of(at.state), at.state.digest())).await?,
    };
    let mut state = match state_before(&*gateway.objects, &before, at.first).await {
        Ok(state) => state,
        Err(error) => return Ok(Err(error)),
    };
    let mut checker = Checker::new(epic.cloned());
    checker.line(&ExportLine::Header(header(gateway, epic, &at)).encode()).map_err(unsound)?;
    let mut sink = EventSink::counting();
    let mut fault = None;
    let read = read_history((&*gateway.journal, &*gateway.objects), &at, (at.first, at.last), |stored, record| {
        for line in export_lines(stored, record) {
            if let Err(error) = checker.line(&line.encode()) {
                fault = Some(error);
                return Ok(ControlFlow::Break(()));
            }
        }
        state.apply(record, &mut sink).map_err(|error| BootError::Follow(error.into()))?;
        Ok(ControlFlow::Continue(()))
    });
    if let Err(error) = read.await {
        return Ok(Err(error));
    }
    if let Some(error) = fault {
        return Err(unsound(error));
    }
    let mut verdict = checker.finish().map_err(unsound)?;
    if state.digest() != digest {
        for row in verdict.laws.iter_mut().filter(|row| row.law == Law::S3) {
            row.result = LawResult::Violated;
            row.evidence.push(at.last);
        }
        verdict.ok = false;
    }
    Ok(Ok(shape(&verdict)))
}

/// What is needed to look back at an epic.
struct Known {
    at: Whereabouts,
    before: StateBefore,
    /// The record that accepted it.
    accepted_in: CommitIndex,
    /// The last record that can be about it.
    until: CommitIndex,
}

/// Where the history of an epic is, whether it is in memory or was put away.
async fn known(gateway: &Gateway, epic: &EpicId) -> Result<Known, ApiError> {
    Ok(known_and(gateway, epic, |_| ()).await?.0)
}

async fn known_and<T: Send + 'static>(
    gateway: &Gateway,
    epic: &EpicId,
    also: impl FnOnce(&State) -> T + Send + 'static,
) -> Result<(Known, T), ApiError> {
    let id = epic.clone();
    let known = gateway.manager.read(move |at| {
        let retired = at.state.history().retired.get(&id).map(|retired| (retired.accepted_in, retired.retired_in));
        let (accepted_in, until) = at.state.epic(&id).map(|epic| (epic.accepted_in, at.state.index)).or(retired)?;
        let before = StateBefore::of(at.state);
        Some((Known { at: Whereabouts::of(at.state, at.sequence), before, accepted_in, until }, also(at.state)))
    });
    known.await?.ok_or_else(|| not_found(epic))
}

fn header(gateway: &Gateway, epic: Option<&EpicId>, at: &Whereabouts) -> ExportHeader {
    let from = (at.first.0 > 1).then_some(at.first);
    ExportHeader { shard: gateway.shard, epic: epic.cloned(), state_hash: None, from }
}

/// The journal is trimmed while it is read: what was still there when the reading began is in the archive now.
fn may_have_moved(error: &BootError) -> bool {
    match error {
        BootError::Store(error) => error.damaged,
        BootError::OutOfPlace { .. } => true,
        BootError::Record { .. }
        | BootError::Follow(_)
        | BootError::HistoryCut { .. }
        | BootError::NoSnapshot { .. }
        | BootError::Replaced { .. } => false,
    }
}

/// The events of a known epic up to now, from the last replays if it is among them.
async fn events_of(gateway: &Gateway, epic: &EpicId) -> Result<Events, ApiError> {
    let mut tries = 0;
    loop {
        let known = known(gateway, epic).await?;
        if let Some(events) = gateway.history.get(epic, known.until.0) {
            return Ok(events);
        }
        tries += 1;
        match replay_events(gateway, epic, &known).await {
            Ok(events) => {
                let events = Arc::new(events);
                gateway.history.keep(epic.clone(), known.until.0, events.clone());
                return Ok(events);
            }
            Err(error) if tries < TRIES && may_have_moved(&error) => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
}

/// From the newest snapshot before the epic was accepted: its numbers are those that the events have always had.
async fn replay_events(gateway: &Gateway, epic: &EpicId, known: &Known) -> Result<Vec<(u64, String)>, BootError> {
    let mut state = state_before(&*gateway.objects, &known.before, known.accepted_in.max(known.at.first)).await?;
    let mut sink = EventSink::collecting();
    let mut events = Vec::new();
    let range = (state.index.next(), known.until);
    read_history((&*gateway.journal, &*gateway.objects), &known.at, range, |_, record| {
        state.apply(record, &mut sink).map_err(|error| BootError::Follow(error.into()))?;
        let own = sink.take().into_iter().filter(|event| event.epic.as_ref() == Some(epic));
        events.extend(own.map(|event| (event.seq.0, shape(&event).to_string())));
        Ok(ControlFlow::Continue(()))
    })
    .await?;
    Ok(events)
}

/// The documents that a record refers to, then the record.
fn export_lines(stored: &[u8], record: &Record) -> Vec<ExportLine> {
    let mut lines = Vec::new();
    for decision in record.decisions.iter().flatten() {
        if let Decision::EpicAccepted { spec, .. } = decision
            && let (None, Some(resolved)) = (&spec.inline, &spec.resolved)
        {
            let json = serde_json::to_string(&**resolved).expect("a specification has only string keys and finite numbers");
            lines.push(ExportLine::Document { hash: spec.hash.clone(), json });
        }
    }
    lines.push(ExportLine::Record { index: record.index, record: String::from_utf8_lossy(stored).into_owned() });
    lines
}

fn json_line(line: &ExportLine) -> Value {
    serde_json::from_str(&line.encode()).expect("an export line is a JSON object")
}

fn unreadable(error: BootError) -> ApiError {
    tracing::error!(error = &error as &(dyn std::error::Error + 'static), "history cannot be read");
    match error {
        BootError::Store(error) if !error.damaged => {
            ApiError::new(ErrorCode::ClusterUnreachable, "the journal cannot be read now").hint("try again")
        }
        error => ApiError::new(ErrorCode::JournalDamaged, error.to_string())
            .hint("`amphi doctor` says more; restore a backup if the store was damaged"),
    }
}

fn unsound(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::JournalDamaged, format!("the journal cannot be checked: {error}"))
}
