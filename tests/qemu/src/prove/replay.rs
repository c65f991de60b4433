//! The disks that a power cut can leave: every prefix of the requests, torn requests, and any part of the unflushed ones, in
//! any order.

use std::fmt;

use super::log::{Log, Request, SECTOR};
use crate::Result;
use crate::cells::Seeded;

/// One power cut: the same number and seed give the same disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// So many requests were sent.
    pub after: usize,
    /// The fate of the requests.
    pub left: Left,
}

/// The fate of the requests that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// All are on the medium.
    Whole,
    /// All, and of the next one any of its sectors.
    Torn(u64),
    /// Of those since the last flush any of their sectors, in any order.
    Some(u64),
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, seed) = match self.left {
            Left::Whole => ("whole", None),
            Left::Torn(seed) => ("torn", Some(seed)),
            Left::Some(seed) => ("some", Some(seed)),
        };
        write!(f, "{}-{how}", self.after)?;
        seed.map_or(Ok(()), |seed| write!(f, "-{seed}"))
    }
}

/// Bytes and where they go.
type Piece<'a> = (usize, &'a [u8]);

/// A disk and what was written to it.
#[derive(Debug)]
pub struct Replay<'a> {
    log: &'a Log,
    /// Everything up to the last flush before `sent`.
    durable: Vec<u8>,
    /// Everything before `sent`.
    now: Vec<u8>,
    sent: usize,
    /// The first request after the last flush before `sent`.
    since_flush: usize,
}

impl<'a> Replay<'a> {
    /// Before the first request.
    #[must_use]
    pub fn new(log: &'a Log, disk: Vec<u8>) -> Self {
        Self { log, durable: disk.clone(), now: disk, sent: 0, since_flush: 0 }
    }

    /// All cuts of a recording, `variants` seeded ones beside each prefix.
    #[must_use]
    pub fn cuts(log: &Log, seed: u64, variants: usize) -> Vec<Cut> {
        let mut random = Seeded::new(seed);
        let mut next = move || random.below(1 << 30) as u64 + 1;
        let (mut cuts, mut pending) = (vec![], 0);
        for after in 0..=log.requests.len() {
            cuts.push(Cut { after, left: Left::Whole });
            if matches!(log.requests.get(after), Some(Request::Write { data, .. }) if data.len() > SECTOR) {
                cuts.extend((0..variants.div_ceil(4)).map(|_| Cut { after, left: Left::Torn(next()) }));
            }
            // With nothing or one sector pending there is no choice that a prefix does not have.
            if pending > 1 {
                cuts.extend((0..variants).map(|_| Cut { after, left: Left::Some(next()) }));
            }
            match log.requests.get(after) {
                Some(Request::Flush) => pending = 0,
                _ => pending += 1,
            }
        }
        cuts
    }

    /// Shows the disk after a cut, which must not come before an earlier one.
    ///
    /// # Errors
    /// A request lies beyond the end of the disk.
    pub fn at<T>(&mut self, cut: Cut, look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        while self.sent < cut.after {
            match &self.log.requests[self.sent] {
                Request::Write { at, data } => put(&mut self.now, (*at, self.log.data(data)))?,
                Request::Flush => {
                    for request in &self.log.requests[self.since_flush..self.sent] {
                        if let Request::Write { at, data } = request {
                            put(&mut self.durable, (*at, self.log.data(data)))?;
                        }
                    }
                    self.since_flush = self.sent + 1;
                }
            }
            self.sent += 1;
        }
        let (disk, pieces) = match cut.left {
            Left::Whole => return Ok(look(&self.now)),
            Left::Torn(seed) => (&mut self.now, torn(&self.log.requests[self.sent], self.log, &mut Seeded::new(seed))),
            Left::Some(seed) => {
                let mut random = Seeded::new(seed);
                let mut requests: Vec<&Request> = self.log.requests[self.since_flush..self.sent].iter().collect();
                for last in (1..requests.len()).rev() {
                    requests.swap(last, random.below(last + 1));
                }
                let mut pieces = vec![];
                for request in requests {
                    // Lost, torn or whole.
                    match random.below(4) {
                        0 => pieces.extend(torn(request, self.log, &mut random)),
                        1 | 2 => pieces.extend(whole(request, self.log)),
                        _ => {}
                    }
                }
                (&mut self.durable, pieces)
            }
        };
        let mut before = vec![];
        for piece in pieces {
            before.push((piece.0, disk.get(piece.0..piece.0 + piece.1.len()).ok_or("beyond the disk")?.to_vec()));
            put(disk, piece)?;
        }
        let seen = look(disk);
        for (at, bytes) in before.iter().rev() {
            put(disk, (*at, bytes))?;
        }
        Ok(seen)
    }

    /// The bytes from `from` to `to` that were changed by any request before the cut, as a number that differs if they may
    /// differ; `None` where part of it may be missing.
    #[must_use]
    pub fn version(log: &Log, cut: Cut, from: usize, to: usize) -> Option<usize> {
        let touches =
            |request: &Request| matches!(request, Request::Write { at, data } if *at < to && at + data.len() > from);
        let sent = &log.requests[..cut.after];
        let flush = sent.iter().rposition(|request| *request == Request::Flush).map_or(0, |flush| flush + 1);
        match cut.left {
            Left::Torn(_) if log.requests.get(cut.after).is_some_and(touches) => None,
            Left::Some(_) if sent[flush..].iter().any(touches) => None,
            _ => Some(sent.iter().rposition(touches).map_or(0, |last| last + 1)),
        }
    }
}

fn put(disk: &mut [u8], (at, bytes): Piece) -> Result<()> {
    disk.get_mut(at..at + bytes.len()).ok_or("a request lies beyond the end of the disk")?.copy_from_slice(bytes);
    Ok(())
}

fn whole<'a>(request: &Request, log: &'a Log) -> Option<Piece<'a>> {
    match request {
        Request::Write { at, data } => Some((*at, log.data(data))),
        Request::Flush => None,
    }
}

/// Each sector of a request with even odds.
fn torn<'a>(request: &Request, log: &'a Log, random: &mut Seeded) -> Vec<Piece<'a>> {
    let Some((at, data)) = whole(request, log) else { return vec![] };
    let sectors = data.chunks(SECTOR).enumerate().map(|(number, sector)| (at + number * SECTOR, sector));
    sectors.filter(|_| random.below(2) == 0).collect()
}
