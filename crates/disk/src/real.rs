//! The operating system's disk, by the system calls that say what they do to durability.
//!
//! **Invariants.** Every path is resolved from an open descriptor of the root, so that moving the data
//! directory or changing the working directory does not lead elsewhere. Interrupted calls are repeated,
//! except syncs: a sync that did not return success has failed. A failed write may have written a part.
//!
//! Deliberately absent: buffers, direct I/O, io_uring, mmap.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};

use crate::{Disk, File, path};

/// Chunks handed to one `pwritev`; Linux refuses more (`IOV_MAX`).
const CHUNKS_PER_CALL: usize = 1024;
/// Bytes of zeros written at a time where the file system cannot allocate or punch by itself.
const ZEROS_PER_CALL: usize = 64 * 1024;

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDisk {
    root: OwnedFd,
}

impl RealDisk {
    /// Opens the tree below `root`, creating the directory and its parents. A directory that is created here
    /// is made durable in its parent.
    ///
    /// # Errors
    /// Whatever the operating system says.
    pub fn open(root: &Path) -> io::Result<RealDisk> {
        create_durably(root)?;
        let root = fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(RealDisk { root })
    }

    fn open_file(&self, path: &Path, how: OFlags) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | how;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        Ok(retry_on_intr(|| fs::openat(&self.root, relative(path)?, flags, mode))?)
    }

    fn open_dir(&self, dir: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(retry_on_intr(|| fs::openat(&self.root, relative(dir)?, flags, Mode::empty()))?)
    }
}

/// The path as the system calls want it, if it stays below the root.
fn relative(path: &Path) -> Result<PathBuf, Errno> {
    let parts = path::parts(path).map_err(|_| Errno::INVAL)?;
    if parts.is_empty() { Ok(PathBuf::from(".")) } else { Ok(parts.iter().collect()) }
}

fn create_durably(dir: &Path) -> io::Result<()> {
    if dir.as_os_str().is_empty() || dir.is_dir() {
        return Ok(());
    }
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    match fs::mkdir(dir, dir_mode()) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let parent = fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fs::fsync(&parent)?)
}

fn dir_mode() -> Mode {
    Mode::RWXU | Mode::RGRP | Mode::XGRP
}

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile { file: self.open_file(path, OFlags::empty())? }))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile { file: self.open_file(path, OFlags::CREATE | OFlags::EXCL)? }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::new(self.open_dir(dir)?)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for part in path::parts(dir)? {
            at.push(part);
            match fs::mkdirat(&self.root, &at, dir_mode()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // A file in the way was taken for an existing directory above.
        self.open_dir(dir).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(fs::renameat(&self.root, relative(from)?, &self.root, relative(to)?)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(fs::unlinkat(&self.root, relative(path)?, fs::AtFlags::empty())?)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Ok(fs::fsync(self.open_dir(dir)?)?)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let about = fs::fstatvfs(&self.root)?;
        Ok(about.f_bavail.saturating_mul(about.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = self.open_file(path, OFlags::CREATE)?;
        // The kernel drops the lock with the descriptor, also when the process is killed.
        retry_on_intr(|| fs::flock(&file, FlockOperation::NonBlockingLockExclusive))?;
        Ok(Box::new(file))
    }
}

/// An open file of the operating system.
#[derive(Debug)]
struct RealFile {
    file: OwnedFd,
}

impl RealFile {
    /// Overwrites a range with zeros, for file systems that cannot do better.
    fn write_zeros(&self, range: Range<u64>) -> io::Result<()> {
        let zeros = [0; ZEROS_PER_CALL];
        let mut at = range.start;
        while at < range.end {
            let count =
                usize::try_from(range.end - at).map_or(ZEROS_PER_CALL, |left| left.min(ZEROS_PER_CALL));
            self.write_at(&[io::IoSlice::new(&zeros[..count])], at)?;
            at += count as u64;
        }
        Ok(())
    }
}

impl File for RealFile {
    fn write_at(&self, chunks: &[io::IoSlice<'_>], position: u64) -> io::Result<()> {
        let mut at = position;
        for group in chunks.chunks(CHUNKS_PER_CALL) {
            let mut group = group.to_vec();
            let mut rest = &mut group[..];
            io::IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let written = retry_on_intr(|| rustix::io::pwritev(&self.file, rest, at))?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                at += written as u64;
                io::IoSlice::advance_slices(&mut rest, written);
            }
        }
        Ok(())
    }

    fn read_at(&self, into: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            let count =
                retry_on_intr(|| rustix::io::pread(&self.file, &mut into[done..], position + done as u64))?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(done)
    }

    fn read_cached(&self, into: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        let mut done = 0;
        while done < into.len() {
            let at = position + done as u64;
            let read = retry_on_intr(|| {
                let mut slices = [io::IoSliceMut::new(&mut into[done..])];
                rustix::io::preadv2(&self.file, &mut slices, at, ReadWriteFlags::NOWAIT)
            });
            match read {
                // Linux 5.9 and 5.10 say 0 also for a page that is still being read: ask for the length.
                Ok(0) if at < self.len()? => return Ok(None),
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Some(done))
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(fs::fdatasync(&self.file)?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(fs::fstat(&self.file)?.st_size.cast_unsigned())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| fs::ftruncate(&self.file, length))?)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        match retry_on_intr(|| fs::fallocate(&self.file, FallocateFlags::empty(), 0, length)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => self.write_zeros(self.len()?..length),
            Err(error) => Err(error.into()),
        }
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let size = range.end - range.start;
        match retry_on_intr(|| fs::fallocate(&self.file, how, range.start, size)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => self.write_zeros(range.start..range.end.min(self.len()?)),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, RealDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(&dir.path().join("data/tree")).unwrap();
        (dir, disk)
    }

    fn read_all(file: &dyn File) -> Vec<u8> {
        let mut bytes = vec![0xaa; usize::try_from(file.len().unwrap()).unwrap() + 7];
        let count = file.read_at(&mut bytes, 0).unwrap();
        bytes.truncate(count);
        bytes
    }

    #[test]
    fn more_chunks_than_one_call_takes_are_written_in_order() {
        let (_dir, disk) = disk();
        let file = disk.create(Path::new("f")).unwrap();
        let pieces: Vec<Vec<u8>> = (0..3000u32).map(|i| i.to_be_bytes()[..i as usize % 5].to_vec()).collect();
        let chunks: Vec<_> = pieces.iter().map(|piece| io::IoSlice::new(piece)).collect();
        file.write_at(&chunks, 3).unwrap();
        let mut expected = vec![0, 0, 0];
        expected.extend(pieces.iter().flatten());
        assert_eq!(read_all(&*file), expected);
        file.write_at(&[], 0).unwrap();
        file.sync_data().unwrap();
    }

    #[test]
    fn lengths_allocation_and_holes() {
        let (_dir, disk) = disk();
        let file = disk.create(Path::new("f")).unwrap();
        assert!(file.is_empty().unwrap());
        file.write_at(&[io::IoSlice::new(&[7; 10_000])], 0).unwrap();
        file.allocate(20_000).unwrap();
        assert_eq!(file.len().unwrap(), 20_000);
        file.allocate(5).unwrap();
        assert_eq!(file.len().unwrap(), 20_000, "allocating never cuts");
        file.punch(100..9_000).unwrap();
        file.punch(5..5).unwrap();
        let bytes = read_all(&*file);
        assert_eq!(bytes.len(), 20_000);
        assert!(bytes[..100].iter().chain(&bytes[9_000..10_000]).all(|byte| *byte == 7));
        assert!(bytes[100..9_000].iter().chain(&bytes[10_000..]).all(|byte| *byte == 0));
        file.set_len(50).unwrap();
        assert_eq!(read_all(&*file), [7; 50]);
    }

    #[test]
    fn what_was_just_written_is_cached_or_not_but_never_wrong() {
        let (_dir, disk) = disk();
        let file = disk.create(Path::new("f")).unwrap();
        file.write_at(&[io::IoSlice::new(b"hello")], 0).unwrap();
        let mut into = [0; 9];
        match file.read_cached(&mut into, 0).unwrap() {
            Some(count) => assert_eq!(&into[..count], b"hello"),
            None => assert_eq!(file.read_at(&mut into, 0).unwrap(), 5),
        }
        assert!(matches!(file.read_cached(&mut into, 100).unwrap(), None | Some(0)));
    }

    #[test]
    fn names_are_created_renamed_listed_and_removed() {
        let (_dir, disk) = disk();
        disk.create_dir(Path::new("a/b")).unwrap();
        disk.create_dir(Path::new("a/b")).unwrap();
        disk.create(Path::new("a/b/2")).unwrap();
        disk.create(Path::new("a/b/1")).unwrap().write_at(&[io::IoSlice::new(b"one")], 0).unwrap();
        assert_eq!(disk.create(Path::new("a/b/1")).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(disk.list(Path::new("a/b")).unwrap(), ["1", "2"]);
        disk.rename(Path::new("a/b/1"), Path::new("a/b/2")).unwrap();
        disk.sync_dir(Path::new("a/b")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        assert_eq!(read_all(&*disk.open(Path::new("a/b/2")).unwrap()), b"one");
        disk.remove(Path::new("a/b/2")).unwrap();
        assert!(disk.list(Path::new("a/b")).unwrap().is_empty());
        assert_eq!(disk.open(Path::new("a/b/2")).err().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(disk.create_dir(Path::new("a/f/x")).is_ok());
        disk.create(Path::new("a/file")).unwrap();
        assert!(disk.create_dir(Path::new("a/file")).is_err());
        assert!(disk.free_bytes().unwrap() > 0);
    }

    #[test]
    fn a_path_that_leaves_the_root_is_refused() {
        let (_dir, disk) = disk();
        for outside in ["../x", "/etc/hostname", "a/../../x"] {
            let path = Path::new(outside);
            assert_eq!(disk.create(path).err().unwrap().kind(), io::ErrorKind::InvalidInput);
            assert_eq!(disk.open(path).err().unwrap().kind(), io::ErrorKind::InvalidInput);
            assert!(disk.create_dir(path).is_err());
            assert!(disk.list(path).is_err());
            assert!(disk.rename(path, Path::new("y")).is_err());
        }
    }

    #[test]
    fn one_lock_at_a_time() {
        let (_dir, disk) = disk();
        let held = disk.lock(Path::new("lock")).unwrap();
        assert_eq!(disk.lock(Path::new("lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        disk.lock(Path::new("lock")).unwrap();
    }
}
