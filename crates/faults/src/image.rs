//! A disk of one's own: an ext4 image on a loop device, whose power can be cut. Needs root.
//!
//! A cut is the file system's shutdown ioctl without a flush of the log: from then on nothing reaches the image,
//! and what was not synced is gone after the next mount, as after a real loss of power.
//!
//! **Invariant.** Dropping an [`Image`] unmounts it; the loop device goes with the mount.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// `FS_IOC_SHUTDOWN` with `NOLOGFLUSH`. Python, because an ioctl from Rust would be unsafe code.
const CUT: &str = "import fcntl,os,struct,sys
disk = os.open(sys.argv[1], os.O_RDONLY)
print('armed', flush=True)
sys.stdin.readline()
fcntl.ioctl(disk, 0x8004587D, struct.pack('I', 2))";

/// A mounted image.
#[derive(Debug)]
pub(crate) struct Image {
    file: PathBuf,
    at: PathBuf,
    mounted: bool,
}

/// Whether this process may mount.
pub(crate) fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("could not run {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

impl Image {
    /// A fresh one of `megabytes`, in `dir`.
    pub(crate) fn create(dir: &Path, megabytes: u64) -> anyhow::Result<Image> {
        std::fs::create_dir_all(dir)?;
        let (file, at) = (dir.join("disk.img"), dir.join("mnt"));
        File::create(&file)?.set_len(megabytes << 20)?;
        run(Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"])
            .arg(&file))?;
        std::fs::create_dir_all(&at)?;
        let mut image = Image { file, at, mounted: false };
        image.mount()?;
        Ok(image)
    }

    fn mount(&mut self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.file).arg(&self.at))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(&self.at))?;
        self.mounted = false;
        Ok(())
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts the power. Whatever runs on it must be killed before [`restore`](Image::restore).
    ///
    /// `dark` is called just before. A sync that is under way during the ioctl may return success although its
    /// file's extents were never marked as written; with a real cut nobody would be left to hear that. So what is
    /// heard after `dark` must count for nothing.
    pub(crate) fn cut(&self, dark: impl FnOnce()) -> anyhow::Result<()> {
        let mut child = Command::new("python3")
            .args(["-I", "-S", "-c", CUT])
            .arg(&self.at)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not run python3")?;
        let armed = child.stdout.take().context("python3 has no output")?;
        let mut line = String::new();
        BufReader::new(armed).read_line(&mut line)?;
        dark();
        drop(child.stdin.take());
        let status = child.wait()?;
        anyhow::ensure!(status.success() && line == "armed\n", "the power could not be cut: {status}");
        Ok(())
    }

    /// Power is back: what was durable is there.
    pub(crate) fn restore(&mut self) -> anyhow::Result<()> {
        self.unmount()?;
        self.mount()
    }

    /// Fills the disk to the last block but `leave` bytes; [`free`](Image::free) undoes it.
    pub(crate) fn fill(&self, leave: u64) -> anyhow::Result<u64> {
        let ballast = OpenOptions::new().create(true).append(true).open(self.at.join("ballast"))?;
        let mut filled = ballast.metadata()?.len();
        let block = vec![0x5a; 1 << 20];
        loop {
            let space = rustix::fs::statvfs(&self.at)?;
            let left = (space.f_bavail * space.f_frsize).saturating_sub(leave);
            let size = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            if size < 4096 {
                break;
            }
            match (&ballast).write(&block[..size]) {
                Ok(written) => filled += written as u64,
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        ballast.sync_all()?;
        Ok(filled)
    }

    /// Takes the ballast away.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        std::fs::remove_file(self.at.join("ballast"))?;
        Ok(())
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.mounted
            && let Err(error) = self.unmount()
        {
            crate::say(&format!("{error:#}"));
        }
        // The image is as large as what was written to it.
        let _ = std::fs::remove_file(&self.file);
    }
}
