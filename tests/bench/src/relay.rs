//! A way to a server that counts what it carries. It costs time, so nothing is timed through it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use qemu_tests::Result;

/// A port of its own before a server.
pub struct Relay {
    /// The port.
    pub port: u16,
    carried: Arc<AtomicU64>,
}

impl Relay {
    /// Opens a relay to a port of the loopback interface. Its threads end with the process.
    ///
    /// # Errors
    /// There is no free port.
    pub fn open(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let relay = Self { port: listener.local_addr()?.port(), carried: Arc::default() };
        let carried = Arc::clone(&relay.carried);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let carried = Arc::clone(&carried);
                thread::spawn(move || connect(client, to, &carried));
            }
        });
        Ok(relay)
    }

    /// Bytes that clients received since the last call, with all of HTTP.
    pub fn take(&self) -> u64 {
        self.carried.swap(0, Ordering::SeqCst)
    }
}

fn connect(mut client: TcpStream, to: u16, carried: &AtomicU64) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    let (mut asked, mut onward) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut asked, &mut onward);
        let _ = onward.shutdown(Shutdown::Write);
    });
    let mut chunk = vec![0; 128 * 1024];
    loop {
        let n = server.read(&mut chunk)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        client.write_all(&chunk[..n])?;
        carried.fetch_add(n as u64, Ordering::SeqCst);
    }
}
