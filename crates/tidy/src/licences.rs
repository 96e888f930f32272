//! What we build on: licences, sources and refused crates, as `deny.toml` says.
//!
//! `cargo deny` reads the same file and says more (advisories, for one), but takes minutes to install; this
//! check takes none and runs with every `cargo test`. Both must agree: there is one list.

use serde_json::Value;

use crate::Finding;

/// Where the lists are.
pub const PATH: &str = "deny.toml";

/// What `deny.toml` says, as far as it is read here.
#[derive(Debug)]
pub struct Policy {
    licences: Vec<String>,
    exceptions: Vec<(String, Vec<String>)>,
    banned: Vec<String>,
}

impl Policy {
    /// Reads `licenses.allow`, `licenses.exceptions` and `bans.deny`.
    ///
    /// # Panics
    /// If `text` is not TOML.
    #[must_use]
    pub fn parse(text: &str) -> Policy {
        let policy: toml::Table = text.parse().expect("deny.toml is TOML");
        let section =
            |name: &str| policy.get(name).and_then(toml::Value::as_table).cloned().unwrap_or_default();
        let exceptions = tables(section("licenses").get("exceptions"));
        Policy {
            licences: strings(section("licenses").get("allow")),
            exceptions: exceptions
                .iter()
                .map(|entry| (string(entry.get("crate")), strings(entry.get("allow"))))
                .collect(),
            banned: tables(section("bans").get("deny"))
                .iter()
                .map(|entry| string(entry.get("crate")))
                .collect(),
        }
    }

    /// Packages of `metadata` (`cargo metadata`) that the policy refuses.
    ///
    /// # Panics
    /// If `metadata` is not what cargo prints.
    #[must_use]
    pub fn check(&self, metadata: &Value) -> Vec<Finding> {
        let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
        let mut findings = Vec::new();
        for package in packages {
            let name = package["name"].as_str().expect("a package has a name");
            let licence = package["license"].as_str().unwrap_or("none");
            let mut refuse =
                |what: String| findings.push(Finding::file("Cargo.lock", format!("{name}: {what}")));
            if self.banned.iter().any(|banned| banned == name) {
                refuse(format!("is refused by {PATH}"));
            }
            if !satisfied(licence, &|id| self.allows(name, id)) {
                refuse(format!("its licence ({licence}) is not in {PATH}"));
            }
            // A path dependency has no source; everything else comes from the registry, never from git.
            if package["source"].as_str().is_some_and(|source| !source.starts_with("registry+")) {
                refuse("does not come from the registry".to_owned());
            }
        }
        findings
    }

    fn allows(&self, package: &str, id: &str) -> bool {
        let excepted = self.exceptions.iter().filter(|(name, _)| name == package);
        self.licences.iter().chain(excepted.flat_map(|(_, ids)| ids)).any(|allowed| allowed == id)
    }
}

fn string(value: Option<&toml::Value>) -> String {
    value.and_then(toml::Value::as_str).unwrap_or_default().to_owned()
}

fn strings(value: Option<&toml::Value>) -> Vec<String> {
    value.and_then(toml::Value::as_array).into_iter().flatten().map(|item| string(Some(item))).collect()
}

fn tables(value: Option<&toml::Value>) -> Vec<toml::Table> {
    let items = value.and_then(toml::Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_table().cloned()).collect()
}

/// Whether an SPDX expression can be satisfied with the licences that `allows` knows. `OR` binds weaker than
/// `AND`; `/` is the old way to write `OR`; `X WITH Y` is one id.
fn satisfied(expression: &str, allows: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any_of(&words, &mut at, allows);
    result && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allows: &dyn Fn(&str) -> bool) -> bool {
    let mut result = all_of(words, at, allows);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all_of(words, at, allows);
    }
    result
}

fn all_of(words: &[&str], at: &mut usize, allows: &dyn Fn(&str) -> bool) -> bool {
    let mut result = one(words, at, allows);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allows);
    }
    result
}

/// One id or one expression in parentheses. The nesting is that of a crate's manifest that cargo accepted.
fn one(words: &[&str], at: &mut usize, allows: &dyn Fn(&str) -> bool) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let result = any_of(words, at, allows);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return result && closed;
    }
    match (words.get(*at), words.get(*at + 1)) {
        (Some(&"WITH"), Some(exception)) => {
            *at += 2;
            allows(&format!("{word} WITH {exception}")) || allows(word)
        }
        _ => allows(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = r#"
        [licenses]
        allow = ["MIT", "Apache-2.0"]
        exceptions = [{ crate = "odd", allow = ["Odd-1.0"] }]
        [bans]
        deny = [{ crate = "openssl", reason = "rustls" }]
    "#;

    #[track_caller]
    fn check(name: &str, licence: Option<&str>, source: Option<&str>, expected: &[&str]) {
        let metadata = serde_json::json!({ "packages": [
            { "name": name, "license": licence, "source": source },
        ] });
        let found = Policy::parse(POLICY).check(&metadata);
        let found: Vec<&str> = found.iter().map(|finding| finding.what.as_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn licences_are_those_allowed() {
        let registry = Some("registry+somewhere");
        check("good", Some("MIT"), registry, &[]);
        check("good", Some("GPL-3.0 OR Apache-2.0"), registry, &[]);
        check("odd", Some("MIT AND Odd-1.0"), registry, &[]);
        check("bad", Some("GPL-3.0"), registry, &["bad: its licence (GPL-3.0) is not in deny.toml"]);
        check("bad", Some("Odd-1.0"), registry, &["bad: its licence (Odd-1.0) is not in deny.toml"]);
        check("bad", None, registry, &["bad: its licence (none) is not in deny.toml"]);
    }

    #[test]
    fn refused_crates_and_sources_are_found() {
        check("openssl", Some("MIT"), None, &["openssl: is refused by deny.toml"]);
        check("good", Some("MIT"), Some("git+somewhere"), &["good: does not come from the registry"]);
    }

    #[test]
    fn expressions_are_understood() {
        let mit = |id: &str| id == "MIT";
        assert!(satisfied("MIT/Apache-2.0", &mit));
        assert!(satisfied("(A AND B) OR MIT", &mit));
        assert!(satisfied("MIT WITH X", &mit));
        assert!(!satisfied("MIT AND (A OR B)", &mit));
        assert!(!satisfied("A OR B AND MIT", &mit));
        assert!(!satisfied("(MIT", &mit));
        assert!(!satisfied("MIT MIT", &mit));
        assert!(!satisfied("", &mit));
    }
}
