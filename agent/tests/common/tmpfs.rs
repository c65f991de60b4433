//! A small filesystem for one test.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A filesystem of its own for this thread, as small as a test needs it; `None` without the right to mount.
pub fn mount_tmpfs(on: &Path, options: &str) -> Option<()> {
    unshare(CloneFlags::CLONE_NEWNS).ok()?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    mount(Some("tmpfs"), on, Some("tmpfs"), MsFlags::empty(), Some(options)).unwrap();
    Some(())
}
