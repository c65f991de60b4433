//! A real OCI registry on a free port of the loopback interface.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::{Result, tool};

/// A running registry. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    _server: Server,
    /// Its port.
    pub port: u16,
}

impl Registry {
    /// Starts a registry whose content lies under `dir`.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let content = serde_json::to_string(&dir.join("content"))?;
        let config = dir.join("config.yml");
        let server = Server::start(&dir.join("registry.log"), |port| {
            fs::write(
                &config,
                format!(
                    "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {content}}}\n  delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n"
                ),
            )?;
            let mut command = Command::new(tool("docker-registry")?);
            command.arg("serve").arg(&config);
            Ok(command)
        })?;
        Ok(Self { port: server.port, _server: server })
    }

    /// `host:port` as the host sees it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// A way to the registry that carries only so many bytes to the device, and then stalls: a line that is cut at a known
/// place.
#[derive(Debug)]
pub struct Line {
    /// Where the device finds it.
    port: u16,
    allowed: Arc<Mutex<u64>>,
}

impl Line {
    /// Opens a line that carries everything.
    ///
    /// # Errors
    /// There is no free port.
    pub fn open(registry: &Registry) -> Result<Self> {
        Self::open_at(registry, 0)
    }

    /// The same on this port, which a device knows already; 0 is any free one.
    ///
    /// # Errors
    /// The port is not free.
    pub fn open_at(registry: &Registry, port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let (port, target) = (listener.local_addr()?.port(), registry.port);
        let allowed = Arc::new(Mutex::new(u64::MAX));
        let shared = Arc::clone(&allowed);
        // The threads end with the process: a scenario has one line.
        thread::spawn(move || {
            for device in listener.incoming().flatten() {
                let allowed = Arc::clone(&shared);
                // A connection that breaks is the device's affair.
                thread::spawn(move || connect(device, target, &allowed));
            }
        });
        Ok(Self { port, allowed })
    }

    /// The port on this machine.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host:port` as a device sees it.
    #[must_use]
    pub fn host_in_device(&self) -> String {
        format!("10.0.2.2:{}", self.port)
    }

    /// Carries this many more bytes.
    ///
    /// # Errors
    /// A thread of the line panicked.
    pub fn allow(&self, bytes: u64) -> Result<()> {
        *self.allowed.lock().map_err(|_| "the line is broken")? = bytes;
        Ok(())
    }

    /// Bytes that it carried, if nothing limited it.
    ///
    /// # Errors
    /// A thread of the line panicked.
    pub fn carried(&self) -> Result<u64> {
        Ok(u64::MAX - *self.allowed.lock().map_err(|_| "the line is broken")?)
    }

    /// Waits until all that was allowed has been carried.
    ///
    /// # Errors
    /// The device does not ask for that much.
    pub fn wait_until_stalled(&self) -> Result<()> {
        let end = Instant::now() + crate::machine::PATIENCE;
        while Instant::now() < end {
            if *self.allowed.lock().map_err(|_| "the line is broken")? == 0 {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err("the device did not fetch as much as was allowed".into())
    }
}

fn connect(device: TcpStream, target: u16, allowed: &Mutex<u64>) -> io::Result<()> {
    let registry = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    let (mut asked, mut to) = (device.try_clone()?, registry.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asked, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut device) = (registry, device);
    let mut chunk = [0; 16 * 1024];
    loop {
        let length = from.read(&mut chunk)?;
        if length == 0 {
            return device.shutdown(Shutdown::Write);
        }
        let mut rest = &chunk[..length];
        while !rest.is_empty() {
            let now = take(allowed, rest.len());
            if now == 0 {
                thread::sleep(Duration::from_millis(20));
                // A device without power does not answer any more.
                device.set_nonblocking(true)?;
                let gone = matches!(device.peek(&mut [0]), Ok(0));
                device.set_nonblocking(false)?;
                if gone {
                    return Ok(());
                }
            }
            device.write_all(&rest[..now])?;
            rest = &rest[now..];
        }
    }
}

/// How many of `wanted` bytes may go now.
fn take(allowed: &Mutex<u64>, wanted: usize) -> usize {
    let Ok(mut left) = allowed.lock() else { return 0 };
    let now = u64::try_from(wanted).unwrap_or(u64::MAX).min(*left);
    *left -= now;
    usize::try_from(now).unwrap_or(0)
}
