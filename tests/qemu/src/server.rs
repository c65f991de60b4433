//! A server that runs beside the tests.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running server on the loopback interface. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Its port.
    pub port: u16,
}

impl Server {
    /// Starts the program of `command` on a free port, and waits until it answers. Its output goes into `log`.
    ///
    /// # Errors
    /// It does not run, or does not answer.
    pub fn start(log: &Path, command: impl Fn(u16) -> Result<Command>) -> Result<Self> {
        // Somebody may take the port in between: then the server ends at once, and the next port is tried.
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let printed = File::create(log)?;
            let child = command(port)?.stdin(Stdio::null()).stdout(printed.try_clone()?).stderr(printed).spawn()?;
            let mut server = Self { child, port };
            if server.answers()? {
                return Ok(server);
            }
        }
        Err(format!("the server did not start, {}: {}", log.display(), fs::read_to_string(log)?).into())
    }

    fn answers(&mut self) -> Result<bool> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && self.child.try_wait()?.is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(true);
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(false)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
