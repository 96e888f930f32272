//! Rules for Rust files: module docs, sizes, no ignored tests, no sleeping tests.
//!
//! Test code is told from the rest by its place (`tests/`, `benches/`, `tests.rs`) or by `#[cfg(test)]`; a
//! file whose first lines say `@generated` has no size.

use std::ops::RangeInclusive;

use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::{Allow, Finding, TextFile};

/// Non-test lines of a file above which it needs an entry in `allow.toml`.
pub const FILE_LINES: usize = 500;
/// Non-test lines of a file that no entry excuses, and lines of any test file.
pub const FILE_LINES_MAX: usize = 1000;
/// Lines of a function above which it needs an entry in `allow.toml`.
pub const FUNCTION_LINES: usize = 70;

/// The rules of this file that `allow.toml` may name.
pub const RULES: &[&str] = &["file-lines", "function-lines"];

/// A parsed Rust file.
pub struct Source<'a> {
    file: &'a TextFile,
    syntax: syn::File,
    generated: bool,
    test_file: bool,
    test_lines: Vec<RangeInclusive<usize>>,
}

impl<'a> Source<'a> {
    /// Parses a file.
    ///
    /// # Errors
    /// A finding where it does not parse.
    pub fn parse(file: &'a TextFile) -> Result<Source<'a>, Finding> {
        let syntax = syn::parse_file(&file.text).map_err(|error| {
            Finding::at(&file.path, error.span().start().line, format!("does not parse: {error}"))
        })?;
        let mut tests = TestItems::default();
        tests.visit_file(&syntax);
        Ok(Source {
            file,
            generated: file.text.lines().take(10).any(|line| line.contains("@generated")),
            test_file: is_test_path(&file.path),
            test_lines: tests.lines,
            syntax,
        })
    }

    fn is_test_line(&self, line: usize) -> bool {
        self.test_file || self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The file begins with `//!`.
    #[must_use]
    pub fn module_doc(&self) -> Vec<Finding> {
        if self.file.text.starts_with("//!") {
            return Vec::new();
        }
        vec![Finding::at(&self.file.path, 1, "does not begin with //!")]
    }

    /// The file is not too long.
    #[must_use]
    pub fn file_lines(&self, allow: &Allow) -> Vec<Finding> {
        if self.generated {
            return Vec::new();
        }
        let total = self.file.text.lines().count();
        if self.test_file {
            return match total {
                0..=FILE_LINES_MAX => Vec::new(),
                _ => vec![Finding::file(
                    &self.file.path,
                    format!("{total} lines of tests, {FILE_LINES_MAX} at most"),
                )],
            };
        }
        let count = (1..=total).filter(|line| !self.is_test_line(*line)).count();
        let what = match count {
            0..=FILE_LINES => return Vec::new(),
            _ if count > FILE_LINES_MAX => format!("{count} lines without tests, {FILE_LINES_MAX} at most"),
            _ if allow.has("file-lines", &self.file.path) => return Vec::new(),
            _ => format!("{count} lines without tests, {FILE_LINES} wanted"),
        };
        vec![Finding::file(&self.file.path, what)]
    }

    /// No function is too long. An entry in `allow.toml` names `path::function`.
    #[must_use]
    pub fn function_lines(&self, allow: &Allow) -> Vec<Finding> {
        if self.generated {
            return Vec::new();
        }
        let mut functions = Functions::default();
        functions.visit_file(&self.syntax);
        let mut findings = Vec::new();
        for (name, lines) in functions.found {
            let count = lines.end() - lines.start() + 1;
            let subject = format!("{}::{name}", self.file.path);
            if count > FUNCTION_LINES
                && !self.is_test_line(*lines.start())
                && !allow.has("function-lines", &subject)
            {
                let what = format!("fn {name} has {count} lines, {FUNCTION_LINES} wanted");
                findings.push(Finding::at(&self.file.path, *lines.start(), what));
            }
        }
        findings
    }

    /// No test is ignored, and none waits for time to pass.
    #[must_use]
    pub fn honest_tests(&self) -> Vec<Finding> {
        let mut calls = Calls::default();
        calls.visit_file(&self.syntax);
        let ignored = calls
            .ignored
            .into_iter()
            .map(|line| Finding::at(&self.file.path, line, "#[ignore]: a test runs or is not there"));
        let slept = calls.slept.into_iter().filter(|line| self.is_test_line(*line)).map(|line| {
            Finding::at(&self.file.path, line, "a test sleeps: wait for the thing itself, or own the clock")
        });
        ignored.chain(slept).collect()
    }
}

fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "benches" | "tests.rs"))
}

fn lines_of(span: Span) -> RangeInclusive<usize> {
    span.start().line..=span.end().line
}

/// Where items stand that are compiled for tests only.
#[derive(Default)]
struct TestItems {
    lines: Vec<RangeInclusive<usize>>,
}

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if attributes.iter().any(is_cfg_test) {
            self.lines.push(lines_of(item.span()));
        } else {
            visit::visit_item(self, item);
        }
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
}

/// Every function with a body.
#[derive(Default)]
struct Functions {
    found: Vec<(String, RangeInclusive<usize>)>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let lines = signature.span().start().line..=body.span().end().line;
        self.found.push((signature.ident.to_string(), lines));
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(body) = &item.default {
            self.add(&item.sig, body);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// `#[ignore]` and calls of `thread::sleep`.
#[derive(Default)]
struct Calls {
    ignored: Vec<usize>,
    slept: Vec<usize>,
}

impl<'ast> Visit<'ast> for Calls {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.ignored.push(attribute.span().start().line);
        }
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(callee) = &*call.func {
            let names: Vec<String> = callee.path.segments.iter().map(|part| part.ident.to_string()).collect();
            let last_two = names.iter().rev().take(2).map(String::as_str).collect::<Vec<_>>();
            if matches!(
                last_two.as_slice(),
                ["sleep" | "sleep_until", "thread" | "time" | "tokio"] | ["sleep"]
            ) {
                self.slept.push(call.span().start().line);
            }
        }
        visit::visit_expr_call(self, call);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Allow {
        Allow::parse("")
    }

    fn long_function(lines: usize) -> String {
        format!("//! Doc.\nfn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
    }

    #[track_caller]
    fn check(path: &str, text: &str, rule: impl Fn(&Source<'_>) -> Vec<Finding>, expected: &[&str]) {
        let file = TextFile::new(path, text);
        let found = rule(&Source::parse(&file).expect("the sample parses"));
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        check("a.rs", "//! Doc.\n", |source| source.module_doc(), &[]);
        check("a.rs", "// Doc.\n", |source| source.module_doc(), &["a.rs:1: does not begin with //!"]);
        check("a.rs", "\n//! Doc.\n", |source| source.module_doc(), &["a.rs:1: does not begin with //!"]);
    }

    #[test]
    fn a_file_is_short_without_its_tests() {
        let rule = |source: &Source<'_>| source.file_lines(&none());
        let lines = "// line\n".repeat(FILE_LINES - 1);
        check("a.rs", &format!("//! Doc.\n{lines}"), rule, &[]);
        check(
            "a.rs",
            &format!("//! Doc.\n{lines}//\n"),
            rule,
            &["a.rs: 501 lines without tests, 500 wanted"],
        );
        check("a.rs", &format!("//! @generated\n{lines}//\n"), rule, &[]);
        check("tests/a.rs", &format!("//! Doc.\n{lines}//\n"), rule, &[]);
        let tests = format!("//! Doc.\n{lines}#[cfg(test)]\nmod tests {{\n{lines}}}\n");
        check("a.rs", &tests, rule, &[]);
        check("tests/a.rs", &lines.repeat(3), rule, &["tests/a.rs: 1497 lines of tests, 1000 at most"]);
    }

    #[test]
    fn an_entry_excuses_a_long_file_but_not_a_huge_one() {
        let allow = Allow::parse("[file-lines]\n\"a.rs\" = \"one flat table\"\n");
        let rule = |source: &Source<'_>| source.file_lines(&allow);
        check("a.rs", &"// line\n".repeat(FILE_LINES_MAX), rule, &[]);
        let huge = "// line\n".repeat(FILE_LINES_MAX + 1);
        check("a.rs", &huge, rule, &["a.rs: 1001 lines without tests, 1000 at most"]);
    }

    #[test]
    fn a_function_fits_on_a_screen() {
        let rule = |source: &Source<'_>| source.function_lines(&none());
        check("a.rs", &long_function(FUNCTION_LINES), rule, &[]);
        let long = long_function(FUNCTION_LINES + 1);
        check("a.rs", &long, rule, &["a.rs:2: fn long has 71 lines, 70 wanted"]);
        check("tests/a.rs", &long, rule, &[]);
        let method = long.replace("fn long", "struct S; impl S { fn long") + "}\n";
        check("a.rs", &method, rule, &["a.rs:2: fn long has 71 lines, 70 wanted"]);
        let allow = Allow::parse("[function-lines]\n\"a.rs::long\" = \"one flat match\"\n");
        check("a.rs", &long, |source| source.function_lines(&allow), &[]);
    }

    #[test]
    fn a_test_runs_and_does_not_sleep() {
        let rule = |source: &Source<'_>| source.honest_tests();
        check(
            "a.rs",
            "//! Doc.\n#[ignore]\nfn t() {}\n",
            rule,
            &["a.rs:2: #[ignore]: a test runs or is not there"],
        );
        let sleep = "//! Doc.\nfn t() { std::thread::sleep(D); }\n";
        check("a.rs", sleep, rule, &[]);
        let told = "a test sleeps: wait for the thing itself, or own the clock";
        check("tests/a.rs", sleep, rule, &[&format!("tests/a.rs:2: {told}")]);
        let inside = "//! Doc.\n#[cfg(test)]\nmod tests { fn t() { tokio::time::sleep(D); } }\n";
        check("a.rs", inside, rule, &[&format!("a.rs:3: {told}")]);
        check("tests/a.rs", "//! Doc.\nfn t(c: Clock) { c.sleep(D); }\n", rule, &[]);
    }

    #[test]
    fn what_does_not_parse_is_found() {
        let file = TextFile::new("a.rs", "//! Doc.\nfn {");
        assert!(Source::parse(&file).is_err());
    }
}
