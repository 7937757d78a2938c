//! What kube-apiserver tells of its levels, queues and requests to whoever debugs it: `/debug/api_priority_and_fairness/`.
//!
//! Each is a table whose cells are padded to its columns and end in commas, as Go's tabwriter makes them. Requests that
//! found a seat at once are nowhere listed, since no list of them is kept: taking a seat is one atomic exchange. For the
//! same reason a request that runs counts here as many times as it has seats.

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;

use super::{Fairness, level::Asker};

/// How long Kubernetes guesses that a request takes, in seconds.
const GUESS: f64 = 0.003;

const LEVELS: &[&str] = &[
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
];
const QUEUES: &[&str] = &[
    "PriorityLevelName",
    "Index",
    "PendingRequests",
    "ExecutingRequests",
    "SeatsInUse",
    "NextDispatchR",
    "InitialSeatsSum",
    "MaxSeatsSum",
    "TotalWorkSum",
];
const REQUESTS: &[&str] = &[
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
    "FinalSeats",
    "AdditionalLatency",
    "StartTime",
];
const DETAILS: &[&str] =
    &["UserName", "Verb", "APIPath", "Namespace", "Name", "APIVersion", "Resource", "SubResource"];

impl Fairness {
    /// The table called `name`, the last segment of its path; `None` where there is none.
    pub fn dump(&self, name: &str, with_details: bool) -> Option<String> {
        let rows = match name {
            "dump_priority_levels" => self.dump_levels(),
            "dump_queues" => self.dump_queues(),
            "dump_requests" => self.dump_requests(with_details),
            _ => return None,
        };
        Some(table(&rows))
    }

    fn dump_levels(&self) -> Vec<Vec<String>> {
        let mut rows = vec![cells(LEVELS)];
        for configured in self.plan.load().levels.values() {
            let level = &configured.level;
            let (load, state) = (level.load(), level.queues());
            let (mut dispatched, mut rejected, mut timed_out) = (0, 0, 0);
            for counts in level.counts().values() {
                dispatched += counts.dispatched();
                for (reason, count) in counts.rejected() {
                    *if reason == "time-out" { &mut timed_out } else { &mut rejected } += count;
                }
            }
            let active = state.iter().filter(|queue| !queue.waiting.is_empty()).count();
            let is_idle = load.seats_in_use == 0 && load.waiting == 0;
            rows.push(vec![
                level.name.clone(),
                active.to_string(),
                is_idle.to_string(),
                // A level that is no longer configured takes its queues with it.
                false.to_string(),
                load.waiting.to_string(),
                load.seats_in_use.to_string(),
                dispatched.to_string(),
                rejected.to_string(),
                timed_out.to_string(),
                level.cancelled().to_string(),
            ]);
        }
        rows
    }

    fn dump_queues(&self) -> Vec<Vec<String>> {
        let mut rows = vec![cells(QUEUES)];
        for configured in self.plan.load().levels.values() {
            for queue in configured.level.queues() {
                let seats: u32 = queue.waiting.iter().map(|(width, _)| width).sum();
                rows.push(vec![
                    configured.level.name.clone(),
                    queue.index.to_string(),
                    queue.waiting.len().to_string(),
                    queue.seats_in_use.to_string(),
                    queue.seats_in_use.to_string(),
                    seat_seconds(queue.used.as_secs_f64()),
                    seats.to_string(),
                    seats.to_string(),
                    seat_seconds(f64::from(seats) * GUESS),
                ]);
            }
        }
        rows
    }

    fn dump_requests(&self, with_details: bool) -> Vec<Vec<String>> {
        let mut rows = vec![cells(REQUESTS)];
        if with_details {
            rows[0].extend(cells(DETAILS));
        }
        for configured in self.plan.load().levels.values() {
            for queue in configured.level.queues() {
                for (position, (width, asker)) in queue.waiting.iter().enumerate() {
                    let mut row = vec![
                        configured.level.name.clone(),
                        asker.schema.clone(),
                        queue.index.to_string(),
                        position.to_string(),
                        asker.distinguisher.replace(char::is_control, " "),
                        nanos(asker.since),
                        width.to_string(),
                        "0".into(),
                        "0s".into(),
                        "0001-01-01T00:00:00Z".into(),
                    ];
                    if with_details {
                        row.extend(details(asker));
                    }
                    rows.push(row);
                }
            }
        }
        rows
    }
}

fn details(asker: &Asker) -> [String; 8] {
    let segments: Vec<&str> = asker.path.trim_matches('/').split('/').collect();
    let version = match segments.as_slice() {
        ["api", version, ..] => (*version).to_owned(),
        ["apis", group, version, ..] => format!("{group}/{version}"),
        _ => String::new(),
    };
    let Asker { user, verb, path, namespace, name, resource, subresource, .. } = asker;
    let texts = [user, verb, path, namespace, name, &version, resource, subresource];
    // The name of a user may hold anything, but not make lines of a table.
    texts.map(|text| text.replace(char::is_control, " "))
}

fn cells(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Seat-seconds as Kubernetes prints them: `0.81000000ss`.
fn seat_seconds(seconds: f64) -> String {
    format!("{seconds:.8}ss")
}

/// The time with as much of its fraction as there is, as Go's `RFC3339Nano`.
fn nanos(time: Timestamp) -> String {
    time.to_string()
}

/// Cells end in commas, are padded to their columns, and are at least eight wide; the last of a row is not padded.
fn table(rows: &[Vec<String>]) -> String {
    const LEAST: usize = 8;
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            // The comma, and a space between columns.
            (widest + 2).max(LEAST)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            if column + 1 == columns {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{:width$}", format!("{cell},"), width = widths[column]);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_look_like_those_of_gos_tabwriter() {
        let rows = [
            cells(&["PriorityLevelName", "Index", "SeatsInUse"]),
            cells(&["catch-all", "0", "12"]),
            cells(&["x", "1048576", ""]),
        ];
        assert_eq!(
            table(&rows),
            "PriorityLevelName, Index,   SeatsInUse\n\
             catch-all,         0,       12\n\
             x,                 1048576, \n"
        );
        assert_eq!(seat_seconds(0.81), "0.81000000ss");
    }
}
