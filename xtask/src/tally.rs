//! Counts of tests, read from what the runners print.

use std::ops::AddAssign;

/// How many tests passed, failed and were left out, and why those were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// One line for each skipped test or group of tests.
    pub(crate) reasons: Vec<String>,
    /// One line for each test that passed only when it was run again.
    pub(crate) again: Vec<String>,
}

impl Tally {
    /// One test or group that was left out.
    pub(crate) fn skip(reason: impl Into<String>) -> Self {
        Self { skipped: 1, reasons: vec![reason.into()], ..Self::default() }
    }

    /// Counts the closing lines of cargo test, nextest and of our own machine tests.
    pub(crate) fn from_lines(lines: &[String]) -> Self {
        let mut tally = Self::default();
        for line in lines {
            // Further in stands what nextest repeats of a failed test's own output.
            if let Some(rest) = line.strip_prefix("test result: ") {
                tally += cargo_test(rest);
            }
            let line = line.trim();
            if line.starts_with("Summary [") && line.contains("run:") {
                tally += nextest(line);
            } else if let Some(reason) = line.strip_prefix("SKIP ") {
                tally.reasons.push(reason.to_owned());
            } else if let Some(name) = line.strip_prefix("AGAIN ") {
                tally.again.push(name.to_owned());
            } else if let Some(closing) = plain(line) {
                tally += closing;
            }
        }
        tally
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.reasons.extend(other.reasons);
        self.again.extend(other.again);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s`
fn cargo_test(line: &str) -> Tally {
    let (passed, failed) = (before(line, "passed"), before(line, "failed"));
    let skipped = before(line, "ignored").unwrap_or(0);
    let mut tally = Tally { skipped, ..Tally::default() };
    tally.passed = passed.unwrap_or(0);
    tally.failed = failed.unwrap_or(0);
    tally.reasons.extend((skipped > 0).then(|| format!("{skipped} marked #[ignore]")));
    tally
}

/// `Summary [ 0.1s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 3 skipped`
fn nextest(line: &str) -> Tally {
    let failed = ["failed", "timed out", "exec failed"].iter().filter_map(|w| before(line, w));
    let skipped = before(line, "skipped").unwrap_or(0);
    let mut tally = Tally { failed: failed.sum(), skipped, ..Tally::default() };
    tally.passed = before(line, "passed").unwrap_or(0);
    tally.reasons.extend((skipped > 0).then(|| format!("{skipped} marked #[ignore]")));
    tally
}

/// `3 passed, 0 failed, 1 skipped`
fn plain(line: &str) -> Option<Tally> {
    let mut counts = line.split(", ").map(|part| part.split_once(' '));
    let mut next = |word: &str| match counts.next()?? {
        (count, found) if found == word => count.parse().ok(),
        _ => None,
    };
    let (passed, failed, skipped) = (next("passed")?, next("failed")?, next("skipped")?);
    Some(Tally { passed, failed, skipped, ..Tally::default() })
}

/// The number that stands right before `word`.
fn before(line: &str, word: &str) -> Option<u64> {
    let at = line
        .match_indices(word)
        .find(|(at, _)| line[..*at].trim_end().ends_with(|c: char| c.is_ascii_digit()))?;
    let head = line[..at.0].trim_end();
    let digits = head.rfind(|c: char| !c.is_ascii_digit()).map_or(0, |i| i + 1);
    head[digits..].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(text: &str) -> (u64, u64, u64) {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let tally = Tally::from_lines(&lines);
        (tally.passed, tally.failed, tally.skipped)
    }

    #[test]
    fn every_closing_line_of_cargo_test_counts() {
        let text = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n\
                    noise: 9 passed\n\
                    test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured";
        assert_eq!(tally(text), (4, 2, 1));
    }

    #[test]
    fn nextest_counts_time_outs_as_failures() {
        let text = "     Summary [   0.1s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, \
                    3 skipped";
        assert_eq!(tally(text), (7, 2, 3));
        let repeated = "    test result: FAILED. 0 passed; 1 failed\n\
                        Summary [ 1s] 1 test run: 0 passed, 1 failed, 0 skipped";
        assert_eq!(tally(repeated), (0, 1, 0));
        assert_eq!(tally("Summary [ 0.1s] 2/9 tests run: 2 passed, 0 skipped"), (2, 0, 0));
    }

    #[test]
    fn the_plain_line_counts_and_reasons_are_kept() {
        let lines = [
            "SKIP fused: the driver never sends it".to_owned(),
            "AGAIN kill: it failed at first, see above".to_owned(),
            "2 passed, 0 failed, 1 skipped".to_owned(),
        ];
        let tally = Tally::from_lines(&lines);
        assert_eq!((tally.passed, tally.skipped), (2, 1));
        assert_eq!(tally.reasons, ["fused: the driver never sends it"]);
        assert_eq!(tally.again, ["kill: it failed at first, see above"]);
    }
}
