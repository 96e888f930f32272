//! Markdown: one title, links that lead somewhere, and two READMEs that tell the same commands.

use crate::{Finding, TextFile};

/// A line of Markdown and whether it stands in a fenced code block.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str, bool)> {
    let mut in_code = false;
    (1..).zip(text.lines()).map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        let code = in_code || fence;
        in_code ^= fence;
        (number, line, code)
    })
}

/// There is exactly one first-level heading, and nothing stands before it.
#[must_use]
pub fn title(file: &TextFile) -> Vec<Finding> {
    let titles: Vec<usize> = lines(&file.text)
        .filter(|(_, line, code)| !code && line.starts_with("# "))
        .map(|(number, ..)| number)
        .collect();
    match titles.as_slice() {
        [1] => Vec::new(),
        [] => vec![Finding::file(&file.path, "has no title (a line that begins with '# ')")],
        [first] => vec![Finding::at(&file.path, *first, "the title is not the first line")],
        [_, second, ..] => vec![Finding::at(&file.path, *second, "has a second title")],
    }
}

/// Every relative link leads to something that `exists`.
pub fn links(file: &TextFile, exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line, code) in lines(&file.text) {
        if code {
            continue;
        }
        for target in targets(line) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = target.contains("://") || target.starts_with("mailto:");
            if !elsewhere && !path.is_empty() && !exists(&resolve(&file.path, path)) {
                findings.push(Finding::at(&file.path, number, format!("the link to {target} leads nowhere")));
            }
        }
    }
    findings
}

/// The targets of `[text](target)` in a line, code spans left out.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (index, part) in line.split('`').enumerate() {
        // Between two backticks is code, unless the text of a link ends in code: `](` then begins a part.
        if index % 2 == 1 && !part.starts_with("](") {
            continue;
        }
        for tail in part.split("](").skip(1) {
            if let Some((target, _)) = tail.split_once(')') {
                found.push(target.split(' ').next().unwrap_or_default());
            }
        }
    }
    found
}

/// `link` as seen from the directory of `from`, without `.` and `..`.
fn resolve(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// The fenced blocks of a document.
fn code_blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut open = false;
    for (_, line, code) in lines(text) {
        let fence = code && line.trim_start().starts_with("```");
        match (fence, open) {
            (true, false) => blocks.push(String::new()),
            (false, true) => {
                let block = blocks.last_mut().expect("a block was pushed when it was opened");
                block.push_str(line);
                block.push('\n');
            }
            _ => {}
        }
        open ^= fence;
    }
    blocks
}

/// A translation shows the same code blocks in the same order.
#[must_use]
pub fn same_code(original: &TextFile, translation: &TextFile) -> Vec<Finding> {
    let (theirs, ours) = (code_blocks(&original.text), code_blocks(&translation.text));
    if theirs.len() != ours.len() {
        let what = format!("{} code blocks, {} has {}", ours.len(), original.path, theirs.len());
        return vec![Finding::file(&translation.path, what)];
    }
    let differing = theirs.iter().zip(&ours).position(|(theirs, ours)| theirs != ours);
    differing
        .map(|index| {
            let what = format!("code block {} differs from that in {}", index + 1, original.path);
            Finding::file(&translation.path, what)
        })
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(found: &[Finding], expected: &[&str]) {
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_document_has_one_title_at_its_top() {
        check(&title(&TextFile::new("a.md", "# A\n\n## B\n```\n# comment\n```\n")), &[]);
        check(
            &title(&TextFile::new("a.md", "## B\n")),
            &["a.md: has no title (a line that begins with '# ')"],
        );
        check(&title(&TextFile::new("a.md", "\n# A\n")), &["a.md:2: the title is not the first line"]);
        check(&title(&TextFile::new("a.md", "# A\n# B\n")), &["a.md:2: has a second title"]);
    }

    #[test]
    fn links_lead_somewhere() {
        let exists = |path: &str| matches!(path, "README.md" | "docs/b.md");
        let good = "[a](../README.md#x) [b](b.md) [c](#here) [d](https://example.com) `[e](f)`\n";
        check(&links(&TextFile::new("docs/a.md", good), exists), &[]);
        let code = "```\n[a](nowhere.md)\n```\n";
        check(&links(&TextFile::new("docs/a.md", code), exists), &[]);
        let bad = "# A\n[`a`](README.md)\n";
        check(
            &links(&TextFile::new("docs/a.md", bad), exists),
            &["docs/a.md:2: the link to README.md leads nowhere"],
        );
    }

    #[test]
    fn a_translation_shows_the_same_code() {
        let original = TextFile::new("a.md", "# A\n```sh\nmake\n```\ntext\n```\nrun\n```\n");
        let same = TextFile::new("b.md", "# B\n```sh\nmake\n```\nother text\n```\nrun\n```\n");
        check(&same_code(&original, &same), &[]);
        let fewer = TextFile::new("b.md", "# B\n```sh\nmake\n```\n");
        check(&same_code(&original, &fewer), &["b.md: 1 code blocks, a.md has 2"]);
        let other = TextFile::new("b.md", "# B\n```sh\nmake\n```\n```\nwalk\n```\n");
        check(&same_code(&original, &other), &["b.md: code block 2 differs from that in a.md"]);
    }
}
