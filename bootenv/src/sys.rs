//! The system calls that `nix` has no safe wrapper for.
#![allow(unsafe_code)]

use std::os::fd::AsRawFd;
use std::{fs::File, io};

mod raw {
    // <linux/fs.h>: FIBMAP is _IO(0x00, 1), FIGETBSZ is _IO(0x00, 2); both take a pointer to int in spite of _IO.
    nix::ioctl_readwrite_bad!(fibmap, 0x01, nix::libc::c_int);
    nix::ioctl_read_bad!(figetbsz, 0x02, nix::libc::c_int);
}

/// The filesystem's block size in bytes, the unit of [`block_of`].
pub(crate) fn block_size(file: &File) -> io::Result<u64> {
    let mut size = 0;
    // SAFETY: the kernel writes one int to the pointer, which is valid for the call.
    unsafe { raw::figetbsz(file.as_raw_fd(), &mut size) }?;
    u64::try_from(size).map_err(io::Error::other)
}

/// The number of the device's block that holds the file's block `index`; 0 is a hole. Needs `CAP_SYS_RAWIO`.
pub(crate) fn block_of(file: &File, index: u64) -> io::Result<u64> {
    let mut block = i32::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the kernel reads and writes one int through the pointer, which is valid for the call.
    unsafe { raw::fibmap(file.as_raw_fd(), &mut block) }?;
    // The kernel gives an unsigned number through a signed int.
    Ok(u64::from(block as u32))
}
