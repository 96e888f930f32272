//! Paths inside a disk: relative, without `..`, in UTF-8.
//!
//! **Invariant.** What [`parts`] accepts cannot name anything outside the disk's root by its spelling. Links
//! that somebody put into the tree are followed: whoever may do that may also write the files.
//!
//! Deliberately absent: looking at the disk.

use std::io;
use std::path::{Component, Path};

/// The names along a path; none for the root itself.
pub(crate) fn parts(path: &Path) -> io::Result<Vec<&str>> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(name) => match name.to_str() {
                Some(name) => parts.push(name),
                None => return Err(refused(path)),
            },
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return Err(refused(path)),
        }
    }
    Ok(parts)
}

fn refused(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("path leaves the data directory: {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_root_are_accepted() {
        assert_eq!(parts(Path::new("wal/./000.log")).unwrap(), ["wal", "000.log"]);
        assert!(parts(Path::new("")).unwrap().is_empty());
        assert!(parts(Path::new(".")).unwrap().is_empty());
        for outside in ["/etc/passwd", "..", "wal/../../x", "../x"] {
            assert_eq!(
                parts(Path::new(outside)).unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{outside}"
            );
        }
    }
}
