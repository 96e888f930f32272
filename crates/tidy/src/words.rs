//! What is not written in this repository: notes to self, addresses of somebody's machine, mythology.

use crate::{Finding, TextFile};

/// Words that are refused, as whole words, and what to do instead.
///
/// Each is put together here from two halves, so that this file passes its own rule.
const WORDS: &[(&str, &str, &str)] = &[
    ("TO", "DO", "do it, or open an issue and say in a sentence what is absent"),
    ("FIX", "ME", "fix it, or open an issue and say in a sentence what is wrong"),
    ("XX", "X", "say what you mean"),
    ("topi", "tion", "say topic partition"),
    ("simplified for ", "now", "say what is absent and why"),
    ("for the time ", "being", "say until when and why"),
];

/// Hosts of package registries: clients know them, and a mirror or an offline cache must work.
const HOSTS: &[(&str, &str)] = &[
    ("crates", ".io"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("npmjs", ".org"),
    ("repo.maven.apache", ".org"),
    ("repo1.maven", ".org"),
    ("proxy.golang", ".org"),
    ("deb.debian", ".org"),
];

/// Directories of one machine. `mktemp` makes temporary ones.
const PATHS: &[(&str, &str)] = &[("/wo", "rk/"), ("/ro", "ot/"), ("/tm", "p/"), ("/home", "/")];

/// Files whose form is not ours to choose: what cargo writes names its registry.
const EXEMPT: &[&str] = &["Cargo.lock", "LICENSE"];

/// Everything that is not written here.
#[must_use]
pub fn check(file: &TextFile) -> Vec<Finding> {
    if EXEMPT.iter().any(|name| file.path == *name || file.path.ends_with(&format!("/{name}"))) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (line, text) in (1..).zip(file.text.lines()) {
        for (head, tail, instead) in WORDS {
            let word = format!("{head}{tail}");
            if has_word(text, &word) {
                findings.push(Finding::at(&file.path, line, format!("{word:?}: {instead}")));
            }
        }
        for (head, tail) in HOSTS {
            let host = format!("{head}{tail}");
            if has_word(text, &host) {
                findings.push(Finding::at(&file.path, line, format!("{host:?}: name no registry's host")));
            }
        }
        for (head, tail) in PATHS {
            let path = format!("{head}{tail}");
            if has_path(text, &path) {
                findings.push(Finding::at(&file.path, line, format!("{path:?}: a path of one machine")));
            }
        }
    }
    findings
}

/// Whether `word` stands in `text` with no letter, digit or underscore on either side.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    text.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at));
        !is_part(before) && !is_part(text.as_bytes().get(at + word.len()))
    })
}

/// Whether the absolute path `path` begins somewhere in `text`, rather than going on there.
fn has_path(text: &str, path: &str) -> bool {
    text.match_indices(path).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at));
        !before.is_some_and(|byte| byte.is_ascii_alphanumeric() || b"_-./*})$".contains(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_line(text: &str, expected: usize) {
        assert_eq!(check(&TextFile::new("a.md", text)).len(), expected, "{text}");
    }

    #[test]
    fn every_word_is_found_and_no_part_of_one() {
        for (head, tail, _) in WORDS {
            check_line(&format!("// {head}{tail}: later"), 1);
            check_line(&format!("a{head}{tail}"), 0);
            check_line(&format!("{head}{tail}s"), 0);
        }
    }

    #[test]
    fn every_host_is_found() {
        for (head, tail) in HOSTS {
            check_line(&format!("https://{head}{tail}/x"), 1);
        }
    }

    #[test]
    fn only_absolute_paths_are_found() {
        for (head, tail) in PATHS {
            check_line(&format!("cd {head}{tail}x"), 1);
            check_line(&format!("\"{head}{tail}x\""), 1);
            check_line(&format!("target{head}{tail}x"), 0);
            check_line(&format!("$DIR{head}{tail}x"), 0);
        }
    }

    #[test]
    fn what_cargo_writes_is_left_alone() {
        let (head, tail) = HOSTS[0];
        assert!(check(&TextFile::new("fuzz/Cargo.lock", &format!("{head}{tail}"))).is_empty());
    }

    #[test]
    fn the_line_is_told() {
        let (head, tail, _) = WORDS[0];
        let found = check(&TextFile::new("a.md", &format!("x\n{head}{tail}\n")));
        assert_eq!(found[0].line, 2);
    }
}
