//! Mounts: of a named filesystem type, in a mount namespace of our own, and with a checked unmount.

use std::cell::Cell;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::libc;
use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use sys_mount::{Mount, MountFlags, Unmount, UnmountFlags};

use crate::base::error::{Context, Error, Reason, Result};
use crate::base::sys;

/// Where mount points are made; only root looks in.
const MOUNT_POINTS: &str = "/run/kubesolo-update";

/// True if the kernel reports with this error that it does not understand a filesystem.
#[must_use]
pub fn is_damage(errno: Option<i32>) -> bool {
    matches!(errno, Some(libc::EINVAL | libc::EUCLEAN | libc::EBADMSG))
}

/// How often a busy device is asked for again, and the pause in between: one second in all.
const BUSY_TRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A filesystem type, as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// Also mounts ext2 and ext3.
    Ext4,
    /// FAT with long names.
    Vfat,
    /// An optical disc, or an image of one.
    Iso9660,
}

impl Filesystem {
    fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Vfat => "vfat",
            Self::Iso9660 => "iso9660",
        }
    }

    /// Options of a mount for writing. FAT has no owners and modes: they come from these options, else from the umask.
    fn options(self) -> &'static str {
        match self {
            Self::Ext4 | Self::Iso9660 => "",
            Self::Vfat => "uid=0,gid=0,umask=0077",
        }
    }

    /// Options of a read-only mount. It never replays a journal: that would write, and the bootloader does not do it either.
    fn read_only_options(self) -> &'static str {
        match self {
            Self::Ext4 => "noload",
            Self::Vfat | Self::Iso9660 => self.options(),
        }
    }
}

/// A mounted filesystem that no other process sees. Unmounted on drop, where a failure can only be logged: call
/// [`Mounted::unmount`] whenever the outcome matters.
#[derive(Debug)]
pub struct Mounted {
    mount: Option<Mount>,
    device: PathBuf,
    target: PathBuf,
}

impl Mounted {
    /// Mounts without writing a single byte to the device.
    pub fn read_only(device: &Path, filesystem: Filesystem) -> Result<Self> {
        Self::new(device, filesystem, MountFlags::RDONLY, filesystem.read_only_options())
    }

    /// Mounts for writing.
    pub fn read_write(device: &Path, filesystem: Filesystem) -> Result<Self> {
        Self::new(device, filesystem, MountFlags::NOATIME, filesystem.options())
    }

    fn new(device: &Path, filesystem: Filesystem, flags: MountFlags, options: &str) -> Result<Self> {
        enter_private_namespace()?;
        let target = mount_point(device)?;
        let once = || {
            Mount::builder()
                .fstype(filesystem.name())
                .flags(flags | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC)
                .data(options)
                .mount(device, &target)
        };
        // A command that only reads finds it busy while an update writes, and does not wait.
        match if flags.contains(MountFlags::RDONLY) { once() } else { patiently(once) } {
            Ok(mount) => Ok(Self { mount: Some(mount), device: device.to_owned(), target }),
            Err(e) => {
                let _ = fs::remove_dir(&target); // the failed mount is what matters
                let what = format!("cannot mount {} as {}: {e}", device.display(), filesystem.name());
                let reason = if is_damage(e.raw_os_error()) { Reason::DamagedFilesystem } else { Reason::CannotMount };
                Err(Error::new(reason, what).remedy(remedy(&e)))
            }
        }
    }

    /// Where the filesystem's root is, in this process.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.target
    }

    /// Unmounts. Never lazily: that would succeed while the filesystem is still in use.
    pub fn unmount(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(mount) = self.mount.take() else { return Ok(()) };
        patiently(|| mount.unmount(UnmountFlags::empty())).map_err(|e| {
            let what = format!("cannot unmount {}: {e}", self.device.display());
            Error::new(Reason::CannotUnmount, what).remedy(remedy(&e))
        })?;
        let _ = fs::remove_dir(&self.target); // an empty folder in /run is no reason to fail
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(e) = self.end() {
            log::warn!("{e}");
        }
    }
}

/// Does what a device may be too busy for, again for a moment: a process that was just forked holds every open file of ours
/// until it calls exec, and `status` or `metrics` of another process have a slot mounted while they look at it.
fn patiently<T>(mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 1..BUSY_TRIES {
        match act() {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    act()
}

fn remedy(e: &io::Error) -> &'static str {
    match e.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "Run the command as root.",
        Some(libc::EBUSY) => "Find the mount with findmnt, and unmount it.",
        Some(libc::EROFS) => "Remove the write protection of the medium.",
        errno if is_damage(errno) => "Check the filesystem (fsck), or create it again.",
        Some(libc::ENODEV) => "The kernel does not know this filesystem: load its module.",
        _ => "See the kernel log (dmesg) for the cause.",
    }
}

/// Shows that nobody has the device mounted or in use, and makes the next read come from the medium.
pub fn claim(device: &Path, writable: bool) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "exclusive, which is a property of block devices alone")]
    let claimed = || {
        let file = OpenOptions::new().read(true).write(writable).custom_flags(libc::O_EXCL).open(device)?;
        // The kernel lets root open a write-protected device for writing.
        if writable && sys::is_read_only(&file)? {
            return Err(io::Error::from_raw_os_error(libc::EROFS));
        }
        sys::flush_buffers(&file)
    };
    patiently(claimed).map_err(|e| {
        let (reason, what) = match e.raw_os_error() {
            Some(libc::EBUSY) => (Reason::DeviceBusy, "is mounted elsewhere or in use: its content is unknown".into()),
            Some(libc::EROFS) => (Reason::ReadOnly, "is write-protected".into()),
            _ => (Reason::CannotOpenDevice, format!("cannot be opened: {e}")),
        };
        Error::new(reason, format!("{} {what}", device.display())).remedy(remedy(&e))
    })
}

/// Moves this thread, and those it starts from now on, to a mount namespace of its own, once. Mounts made here are not seen
/// outside and end with the process; an unmount outside still comes through, so that a shutdown is not held up.
fn enter_private_namespace() -> Result<()> {
    thread_local!(static ENTERED: Cell<bool> = const { Cell::new(false) });
    if ENTERED.get() {
        return Ok(());
    }
    let entered = nix::sched::unshare(CloneFlags::CLONE_NEWNS).and_then(|()| {
        nix::mount::mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
    });
    entered.map_err(|e| {
        let what = format!("cannot create a mount namespace: {}", e.desc());
        Error::new(Reason::CannotMount, what).remedy(remedy(&e.into()))
    })?;
    ENTERED.set(true);
    Ok(())
}

fn mount_point(device: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let target = Path::new(MOUNT_POINTS).join(format!("{name}-{}-{number}", std::process::id()));
    for folder in [Path::new(MOUNT_POINTS), &target] {
        match DirBuilder::new().mode(0o700).create(folder) {
            // One left behind by a process that was killed is as good as a new one.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
            made => {
                made.context(Reason::CannotMount, format_args!("make the folder {}", folder.display()))?;
            }
        }
    }
    Ok(target)
}
