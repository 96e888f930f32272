//! Every rule over the work tree. A failure names the place, and says why the rule is there.

use std::process::Command;

use ferrymq_tidy::source::Source;
use ferrymq_tidy::{Allow, Finding, Repo, allow, docs, edges, licences, report, source, words};

fn sources(repo: &Repo) -> Vec<Source<'_>> {
    repo.with_extension("rs")
        .map(|file| Source::parse(file).unwrap_or_else(|finding| panic!("{finding}")))
        .collect()
}

fn allow_list(repo: &Repo) -> Allow {
    Allow::parse(repo.text(allow::PATH).expect("allow.toml is there"))
}

fn metadata(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(arguments)
        .current_dir(Repo::here().root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

#[test]
fn files_say_what_they_are_for() {
    let repo = Repo::here();
    report(
        sources(&repo).iter().flat_map(Source::module_doc).collect(),
        "Every .rs file begins with //!: what it is for, its invariants, what is deliberately not in it.",
    );
}

#[test]
fn files_and_functions_are_small() {
    let repo = Repo::here();
    let allow = allow_list(&repo);
    let mut findings: Vec<Finding> = Vec::new();
    for source in sources(&repo) {
        findings.extend(source.file_lines(&allow));
        findings.extend(source.function_lines(&allow));
    }
    findings.extend(allow.stale(source::RULES));
    report(
        findings,
        "Split it along what it does: state apart from I/O, one main type per file, helpers below. If it is one\n\
         flat table, give it a line with the reason in crates/tidy/allow.toml; that list may only shrink.",
    );
}

#[test]
fn tests_run_and_do_not_sleep() {
    let repo = Repo::here();
    report(
        sources(&repo).iter().flat_map(Source::honest_tests).collect(),
        "A sleeping test is slow on a good day and wrong on a bad one: wait on a watch, a socket or a paused clock.\n\
         An ignored test tests nothing: a test that needs root or a tool says so loudly and returns.",
    );
}

#[test]
fn crates_depend_downwards() {
    report(
        edges::check(&metadata(&["--no-deps"]), edges::TABLE),
        "The direction of dependencies is the architecture (ARCHITECTURE.md): doors, broker, storage, engines,\n\
         runtime, types. If the edge is right, the table in crates/tidy/src/edges.rs and the page change with it.",
    );
}

#[test]
fn words_are_ours_and_anybodys() {
    let repo = Repo::here();
    report(
        repo.files().iter().flat_map(words::check).collect(),
        "A note to oneself is never read again: do it, open an issue, or state plainly what is absent. Hosts and\n\
         paths of one machine make a script fail on every other.",
    );
}

#[test]
fn documents_have_a_title_and_their_links_lead_somewhere() {
    let repo = Repo::here();
    let mut findings = Vec::new();
    for file in repo.with_extension("md") {
        findings.extend(docs::title(file));
        findings.extend(docs::links(file, |path| repo.root().join(path).exists()));
    }
    report(findings, "Documents are read: one title at the top, links relative to the file they are in.");
}

#[test]
fn both_readmes_tell_the_same_commands() {
    let repo = Repo::here();
    let file =
        |path: &str| repo.files().iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{path}"));
    report(
        docs::same_code(file("README.md"), file("README.zh-CN.md")),
        "README.zh-CN.md is the same page in Chinese: change both, or a reader is told commands that do not work.",
    );
}

#[test]
fn what_we_build_on_is_free_and_known() {
    let repo = Repo::here();
    let policy = licences::Policy::parse(repo.text(licences::PATH).expect("deny.toml is there"));
    report(
        policy.check(&metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"])),
        "FerryMQ is Apache-2.0 and must stay usable in products: deny.toml lists the licences and crates. A new\n\
         licence is a decision; say why beside it.",
    );
}
