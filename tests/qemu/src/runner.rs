//! Runs scenarios beside each other, each in its own folder.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::machine::Firmware;
use crate::{Result, root};

/// One story of a device.
#[derive(Debug)]
pub struct Scenario {
    /// How it is called on the command line.
    pub name: &'static str,
    /// The property that it shows, in one line.
    pub about: &'static str,
    /// The firmware of the device unless the command line says otherwise.
    pub firmware: Firmware,
    /// The reason why it runs with that firmware only, if so.
    pub only: Option<&'static str>,
    /// Part of `make test`.
    pub quick: bool,
    /// Uses all jobs by itself.
    pub wide: bool,
    /// The story.
    pub body: fn(&Run) -> Result<()>,
}

/// The context of a scenario.
#[derive(Debug)]
pub struct Run {
    /// Its own folder, empty. Logs stay there; disks are removed if all went well.
    pub dir: PathBuf,
    /// The firmware of its devices.
    pub firmware: Firmware,
    /// How many devices it may run beside each other.
    pub jobs: usize,
}

impl Run {
    /// A place for a file of this run.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Puts bytes in a file of this run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let file = self.file(name);
        fs::write(&file, bytes)?;
        Ok(file)
    }
}

/// Runs scenarios and prints how each ended; gives the number of those that failed.
///
/// # Errors
/// A folder cannot be made.
pub fn run_all(scenarios: &[&Scenario], firmware: Option<Firmware>, jobs: usize) -> Result<usize> {
    let (wide, narrow): (Vec<&Scenario>, Vec<&Scenario>) = scenarios.iter().partition(|s| s.wide);
    let failed = AtomicUsize::new(0);
    let one = |scenario: &Scenario, jobs: usize| -> Result<()> {
        let firmware = firmware.unwrap_or(scenario.firmware);
        if let Some(why) = scenario.only.filter(|_| firmware != scenario.firmware) {
            println!("-     {} (not with {}): {why}", scenario.name, firmware.as_str());
            return Ok(());
        }
        let dir = root().join("target/qemu").join(scenario.name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let begin = Instant::now();
        let run = Run { dir, firmware, jobs };
        let ended = (scenario.body)(&run);
        let label = format!("{} ({}, {} s)", scenario.name, firmware.as_str(), begin.elapsed().as_secs());
        match ended {
            Ok(()) => {
                println!("ok    {label}: {}", scenario.about);
                clean(&run)?;
            }
            Err(error) => {
                println!("FAIL  {label}: {error}\n    kept in {}", run.dir.display());
                failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    for scenario in wide {
        one(scenario, jobs)?;
    }
    let next = Mutex::new(narrow.iter());
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(narrow.len()))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        // Its own statement, so that the lock is not held while the scenario runs.
                        let scenario = next.lock().map_err(|_| "another scenario panicked")?.next();
                        match scenario {
                            Some(scenario) => one(scenario, 1)?,
                            None => return Ok(()),
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a scenario panicked")?)
    })?;
    Ok(failed.into_inner())
}

/// Removes large files once all went well.
fn clean(run: &Run) -> Result<()> {
    for entry in fs::read_dir(&run.dir)? {
        let path = entry?.path();
        if path.is_dir() && path.ends_with("registry") {
            fs::remove_dir_all(path)?;
        } else if path.extension().is_some_and(|e| e == "img" || e == "fd" || e == "gz") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
