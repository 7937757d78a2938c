//! Tells users what controllers did, as `Event` objects, without letting a storm of news become a storm of writes.
//!
//! The same news again only raises the count of its event; many similar ones are folded into one that says so;
//! and each object has a budget of news that refills slowly. Events are best effort: a full queue drops them.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use serde_json::json;
use tokio::{sync::mpsc, time::Instant};

use super::Note;
use crate::{ApiClient, ApiError, client::Patch};

const QUEUE: usize = 1024;
/// Different messages of one reason for one object before they are folded.
const SIMILAR: usize = 10;
const SIMILAR_FOR: Duration = Duration::from_mins(10);
/// News per object and source: a burst, then one every five minutes.
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// How much is remembered before the oldest half is forgotten.
const REMEMBERED: usize = 4096;

struct News {
    about: ObjectReference,
    type_: &'static str,
    reason: &'static str,
    message: String,
}

/// Accepts news at once and writes it in the background.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<News>,
}

impl Recorder {
    /// Starts the task that writes; it ends when the last clone of the recorder is gone.
    pub fn new(client: ApiClient, component: &'static str) -> Self {
        let (queue, mut news) = mpsc::channel(QUEUE);
        tokio::spawn(async move {
            let mut correlator = Correlator::default();
            while let Some(news) = news.recv().await {
                if let Some(letter) = correlator.correlate(&news, Instant::now()) {
                    write(&client, component, &news, letter, &mut correlator).await;
                }
            }
        });
        Self { queue }
    }

    pub fn record(&self, about: &ObjectReference, note: &Note, message: &str) {
        let news =
            News { about: about.clone(), type_: note.type_, reason: note.reason, message: message.into() };
        if self.queue.try_send(news).is_err() {
            tracing::debug!(reason = note.reason, message, "too much news; an event is dropped");
        }
    }
}

/// What became of a piece of news.
#[derive(Debug, PartialEq)]
struct Letter {
    message: String,
    memory: String,
    /// The event that tells the same already, and its count so far.
    repeats: Option<(String, i32)>,
}

#[derive(Default)]
struct Correlator {
    /// Events written: by all that makes two of them the same.
    written: HashMap<String, (String, i32)>,
    similar: HashMap<String, (Vec<String>, Instant)>,
    budgets: HashMap<String, (f64, Instant)>,
}

impl Correlator {
    fn correlate(&mut self, news: &News, now: Instant) -> Option<Letter> {
        self.forget();
        let object =
            format!("{}/{}", news.about.uid.as_deref().unwrap_or_default(), news.about.name.as_deref()?);
        let group = format!("{object}/{}/{}", news.type_, news.reason);
        let is_folded = self.is_folded(group.clone(), &news.message, now);
        if !self.has_budget(object, now) {
            return None;
        }
        // All that is folded counts up one event, which tells the latest of it.
        let (message, memory) = if is_folded {
            (format!("(combined from similar events): {}", news.message), group)
        } else {
            (news.message.clone(), format!("{group}/{}", news.message))
        };
        let repeats = self.written.get(&memory).cloned();
        Some(Letter { message, memory, repeats })
    }

    /// Whether so many different messages of the group came before that this one is no event of its own.
    fn is_folded(&mut self, group: String, message: &str, now: Instant) -> bool {
        let (messages, since) = self.similar.entry(group).or_insert_with(|| (Vec::new(), now));
        if now.duration_since(*since) > SIMILAR_FOR {
            messages.clear();
        }
        *since = now;
        if messages.iter().any(|known| known == message) {
            return false;
        }
        if messages.len() >= SIMILAR {
            return true;
        }
        messages.push(message.into());
        false
    }

    fn has_budget(&mut self, object: String, now: Instant) -> bool {
        let (tokens, since) = self.budgets.entry(object).or_insert((BURST, now));
        *tokens = (*tokens + now.duration_since(*since).as_secs_f64() * REFILL_PER_SECOND).min(BURST);
        *since = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    fn forget(&mut self) {
        if self.written.len() > REMEMBERED {
            self.written.clear();
        }
        if self.similar.len() > REMEMBERED {
            self.similar.clear();
        }
        if self.budgets.len() > REMEMBERED {
            self.budgets.clear();
        }
    }
}

async fn write(
    client: &ApiClient,
    component: &str,
    news: &News,
    letter: Letter,
    correlator: &mut Correlator,
) {
    let namespace = news.about.namespace.clone().filter(|namespace| !namespace.is_empty());
    let namespace = namespace.unwrap_or_else(|| "default".into());
    let now = Time(Timestamp::now());
    if let Some((name, count)) = &letter.repeats {
        let patch = json!({"count": count + 1, "lastTimestamp": now, "message": letter.message});
        match client.patch::<Event>(&namespace, name, "", Patch::Merge(patch)).await {
            Ok(_) => {
                correlator.written.insert(letter.memory, (name.clone(), count + 1));
                return;
            }
            Err(ApiError::NotFound { .. }) => (), // It expired: write a new one.
            Err(error) => return tracing::debug!(%error, "an event could not be counted up"),
        }
    }
    let event = event(component, news, &letter.message, &namespace, now);
    let name = event.metadata.name.clone().unwrap_or_default();
    match client.create(&event).await {
        Ok(_) => drop(correlator.written.insert(letter.memory, (name, 1))),
        Err(error) => tracing::debug!(%error, reason = news.reason, "an event could not be written"),
    }
}

fn event(component: &str, news: &News, message: &str, namespace: &str, now: Time) -> Event {
    let about = news.about.name.as_deref().unwrap_or_default();
    // As client-go names them: unique enough, and sorted by time for one object.
    let name = format!("{about}.{:x}", now.0.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.into()), ..Default::default() },
        involved_object: news.about.clone(),
        reason: Some(news.reason.into()),
        message: Some(message.chars().take(1024).collect()),
        type_: Some(news.type_.into()),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn news(message: &str) -> News {
        let about = ObjectReference { name: Some("web".into()), uid: Some("1".into()), ..Default::default() };
        News { about, type_: "Normal", reason: "SuccessfulCreate", message: message.into() }
    }

    #[tokio::test]
    async fn the_same_news_again_repeats_its_event() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let letter = correlator.correlate(&news("Created pod: a"), now).unwrap();
        assert_eq!(letter.repeats, None);
        correlator.written.insert(letter.memory, ("web.1".into(), 1));
        let letter = correlator.correlate(&news("Created pod: a"), now).unwrap();
        assert_eq!(letter.repeats, Some(("web.1".into(), 1)));
    }

    #[tokio::test]
    async fn the_eleventh_similar_message_is_combined() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        for number in 0..SIMILAR {
            let text = format!("Created pod: {number}");
            assert_eq!(correlator.correlate(&news(&text), now).unwrap().message, text);
        }
        let letter = correlator.correlate(&news("Created pod: x"), now).unwrap();
        assert_eq!(letter.message, "(combined from similar events): Created pod: x");
        assert_eq!(letter.repeats, None);
        correlator.written.insert(letter.memory, ("web.10".into(), 1));

        // Whatever else is said counts the same event up, with its own words.
        let letter = correlator.correlate(&news("Created pod: y"), now).unwrap();
        assert_eq!(letter.message, "(combined from similar events): Created pod: y");
        assert_eq!(letter.repeats, Some(("web.10".into(), 1)));
        // What has an event of its own keeps it.
        let letter = correlator.correlate(&news("Created pod: 3"), now).unwrap();
        assert_eq!((letter.message.as_str(), letter.repeats), ("Created pod: 3", None));
    }

    #[tokio::test]
    async fn a_thousand_news_of_one_object_write_twenty_five_events() {
        let (mut correlator, now) = (Correlator::default(), Instant::now());
        let heard =
            (0..1000).filter_map(|number| correlator.correlate(&news(&number.to_string()), now)).count();
        assert_eq!(heard, 25);
        assert!(correlator.correlate(&news("later"), now + Duration::from_secs(301)).is_some());
    }
}
