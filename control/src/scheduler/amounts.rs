//! Amounts of resources as plain integers, for arithmetic in the scheduler's inner loop.

use naru_model::{pod::Resources, quantity::Quantity};

/// cpu in thousandths, the others in whole units; resources beyond the usual three by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Amounts {
    pub milli_cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    /// `example.com/gpu`, `hugepages-2Mi`, …; few or none, so a list is the fastest map.
    pub extended: Vec<(String, i64)>,
}

impl Amounts {
    /// Requests, or a node's allocatable; `pods` is counted elsewhere.
    pub fn new(resources: &Resources) -> Self {
        Self::of(resources.iter().map(|(name, quantity)| (name.as_str(), *quantity)))
    }

    pub fn of<'a>(resources: impl Iterator<Item = (&'a str, Quantity)>) -> Self {
        let mut amounts = Self::default();
        for (name, quantity) in resources {
            match name {
                "cpu" => amounts.milli_cpu = quantity.milli_value(),
                "memory" => amounts.memory = quantity.value(),
                "ephemeral-storage" => amounts.ephemeral_storage = quantity.value(),
                "pods" => (),
                other => amounts.extended.push((other.to_owned(), quantity.value())),
            }
        }
        amounts
    }

    pub fn extended(&self, name: &str) -> i64 {
        self.extended.iter().find(|(known, _)| known == name).map_or(0, |(_, amount)| *amount)
    }

    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.extended.iter().all(|(_, amount)| *amount == 0)
    }

    pub fn add(&mut self, other: &Self) {
        self.combine(other, 1);
    }

    pub fn subtract(&mut self, other: &Self) {
        self.combine(other, -1);
    }

    fn combine(&mut self, other: &Self, sign: i64) {
        self.milli_cpu = self.milli_cpu.saturating_add(sign * other.milli_cpu);
        self.memory = self.memory.saturating_add(sign * other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(sign * other.ephemeral_storage);
        for (name, amount) in &other.extended {
            match self.extended.iter_mut().find(|(known, _)| known == name) {
                Some((_, total)) => *total = total.saturating_add(sign * amount),
                None => self.extended.push((name.clone(), sign * amount)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_can_be_subtracted_again() {
        let parse = |text: &str| text.parse::<Quantity>().expect("a quantity");
        let amounts = Amounts::of(
            [
                ("cpu", parse("1500m")),
                ("memory", parse("1Gi")),
                ("example.com/gpu", parse("2")),
                ("pods", parse("9")),
            ]
            .into_iter(),
        );
        assert_eq!(
            (amounts.milli_cpu, amounts.memory, amounts.extended("example.com/gpu")),
            (1500, 1 << 30, 2)
        );
        let mut total = Amounts::default();
        total.add(&amounts);
        total.add(&amounts);
        assert_eq!((total.milli_cpu, total.extended("example.com/gpu")), (3000, 4));
        total.subtract(&amounts);
        total.subtract(&amounts);
        assert!(total.is_zero());
    }
}
