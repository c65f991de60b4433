//! The pieces of the booted initramfs. Nothing about them is stored: the file is read once, and each piece is hashed again
//! when it is copied, so nothing can be stale.

use std::io;

use crate::base::error::{Error, Reason, Result};
use crate::base::{interrupt, limits};
use crate::delta::cutter::{Cut, Cutter, Hash, hash};
use crate::delta::pack::Sources;
use crate::device::slot::SlotBody;

const READ_BYTES: usize = 128 * 1024;

/// A file that is read at any place.
pub trait Medium {
    /// Reads the bytes at `offset`; fewer only at the end of the file.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl Medium for SlotBody {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        SlotBody::read_at(self, buffer, offset)
    }
}

/// A piece in the file.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: Hash,
    offset: u64,
    /// At most [`limits::PIECE_BYTES`].
    len: u32,
}

/// A file by its pieces.
pub struct Known {
    medium: Box<dyn Medium>,
    /// By hash. At most [`limits::PIECES`]: later ones are not known.
    places: Vec<Place>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Known").field("pieces", &self.places.len()).finish_non_exhaustive()
    }
}

impl Known {
    /// Reads the file to its end.
    ///
    /// # Errors
    /// Those of the medium; 75 when a signal asks to end.
    pub fn scan(medium: Box<dyn Medium>) -> Result<Self> {
        let (mut cutter, mut places, mut end, mut offset) = (Cutter::default(), vec![], 0, 0);
        let mut note = |cut: Cut| {
            if places.len() < limits::PIECES {
                places.push(Place { hash: cut.hash, offset: end, len: cut.len as u32 }); // a piece is short
            }
            end += cut.len as u64;
        };
        let mut buffer = vec![0; READ_BYTES];
        loop {
            interrupt::check()?;
            match medium.read_at(&mut buffer, offset) {
                Ok(0) => break,
                Ok(read) => {
                    cutter.feed(&buffer[..read], &mut note);
                    offset += read as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(&e)),
            }
        }
        cutter.finish().map(note);
        places.sort_unstable_by_key(|place| place.hash);
        places.shrink_to_fit();
        Ok(Self { medium, places })
    }

    fn place(&self, hash: &Hash) -> Option<&Place> {
        let at = self.places.binary_search_by_key(hash, |place| place.hash).ok()?;
        self.places.get(at)
    }

    /// The length of the piece with that hash, in bytes.
    #[must_use]
    pub fn len_of(&self, hash: &Hash) -> Option<usize> {
        self.place(hash).map(|place| place.len as usize)
    }

    /// Appends a piece to `into`; false if it is not there, or not with this hash.
    pub fn append(&self, wanted: &Hash, into: &mut Vec<u8>) -> bool {
        let Some(place) = self.place(wanted) else { return false };
        let start = into.len();
        into.resize(start + place.len as usize, 0);
        let bytes = &mut into[start..];
        let right = match self.fill(bytes, place.offset) {
            Ok(()) => hash(bytes) == *wanted,
            Err(e) => {
                log::debug!("a piece of the booted initramfs: {e}");
                false
            }
        };
        if !right {
            into.truncate(start);
        }
        right
    }

    fn fill(&self, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.medium.read_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    offset += read as u64;
                    bytes = &mut bytes[read..];
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl Sources for &Known {
    fn read(&mut self, source: &Hash, into: &mut Vec<u8>) -> bool {
        self.append(source, into)
    }
}

fn unreadable(e: &io::Error) -> Error {
    Error::new(Reason::SlotUnreadable, format!("cannot read the booted initramfs: {e}"))
        .remedy("See the kernel log (dmesg): the medium may be failing.")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::delta::cutter::MARK;

    /// Bytes in memory that can change under way.
    #[derive(Clone, Default)]
    pub(crate) struct Bytes(pub(crate) Rc<RefCell<Vec<u8>>>);

    impl Bytes {
        pub(crate) fn new(bytes: &[u8]) -> Self {
            Self(Rc::new(RefCell::new(bytes.to_vec())))
        }
    }

    impl Medium for Bytes {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            let bytes = self.0.borrow();
            let rest = &bytes[(offset as usize).min(bytes.len())..];
            let read = rest.len().min(buffer.len()).min(1000);
            buffer[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }
    }

    #[test]
    fn each_piece_of_a_file_is_found_and_read_again() {
        let pieces: Vec<Vec<u8>> = (0..50usize).map(|n| [&vec![n as u8 + 1; 90 * n][..], &MARK].concat()).collect();
        let bytes = Bytes::new(&pieces.concat());
        let known = Known::scan(Box::new(bytes.clone())).unwrap();
        for piece in &pieces {
            assert_eq!(known.len_of(&hash(piece)), Some(piece.len()));
            let mut read = b"before".to_vec();
            assert!(known.append(&hash(piece), &mut read));
            assert_eq!(read, [b"before", &piece[..]].concat());
        }
        assert_eq!(known.len_of(&hash(b"else")), None);
        let read = |n: usize| {
            let mut read = vec![];
            assert_eq!(known.append(&hash(&pieces[n]), &mut read), !read.is_empty());
            !read.is_empty()
        };
        // Rotten since it was scanned, and then cut off.
        bytes.0.borrow_mut()[5] ^= 1;
        assert!(!read(1) && read(2) && read(49));
        bytes.0.borrow_mut().truncate(1000);
        assert!(read(2) && !read(49));
    }

    #[test]
    fn a_file_of_more_pieces_than_the_limit_is_known_in_part() {
        let first = [b"first", &MARK[..]].concat();
        let last = [b"last", &MARK[..]].concat();
        let bytes = [&first[..], &MARK.repeat(limits::PIECES), &last].concat();
        let known = Known::scan(Box::new(Bytes::new(&bytes))).unwrap();
        assert_eq!((known.places.len(), known.places.capacity()), (limits::PIECES, limits::PIECES));
        assert_eq!((known.len_of(&hash(&first)), known.len_of(&hash(&last))), (Some(first.len()), None));
    }
}
