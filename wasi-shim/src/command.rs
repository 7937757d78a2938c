//! Runs a command: one instance, one call, an exit code.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use crate::{
    container::{Core, Place},
    cpu::{Metered, Run},
    failure::Ending,
    guest::Guest,
    machine::InstancePermit,
    worlds::World,
};

/// Runs the container's command to its end and records how it ended. Belongs on the engine's threads.
pub async fn run(core: Arc<Core>, permit: InstancePermit) {
    let place = Place::new(&core, permit);
    core.environment.cpu.within_limit().await;
    let run = Run::at_home(core.environment.cpu.clone());
    let guest = call(core.clone(), run.clone());
    let ending = until_ended(&core, Metered::new(run, Box::pin(guest))).await;
    drop(place);
    core.end(&ending);
}

/// The store is dropped before this returns: what the guest wrote last is in the log when it counts as ended.
async fn call(core: Arc<Core>, run: Arc<Run>) -> Ending {
    let store = match core.home.module().world {
        World::Preview1(_) => {
            Guest::preview1_store(core.home.module().machine.wasmtime(), &core.environment, run)
        }
        _ => Ok(Guest::store(core.home.module().machine.wasmtime(), &core.environment, run)),
    };
    let mut store = match store {
        Ok(store) => store,
        Err(message) => return Ending::Trap(message),
    };
    let result = match &core.home.module().world {
        World::Preview1(command) => command.run(&mut store).await,
        World::Command02(command) => command.run(&mut store).await,
        World::Command03(command) => command.run(&mut store).await,
        World::Http02(_) | World::Http03(_) => unreachable!("a service is no command"),
    };
    Ending::of(result)
}

/// A kill ends the guest wherever it is, an exit request only where it waits for something other than CPU time.
async fn until_ended<F: Future<Output = Ending> + Send>(core: &Core, mut guest: Metered<F>) -> Ending {
    let mut killed = pin!(core.killed.cancelled());
    let mut stopping = pin!(core.stopping.cancelled());
    poll_fn(|context| {
        if let Poll::Ready(ending) = Pin::new(&mut guest).poll(context) {
            return Poll::Ready(ending);
        }
        if killed.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ending::Killed);
        }
        let asked_to_end = core.stopping.is_cancelled() || stopping.as_mut().poll(context).is_ready();
        if asked_to_end && !guest.run().is_queued() {
            return Poll::Ready(Ending::Stopped);
        }
        Poll::Pending
    })
    .await
}
