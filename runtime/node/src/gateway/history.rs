//! History: an epic's events, the report on them, its exported journal, the verdict on it. All are computed from the journal itself,
//! by a replay beside the Manager, never from what the Manager remembers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use amphi_agents::manager::boot::{BootError, history as read_history};
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
use super::{Answer, Gateway, shape};

/// Bytes of one page of events or journal lines.
const PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Replays whose events are kept for the next page.
const KEPT: usize = 8;

type Events = Arc<Vec<(u64, String)>>;

/// The last replays, by epic and journal position.
#[derive(Default)]
pub(crate) struct History(Mutex<VecDeque<(EpicId, u64, Events)>>);

impl History {
    fn get(&self, epic: &EpicId, sequence: u64) -> Option<Events> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(id, at, _)| id == epic && *at == sequence).map(|(_, _, events)| events.clone())
    }

    fn keep(&self, epic: EpicId, sequence: u64, events: Events) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(id, _, _)| *id != epic);
        kept.push_back((epic, sequence, events));
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
        let spec = gateway.manager.read(move |at| at.state.epic(&epic).map(|epic| epic.spec.clone())).await?;
        reply["graph"] = spec.map_or(Value::Null, |spec| shape(&GraphView::of(&spec)));
    }
    Ok(reply)
}

/// `epic.export`: the shard's journal up to now, which holds everything that the epic's laws need; in pages after `after` (an index).
pub async fn export(gateway: Arc<Gateway>, request: Request) -> Answer {
    let fields = request.fields()?;
    let epic = fields.epic()?;
    let after = fields.number_if_any("after")?;
    let limit = if fields.number_if_any("limit")?.is_some() { fields.limit()? } else { PAGE_MAX };
    let sequence = known(&gateway, &epic).await?;
    let (mut lines, mut bytes, mut next) = (Vec::new(), 0, None);
    if after.is_none() {
        lines.push(json_line(&ExportLine::Header(ExportHeader { shard: gateway.shard, epic: Some(epic), state_hash: None })));
    }
    let mut last: Option<(CommitIndex, String)> = None;
    read_history(&*gateway.journal, &*gateway.objects, sequence, |_, stored, record| {
        let hash = Record::hash(stored);
        if record.index.0 <= after.unwrap_or(0) || next.is_some() {
            last = Some((record.index, hash));
            return Ok(());
        }
        if lines.len() >= limit || bytes >= PAGE_BYTES {
            next = last.as_ref().map(|(index, _)| index.0);
            return Ok(());
        }
        for line in export_lines(stored, record) {
            bytes += stored.len();
            lines.push(json_line(&line));
        }
        last = Some((record.index, hash));
        Ok(())
    })
    .await
    .map_err(unreadable)?;
    if let (None, Some((index, hash))) = (next, last) {
        lines.push(json_line(&ExportLine::End { index, hash }));
    }
    Ok(json!({ "lines": lines, "next": next }))
}

/// `epic.verify`: the independent checker over the journal, and the replayed state against the live one.
pub async fn verify(gateway: Arc<Gateway>, request: Request) -> Answer {
    let epic = request.fields()?.epic()?;
    known(&gateway, &epic).await?;
    let (sequence, index, digest) = gateway.manager.read(|at| (at.sequence, at.state.index, at.state.digest())).await?;
    let mut checker = Checker::new(Some(epic.clone()));
    let header = ExportLine::Header(ExportHeader { shard: gateway.shard, epic: Some(epic), state_hash: None });
    checker.line(&header.encode()).map_err(unsound)?;
    let mut state = State::new(gateway.shard);
    let mut sink = EventSink::counting();
    let mut fault = None;
    read_history(&*gateway.journal, &*gateway.objects, sequence, |_, stored, record| {
        for line in export_lines(stored, record) {
            if let Err(error) = checker.line(&line.encode()) {
                fault.get_or_insert(error);
            }
        }
        state.apply(record, &mut sink).map_err(|error| BootError::Follow(error.into()))
    })
    .await
    .map_err(unreadable)?;
    if let Some(error) = fault {
        return Err(unsound(error));
    }
    let mut verdict = checker.finish().map_err(unsound)?;
    if state.digest() != digest {
        for row in verdict.laws.iter_mut().filter(|row| row.law == Law::S3) {
            row.result = LawResult::Violated;
            row.evidence.push(index);
        }
        verdict.ok = false;
    }
    Ok(shape(&verdict))
}

async fn known(gateway: &Gateway, epic: &EpicId) -> Result<u64, ApiError> {
    let id = epic.clone();
    let sequence = gateway.manager.read(move |at| at.state.epic(&id).map(|_| at.sequence)).await?;
    sequence.ok_or_else(|| not_found(epic))
}

/// The events of a known epic up to now, from the last replays if it is among them.
async fn events_of(gateway: &Gateway, epic: &EpicId) -> Result<Events, ApiError> {
    let sequence = known(gateway, epic).await?;
    if let Some(events) = gateway.history.get(epic, sequence) {
        return Ok(events);
    }
    let events = Arc::new(replay_events(gateway, epic, sequence).await?);
    gateway.history.keep(epic.clone(), sequence, events.clone());
    Ok(events)
}

async fn replay_events(gateway: &Gateway, epic: &EpicId, sequence: u64) -> Result<Vec<(u64, String)>, ApiError> {
    let mut state = State::new(gateway.shard);
    let mut sink = EventSink::collecting();
    let mut events = Vec::new();
    read_history(&*gateway.journal, &*gateway.objects, sequence, |_, _, record| {
        state.apply(record, &mut sink).map_err(|error| BootError::Follow(error.into()))?;
        let own = sink.take().into_iter().filter(|event| event.epic.as_ref() == Some(epic));
        events.extend(own.map(|event| (event.seq.0, shape(&event).to_string())));
        Ok(())
    })
    .await
    .map_err(unreadable)?;
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
