//! Events are news, not history: they go an hour after they were last told.
//!
//! There is one key, the sweep, since a timer per event would be as many timers as there are events.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::Event,
    jiff::{SignedDuration, Timestamp},
};

use super::framework::{Cache, Change, ClusterView, Controller, Plan, Write, decoded};
use crate::store::Key;

const TTL: SignedDuration = SignedDuration::from_hours(1);
const SWEEP: Duration = Duration::from_mins(1);
/// Deletes per sweep: more wait for the next one, so that a flood of old events does not stall the store.
const AT_ONCE: usize = 2000;

/// Deletes old events.
pub struct EventTtl;

impl Controller for EventTtl {
    fn name(&self) -> &'static str {
        "event-ttl-controller"
    }

    fn concerns(&self, change: &Change<'_>, _cache: &Cache, look: &mut dyn FnMut(Key)) {
        if change.is::<Event>() && !change.is_deleted {
            look(Key::new("events", "", ""));
        }
    }

    fn reconcile(&self, _sweep: &Key, view: &ClusterView<'_>) -> Plan {
        let mut plan = Plan::nothing();
        let mut events = view.cache.entries("events", None).peekable();
        if events.peek().is_some() {
            plan.look_again(SWEEP);
        }
        let is_past = |then| view.now.duration_since(then) > TTL;
        // Most are younger than that, and need not be decoded.
        let old = events
            .filter(|event| event.meta.creation_timestamp.is_none_or(is_past))
            .filter_map(decoded::<Event>)
            .filter(|event| told_last(event).is_some_and(is_past));
        plan.then(old.take(AT_ONCE).map(|event| Write::delete(&*event)));
        plan
    }

    fn pace(&self) -> Duration {
        SWEEP
    }
}

fn told_last(event: &Event) -> Option<Timestamp> {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref().map(|time| time.0));
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let time = event.event_time.as_ref().map(|time| time.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.max(last).or(time).or(created)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::controllers::testing::{World, named};

    #[test]
    fn an_event_goes_an_hour_after_it_was_last_told() {
        let mut world = World::default();
        let sweep = Key::new("events", "", "");
        for name in ["old", "repeated"] {
            world.add(Event {
                metadata: named(name),
                last_timestamp: Some(Time(world.now)),
                ..Default::default()
            });
        }
        world.advance(3000);
        let now = world.now;
        world.edit::<Event>("default", "repeated", |event| event.last_timestamp = Some(Time(now)));
        world.look(&EventTtl, &sweep);
        assert_eq!(world.list::<Event>().len(), 2);
        world.advance(700);
        let plan = world.look(&EventTtl, &sweep);
        assert!(world.find::<Event>("default", "old").is_none());
        assert!(world.find::<Event>("default", "repeated").is_some());
        assert_eq!(plan.again, Some(SWEEP));
    }
}
