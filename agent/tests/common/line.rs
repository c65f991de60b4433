//! A line that breaks, between the agent and a real server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Relays to a server, and closes each connection after some bytes from it.
pub struct Line {
    /// `127.0.0.1:port`
    pub address: String,
    carried: Arc<AtomicU64>,
}

impl AsRef<str> for Line {
    fn as_ref(&self) -> &str {
        &self.address
    }
}

impl Line {
    /// The n-th connection breaks when it has carried `breaks(n)` bytes to the agent.
    pub fn start(server: &str, breaks: impl Fn(u64) -> u64 + Send + 'static) -> Self {
        Self::relay(server, move |n, _| breaks(n))
    }

    /// Breaks once: when this many bytes went to the agent, in the middle of what follows.
    pub fn broken_once(server: &str, bytes: u64) -> Self {
        Self::relay(server, move |_, carried| if carried < bytes { bytes - carried } else { u64::MAX })
    }

    /// A connection breaks after `breaks(n, carried)` bytes, where `carried` is the sum of all connections before it.
    fn relay(server: &str, breaks: impl Fn(u64, u64) -> u64 + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, server) = (listener.local_addr().unwrap().to_string(), server.to_owned());
        let carried = Arc::new(AtomicU64::new(0));
        let counter = carried.clone();
        std::thread::spawn(move || {
            for (n, client) in (0..).zip(listener.incoming()) {
                let (client, behind) = (client.unwrap(), TcpStream::connect(&server).unwrap());
                let (mut up, mut there) = (client.try_clone().unwrap(), behind.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut up, &mut there));
                let (counter, bytes) = (counter.clone(), breaks(n, counter.load(Ordering::SeqCst)));
                std::thread::spawn(move || carry(behind, client, bytes, &counter));
            }
        });
        Self { address, carried }
    }

    /// Bytes that went to the agent until now, heads of answers included.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::SeqCst)
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, mut left: u64, counter: &AtomicU64) {
    let mut buffer = [0; 16 * 1024];
    while left > 0 {
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let Ok(n @ 1..) = from.read(&mut buffer[..wanted]) else { break };
        // First, because the agent may have them, and be done, before this thread runs again.
        counter.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
        left -= n as u64;
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
