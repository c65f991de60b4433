//! A real OCI registry on a free port of the loopback interface.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Result, tool};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running registry. Dropping it ends it.
pub struct Registry {
    child: Child,
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
        // Somebody may take the port in between: then the registry ends at once, and the next one is tried.
        let mut last = String::new();
        for _ in 0..5 {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            match Self::start_at(dir, port) {
                Ok(registry) => return Ok(registry),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last.into())
    }

    fn start_at(dir: &Path, port: u16) -> Result<Self> {
        let config = dir.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
                serde_json::to_string(&dir.join("content"))?
            ),
        )?;
        let log = fs::File::create(dir.join("registry.log"))?;
        let mut child = Command::new(tool("docker-registry")?)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end && child.try_wait()?.is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { child, port });
            }
            thread::sleep(Duration::from_millis(20));
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(format!("the registry did not start: {}", fs::read_to_string(dir.join("registry.log"))?).into())
    }

    /// `host:port` as the host sees it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` as a device sees it.
    #[must_use]
    pub fn host_in_device(&self) -> String {
        format!("10.0.2.2:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
