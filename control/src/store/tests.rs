//! The store through its front door, in memory. What holds here holds for the durable store too: it applies
//! through the same cache.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use tokio::time::timeout;

use super::*;

const RESOURCE: &str = "configmaps";

pub(super) fn key(name: &str) -> Key {
    Key::new(RESOURCE, "default", name)
}

pub(super) fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            ..Default::default()
        },
        data: Some([("value".to_owned(), value.to_owned())].into()),
        ..Default::default()
    }
}

pub(super) fn put(name: &str, value: &str, precondition: Precondition) -> Op {
    let draft = Draft::new(&config_map(name, value)).expect("a config map serializes");
    Op { key: key(name), precondition, change: Change::Put(draft) }
}

pub(super) fn delete(name: &str, precondition: Precondition) -> Op {
    Op { key: key(name), precondition, change: Change::Delete }
}

async fn write(store: &Store, op: Op) -> Arc<Entry> {
    store.transact(vec![op]).await.unwrap().remove(0).expect("the operation answers an entry")
}

/// `name=value@revision` of every config map.
pub(super) fn contents(snapshot: &Snapshot) -> Vec<String> {
    let describe = |entry: Arc<Entry>| {
        let object = entry.typed::<ConfigMap>().unwrap();
        assert_eq!(object.metadata.resource_version, Some(entry.revision.0.to_string()));
        format!("{}={}@{}", entry.key.name(), object.data.as_ref().unwrap()["value"], entry.revision.0)
    };
    snapshot.range(&Scope::all(RESOURCE), None).map(describe).collect()
}

/// `Kind name@revision` of every event that is there already.
fn drain(watch: &mut Watch) -> Vec<String> {
    let mut events = Vec::new();
    while let Some(event) = watch.try_next().unwrap() {
        events.push(format!("{:?} {}@{}", event.kind, event.entry.key.name(), event.revision.0));
    }
    events
}

#[tokio::test]
async fn each_write_gets_the_next_revision() {
    let store = Store::in_memory();
    for (revision, name) in (1..).zip(["a", "b", "a"]) {
        let entry = write(&store, put(name, "x", Precondition::Any)).await;
        assert_eq!(entry.revision, Revision(revision));
    }
    assert_eq!(contents(&store.snapshot()), ["a=x@3", "b=x@2"]);
    let deleted = write(&store, delete("a", Precondition::Any)).await;
    assert_eq!(deleted.revision, Revision(4));
    assert_eq!(deleted.typed::<ConfigMap>().unwrap().metadata.resource_version.as_deref(), Some("4"));
    assert_eq!(contents(&store.snapshot()), ["b=x@2"]);
    assert_eq!(store.snapshot().revision(), Revision(4));
}

#[tokio::test]
async fn preconditions_guard_an_operation() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Absent)).await;
    for refused in [
        put("a", "2", Precondition::Absent),
        put("a", "2", Precondition::At(Revision(7))),
        delete("a", Precondition::At(Revision(7))),
    ] {
        match store.transact(vec![refused]).await {
            Err(StoreError::Precondition { index: 0, current: Some(current) }) => {
                assert_eq!(current.revision, Revision(1));
            }
            other => panic!("{other:?}"),
        }
    }
    for refused in [put("b", "1", Precondition::Present), delete("b", Precondition::At(Revision(1)))] {
        match store.transact(vec![refused]).await {
            Err(StoreError::Precondition { index: 0, current: None }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(write(&store, put("a", "2", Precondition::At(Revision(1)))).await.revision, Revision(2));
    assert_eq!(write(&store, put("a", "3", Precondition::Present)).await.revision, Revision(3));
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Any)).await;
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(1)).unwrap();
    let refused = store
        .transact(vec![
            put("b", "1", Precondition::Absent),
            delete("a", Precondition::Present),
            put("c", "1", Precondition::Present),
        ])
        .await;
    assert!(matches!(refused, Err(StoreError::Precondition { index: 2, current: None })), "{refused:?}");
    assert_eq!(contents(&store.snapshot()), ["a=1@1"]);
    assert_eq!(drain(&mut watch), [""; 0]);

    let check = Op { key: key("a"), precondition: Precondition::Absent, change: Change::Check };
    let answers = store
        .transact(vec![
            delete("a", Precondition::Present),
            check,
            put("a", "2", Precondition::Absent),
            put("b", "1", Precondition::Absent),
        ])
        .await
        .unwrap();
    let revisions: Vec<_> =
        answers.iter().map(|entry| entry.as_ref().map(|entry| entry.revision.0)).collect();
    assert_eq!(revisions, [Some(2), None, Some(3), Some(4)]);
    assert_eq!(drain(&mut watch), ["Deleted a@2", "Added a@3", "Added b@4"]);
}

#[tokio::test]
async fn deleting_what_is_not_there_is_no_write() {
    let store = Store::in_memory();
    let answers = store.transact(vec![delete("a", Precondition::Any)]).await.unwrap();
    assert!(matches!(&*answers, [None]));
    assert_eq!(store.snapshot().revision(), Revision(0));
}

#[tokio::test]
async fn ranges_keep_to_their_scope_and_page() {
    let store = Store::in_memory();
    for text in ["pods/a/x", "pods/a/y", "pods/a-b/x", "pods/a/z", "podsx/a/x", "pod/a/x", "nodes//n1"] {
        let mut parts = text.split('/');
        let mut part = || parts.next().unwrap();
        let key = Key::new(part(), part(), part());
        let change = Change::Put(Draft::from_value(&serde_json::json!({"metadata": {}})).unwrap());
        store.transact(vec![Op { key, precondition: Precondition::Absent, change }]).await.unwrap();
    }
    let view = store.snapshot();
    let keys = |scope: &Scope, after: Option<&str>| -> Vec<String> {
        let after = after.map(Key::from_text);
        view.range(scope, after.as_ref()).map(|entry| entry.key.as_str().to_owned()).collect()
    };
    let pods = Scope::all("pods");
    assert_eq!(keys(&pods, None), ["pods/a-b/x", "pods/a/x", "pods/a/y", "pods/a/z"]);
    assert_eq!(keys(&pods, Some("pods/a/x")), ["pods/a/y", "pods/a/z"]);
    assert_eq!(keys(&pods, Some("pods/a/xx")), ["pods/a/y", "pods/a/z"]);
    assert_eq!(keys(&pods, Some("a")), keys(&pods, None));
    assert_eq!(keys(&Scope::namespace("pods", "a"), None), ["pods/a/x", "pods/a/y", "pods/a/z"]);
    assert_eq!(keys(&Scope::namespace("pods", "a"), Some("pods/a/y")), ["pods/a/z"]);
    assert_eq!(keys(&Scope::namespace("pods", "none"), None), [""; 0]);
    assert_eq!(keys(&Scope::all("nodes"), None), ["nodes//n1"]);
    assert_eq!(keys(&Scope::all("none"), None), [""; 0]);
    let one = Scope { name: Some("x".into()), ..Scope::namespace("pods", "a") };
    assert_eq!(keys(&one, None), ["pods/a/x"]);
    assert_eq!(keys(&one, Some("pods/a/x")), [""; 0]);
    let everywhere = Scope { name: Some("x".into()), ..Scope::all("pods") };
    assert_eq!(keys(&everywhere, None), ["pods/a-b/x", "pods/a/x"]);
    assert_eq!((view.count(&pods), view.count(&Scope::namespace("pods", "a")), view.count(&one)), (4, 3, 1));
    assert_eq!(view.get(&Key::new("pods", "a", "y")).unwrap().revision, Revision(2));
    assert!(view.get(&Key::new("pods", "a", "none")).is_none());
}

#[tokio::test]
async fn an_old_snapshot_does_not_change() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Any)).await;
    let old = store.snapshot();
    write(&store, put("a", "2", Precondition::Any)).await;
    write(&store, put("b", "1", Precondition::Any)).await;
    assert_eq!(contents(&old), ["a=1@1"]);
}

#[tokio::test]
async fn a_snapshot_can_be_taken_of_the_past() {
    let store = Store::in_memory();
    let mut seen = vec![Vec::new()];
    for op in [
        put("a", "1", Precondition::Any),
        put("b", "1", Precondition::Any),
        put("a", "2", Precondition::Any),
        delete("a", Precondition::Any),
        put("a", "3", Precondition::Any),
        delete("b", Precondition::Any),
    ] {
        write(&store, op).await;
        seen.push(contents(&store.snapshot()));
    }
    for (revision, expected) in (0..).zip(&seen) {
        let past = store.snapshot_at(Revision(revision)).unwrap();
        assert_eq!((contents(&past), past.revision()), (expected.clone(), Revision(revision)));
        assert_eq!(contents(&store.resource_at(RESOURCE, Revision(revision)).unwrap()), *expected);
    }
}

/// Enough writes of one key to push the first ones out of the history.
async fn overflow_history(store: &Store) {
    let ops: Vec<Op> = (0..9000).map(|_| put("busy", "x", Precondition::Any)).collect();
    store.transact(ops).await.unwrap();
}

#[tokio::test]
async fn the_past_is_expired_once_history_is_gone() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Any)).await;
    let mut slow = store.watch(Scope::all(RESOURCE), Revision(1)).unwrap();
    overflow_history(&store).await;
    assert!(matches!(store.snapshot_at(Revision(1)), Err(StoreError::Expired(Revision(1)))));
    assert!(matches!(store.watch(Scope::all(RESOURCE), Revision(1)), Err(StoreError::Expired(_))));
    assert_eq!(slow.next().await.unwrap_err(), Lagged);
    assert_eq!(slow.progress(), Revision(1));
    // Other resources have their own history.
    assert!(store.watch(Scope::all("pods"), Revision(1)).is_ok());
    assert!(store.resource_at("pods", Revision(1)).is_ok());
    let newest = store.snapshot().revision();
    assert_eq!(contents(&store.snapshot_at(Revision(newest.0 - 1)).unwrap()).len(), 2);
}

#[tokio::test]
async fn large_objects_shorten_the_history() {
    let store = Store::in_memory();
    let large = "x".repeat(1 << 20);
    for _ in 0..20 {
        write(&store, put("a", &large, Precondition::Any)).await;
    }
    assert!(store.watch(Scope::all(RESOURCE), Revision(2)).is_err());
    assert!(store.watch(Scope::all(RESOURCE), Revision(6)).is_ok());
}

#[tokio::test]
async fn a_watch_delivers_what_happens_in_its_scope() {
    let store = Store::in_memory();
    let mut all = store.watch(Scope::all(RESOURCE), Revision(0)).unwrap();
    let mut one = store.watch(Scope { name: Some("b".into()), ..Scope::all(RESOURCE) }, Revision(0)).unwrap();
    let mut elsewhere = store.watch(Scope::namespace(RESOURCE, "other"), Revision(0)).unwrap();
    write(&store, put("a", "1", Precondition::Any)).await;
    write(&store, put("b", "1", Precondition::Any)).await;
    write(&store, put("a", "2", Precondition::Any)).await;
    write(&store, delete("b", Precondition::Any)).await;
    assert_eq!(drain(&mut all), ["Added a@1", "Added b@2", "Modified a@3", "Deleted b@4"]);
    assert_eq!(drain(&mut one), ["Added b@2", "Deleted b@4"]);
    assert_eq!(drain(&mut elsewhere), [""; 0]);
    assert_eq!(elsewhere.progress(), Revision(4));
    let mut late = store.watch(Scope::all(RESOURCE), Revision(2)).unwrap();
    assert_eq!(drain(&mut late), ["Modified a@3", "Deleted b@4"]);
}

#[tokio::test]
async fn a_watch_may_begin_in_the_future() {
    let store = Store::in_memory();
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(2)).unwrap();
    for _ in 0..3 {
        write(&store, put("a", "1", Precondition::Any)).await;
    }
    assert_eq!(drain(&mut watch), ["Modified a@3"]);
    let mut far = store.watch(Scope::all(RESOURCE), Revision(100)).unwrap();
    assert_eq!(drain(&mut far), [""; 0]);
    assert_eq!(far.progress(), Revision(100));
}

#[tokio::test]
async fn a_waiting_watch_wakes_up() {
    let store = Store::in_memory();
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(0)).unwrap();
    let waiting = tokio::spawn(async move { watch.next().await.unwrap().revision });
    tokio::task::yield_now().await;
    write(&store, put("a", "1", Precondition::Any)).await;
    assert_eq!(timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap(), Revision(1));
}

#[tokio::test]
async fn progress_counts_what_is_delivered_and_what_is_none_of_its_business() {
    let store = Store::in_memory();
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(0)).unwrap();
    write(&store, put("a", "1", Precondition::Any)).await;
    write(&store, put("a", "2", Precondition::Any)).await;
    assert_eq!(watch.progress(), Revision(0));
    watch.try_next().unwrap().unwrap();
    assert_eq!(watch.progress(), Revision(1));
    watch.try_next().unwrap().unwrap();
    assert_eq!(watch.progress(), Revision(2));
    let draft = Draft::from_value(&serde_json::json!({})).unwrap();
    let other =
        Op { key: Key::new("pods", "a", "x"), precondition: Precondition::Any, change: Change::Put(draft) };
    store.transact(vec![other]).await.unwrap();
    assert_eq!(watch.progress(), Revision(3));
}

#[tokio::test]
async fn an_event_carries_both_states_and_shares_its_frames() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Any)).await;
    write(&store, put("a", "2", Precondition::Any)).await;
    write(&store, delete("a", Precondition::Any)).await;
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(1)).unwrap();
    let modified = watch.next().await.unwrap();
    assert_eq!(modified.previous.as_ref().unwrap().revision, Revision(1));
    let deleted = watch.next().await.unwrap();
    assert_eq!((deleted.kind, deleted.revision), (EventKind::Deleted, Revision(3)));
    assert_eq!(deleted.previous.as_ref().unwrap().revision, Revision(2));
    assert!(std::str::from_utf8(&deleted.entry.json).unwrap().contains("\"resourceVersion\":\"3\""));

    let first = deleted.frame("DELETED", || "frame".into());
    let second = deleted.frame("DELETED", || panic!("made twice"));
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_eq!(deleted.frame("other", || "2".into()), "2");
}

#[tokio::test]
async fn what_a_snapshot_shows_a_watch_does_not_repeat_and_the_other_way_round() {
    let store = Store::in_memory();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..2000 {
                write(&store, put(&format!("n{number}"), "x", Precondition::Absent)).await;
                tokio::task::yield_now().await;
            }
        })
    };
    for _ in 0..20 {
        tokio::task::yield_now().await;
        let view = store.snapshot();
        let mut watch = store.watch(Scope::all(RESOURCE), view.revision()).unwrap();
        let mut revision = view.revision();
        while let Ok(Some(event)) = watch.try_next() {
            assert_eq!(event.revision, Revision(revision.0 + 1));
            revision = event.revision;
            assert!(store.snapshot().get(&event.entry.key).is_some());
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_replaced_cache_ends_all_watches() {
    let store = Store::in_memory();
    write(&store, put("a", "1", Precondition::Any)).await;
    let mut watch = store.watch(Scope::all(RESOURCE), Revision(1)).unwrap();
    let mut view = store.snapshot();
    view.revision = Revision(10);
    store.cache.replace(view);
    // A new watcher begins a new history, in which the old cursor has no place.
    let mut fresh = store.watch(Scope::all(RESOURCE), Revision(10)).unwrap();
    write(&store, put("a", "2", Precondition::Any)).await;
    assert_eq!(watch.try_next().unwrap_err(), Lagged);
    assert_eq!(drain(&mut fresh), ["Modified a@11"]);
    assert!(store.watch(Scope::all(RESOURCE), Revision(9)).is_err());
}

#[tokio::test]
async fn waiting_for_a_revision_ends_when_it_is_applied() {
    let store = Store::in_memory();
    store.wait_for(Revision(0)).await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(Revision(1)).await }
    });
    write(&store, put("a", "1", Precondition::Any)).await;
    timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap().unwrap();
    assert_eq!(store.read_index().await.unwrap(), Revision(1));
}

#[tokio::test]
async fn a_write_may_build_on_one_whose_revision_is_not_known_yet() {
    let store = Store::in_memory();
    let first = put("a", "1", Precondition::Absent);
    let Change::Put(draft) = &first.change else { unreachable!("it is a put") };
    let like_first = Precondition::Like(draft.fingerprint());
    write(&store, put("other", "x", Precondition::Absent)).await;
    write(&store, first).await;
    let second = put("a", "2", like_first);
    assert_eq!(write(&store, second.clone()).await.revision, Revision(3));
    // It is another one now.
    let refused = store.transact(vec![second]).await;
    assert!(matches!(refused, Err(StoreError::Precondition { index: 0, .. })));
    let absent = store.transact(vec![put("none", "1", like_first)]).await;
    assert!(matches!(absent, Err(StoreError::Precondition { index: 0, current: None })));
}
