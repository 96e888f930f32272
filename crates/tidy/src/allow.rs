//! `allow.toml`: what the rules put up with for now. It may only shrink.
//!
//! ```toml
//! [file-lines]            # a rule
//! "crates/x/src/y.rs" = "one table of 60 rows"   # what is let through = why
//! ```
//! **Invariant.** An entry that no finding needs any more is itself a finding, and so is an entry without a
//! reason: the list cannot go stale.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::Finding;

/// Path of the list.
pub const PATH: &str = "crates/tidy/allow.toml";

/// The parsed list, which remembers what was asked for.
#[derive(Debug)]
pub struct Allow {
    entries: BTreeMap<(String, String), String>,
    used: RefCell<BTreeSet<(String, String)>>,
}

impl Allow {
    /// Parses the list.
    ///
    /// # Panics
    /// If it is not of the form above.
    #[must_use]
    pub fn parse(text: &str) -> Allow {
        let table: toml::Table = text.parse().expect("allow.toml is TOML");
        let mut entries = BTreeMap::new();
        for (rule, subjects) in table {
            let subjects = subjects.as_table().expect("allow.toml holds one table for each rule");
            for (subject, reason) in subjects {
                let reason = reason.as_str().expect("a reason is a string").to_owned();
                entries.insert((rule.clone(), subject.clone()), reason);
            }
        }
        Allow { entries, used: RefCell::default() }
    }

    /// Whether `rule` is to put up with `subject`.
    #[must_use]
    pub fn has(&self, rule: &str, subject: &str) -> bool {
        let key = (rule.to_owned(), subject.to_owned());
        let allowed = self.entries.contains_key(&key);
        if allowed {
            self.used.borrow_mut().insert(key);
        }
        allowed
    }

    /// Entries of `rules` that nothing asked for, or that give no reason. To be called once the rules ran.
    #[must_use]
    pub fn stale(&self, rules: &[&str]) -> Vec<Finding> {
        let used = self.used.borrow();
        let mut findings = Vec::new();
        for ((rule, subject), reason) in &self.entries {
            if !rules.contains(&rule.as_str()) {
                findings.push(Finding::file(PATH, format!("[{rule}] is not a rule")));
            } else if !used.contains(&(rule.clone(), subject.clone())) {
                findings.push(Finding::file(
                    PATH,
                    format!("[{rule}] {subject:?} is no longer needed: remove it"),
                ));
            } else if reason.split_whitespace().count() < 3 {
                findings.push(Finding::file(PATH, format!("[{rule}] {subject:?} does not say why")));
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Allow {
        Allow::parse("[size]\n\"a.rs\" = \"one long flat table\"\n\"b.rs\" = \"because\"\n")
    }

    #[test]
    fn what_is_needed_and_explained_stays() {
        let allow = list();
        assert!(allow.has("size", "a.rs"));
        assert!(!allow.has("size", "c.rs"));
        assert!(!allow.has("words", "a.rs"));
        let stale: Vec<String> = allow.stale(&["size"]).iter().map(ToString::to_string).collect();
        assert_eq!(stale, ["crates/tidy/allow.toml: [size] \"b.rs\" is no longer needed: remove it"]);
    }

    #[test]
    fn an_entry_needs_a_reason_and_a_rule() {
        let allow = list();
        assert!(allow.has("size", "a.rs") && allow.has("size", "b.rs"));
        assert!(allow.stale(&["size"])[0].what.contains("does not say why"));
        assert_eq!(allow.stale(&["words"]).len(), 2);
    }
}
