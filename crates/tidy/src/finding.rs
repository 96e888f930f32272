//! One thing that is not tidy, and how many of them are told.

use std::fmt;

/// Where something is wrong, what, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Path from the root of the repository.
    pub path: String,
    /// Line, counted from 1; 0 where the whole file is meant.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl Finding {
    /// A finding about a line of a file.
    pub fn at(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }

    /// A finding about a whole file.
    pub fn file(path: &str, what: impl Into<String>) -> Finding {
        Finding::at(path, 0, what)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Ends the test with everything that was found and `lesson`: why the rule is there and what to do.
///
/// # Panics
/// If there are findings.
#[track_caller]
pub fn report(mut findings: Vec<Finding>, lesson: &str) {
    if findings.is_empty() {
        return;
    }
    findings.sort();
    let lines: Vec<String> = findings.iter().map(|finding| format!("  {finding}")).collect();
    panic!("\n{} not tidy:\n{}\n\n{lesson}\n", findings.len(), lines.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_place() {
        assert_eq!(Finding::at("a.rs", 3, "bad").to_string(), "a.rs:3: bad");
        assert_eq!(Finding::file("a.rs", "bad").to_string(), "a.rs: bad");
    }

    #[test]
    #[should_panic(expected = "1 not tidy")]
    fn a_finding_fails_the_test() {
        report(vec![Finding::file("a.rs", "bad")], "because");
    }

    #[test]
    fn nothing_found_is_fine() {
        report(Vec::new(), "because");
    }
}
