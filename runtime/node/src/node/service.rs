//! A task as a supervised actor: subscriptions and doors that have no state worth a mailbox. When its future ends, the actor fails, and
//! its supervisor starts it again.

use std::pin::Pin;
use std::sync::Arc;

use amphi_supervisors::ChildSpec;
use futures::future::BoxFuture;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio_util::task::AbortOnDropHandle;

/// Makes the future of one life.
pub type Work = Arc<dyn Fn() -> BoxFuture<'static, String> + Send + Sync>;

/// The actor.
struct Service;

/// The task has ended, and why.
struct Over(String);

impl Actor for Service {
    type Msg = Over;
    type State = AbortOnDropHandle<()>;
    type Arguments = Work;

    async fn pre_start(&self, myself: ActorRef<Over>, work: Work) -> Result<Self::State, ActorProcessingErr> {
        let task = tokio::spawn(async move {
            // A panic in the work is a reason like any other.
            let reason = tokio::spawn(OwnedWork(work())).await.unwrap_or_else(|error| error.to_string());
            // The actor may be stopping already.
            let _gone = myself.cast(Over(reason));
        });
        Ok(AbortOnDropHandle::new(task))
    }

    async fn handle(&self, _myself: ActorRef<Over>, Over(reason): Over, _task: &mut Self::State) -> Result<(), ActorProcessingErr> {
        Err(reason.into())
    }
}

struct OwnedWork(BoxFuture<'static, String>);

impl Future for OwnedWork {
    type Output = String;
    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> std::task::Poll<String> {
        self.0.as_mut().poll(context)
    }
}

/// A child that runs `work`, restarted whenever it ends.
pub fn service(node: &str, id: &str, work: Work) -> ChildSpec {
    let name = format!("{node}/{id}");
    ChildSpec::worker(id, move |parent: ActorCell| -> BoxFuture<'static, Result<ActorCell, SpawnErr>> {
        let (name, work) = (name.clone(), work.clone());
        Box::pin(async move {
            let (actor, _) = Actor::spawn_linked(Some(name), Service, work, parent).await?;
            Ok(actor.get_cell())
        })
    })
}
