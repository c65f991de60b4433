//! SIGTERM, held back while a download is under way, so that the download can be put down in order.
//!
//! Outside of a [`Held`] the signal ends the program at once, as it always did. Nothing is installed for the whole process:
//! the signal is blocked and asked for, which takes no handler and no unsafe code.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::base::error::{Context, Error, Reason, Result};

/// How soon a wait notices the signal.
pub(crate) const POLL: Duration = Duration::from_millis(500);

thread_local! {
    static HELD: RefCell<Option<Waiting>> = const { RefCell::new(None) };
}

struct Waiting {
    signals: SignalFd,
    before: SigSet,
    came: bool,
}

/// While this lives, SIGTERM waits until this thread asks for it.
#[derive(Debug)]
pub struct Held(PhantomData<*const ()>);

impl Held {
    /// Begins to hold the signal back.
    ///
    /// # Errors
    /// 70 when the system has no descriptors left.
    pub fn begin() -> Result<Self> {
        let begin = || {
            let signals = SignalFd::with_flags(&terminate(), SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
            let before = terminate().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
            Ok::<_, nix::Error>(Waiting { signals, before, came: false })
        };
        let waiting = begin().context(Reason::Internal, "hold back SIGTERM")?;
        HELD.set(Some(waiting));
        Ok(Self(PhantomData))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(waiting) = HELD.take() {
            // One that nobody asked for takes effect now. The mask was this thread's own, so it can be set.
            let _ = waiting.before.thread_set_mask();
        }
    }
}

/// Keeps the signal from being delivered to this thread, which does not ask for it.
pub(crate) fn leave_to_others() {
    // Fails only for a wrong argument.
    let _ = terminate().thread_block();
}

/// True if the signal came while it was held.
pub(crate) fn came() -> bool {
    HELD.with_borrow_mut(|held| {
        held.as_mut().is_some_and(|held| {
            held.came |= matches!(held.signals.read_signal(), Ok(Some(_)));
            held.came
        })
    })
}

/// Ends what is under way if the signal came.
///
/// # Errors
/// 75 then.
pub fn check() -> Result<()> {
    if !came() {
        return Ok(());
    }
    Err(Error::new(Reason::Interrupted, "interrupted by SIGTERM")
        .remedy("Run it again: it continues where it stopped."))
}

/// Sleeps, unless the signal comes.
///
/// # Errors
/// 75 then.
pub fn sleep(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    loop {
        check()?;
        match end.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return Ok(()),
            left => std::thread::sleep(left.min(POLL)),
        }
    }
}

fn terminate() -> SigSet {
    SigSet::from(Signal::SIGTERM)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    #[test]
    fn a_signal_is_held_back_until_it_is_asked_for() {
        let held = Held::begin().unwrap();
        check().unwrap();
        sleep(Duration::ZERO).unwrap();
        raise(Signal::SIGTERM).unwrap();
        for _ in 0..2 {
            assert_eq!(check().unwrap_err().reason, Reason::Interrupted);
            assert_eq!(sleep(Duration::from_secs(3600)).unwrap_err().reason, Reason::Interrupted);
        }
        drop(held);
        check().unwrap();
    }
}
