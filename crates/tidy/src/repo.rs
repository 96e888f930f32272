//! The files of the repository: what git tracks or would track, read as text.
//!
//! Without git (an unpacked tarball) the tree is walked and the directories that `.gitignore` names are left
//! out.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Directories that are never ours when git cannot be asked.
const IGNORED_DIRS: &[&str] = &[".git", ".cache", "target", "node_modules", "__pycache__", "artifacts"];

/// A file that is UTF-8.
#[derive(Debug, Clone)]
pub struct TextFile {
    /// Path from the root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

impl TextFile {
    /// A file that exists only in a test.
    #[must_use]
    pub fn new(path: &str, text: &str) -> TextFile {
        TextFile { path: path.to_owned(), text: text.to_owned() }
    }

    /// Whether the path ends in `.extension`.
    #[must_use]
    pub fn has_extension(&self, extension: &str) -> bool {
        Path::new(&self.path).extension().is_some_and(|found| found == extension)
    }
}

/// The work tree.
#[derive(Debug)]
pub struct Repo {
    root: PathBuf,
    files: Vec<TextFile>,
}

impl Repo {
    /// Reads the work tree this crate was built from.
    ///
    /// # Panics
    /// If there is none: the rules make no sense anywhere else.
    #[must_use]
    pub fn here() -> Repo {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .expect("crates/tidy lies two levels below the root")
            .to_owned();
        let mut paths = tracked(&root).unwrap_or_else(|| walked(&root));
        paths.sort();
        let files = paths.into_iter().filter_map(|path| read(&root, path)).collect();
        Repo { root, files }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All text files, by path.
    #[must_use]
    pub fn files(&self) -> &[TextFile] {
        &self.files
    }

    /// The text files with this extension.
    pub fn with_extension<'a>(&'a self, extension: &'a str) -> impl Iterator<Item = &'a TextFile> {
        self.files.iter().filter(move |file| file.has_extension(extension))
    }

    /// The text of one file.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }
}

/// What git tracks, and what it would track once added.
fn tracked(root: &Path) -> Option<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    let names = String::from_utf8(listed.stdout).ok()?;
    let paths: Vec<String> = names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    (!paths.is_empty()).then_some(paths)
}

fn walked(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            let ignored = IGNORED_DIRS.iter().any(|name| entry.file_name() == *name);
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !ignored => pending.push(path),
                Ok(kind) if kind.is_file() => found.extend(relative(root, &path)),
                _ => {}
            }
        }
    }
    found
}

fn relative(root: &Path, path: &Path) -> Option<String> {
    path.strip_prefix(root).ok()?.to_str().map(|path| path.replace('\\', "/"))
}

/// `None` for what is gone, not a plain file, or not text.
fn read(root: &Path, path: String) -> Option<TextFile> {
    let full = root.join(&path);
    let plain = std::fs::symlink_metadata(&full).is_ok_and(|metadata| metadata.is_file());
    let text = plain.then(|| std::fs::read_to_string(&full).ok())??;
    Some(TextFile { path, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself_both_ways() {
        let repo = Repo::here();
        assert!(repo.text("crates/tidy/src/repo.rs").is_some());
        assert!(walked(repo.root()).iter().any(|path| path == "crates/tidy/src/repo.rs"));
        assert!(walked(repo.root()).iter().all(|path| !path.starts_with("target/")));
    }
}
