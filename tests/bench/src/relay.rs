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
    asked: Arc<AtomicU64>,
}

impl Relay {
    /// Opens a relay to a port of the loopback interface. Its threads end with the process.
    ///
    /// # Errors
    /// There is no free port.
    pub fn open(to: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let relay = Self { port: listener.local_addr()?.port(), carried: Arc::default(), asked: Arc::default() };
        let (carried, asked) = (Arc::clone(&relay.carried), Arc::clone(&relay.asked));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (carried, asked) = (Arc::clone(&carried), Arc::clone(&asked));
                thread::spawn(move || connect(client, to, &carried, &asked));
            }
        });
        Ok(relay)
    }

    /// Bytes that clients received since the last call, with all of HTTP, and how often they asked.
    pub fn take(&self) -> (u64, u64) {
        (self.carried.swap(0, Ordering::SeqCst), self.asked.swap(0, Ordering::SeqCst))
    }
}

fn connect(mut client: TcpStream, to: u16, carried: &AtomicU64, asked: &Arc<AtomicU64>) -> io::Result<()> {
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, to))?;
    let (mut from, mut onward, asked) = (client.try_clone()?, server.try_clone()?, Arc::clone(asked));
    thread::spawn(move || -> io::Result<()> {
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let n = from.read(&mut chunk)?;
            if n == 0 {
                return onward.shutdown(Shutdown::Write);
            }
            // A request without a body fits into one packet, and the next one waits for its answer.
            let requests = chunk[..n].windows(4).filter(|end| end == b"\r\n\r\n").count();
            asked.fetch_add(requests as u64, Ordering::SeqCst);
            onward.write_all(&chunk[..n])?;
        }
    });
    let mut chunk = vec![0; 128 * 1024];
    loop {
        let n = server.read(&mut chunk)?;
        if n == 0 {
            return client.shutdown(Shutdown::Write);
        }
        // First, because the client may be done before this thread runs again.
        carried.fetch_add(n as u64, Ordering::SeqCst);
        client.write_all(&chunk[..n])?;
    }
}
