//! All worktrees of a node: taken for an attempt, given back after it, swept when a life of the node begins.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use amphi_ports::{JobNews, JobOrder, Pins};
use amphi_protocol::journal::Outcome;
use nix::fcntl::Flock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::about::{About, run_name};
use super::look::{Work, look};
use super::mirror::{Mirror, git};
use super::places::{Places, RunPlace, break_locks_below, lock, make_folder};
use crate::process::{Basics, GuardCommand, is_guarded};
use crate::tools::{Context, Launcher, ToolError};

/// Most worktrees that a node keeps.
pub const WORKTREES_MAX: usize = 200;
/// How long making a worktree may take, the fetch included.
const TAKE_TIME_MAX: Duration = Duration::from_secs(600);
/// How long judging and removing one may take.
const GIVE_BACK_TIME_MAX: Duration = Duration::from_secs(60);
/// The same where the attempt was to be ended.
const HASTE_TIME_MAX: Duration = Duration::from_secs(4);
/// How long an attempt waits for the one before it in the same worktree to be dead.
const FORMER_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What git runs with.
#[derive(Debug, Clone)]
pub struct WorktreeConfig {
    /// The node's data folder, the same as the process engine's.
    pub data_dir: PathBuf,
    /// How to run a guard.
    pub guard: GuardCommand,
    /// `PATH`, `HOME` and `LANG` of git.
    pub basics: Basics,
    /// Most worktrees that are kept, [`WORKTREES_MAX`] unless a test says otherwise.
    pub worktrees_max: usize,
}

/// The worktrees.
pub(super) struct Store {
    data_dir: PathBuf,
    places: Places,
    launcher: Arc<Launcher>,
    pins: Arc<dyn Pins>,
    worktrees_max: usize,
}

/// A worktree that an attempt has. Nobody else gets it before it is dropped.
pub(super) struct Taken {
    pub tree: PathBuf,
    /// An earlier attempt of the run left something in it.
    pub is_continued: bool,
    about: About,
    name: String,
    _lock: Flock<File>,
}

/// A worktree that stays.
pub(super) struct Kept {
    pub tree: PathBuf,
    pub branch: String,
    pub why: String,
}

impl Store {
    /// Opens it and removes what a killed git left. Only while nothing of an earlier life of the node runs.
    pub fn open(config: WorktreeConfig, pins: Arc<dyn Pins>) -> io::Result<Self> {
        make_folder(&config.data_dir)?;
        let data_dir = config.data_dir.canonicalize()?;
        let places = Places::new(&data_dir);
        places.break_locks();
        let launcher = Arc::new(Launcher::with(data_dir.clone(), config.guard, config.basics));
        Ok(Self { data_dir, places, launcher, pins, worktrees_max: config.worktrees_max })
    }

    /// `cancel` ends it in order, `hurry` at once.
    fn context(
        &self,
        name: &str,
        (cancel, hurry): (&CancellationToken, &CancellationToken),
        news: &mpsc::UnboundedSender<JobNews>,
    ) -> Context {
        let mut context = Context::of_node(self.data_dir.clone(), format!("git.{name}"), Arc::clone(&self.launcher), news.clone());
        (context.cancel, context.hurry) = (cancel.clone(), hurry.clone());
        context
    }

    /// The worktree for an attempt, at the commit of its epic, or as the attempt before left it.
    pub async fn take(
        &self,
        order: &JobOrder,
        (url, reference): (&str, Option<&str>),
        news: &mpsc::UnboundedSender<JobNews>,
        cancel: &CancellationToken,
    ) -> Result<Taken, ToolError> {
        let limit = cancel.child_token();
        let name = format!("{}.{}.{}", order.attempt.epic, run_name(order), order.attempt.run);
        let context = self.context(&name, (&limit, &order.hurry), news);
        let mut work = std::pin::pin!(self.take_now(&context, order, name.clone(), (url, reference)));
        let taken = tokio::select! {
            biased;
            taken = &mut work => taken,
            () = limit.cancelled() => Err(ToolError::cancelled()),
            () = tokio::time::sleep(TAKE_TIME_MAX) => {
                limit.cancel();
                let _ = work.await;
                let text = format!("making a worktree of `{url}` took more than {} minutes", TAKE_TIME_MAX.as_secs() / 60);
                Err(ToolError { outcome: Outcome::Resource, text })
            }
        };
        match taken {
            Err(_) if cancel.is_cancelled() => Err(ToolError::cancelled()),
            other => other,
        }
    }

    async fn take_now(
        &self,
        context: &Context,
        order: &JobOrder,
        name: String,
        (url, reference): (&str, Option<&str>),
    ) -> Result<Taken, ToolError> {
        self.places.make()?;
        let place = self.places.run(&name);
        let lock = self.lock_run(&place, order).await?;
        if let Some(about) = self.continued(context, &place).await? {
            return Ok(Taken { tree: place.tree, is_continued: true, about, name, _lock: lock });
        }
        self.make_room(&name).await?;
        let mirror_place = self.places.mirror(url);
        make_folder(&mirror_place.folder)?;
        let _mirror_lock = self.lock_mirror(context, &mirror_place.lock).await?;
        let mirror = Mirror::open(context, &mirror_place, url).await?;
        let commit = self.commit_of_epic(&mirror, order, reference).await?;
        let branch = format!("amphi/{}/{}/{}", order.attempt.epic, run_name(order), order.attempt.run);
        let mut about = About {
            epic: order.attempt.epic.to_string(),
            task: order.task.clone(),
            run: order.attempt.run,
            url: url.to_owned(),
            repository: mirror_place.repository.clone(),
            branch,
            commit,
        };
        // First, so that a worktree without a word about it is never one of ours.
        about.write(&place.about)?;
        let branch = mirror.add(&place.tree, &about.branch, &about.commit).await?;
        if branch != about.branch {
            about.branch = branch;
            about.write(&place.about)?;
        }
        Ok(Taken { tree: place.tree, is_continued: false, about, name, _lock: lock })
    }

    /// One attempt of a run at a time, and none before the one before is dead.
    async fn lock_run(&self, place: &RunPlace, order: &JobOrder) -> Result<Flock<File>, ToolError> {
        let busy = || ToolError { outcome: Outcome::NotStarted, text: "an earlier attempt of this run still has its worktree".to_owned() };
        let lock = lock(&place.lock, FORMER_PATIENCE).await?.ok_or_else(busy)?;
        let began = tokio::time::Instant::now();
        while is_guarded(&self.data_dir, &order.attempt) {
            if began.elapsed() > FORMER_PATIENCE {
                return Err(busy());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(lock)
    }

    /// A fetch of another task may be under way, which is no silence of this one.
    async fn lock_mirror(&self, context: &Context, path: &std::path::Path) -> Result<Flock<File>, ToolError> {
        loop {
            context.is_active();
            if let Some(lock) = lock(path, Duration::from_secs(1)).await? {
                return Ok(lock);
            }
        }
    }

    /// What an earlier attempt of the run left, if it can be used. What cannot be is put aside, never removed.
    async fn continued(&self, context: &Context, place: &RunPlace) -> Result<Option<About>, ToolError> {
        if !place.tree.exists() {
            return Ok(None);
        }
        if let Some(about) = About::read(&place.about).ok().flatten() {
            let git = git(context, &place.tree)?;
            let words = ["rev-parse", "--path-format=absolute", "--show-toplevel", "--absolute-git-dir", "--git-common-dir"];
            let answer = git.run(&words, &[]).await?;
            if let [top, own, common] = &answer.stdout.lines().collect::<Vec<_>>()[..]
                && (std::path::Path::new(top), std::path::Path::new(common)) == (&*place.tree, &*about.repository)
                && git.commit_of("HEAD").await?.is_some()
            {
                break_locks_below(std::path::Path::new(own));
                return Ok(Some(about));
            }
        }
        let aside = place.tree.with_extension(format!("aside-{}", uuid::Uuid::now_v7().simple()));
        tracing::warn!(worktree = %place.tree.display(), aside = %aside.display(), "a worktree that git does not understand is put aside");
        fs::rename(&place.tree, aside)?;
        Ok(None)
    }

    /// Refuses if too many are kept already, after a look at whether one may go.
    async fn make_room(&self, name: &str) -> Result<(), ToolError> {
        if self.places.count()? < self.worktrees_max {
            return Ok(());
        }
        Box::pin(self.sweep()).await;
        let count = self.places.count()?;
        if count < self.worktrees_max {
            return Ok(());
        }
        let text = format!(
            "no worktree for {name}: {count} are kept on this node because they hold work that is nowhere else, and {} is the most\n\
             push or commit what is needed and remove the others: they are in {}",
            self.worktrees_max,
            self.places.trees.display()
        );
        Err(ToolError { outcome: Outcome::Resource, text })
    }

    /// The commit at which all runs of the epic begin. Whoever asks first, decides.
    async fn commit_of_epic(&self, mirror: &Mirror<'_>, order: &JobOrder, reference: Option<&str>) -> Result<String, ToolError> {
        let pin = format!("git.{}", order.attempt.epic);
        let unsaid = |error: amphi_ports::StoreError| ToolError {
            outcome: Outcome::NotStarted,
            text: format!("the commit of the epic cannot be looked up: {error}"),
        };
        let decided = match self.pins.get(&pin).await.map_err(unsaid)? {
            Some(decided) => decided,
            None => self.pins.decide(&pin, &mirror.resolve(reference).await?).await.map_err(unsaid)?,
        };
        mirror.bring(&decided).await?;
        Ok(decided)
    }

    /// Gives a worktree back: removed if it holds nothing of its own, otherwise kept. Somebody who waits for the end of the attempt
    /// (`in_haste`) does not wait for long; what could not be judged is kept, and judged when the next one is swept.
    pub async fn give_back(&self, taken: Taken, in_haste: bool) -> Option<Kept> {
        let (limit, patience) = (CancellationToken::new(), if in_haste { HASTE_TIME_MAX } else { GIVE_BACK_TIME_MAX });
        let context = self.context(&taken.name, (&limit, &limit), &mpsc::unbounded_channel().0);
        let place = self.places.run(&taken.name);
        let settled = tokio::time::timeout(patience, self.settle(&context, &place, &taken.about)).await;
        limit.cancel();
        let why = match settled {
            Ok(Ok(work)) if work.is_none() => return None,
            Ok(Ok(work)) => work.in_words(),
            Ok(Err(error)) => format!("what it holds cannot be judged: {}", error.text),
            Err(_) => "what it holds could not be judged in time".to_owned(),
        };
        Some(Kept { tree: taken.tree, branch: taken.about.branch, why })
    }

    /// Removes a worktree if it holds nothing of its own; says what it holds.
    async fn settle(&self, context: &Context, place: &RunPlace, about: &About) -> Result<Work, ToolError> {
        let tree = git(context, &place.tree)?;
        let mut work = look(&tree, about).await?;
        if work.files > 0 || !work.others.is_empty() {
            return Ok(work);
        }
        let mirror_place = self.places.mirror(&about.url);
        let Some(_lock) = lock(&mirror_place.lock, GIVE_BACK_TIME_MAX).await? else {
            return Err(ToolError::failed("its repository was in use all the time"));
        };
        let mirror = Mirror::open(context, &mirror_place, &about.url).await?;
        if work.commits > 0 {
            // They may have been pushed in a way that left no trace here.
            let _unreachable_is_unknown = mirror.fetch().await;
            work = look(&tree, about).await?;
        }
        if work.is_none() {
            mirror.remove(&place.tree, about).await?;
            fs::remove_file(&place.about)?;
            fs::remove_file(&place.lock)?;
        }
        Ok(work)
    }

    /// Removes the worktrees that nobody has and that hold nothing of their own.
    pub async fn sweep(&self) {
        let names = self.places.names().unwrap_or_else(|error| {
            tracing::warn!(%error, "the worktrees cannot be listed");
            Vec::new()
        });
        for name in names {
            let place = self.places.run(&name);
            let Ok(Some(held)) = lock(&place.lock, Duration::ZERO).await else { continue };
            if !place.tree.exists() {
                let _ = fs::remove_file(&place.about);
                let _ = fs::remove_file(&place.lock);
            } else if let Ok(Some(about)) = About::read(&place.about) {
                let taken = Taken { tree: place.tree.clone(), is_continued: true, about, name, _lock: held };
                if let Some(kept) = self.give_back(taken, false).await {
                    tracing::info!(worktree = %kept.tree.display(), branch = kept.branch, why = kept.why, "a worktree is kept");
                }
            }
        }
    }
}
