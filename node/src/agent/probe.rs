//! When a probe's answer counts: thresholds, as a value that is told of each attempt.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::pod_view::ProbeKind;

/// A probe's parameters with their defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

impl Timing {
    pub fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
        };
        Self {
            initial_delay: Duration::from_secs(number(probe.initial_delay_seconds, 0).into()),
            period: Duration::from_secs(number(probe.period_seconds, 10).into()),
            timeout: Duration::from_secs(number(probe.timeout_seconds, 1).into()),
            success_threshold: number(probe.success_threshold, 1),
            failure_threshold: number(probe.failure_threshold, 3),
        }
    }
}

/// What a run of answers has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not enough of them yet, or nothing new.
    Unchanged,
    Changed(bool),
}

/// Counts answers of one probe of one run of a container.
#[derive(Debug, Clone)]
pub struct Counter {
    timing: Timing,
    last: Option<bool>,
    run: u32,
    current: Option<bool>,
}

impl Counter {
    /// A container counts as unready until its readiness probe succeeds, and as alive until its liveness probe fails.
    pub fn new(kind: ProbeKind, timing: Timing) -> Self {
        let current = match kind {
            ProbeKind::Readiness => Some(false),
            ProbeKind::Liveness => Some(true),
            ProbeKind::Startup => None,
        };
        Self { timing, last: None, run: 0, current }
    }

    /// For a run that the API has been told is ready: an agent's restart is no reason to take it out of service.
    pub fn continuing(mut self, current: bool) -> Self {
        self.current = Some(current);
        self
    }

    pub fn record(&mut self, success: bool) -> Outcome {
        if self.last == Some(success) {
            self.run += 1;
        } else {
            (self.last, self.run) = (Some(success), 1);
        }
        let threshold = if success { self.timing.success_threshold } else { self.timing.failure_threshold };
        if self.run < threshold || self.current == Some(success) {
            return Outcome::Unchanged;
        }
        self.current = Some(success);
        Outcome::Changed(success)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(kind: ProbeKind, success_threshold: i32, failure_threshold: i32) -> Counter {
        let probe = Probe {
            success_threshold: Some(success_threshold),
            failure_threshold: Some(failure_threshold),
            ..Default::default()
        };
        Counter::new(kind, Timing::of(&probe))
    }

    /// `+` a success, `-` a failure; the outcomes as `R`eady (success counts), `F`ailed, `.` unchanged.
    fn check(mut counter: Counter, answers: &str, expected: &str) {
        let outcomes: String = answers
            .chars()
            .map(|answer| match counter.record(answer == '+') {
                Outcome::Unchanged => '.',
                Outcome::Changed(true) => 'R',
                Outcome::Changed(false) => 'F',
            })
            .collect();
        assert_eq!(outcomes, expected, "{answers}");
    }

    #[test]
    fn readiness_starts_unready_and_follows_the_thresholds() {
        check(counter(ProbeKind::Readiness, 1, 3), "+++", "R..");
        check(counter(ProbeKind::Readiness, 1, 3), "---+", "...R");
        check(counter(ProbeKind::Readiness, 1, 3), "+--+---+", "R.....FR");
        check(counter(ProbeKind::Readiness, 2, 1), "+-++-", "...RF");
    }

    #[test]
    fn liveness_starts_alive_and_only_failures_matter() {
        check(counter(ProbeKind::Liveness, 1, 3), "++--+---", ".......F");
        check(counter(ProbeKind::Liveness, 1, 1), "-", "F");
    }

    #[test]
    fn startup_is_open_until_the_first_verdict() {
        check(counter(ProbeKind::Startup, 1, 3), "--+", "..R");
        check(counter(ProbeKind::Startup, 1, 3), "---", "..F");
    }

    #[test]
    fn defaults_are_kubernetes_s() {
        let timing = Timing::of(&Probe::default());
        assert_eq!(timing.period, Duration::from_secs(10));
        assert_eq!(timing.timeout, Duration::from_secs(1));
        assert_eq!((timing.success_threshold, timing.failure_threshold), (1, 3));
        assert_eq!(timing.initial_delay, Duration::ZERO);
    }
}
