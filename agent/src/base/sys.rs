//! The system calls that have no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::libc;

// Requests 97, 94 and 9 (FICLONE) of linux/fs.h.
mod ioctl {
    nix::ioctl_none_bad!(blkflsbuf, nix::request_code_none!(0x12, 97));
    nix::ioctl_read_bad!(blkroget, nix::request_code_none!(0x12, 94), nix::libc::c_int);
    nix::ioctl_write_int!(ficlone, 0x94, 9);
    nix::ioctl_read_bad!(winsize, nix::libc::TIOCGWINSZ, nix::libc::winsize);
}

/// Writes out and drops what the kernel caches of a block device (`BLKFLSBUF`).
pub fn flush_buffers(device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as the borrow lives; this request takes no argument.
    unsafe { ioctl::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// True if a block device is write-protected (`BLKROGET`).
pub fn is_read_only(device: &File) -> io::Result<bool> {
    let mut answer = 0;
    // SAFETY: the descriptor is open for as long as the borrow lives; the request writes one int, to `answer`.
    unsafe { ioctl::blkroget(device.as_raw_fd(), &raw mut answer) }?;
    Ok(answer != 0)
}

/// Columns of a terminal (`TIOCGWINSZ`); 0 if the terminal does not know, as many serial ones. `None` if this is no terminal.
pub fn columns(output: &impl AsRawFd) -> Option<u16> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open for as long as the borrow lives; the request fills one `winsize`, which is `size`.
    unsafe { ioctl::winsize(output.as_raw_fd(), &raw mut size) }.ok()?;
    Some(size.ws_col)
}

/// Starts to write out what was written to this part of a file, without waiting for it.
pub fn start_write_out(file: &File, from: u64, length: u64) -> io::Result<()> {
    sync_range(file, from, length, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until this part of a file is written out. Says nothing about the file's metadata or the cache of the disk.
pub fn finish_write_out(file: &File, from: u64, length: u64) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(file, from, length, flags)
}

fn sync_range(file: &File, from: u64, length: u64, flags: libc::c_uint) -> io::Result<()> {
    let (from, length) = (from.cast_signed(), length.cast_signed());
    // SAFETY: the descriptor is open for as long as the borrow lives; no memory is passed.
    match Errno::result(unsafe { libc::sync_file_range(file.as_raw_fd(), from, length, flags) }) {
        // Filesystems without it (some network and overlay ones) lose only the early start: fsync follows.
        Ok(_) | Err(Errno::ENOSYS | Errno::ESPIPE | Errno::EINVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// True if the kernel's clock is steered by something better (`STA_UNSYNC` of `adjtimex` is not set).
pub fn clock_is_synchronised() -> bool {
    // SAFETY: all zeroes is a valid `timex`, and asks for nothing to be changed; the call fills it.
    let status = unsafe {
        let mut state: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut state) >= 0).then_some(state.status)
    };
    status.is_some_and(|status| status & libc::STA_UNSYNC == 0)
}

/// Restarts with a command for the firmware (`LINUX_REBOOT_CMD_RESTART2`). Comes back only if the kernel refuses.
pub fn reboot_with(argument: &str) -> io::Result<()> {
    let argument = CString::new(argument)?;
    let (magic, more, command) =
        (libc::LINUX_REBOOT_MAGIC1, libc::LINUX_REBOOT_MAGIC2, libc::LINUX_REBOOT_CMD_RESTART2);
    // SAFETY: the kernel reads a string that ends in NUL and lives until the call is over.
    Errno::result(unsafe { libc::syscall(libc::SYS_reboot, magic, more, command, argument.as_ptr()) })?;
    Ok(())
}

/// Gives each buffer of 128 KiB and more back to the system when it is dropped, from now on (`mallopt(3)`). By default glibc
/// keeps them once it has seen one of their size, and the gaps between them count as memory of this process.
pub fn give_back_buffers() {
    // SAFETY: passes two numbers. glibc takes its own lock.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024) };
}

/// Shares the blocks of a file with a new one (`FICLONE`); an error where the filesystem cannot.
pub fn clone_blocks(from: &File, to: &File) -> io::Result<()> {
    let from = libc::c_ulong::try_from(from.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: both descriptors are open for as long as the borrows live; the request takes a descriptor by value.
    unsafe { ioctl::ficlone(to.as_raw_fd(), from) }?;
    Ok(())
}

/// Longest list of names, and longest value, of extended attributes (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of linux/limits.h).
const XATTR_BYTES: usize = 65536;

/// Copies the extended attributes of a file, or of a link itself: access control lists are among them.
pub fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (CString::new(from.as_os_str().as_bytes())?, CString::new(to.as_os_str().as_bytes())?);
    let mut names = vec![0u8; XATTR_BYTES];
    // SAFETY: the path ends in NUL; the kernel writes at most as many bytes as the buffer has.
    let length = match Errno::result(unsafe { libc::llistxattr(from.as_ptr(), names.as_mut_ptr().cast(), names.len()) })
    {
        Ok(length) => length.cast_unsigned(),
        Err(Errno::ENOTSUP) => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let mut value = vec![0u8; if length == 0 { 0 } else { XATTR_BYTES }];
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(OsStr::from_bytes(name).as_bytes())?;
        // SAFETY: as above, with two strings that end in NUL.
        let size = Errno::result(unsafe {
            libc::lgetxattr(from.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        })?;
        // SAFETY: as above; the kernel reads `size` bytes that it wrote before.
        Errno::result(unsafe {
            libc::lsetxattr(to.as_ptr(), name.as_ptr(), value.as_ptr().cast(), size.cast_unsigned(), 0)
        })?;
    }
    Ok(())
}
