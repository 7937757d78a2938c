//! One port of a service, and the choice of an endpoint for a new connection.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// A client is remembered no longer than its affinity lasts, and no more than so many per port.
const MAX_CLIENTS: usize = 65_536;

/// What listens on a service's address or node port: round robin over the endpoints that may be used now.
#[derive(Debug, Default)]
pub struct Frontend {
    targets: RwLock<Targets>,
    next: AtomicUsize,
    /// Where each client went, for session affinity. Locked for a look-up, never over `.await`.
    clients: Mutex<HashMap<IpAddr, (SocketAddr, Instant)>>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Targets {
    pub endpoints: Arc<[SocketAddr]>,
    pub affinity: Option<Duration>,
}

impl Frontend {
    pub(super) fn set(&self, targets: Targets) {
        *self.targets.write().unwrap_or_else(PoisonError::into_inner) = targets;
    }

    pub fn has_endpoints(&self) -> bool {
        !self.targets().endpoints.is_empty()
    }

    pub fn has_endpoint(&self, endpoint: SocketAddr) -> bool {
        self.targets().endpoints.contains(&endpoint)
    }

    /// The endpoint for a new connection of `client`; `failed` are those that just refused it.
    pub fn choose(&self, client: IpAddr, failed: &[SocketAddr]) -> Option<SocketAddr> {
        self.choose_at(client, failed, Instant::now())
    }

    fn choose_at(&self, client: IpAddr, failed: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
        let targets = self.targets();
        let Some(timeout) = targets.affinity else { return self.round_robin(&targets, failed) };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered = clients
            .get(&client)
            .filter(|(endpoint, used)| {
                now.duration_since(*used) < timeout
                    && targets.endpoints.contains(endpoint)
                    && !failed.contains(endpoint)
            })
            .map(|(endpoint, _)| *endpoint);
        let endpoint = remembered.or_else(|| self.round_robin(&targets, failed))?;
        if clients.len() >= MAX_CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (_, used)| now.duration_since(*used) < timeout);
            if clients.len() >= MAX_CLIENTS {
                return Some(endpoint); // Affinity is best effort; memory is not.
            }
        }
        clients.insert(client, (endpoint, now));
        Some(endpoint)
    }

    fn round_robin(&self, targets: &Targets, failed: &[SocketAddr]) -> Option<SocketAddr> {
        let endpoints = &targets.endpoints;
        (0..endpoints.len()).find_map(|_| {
            let endpoint = endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()];
            (!failed.contains(&endpoint)).then_some(endpoint)
        })
    }

    fn targets(&self) -> Targets {
        self.targets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(endpoints: &[&str], affinity: Option<Duration>) -> Frontend {
        let frontend = Frontend::default();
        set(&frontend, endpoints, affinity);
        frontend
    }

    fn set(frontend: &Frontend, endpoints: &[&str], affinity: Option<Duration>) {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        frontend.set(Targets { endpoints, affinity });
    }

    fn client(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn connections_go_round_and_skip_what_failed() {
        let frontend = frontend(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], None);
        let chosen: Vec<_> = (0..4).map(|_| frontend.choose(client(1), &[]).unwrap().port()).collect();
        assert_eq!(chosen, [1, 2, 3, 1]);
        let failed = ["127.0.0.1:2".parse().unwrap(), "127.0.0.1:3".parse().unwrap()];
        assert_eq!(frontend.choose(client(1), &failed).unwrap().port(), 1);
        set(&frontend, &[], None);
        assert_eq!(frontend.choose(client(1), &[]), None);
    }

    #[test]
    fn a_client_stays_with_its_endpoint_until_it_goes_or_time_is_up() {
        let timeout = Duration::from_secs(10);
        let frontend = frontend(&["127.0.0.1:1", "127.0.0.1:2"], Some(timeout));
        let now = Instant::now();
        let first = frontend.choose_at(client(1), &[], now).unwrap();
        for second in 0..9 {
            let again = frontend.choose_at(client(1), &[], now + Duration::from_secs(second)).unwrap();
            assert_eq!(again, first);
        }
        assert_ne!(frontend.choose_at(client(2), &[], now).unwrap(), first);
        // Each use prolongs it; then it ends.
        let late = now + Duration::from_secs(8) + timeout;
        frontend.choose_at(client(3), &[], late).unwrap();
        assert_ne!(frontend.choose_at(client(1), &[], late).unwrap(), first);
        // The endpoint went away.
        set(&frontend, &["127.0.0.1:7"], Some(timeout));
        assert_eq!(frontend.choose_at(client(2), &[], late).unwrap().port(), 7);
    }
}
