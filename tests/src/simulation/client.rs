//! Clients and persons: they submit, send again until they are answered, contradict themselves, cancel, retry and answer questions.

mod outside;

use std::rc::Rc;
use std::sync::Arc;

use amphi_coordination::{InstanceEnd, InstanceState};
use amphi_protocol::document::EpicSpec;
use amphi_protocol::ids::{AgentId, EpicId, IncidentId, NodeId, ProjectId, RoleName, SubmitKey};
use amphi_protocol::journal::{Admission, Duty, Hold, Input, Post, Resolution, SpecRef, Submission};

use super::epics;
use super::world::{Event, Reply, Sender, Verdict, World};

const SUBMISSIONS_MAX: usize = 5;

/// What a request was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Submit(usize),
    Conflict(usize),
    Lock,
    Other,
}

#[derive(Debug)]
struct Sent {
    key: SubmitKey,
    project: ProjectId,
    spec: SpecRef,
    /// The answer.
    epic: Option<EpicId>,
}

#[derive(Debug, Default)]
pub(super) struct Clients {
    sent: Vec<Sent>,
    requests: Vec<(u64, Purpose)>,
    stopped: bool,
}

impl Clients {
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Everybody has an answer.
    pub fn is_settled(&self) -> bool {
        self.sent.iter().all(|sent| sent.epic.is_some())
    }

    /// What was answered: key and epic.
    pub fn acknowledged(&self) -> impl Iterator<Item = (&ProjectId, &SubmitKey, &EpicId)> {
        self.sent.iter().filter_map(|sent| Some((&sent.project, &sent.key, sent.epic.as_ref()?)))
    }
}

impl World {
    pub fn client_acts(&mut self) {
        let pause = self.rng.between(30, 400);
        self.after(pause, Event::ClientActs);
        self.person_answers();
        self.person_resumes();
        self.somebody_signals();
        self.somebody_locks();
        let open: Vec<usize> = (0..self.clients.sent.len()).filter(|sent| self.clients.sent[*sent].epic.is_none()).collect();
        if let Some(again) = open.first()
            && (self.clients.stopped || self.rng.chance(40))
        {
            self.tally.fault("client.resend");
            return self.submit(*again, Purpose::Submit(*again));
        }
        if self.clients.stopped {
            return self.release_one();
        }
        match self.rng.below(100) {
            0..35 if self.clients.sent.len() < SUBMISSIONS_MAX => self.submit_new(),
            35..45 if !self.clients.sent.is_empty() => {
                let again = self.rng.below(self.clients.sent.len() as u64) as usize;
                self.tally.fault("client.resend");
                self.submit(again, Purpose::Submit(again));
            }
            45..50 => {
                let answered = (0..self.clients.sent.len()).find(|sent| self.clients.sent[*sent].epic.is_some());
                if let Some(sent) = answered {
                    self.tally.fault("client.conflict");
                    self.submit(sent, Purpose::Conflict(sent));
                }
            }
            50..80 => self.operate(),
            80..92 => self.hold_somebody(),
            92..98 => self.assign_somebody(),
            _ => {}
        }
    }

    fn submit_new(&mut self) {
        let spec: Arc<EpicSpec> = Arc::new(epics::epic(&mut self.rng));
        let key = SubmitKey::parse(&format!("key {}", self.clients.sent.len())).expect("the key is valid");
        let project = spec.project.clone();
        let (spec, _) = SpecRef::new(spec);
        self.clients.sent.push(Sent { key, project, spec, epic: None });
        let number = self.clients.sent.len() - 1;
        self.submit(number, Purpose::Submit(number));
    }

    fn submit(&mut self, number: usize, purpose: Purpose) {
        let id = self.id();
        // In the end everything is taken, also beside epics that wait for a person who never comes.
        let is_bounded = !self.clients.stopped && self.rng.chance(50);
        let (open_epics, waiting_runs) = (self.rng.between(1, 5), self.rng.between(5, 60));
        let admission = is_bounded.then_some(Admission { open_epics, waiting_runs });
        let sent = &self.clients.sent[number];
        let body_hash = if matches!(purpose, Purpose::Conflict(_)) { "another".to_owned() } else { sent.spec.hash.clone() };
        let submission = Submission {
            admission,
            epic: EpicId::parse(&format!("sim-{id}")).expect("the id is valid"),
            key: sent.key.clone(),
            body_hash,
            by: "client".to_owned(),
            project: sent.project.clone(),
            spec: sent.spec.clone(),
        };
        self.request(purpose, Input::Submit(submission));
    }

    fn request(&mut self, purpose: Purpose, input: Input) {
        let request = self.id();
        self.clients.requests.push((request, purpose));
        self.send(Event::Request { from: Sender::Client { request }, inputs: Rc::new(vec![input]) });
    }

    /// An operator does something to a random epic, now and then to one that does not exist.
    fn operate(&mut self) {
        let by = "operator".to_owned();
        let Some(leader) = self.leader() else { return };
        let epics: Vec<(EpicId, Vec<u32>)> = leader
            .seat
            .state()
            .epics()
            .map(|epic| {
                let again = |state: &InstanceState| {
                    matches!(
                        state,
                        InstanceState::Ended(InstanceEnd::Failed | InstanceEnd::Cancelled | InstanceEnd::CutOff | InstanceEnd::Undone)
                    )
                };
                let failed = (0u32..).zip(&epic.instances).filter(|(_, instance)| again(&instance.state)).map(|(i, _)| i);
                (epic.id.clone(), failed.collect())
            })
            .collect();
        if epics.is_empty() {
            return;
        }
        let (epic, failed) = self.rng.pick(&epics).clone();
        let some = vec![self.rng.below(6) as u32];
        let input = match self.rng.below(16) {
            10..12 => Input::PauseEpic { epic, by },
            12 => Input::ResumeEpic { epic, by },
            13 => Input::SkipTask { epic, instances: some, by },
            14 => Input::RetryEpic { epic, from: Vec::new(), by },
            15 => Input::RetryEpic { epic, from: some, by },
            0..2 => Input::CancelEpic { epic, by, undo: self.rng.chance(50) },
            2..5 => Input::CancelTask { epic, instances: vec![self.rng.below(6) as u32], by },
            5..9 if !failed.is_empty() => Input::RetryTask { epic, instances: vec![*self.rng.pick(&failed)], by },
            9 => Input::CancelEpic { epic: EpicId::parse("nobody").expect("the id is valid"), by, undo: true },
            _ => Input::RetryTask { epic, instances: vec![self.rng.below(6) as u32], by },
        };
        self.request(Purpose::Other, input);
    }

    /// An operator says who has a task next that has not started, now and then somebody who cannot, or something that is under way.
    fn assign_somebody(&mut self) {
        let any = self.rng.chance(20);
        let Some(leader) = self.leader() else { return };
        let state = leader.seat.state();
        let unstarted =
            |state: &InstanceState| matches!(state, InstanceState::Blocked | InstanceState::Ready { .. } | InstanceState::Backoff { .. });
        let mut pairs: Vec<(EpicId, u32, AgentId)> = Vec::new();
        for epic in state.epics().filter(|epic| !epic.is_ended()) {
            for i in (0..epic.instances.len() as u32).filter(|i| any || unstarted(&epic.instances[*i as usize].state)) {
                let task = epic.spec_of(i);
                let fits = |role: &RoleName, skills: &[String]| {
                    task.agent.as_ref().is_none_or(|wanted| wanted == role) && task.skills.iter().all(|skill| skills.contains(skill))
                };
                let able = state.agents().filter(|(_, agent)| any || fits(&agent.role, &agent.skills));
                pairs.extend(able.map(|(id, _)| (epic.id.clone(), i, id.clone())));
                pairs.extend(any.then(|| (epic.id.clone(), i, AgentId::parse("nobody").expect("the id is valid"))));
            }
        }
        if pairs.is_empty() {
            return;
        }
        let (epic, i, agent) = self.rng.pick(&pairs).clone();
        self.request(Purpose::Other, Input::AssignTask { epic, instances: vec![i], agent, by: "operator".to_owned() });
    }

    /// An operator pauses, drains or takes back an agent or a node, also one that does not exist.
    fn hold_somebody(&mut self) {
        let Some(leader) = self.leader() else { return };
        let state = leader.seat.state();
        let mut posts: Vec<Post> = state.nodes().map(|(id, _)| Post::Node(id.clone())).collect();
        posts.extend(state.agents().map(|(id, _)| Post::Agent(id.clone())));
        posts.push(Post::Node(NodeId::parse("nobody").expect("the id is valid")));
        let post = self.rng.pick(&posts).clone();
        let hold = match self.rng.below(10) {
            0..4 => Hold::Resume,
            4..6 => Hold::Pause,
            _ => Hold::Drain { grace_ms: self.rng.below(1_500) },
        };
        self.request(Purpose::Other, Input::Hold { post, hold, by: "operator".to_owned() });
    }

    /// In the end somebody takes everything back that is held, or its work would wait for ever.
    fn release_one(&mut self) {
        let Some(leader) = self.leader() else { return };
        let state = leader.seat.state();
        let node = state.nodes().find(|(_, node)| node.alive && node.duty != Duty::Active).map(|(id, _)| Post::Node(id.clone()));
        let held = node.or_else(|| state.agents().find(|(_, agent)| agent.duty != Duty::Active).map(|(id, _)| Post::Agent(id.clone())));
        if let Some(post) = held {
            self.request(Purpose::Other, Input::Hold { post, hold: Hold::Resume, by: "operator".to_owned() });
        }
    }

    fn person_answers(&mut self) {
        let answers = if self.faults { self.rng.chance(40) } else { self.persons_answer };
        let Some(incident) = self.open_incident().filter(|_| answers) else { return };
        if self.rng.chance(30) {
            return self.request(Purpose::Other, Input::AckIncident { incident, note: "looking".to_owned(), by: "person".to_owned() });
        }
        // A person looks at what really happened; only then do they say anything about an effect outside.
        let about = self.leader().and_then(|leader| leader.seat.state().incident_attempt(&incident).cloned());
        if let Some(done) = about.and_then(|at| self.observer.happened(&at)) {
            let resolution = if done { Resolution::Succeeded } else { *self.rng.pick(&[Resolution::Failed, Resolution::NotStarted]) };
            return self.request(Purpose::Other, Input::ResolveIncident { incident, resolution, by: "person".to_owned() });
        }
        let resolution = *self.rng.pick(&[Resolution::Succeeded, Resolution::Failed, Resolution::NotStarted]);
        self.request(Purpose::Other, Input::ResolveIncident { incident, resolution, by: "person".to_owned() });
    }

    /// Whoever pauses resumes, at the latest when there are no faults any more.
    fn person_resumes(&mut self) {
        let Some(leader) = self.leader() else { return };
        let paused = leader.seat.state().epics().find(|epic| epic.paused).map(|epic| epic.id.clone());
        let Some(epic) = paused.filter(|_| !self.faults || self.rng.chance(15)) else { return };
        self.request(Purpose::Other, Input::ResumeEpic { epic, by: "person".to_owned() });
    }

    /// A message on some subject; when the faults are over, one that somebody waits for.
    fn somebody_signals(&mut self) {
        let subject = if self.clients.stopped {
            let awaited = self.leader().and_then(|leader| leader.seat.state().awaited().next().map(str::to_owned));
            awaited.map(|pattern| pattern.replace(['*', '>'], "a"))
        } else if self.rng.chance(8) {
            Some((*self.rng.pick(&["go.a", "go.b", "nobody.listens"])).to_owned())
        } else {
            None
        };
        if let Some(subject) = subject {
            // A message is taken again when one commit could not hold all that it ends.
            let again = !self.clients.stopped && self.rng.chance(30);
            let before = self.leader().filter(|_| again).map(|leader| leader.seat.state().now);
            self.request(Purpose::Other, Input::Signal { subject, data: serde_json::json!({ "n": 1 }), before });
        }
    }

    fn open_incident(&mut self) -> Option<IncidentId> {
        let leader = self.leader()?;
        let incidents = leader.seat.state().incident_list().incidents;
        let open: Vec<String> =
            incidents.into_iter().filter(|incident| incident.state != "resolved").map(|incident| incident.incident).collect();
        if open.is_empty() { None } else { IncidentId::parse(self.rng.pick::<String>(&open)).ok() }
    }

    pub fn client_hears(&mut self, request: u64, reply: &Reply) {
        let Some(position) = self.clients.requests.iter().position(|(known, _)| *known == request) else { return };
        let purpose = self.clients.requests[position].1;
        let Reply::Verdicts { verdicts, .. } = reply else { return };
        match (purpose, &verdicts[0]) {
            (Purpose::Submit(number), Verdict::Accepted(Some(epic)) | Verdict::Duplicate(epic)) => {
                let known = self.clients.sent[number].epic.get_or_insert_with(|| epic.clone());
                if known != epic {
                    let words = format!("one submission was answered with {known} and with {epic}");
                    self.fail("S13", words);
                }
            }
            // It is sent again.
            (Purpose::Submit(_), Verdict::Refused("cluster.busy")) => self.tally.seen("submit.full"),
            (Purpose::Submit(_), Verdict::Refused("epic.limit")) => self.tally.seen("submit.too_large"),
            (Purpose::Submit(_), other) => self.fail("S1", format!("a valid submission was answered with {other:?}")),
            (Purpose::Conflict(_), Verdict::Refused("submit.conflict")) | (Purpose::Lock | Purpose::Other, _) => {}
            (Purpose::Conflict(_), other) => self.fail("S13", format!("another body under a used key was answered with {other:?}")),
        }
    }
}
