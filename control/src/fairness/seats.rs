//! How the server's seats are divided among levels, and lent while they are not needed. Pure.

/// What a level says of its part; as in `LimitedPriorityLevelConfiguration`, with its defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    pub shares: u32,
    pub lendable_percent: u32,
    /// None for no limit.
    pub borrowing_percent: Option<u32>,
}

/// The bounds of a level's seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seats {
    /// Its part while nobody lends.
    pub nominal: u32,
    /// What it never lends.
    pub min: u32,
    /// What it never exceeds.
    pub max: u32,
}

/// Divides `total` seats by shares, each part rounded up.
pub fn divide(total: u32, shares: &[Share]) -> Vec<Seats> {
    let sum: u64 = shares.iter().map(|share| u64::from(share.shares)).sum();
    let percent = |of: u32, percent: u32| ((u64::from(of) * u64::from(percent) + 50) / 100) as u32;
    shares
        .iter()
        .map(|share| {
            let nominal = (u64::from(total) * u64::from(share.shares)).div_ceil(sum.max(1)) as u32;
            let lendable = percent(nominal, share.lendable_percent);
            let borrowable = share.borrowing_percent.map_or(total, |of| percent(nominal, of));
            Seats { nominal, min: nominal.saturating_sub(lendable), max: nominal.saturating_add(borrowable) }
        })
        .collect()
}

/// The limits for levels that lately wanted `demand` seats at most: each keeps what it wants of its own, the rest
/// goes to those who want more, in proportion to what they want. Where nobody wants more than its own, everybody has
/// just that.
pub fn lend(levels: &[(Seats, u32)]) -> Vec<u32> {
    if levels.iter().all(|(seats, demand)| *demand <= seats.nominal) {
        return levels.iter().map(|(seats, _)| seats.nominal).collect();
    }
    let total: u64 = levels.iter().map(|(seats, _)| u64::from(seats.nominal)).sum();
    let limit = |fraction: f64, (seats, demand): &(Seats, u32)| {
        let lower = seats.min.max(seats.nominal.min(*demand));
        let target = f64::from((*demand).max(lower));
        ((fraction * target) as u32).clamp(lower, seats.max.max(lower))
    };
    // The sum grows with the fraction, so the greatest that fits is found by halving.
    let (mut low, mut high) = (0.0, total as f64 + 1.0);
    for _ in 0..64 {
        let middle = f64::midpoint(low, high);
        let sum: u64 = levels.iter().map(|level| u64::from(limit(middle, level))).sum();
        if sum <= total { low = middle } else { high = middle }
    }
    levels.iter().map(|level| limit(low, level)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(shares: u32, lendable_percent: u32, borrowing_percent: Option<u32>) -> Share {
        Share { shares, lendable_percent, borrowing_percent }
    }

    #[test]
    fn the_suggested_levels_get_the_seats_that_kubernetes_documents() {
        // exempt, catch-all, system, node-high, leader-election, workload-high, workload-low, global-default.
        let shares = [
            share(0, 0, None),
            share(5, 0, None),
            share(30, 33, None),
            share(40, 25, None),
            share(10, 0, None),
            share(40, 50, None),
            share(100, 90, None),
            share(20, 50, None),
        ];
        let seats = divide(600, &shares);
        let nominal: Vec<u32> = seats.iter().map(|seats| seats.nominal).collect();
        assert_eq!(nominal, [0, 13, 74, 98, 25, 98, 245, 49]);
        let min: Vec<u32> = seats.iter().map(|seats| seats.min).collect();
        assert_eq!(min, [0, 13, 50, 73, 25, 49, 24, 24]);
    }

    #[test]
    fn idle_seats_are_lent_within_bounds_and_come_back() {
        let seats = divide(100, &[share(50, 50, None), share(50, 20, Some(10))]);
        let lend = |first, second| lend(&[(seats[0], first), (seats[1], second)]);
        assert_eq!(lend(0, 0), [50, 50]);
        assert_eq!(lend(50, 50), [50, 50]);
        // The second lends a fifth of its own, and borrows a tenth at most.
        assert_eq!(lend(500, 0), [60, 40]);
        assert_eq!(lend(500, 45), [55, 45]);
        assert_eq!(lend(0, 500)[1], 55);
        // Who wants its own seats has them, whatever others want.
        assert_eq!(lend(500, 50), [50, 50]);
        assert_eq!(lend(500, 500), [50, 50]);
    }

    #[test]
    fn limits_never_add_up_to_more_than_there_is() {
        let seats =
            divide(600, &[share(5, 0, None), share(30, 33, None), share(100, 90, None), share(0, 0, None)]);
        let total: u32 = seats.iter().map(|seats| seats.nominal).sum();
        for demands in [[0, 0, 1000, 0], [1000; 4], [7, 300, 1, 1], [0, 200, 200, 50], [u32::MAX, 0, 0, 0]] {
            let levels: Vec<_> = seats.iter().copied().zip(demands).collect();
            let limits = lend(&levels);
            assert!(limits.iter().sum::<u32>() <= total, "{demands:?}: {limits:?}");
            for ((seats, _), limit) in levels.iter().zip(&limits) {
                assert!((seats.min..=seats.max).contains(limit), "{demands:?}: {limits:?}");
            }
        }
    }
}
