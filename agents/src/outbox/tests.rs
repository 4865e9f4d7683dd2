//! The laws of the queue: order, verdicts, and what may be dropped.

use amphi_protocol::ids::{AttemptRef, EpicId, Incarnation, NodeId, Token};
use amphi_protocol::journal::{AttemptEnd, AttemptNews, AttemptReport, Outcome};

use super::*;

fn report(i: u32, what: AttemptNews) -> Input {
    Input::Attempt(AttemptReport {
        node: NodeId::parse("node-1").unwrap(),
        incarnation: Incarnation(1),
        attempt: AttemptRef { epic: EpicId::parse("e").unwrap(), i, run: 1, attempt: 1 },
        token: Token(1),
        what,
    })
}

fn progress(i: u32, percent: u8) -> Input {
    report(i, AttemptNews::Progress { percent: Some(percent), message: None })
}

fn started(i: u32) -> Input {
    report(i, AttemptNews::Started { pid: None })
}

fn ended(i: u32, error: String) -> Input {
    let end =
        AttemptEnd { outcome: Outcome::Exit, exit_code: None, error: Some(error), outputs: Default::default(), artifacts: Vec::new() };
    report(i, AttemptNews::Ended(end))
}

fn queue(inputs: impl IntoIterator<Item = Input>) -> Queue {
    let mut queue = Queue::default();
    inputs.into_iter().for_each(|input| queue.push(input));
    queue
}

fn waiting(queue: &Queue) -> Vec<Input> {
    queue.items.iter().map(|item| item.input.clone()).collect()
}

fn refused(code: &str) -> Verdict {
    Verdict::Refused(code.to_owned())
}

#[test]
fn what_may_succeed_later_stays_in_front_and_in_order() {
    let mut queue = queue((0..5).map(started));
    assert_eq!(queue.take_batch(4).len(), 4);
    let settled = queue.settle(vec![refused("cluster.busy"), Verdict::Accepted, refused("cluster.no_leader"), refused("stale")]);
    assert_eq!(settled.iter().map(|one| one.input.clone()).collect::<Vec<_>>(), [started(1), started(3)]);
    assert_eq!(waiting(&queue), [started(0), started(2), started(4)]);
}

#[test]
fn of_waiting_progress_only_the_latest_counts_and_what_is_on_its_way_stays_as_it_is() {
    let mut queue = queue([started(1), progress(1, 10), progress(2, 5), progress(1, 20)]);
    assert_eq!(waiting(&queue), [started(1), progress(1, 20), progress(2, 5)]);
    queue.take_batch(2);
    queue.push(progress(1, 30));
    queue.push(progress(1, 40));
    queue.push(ended(1, String::new()));
    queue.push(progress(2, 6));
    let expected = [started(1), progress(1, 20), progress(2, 6), progress(1, 40), ended(1, String::new())];
    assert_eq!(waiting(&queue), expected);
}

#[test]
fn a_batch_is_bounded_in_inputs_and_bytes_and_never_empty() {
    let mut many = queue((0..1000).map(started));
    assert_eq!(many.take_batch(BATCH_INPUTS_MAX).len(), BATCH_INPUTS_MAX);
    let mut large = queue((0..4).map(|i| ended(i, "x".repeat(200 * 1024))));
    assert_eq!(large.take_batch(BATCH_INPUTS_MAX).len(), 2);
    let mut giant = queue([ended(1, "x".repeat(BATCH_BYTES_MAX + 1)), started(2)]);
    assert_eq!(giant.take_batch(BATCH_INPUTS_MAX), [ended(1, "x".repeat(BATCH_BYTES_MAX + 1))]);
    assert!(Queue::default().take_batch(BATCH_INPUTS_MAX).is_empty());
}

#[test]
fn only_an_input_that_was_alone_in_a_refused_request_is_given_up() {
    let mut queue = queue([started(1), started(2)]);
    queue.take_batch(2);
    assert_eq!(queue.give_up("request.invalid"), None);
    queue.take_batch(1);
    let given_up = queue.give_up("request.invalid").unwrap();
    assert_eq!((given_up.input, given_up.verdict), (started(1), refused("request.invalid")));
    assert_eq!(waiting(&queue), [started(2)]);
}

#[test]
fn only_what_was_sent_without_an_answer_is_doubtful() {
    let mut queue = queue([started(1), started(2), started(3)]);
    queue.take_batch(1);
    queue.returned(true);
    queue.take_batch(2);
    queue.returned(false);
    queue.take_batch(3);
    let doubts: Vec<bool> = queue.settle(vec![Verdict::Accepted; 3]).iter().map(|one| one.doubtful).collect();
    assert_eq!(doubts, [true, false, false]);
}

/// Answers each request in turn with the next term.
struct Leaders(Mutex<Vec<u64>>, Notify);

impl LeaderLink for Leaders {
    fn send(&self, inputs: Vec<Input>) -> futures::future::BoxFuture<'static, Result<crate::link::LeaderReply, LinkError>> {
        let epoch = Epoch(self.0.lock().unwrap().pop().unwrap());
        self.1.notify_one();
        let results = inputs.iter().map(|_| if epoch.0 < 7 { refused("stale") } else { Verdict::Accepted }).collect();
        Box::pin(async move { Ok(crate::link::LeaderReply { epoch, index: amphi_protocol::ids::CommitIndex(1), results }) })
    }
}

#[tokio::test(start_paused = true)]
async fn a_deposed_manager_refuses_nothing_for_good() {
    let link = Arc::new(Leaders(Mutex::new(vec![7, 6, 5]), Notify::new()));
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let outbox = Outbox::start(link.clone(), Arc::new(|| Duration::ZERO), move |settlement| told.send(settlement).unwrap());
    outbox.heard_of(Epoch(7));
    outbox.push(started(1));
    let settlement = heard.recv().await.unwrap();
    assert_eq!((settlement.epoch, settlement.settled[0].verdict.clone()), (Epoch(7), Verdict::Accepted));
    assert!(settlement.settled[0].doubtful, "a deposed one may have taken it all the same");
    assert!(link.0.lock().unwrap().is_empty());
}
