//! Real registries beside CNCF Distribution, on loopback and in memory.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::registry::find;

/// Which program it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The registry of go-containerregistry: `crane registry serve`.
    Crane,
    /// ferro-oci-server, which has the referrers interface.
    Ferro,
}

/// A registry until dropped.
pub struct Server {
    /// `127.0.0.1:port`
    pub address: String,
    child: Child,
}

impl Kind {
    /// Starts an empty one.
    pub fn start(self) -> Server {
        // Another process can take the port between its choice and its use.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
            let mut child = self.command(&address).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            let begin = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(&address).is_ok() {
                    return Server { address, child };
                }
                assert!(begin.elapsed() < Duration::from_secs(60), "{self:?} does not answer");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        panic!("{self:?} does not start");
    }

    fn command(self, address: &str) -> Command {
        let (name, script) = match self {
            Self::Crane => ("crane", "setup.sh test"),
            Self::Ferro => ("ferro-oci-server", "build-ferro.sh"),
        };
        let program = find(name).unwrap_or_else(|| panic!("{name} is needed: build/scripts/{script}"));
        let mut command = Command::new(program);
        match self {
            Self::Crane => command.args(["registry", "serve", "--address", address]),
            Self::Ferro => command.env("FERRO_OCI_LISTEN", address),
        };
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
