//! Who of those who wait goes first: fair queueing over shuffle-sharded queues. Pure: no clock, no locks.
//!
//! A flow (say, one user) is dealt a small hand of a level's queues and joins the shortest, so that one that floods
//! fills its own hand, while almost every other flow has a queue beside it. Of the queues that wait, the one with the
//! fewest seats in use goes first, and among equals the one whose requests have used the least seat time. That is
//! max-min fairness over seats, the aim of Kubernetes' fair queueing, without guessing how long requests will take.
//!
//! **Invariant:** only queues that wait or run, or have lately used more than others, are kept: memory follows the
//! requests, not the configuration.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

/// How the requests of one level wait; as in `QueuingConfiguration`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// At least one.
    pub queues: u32,
    pub hand_size: u32,
    /// How many requests one queue holds.
    pub queue_length: u32,
}

/// The queues of one level, with a `T` for each request that waits.
#[derive(Debug)]
pub struct Queues<T> {
    settings: Settings,
    /// The queues in which somebody waits, of which somebody runs, or that have used more than [`Self::served`]: an
    /// idle queue that were forgotten any sooner would come back without its debt.
    active: BTreeMap<u32, Queue<T>>,
    /// The seat time up to which everybody has been served: where a queue begins that was idle.
    served: Duration,
    next_ticket: u64,
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Waiter<T>>,
    seats_waiting: u32,
    seats_in_use: u32,
    /// Seat time of what has ended, counted from the others' when the queue became active.
    used: Duration,
}

#[derive(Debug)]
struct Waiter<T> {
    ticket: u64,
    width: u32,
    item: T,
}

/// A place in a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub queue: u32,
    ticket: u64,
}

/// One queue as it is, for whoever debugs; a `T` for each request that waits, in their order, with the seats it needs.
#[derive(Debug, PartialEq, Eq)]
pub struct QueueState<T> {
    pub index: u32,
    pub waiting: Vec<(u32, T)>,
    pub seats_in_use: u32,
    pub used: Duration,
}

/// So many idle queues are shown, however many there may be.
const SHOWN: u32 = 4096;

/// The queue that the flow was given has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl<T> Queues<T> {
    pub fn new(settings: Settings) -> Self {
        Self { settings, active: BTreeMap::new(), served: Duration::ZERO, next_ticket: 0 }
    }

    /// New requests wait as `settings` say; those that wait already stay where they are.
    pub fn configure(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Puts a request of `width` seats into the shortest queue of its flow's hand.
    pub fn enqueue(&mut self, flow: u64, width: u32, item: T) -> Result<Place, Full> {
        let load = |index: &u32| {
            self.active
                .get(index)
                .map_or(0, |queue| u64::from(queue.seats_waiting) + u64::from(queue.seats_in_use))
        };
        let index = deal(flow, self.settings).into_iter().min_by_key(load).ok_or(Full)?;
        let served = self.served;
        let queue = self.active.entry(index).or_insert_with(|| Queue {
            waiting: VecDeque::new(),
            seats_waiting: 0,
            seats_in_use: 0,
            used: served,
        });
        if queue.waiting.len() >= self.settings.queue_length as usize {
            self.forget_idle(index);
            return Err(Full);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        queue.waiting.push_back(Waiter { ticket, width, item });
        queue.seats_waiting += width;
        Ok(Place { queue: index, ticket })
    }

    /// Whose turn it is: the queue, and the seats that its first request needs. Nobody overtakes a wide request, or
    /// it would wait for ever.
    pub fn next(&self) -> Option<(u32, u32)> {
        self.active
            .iter()
            .filter_map(|(index, queue)| {
                let first = queue.waiting.front()?;
                Some(((queue.seats_in_use, queue.used, first.ticket), (*index, first.width)))
            })
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, next)| next)
    }

    /// The first request of `queue` runs from now on.
    pub fn start(&mut self, queue: u32) -> Option<T> {
        let queue = self.active.get_mut(&queue)?;
        let waiter = queue.waiting.pop_front()?;
        queue.seats_waiting -= waiter.width;
        queue.seats_in_use += waiter.width;
        if queue.used > self.served {
            self.served = queue.used;
            self.forget_settled();
        }
        Some(waiter.item)
    }

    /// A request that [`Queues::start`] gave out has ended after `elapsed`.
    pub fn finish(&mut self, queue: u32, width: u32, elapsed: Duration) {
        if let Some(active) = self.active.get_mut(&queue) {
            active.seats_in_use = active.seats_in_use.saturating_sub(width);
            active.used += elapsed.saturating_mul(width);
        }
        if self.active.values().all(Queue::is_idle) {
            // Nobody is there to whom anything could be owed.
            self.active.clear();
        }
        self.forget_idle(queue);
    }

    /// Takes a request out that will wait no longer. `None` where it runs already.
    pub fn cancel(&mut self, place: Place) -> Option<T> {
        let queue = self.active.get_mut(&place.queue)?;
        let at = queue.waiting.iter().position(|waiter| waiter.ticket == place.ticket)?;
        let waiter = queue.waiting.remove(at)?;
        queue.seats_waiting -= waiter.width;
        self.forget_idle(place.queue);
        Some(waiter.item)
    }

    /// All queues, by their numbers; `show` is called for each request that waits.
    pub fn states<U>(&self, show: impl Fn(&T) -> U) -> Vec<QueueState<U>> {
        let idle = (0..self.settings.queues.min(SHOWN)).filter(|index| !self.active.contains_key(index));
        let mut states: Vec<_> = idle
            .map(|index| QueueState { index, waiting: Vec::new(), seats_in_use: 0, used: Duration::ZERO })
            .collect();
        states.extend(self.active.iter().map(|(index, queue)| QueueState {
            index: *index,
            waiting: queue.waiting.iter().map(|waiter| (waiter.width, show(&waiter.item))).collect(),
            seats_in_use: queue.seats_in_use,
            used: queue.used,
        }));
        states.sort_unstable_by_key(|state| state.index);
        states
    }

    fn forget_idle(&mut self, index: u32) {
        let served = self.served;
        if self.active.get(&index).is_some_and(|queue| queue.is_idle() && queue.used <= served) {
            self.active.remove(&index);
        }
    }

    fn forget_settled(&mut self) {
        let served = self.served;
        self.active.retain(|_, queue| !queue.is_idle() || queue.used > served);
    }
}

impl<T> Queue<T> {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.seats_in_use == 0
    }
}

/// The queues of a flow: `hand_size` different ones, the same for the same flow.
fn deal(flow: u64, settings: Settings) -> Vec<u32> {
    let deck = settings.queues.max(1);
    let hand_size = settings.hand_size.clamp(1, deck);
    let mut entropy = flow;
    let mut dealt: Vec<u32> = Vec::with_capacity(hand_size as usize);
    for taken in 0..hand_size {
        let left = u64::from(deck - taken);
        let mut card = (entropy % left) as u32;
        entropy /= left;
        // The card's number counts only those that are still in the deck.
        let mut sorted = dealt.clone();
        sorted.sort_unstable();
        for earlier in sorted {
            card += u32::from(card >= earlier);
        }
        dealt.push(card);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, BinaryHeap};

    use super::*;

    const SETTINGS: Settings = Settings { queues: 64, hand_size: 6, queue_length: 50 };

    /// A flow that always has `backlog` requests of `width` seats waiting, or as many as make `at_once` together with
    /// those that run; each takes `millis`.
    #[derive(Clone, Copy)]
    struct Flow {
        hash: u64,
        backlog: usize,
        at_once: usize,
        width: u32,
        millis: u64,
    }

    const STEADY: Flow = Flow { hash: 7, backlog: 1, at_once: usize::MAX, width: 1, millis: 10 };

    /// Runs `flows` over `seats` seats for `millis` of simulated time. Answers the seat milliseconds that each got,
    /// and the longest wait of any of its requests.
    fn simulate(seats: u32, flows: &[Flow], millis: u64) -> Vec<(u64, u64)> {
        let mut queues = Queues::new(SETTINGS);
        let mut results = vec![(0, 0); flows.len()];
        let (mut waiting, mut alive) = (vec![0; flows.len()], vec![0; flows.len()]);
        // When the next request ends, of which flow and queue; the earliest is the greatest.
        let mut running: BinaryHeap<(std::cmp::Reverse<u64>, usize, u32)> = BinaryHeap::new();
        let (mut now, mut in_use) = (0, 0);
        while now < millis {
            for (index, flow) in flows.iter().enumerate() {
                while waiting[index] < flow.backlog
                    && alive[index] < flow.at_once
                    && queues.enqueue(flow.hash, flow.width, (index, now)).is_ok()
                {
                    waiting[index] += 1;
                    alive[index] += 1;
                }
            }
            while let Some((queue, width)) = queues.next()
                && in_use + width <= seats
            {
                let (index, since) = queues.start(queue).expect("it waits");
                waiting[index] -= 1;
                in_use += width;
                results[index].1 = results[index].1.max(now - since);
                running.push((std::cmp::Reverse(now + flows[index].millis), index, queue));
            }
            let Some((ends, index, queue)) = running.pop() else { break };
            now = ends.0;
            let Flow { width, millis, .. } = flows[index];
            in_use -= width;
            alive[index] -= 1;
            results[index].0 += millis * u64::from(width);
            queues.finish(queue, width, Duration::from_millis(millis));
        }
        results
    }

    fn hash(flow: u64) -> u64 {
        ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(flow)
    }

    #[test]
    fn a_flood_does_not_take_the_seats_of_others() {
        let flood = Flow { hash: hash(1), backlog: 200, ..STEADY };
        let quiet = Flow { hash: hash(2), at_once: 1, ..STEADY };
        let results = simulate(4, &[flood, quiet], 10_000);
        // One request at a time is never more than a seat, and it hardly ever waits for one.
        assert!(results[1].0 > 4_500, "{results:?}");
        assert!(results[1].1 <= 10, "{results:?}");
        assert!(results[0].0 > 25_000, "{results:?}");
    }

    #[test]
    fn flows_that_want_all_share_by_seat_time_and_not_by_requests() {
        let short = Flow { hash: hash(1), backlog: 5, millis: 1, ..STEADY };
        let long = Flow { hash: hash(2), backlog: 5, millis: 100, ..STEADY };
        let wide = Flow { hash: hash(3), backlog: 5, width: 4, ..STEADY };
        let results = simulate(8, &[short, long, wide], 100_000);
        let total: u64 = results.iter().map(|(used, _)| used).sum();
        for (used, _) in &results {
            let share = *used as f64 / total as f64;
            assert!((0.12..0.6).contains(&share), "{results:?}");
        }
    }

    #[test]
    fn a_newcomer_has_no_credit_for_the_time_it_was_away_and_no_debt_of_others() {
        let mut queues = Queues::new(Settings { queues: 2, hand_size: 1, queue_length: 10 });
        let (old, new) = (0, 1);
        for _ in 0..3 {
            queues.enqueue(old, 1, "old").expect("room");
            assert_eq!(queues.next(), Some((0, 1)));
            queues.enqueue(old, 1, "old").expect("room");
            queues.start(0).expect("waits");
            queues.finish(0, 1, Duration::from_secs(10));
        }
        let served = queues.served;
        assert!(served >= Duration::from_secs(20));
        queues.enqueue(new, 1, "new").expect("room");
        assert_eq!(queues.active[&1].used, served);
        // What the old queue used counts, so the newcomer is first; but what it uses then is not forgotten.
        assert_eq!(queues.next().map(|next| next.0), Some(1));
        queues.start(1).expect("waits");
        queues.finish(1, 1, Duration::from_secs(30));
        queues.enqueue(new, 1, "new").expect("room");
        assert_eq!(queues.next().map(|next| next.0), Some(0));
    }

    #[test]
    fn a_wide_request_is_not_overtaken() {
        let narrow = Flow { hash: hash(1), backlog: 20, ..STEADY };
        let wide = Flow { hash: hash(2), width: 8, ..STEADY };
        let results = simulate(8, &[narrow, wide], 10_000);
        assert!(results[1].1 <= 100 && results[1].0 > 5_000, "{results:?}");
    }

    #[test]
    fn a_full_hand_refuses_and_leaves_nothing_behind() {
        let settings = Settings { queues: 8, hand_size: 2, queue_length: 3 };
        let mut queues = Queues::new(settings);
        let places: Vec<_> = std::iter::from_fn(|| queues.enqueue(5, 1, ()).ok()).collect();
        assert_eq!(places.len(), 6);
        assert_eq!(queues.enqueue(5, 1, ()), Err(Full));
        assert_eq!(queues.active.len(), 2);
        for place in places {
            assert!(queues.cancel(place).is_some());
            assert!(queues.cancel(place).is_none());
        }
        assert!(queues.active.is_empty());
        let mut closed = Queues::new(Settings { queue_length: 0, ..settings });
        assert_eq!(closed.enqueue(5, 1, ()), Err(Full));
        assert!(closed.active.is_empty());
    }

    #[test]
    fn all_queues_are_shown_with_who_waits_in_them() {
        let mut queues = Queues::new(Settings { queues: 2, hand_size: 1, queue_length: 10 });
        queues.enqueue(1, 3, "wide").expect("room");
        queues.enqueue(1, 1, "narrow").expect("room");
        let idle = |index| QueueState { index, waiting: vec![], seats_in_use: 0, used: Duration::ZERO };
        let waiting = vec![(3, "wide"), (1, "narrow")];
        assert_eq!(queues.states(|item| *item), [idle(0), QueueState { waiting, ..idle(1) }]);
        queues.start(1).expect("it waits");
        let running = QueueState { waiting: vec![(1, "narrow")], seats_in_use: 3, ..idle(1) };
        assert_eq!(queues.states(|item| *item), [idle(0), running]);
    }

    #[test]
    fn a_hand_holds_different_queues_and_hands_differ() {
        let mut hands = BTreeSet::new();
        for flow in 0..1000 {
            let mut hand = deal(hash(flow), SETTINGS);
            hand.sort_unstable();
            hand.dedup();
            assert_eq!(hand.len(), 6);
            assert!(hand.iter().all(|card| *card < 64));
            hands.insert(hand);
        }
        assert!(hands.len() > 990, "{}", hands.len());
        assert_eq!(deal(u64::MAX, Settings { queues: 1, hand_size: 9, queue_length: 1 }), [0]);
        let mut all = deal(hash(3), Settings { queues: 5, hand_size: 5, queue_length: 1 });
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4]);
    }
}
