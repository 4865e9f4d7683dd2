//! Orders and failures in any order: whatever came, the tree settles, the board tells the truth, and an end leaves nothing.

mod stage;

use std::sync::atomic::Ordering;
use std::time::Duration;

use amphi_protocol::tree::TreeState;
use amphi_supervisors::*;
use ractor::registry::where_is;
use stage::*;

const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A small generator (splitmix64): the same seed, the same disorder.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

fn child(stage: &Stage, id: &str, dice: &mut Dice) -> ChildSpec {
    let mut player = stage.player(id);
    player.start_takes = Duration::from_millis(dice.roll(4));
    player.failing_starts.store(dice.roll(3) as u32, Ordering::SeqCst);
    let restart = [Restart::Permanent, Restart::Permanent, Restart::Transient, Restart::Temporary][dice.roll(4) as usize];
    let mut spec = stage.child_of(player).restart(restart).shutdown(Duration::from_millis(20));
    if dice.roll(2) == 0 {
        spec = spec.limited(Intensity { max: 3, within: Duration::from_secs(600) }, OnExhausted::Quarantine);
    }
    spec
}

async fn disturb(stage: &Stage, root: &Root, dice: &mut Dice) {
    let id = IDS[dice.roll(5) as usize];
    let supervisor = root.supervisor.clone();
    let actor = where_is(stage.name(id)).map(ractor::ActorRef::<Do>::from);
    match (dice.roll(9), actor) {
        (0, Some(actor)) => drop(actor.cast(Do::Panic)),
        (1, Some(actor)) => drop(actor.cast(Do::Fail)),
        (2, Some(actor)) => drop(actor.cast(Do::Stop(None))),
        (3, Some(actor)) => drop(actor.cast(Do::Hang)),
        (4, Some(actor)) => actor.kill(),
        (5, Some(actor)) => drop(actor.cast(Do::Spin(Duration::from_millis(30)))),
        (6, _) => drop(tokio::spawn(async move { terminate_child(&supervisor, id, None).await })),
        (7, _) => drop(tokio::spawn(async move { restart_child(&supervisor, id, None).await })),
        (8, _) => {
            let spec = child(stage, id, dice);
            drop(tokio::spawn(async move { start_child(&supervisor, spec, None).await }));
        }
        _ => {}
    }
    match dice.roll(3) {
        0 => tokio::time::sleep(Duration::from_millis(dice.roll(5))).await,
        _ => tokio::task::yield_now().await,
    }
}

/// Each child is at rest, and lives exactly if the board says so.
fn at_rest(stage: &Stage, root: &Root) -> bool {
    let tree = stage.board.render(&root.name).expect("the root is on the board");
    IDS.iter().all(|id| {
        let lives = where_is(stage.name(id)).is_some();
        match tree.children.iter().find(|child| child.name == *id).map(|child| child.state) {
            Some(TreeState::Running) => lives,
            Some(TreeState::Stopped | TreeState::Quarantined) | None => !lives,
            Some(TreeState::Starting | TreeState::Restarting | TreeState::Stopping) => false,
        }
    })
}

async fn check(seed: u64, strategy: Strategy) {
    let stage = Stage::new();
    let mut dice = Dice(seed);
    let mut spec = stage.spec("root", IDS[..3].iter().map(|id| child(&stage, id, &mut dice)).collect());
    spec.strategy = strategy;
    spec.intensity.max = 1000;
    let root = stage.open(spec).await;
    for _ in 0..60 {
        disturb(&stage, &root, &mut dice).await;
    }
    let rest = async {
        while !at_rest(&stage, &root) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let rested = tokio::time::timeout(DEADLINE, rest).await;
    assert!(rested.is_ok(), "seed {seed}, {strategy:?}: no rest: {:#?}", stage.board.render(&root.name));
    root.close().await;
    for id in IDS {
        assert!(where_is(stage.name(id)).is_none(), "seed {seed}, {strategy:?}: {id} outlives its supervisor");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whatever_happens_the_tree_comes_to_rest_and_the_board_is_right() {
    // Failing on purpose is loud; only what `check` says matters here.
    std::panic::set_hook(Box::new(|info| {
        if !info.to_string().contains("on demand") {
            eprintln!("{info}");
        }
    }));
    for seed in 0..20 {
        for strategy in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne] {
            check(seed, strategy).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_end_in_the_middle_of_disorder_leaves_nothing() {
    for seed in 1000..1030 {
        let stage = Stage::new();
        let mut dice = Dice(seed);
        let mut spec = stage.spec("root", IDS[..3].iter().map(|id| child(&stage, id, &mut dice)).collect());
        spec.intensity.max = 1000;
        let root = stage.open(spec).await;
        for _ in 0..dice.roll(30) {
            disturb(&stage, &root, &mut dice).await;
        }
        let supervisor = root.supervisor.clone();
        root.close().await;
        assert_eq!(settled(&supervisor, None).await, Err(ChildError::NoAnswer));
        for id in IDS {
            assert!(where_is(stage.name(id)).is_none(), "seed {seed}: {id} outlives its supervisor");
        }
    }
}
