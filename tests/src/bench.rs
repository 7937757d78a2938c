//! What the benchmarks share: samples, tables, and the page that the tables are written to.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

/// Measured values of one thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    /// The values of durations, in milliseconds.
    pub fn of_millis(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut values: Vec<f64> =
            durations.into_iter().map(|duration| duration.as_secs_f64() * 1000.0).collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The value below which the share `q` (0 to 1) of all values lies; 0 where there is none.
    pub fn quantile(&self, q: f64) -> f64 {
        let last = self.0.len().saturating_sub(1) as f64;
        self.0.get((last * q).round() as usize).copied().unwrap_or_default()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub fn min(&self) -> f64 {
        self.quantile(0.0)
    }

    pub fn max(&self) -> f64 {
        self.quantile(1.0)
    }
}

/// A table in Markdown.
#[derive(Debug, Default)]
pub struct Table {
    text: String,
}

impl Table {
    pub fn new(columns: &[&str]) -> Self {
        let mut table = Self::default();
        table.row(columns);
        let _ = writeln!(table.text, "|{}", " --- |".repeat(columns.len()));
        table
    }

    pub fn row<S: AsRef<str>>(&mut self, cells: &[S]) {
        let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
        let _ = writeln!(self.text, "| {} |", cells.join(" | "));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

/// Prints a section's table and puts it into `docs/PERFORMANCE.md`, between the marks of that section.
pub fn report(section: &str, command: &str, table: &Table) {
    let text = format!("`{command}`\n\n{}", table.text);
    println!("\n{text}");
    let page = crate::checkout("docs/PERFORMANCE.md");
    let old = std::fs::read_to_string(&page).unwrap_or_else(|_| "# Performance\n".into());
    std::fs::write(&page, replaced(&old, section, &text)).expect("docs/PERFORMANCE.md can be written");
}

/// `page` with the text between a section's marks replaced; a new section goes to the end.
fn replaced(page: &str, section: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- bench {section} -->"), format!("<!-- /bench {section} -->"));
    let body = format!("{begin}\n{text}{end}");
    match (page.find(&begin), page.find(&end)) {
        (Some(from), Some(to)) if from < to => format!("{}{body}{}", &page[..from], &page[to + end.len()..]),
        _ => format!("{}\n\n## {section}\n\n{body}\n", page.trim_end()),
    }
}

/// Resident memory of a process in MiB, as the kernel counts it.
pub fn resident_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// Resident memory of a process that is its own, without what it shares with others through files.
pub fn private_mib(pid: u32) -> f64 {
    rollup_mib(pid, "Private_")
}

/// Resident memory of a process where a page that several share counts in parts: the sum over processes counts it once.
pub fn proportional_mib(pid: u32) -> f64 {
    rollup_mib(pid, "Pss:")
}

/// The sum of the lines of `smaps_rollup` that begin with `name`.
fn rollup_mib(pid: u32, name: &str) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kib: f64 = rollup
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok())
        .sum();
    kib / 1024.0
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task");
    let tasks = std::fs::read_dir(path).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_where_it_stands() {
        let page = "# P\n\n## a\n\n<!-- bench a -->\nold\n<!-- /bench a -->\n\n## b\n";
        let new = replaced(page, "a", "new\n");
        assert_eq!(new, "# P\n\n## a\n\n<!-- bench a -->\nnew\n<!-- /bench a -->\n\n## b\n");
        assert!(replaced(page, "c", "x\n").ends_with("## c\n\n<!-- bench c -->\nx\n<!-- /bench c -->\n"));
    }

    #[test]
    fn quantiles_of_an_odd_number_of_values() {
        let samples = Samples::of_millis([3, 1, 2].map(Duration::from_millis));
        assert_eq!((samples.min(), samples.median(), samples.max()), (1.0, 2.0, 3.0));
    }
}
