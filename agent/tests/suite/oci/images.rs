//! Downloads: size, resuming, speed.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kubesolo_update::base::error::Reason;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::source::Source;
use serde_json::json;

use super::*;
use crate::common::fault::{Fault, Request, World, chunk, head, reply, send};
use crate::common::line::Line;
use crate::common::registry::Registry;
use crate::common::{self, bytes};

#[test]
fn a_blob_of_another_size_is_refused_before_anything_is_erased() {
    let world = World::new(1000);
    for size in [999, 1001] {
        let server = broken(&world, "/blobs/", move |_, out| reply(out, 200, "", &vec![0; size]));
        let opened = source(&server).open(&initramfs(&world)).map(|_| ());
        refused(opened, Reason::SizeMismatch);
    }
    let server = broken(&world, "/blobs/", |_, out| reply(out, 404, "", b""));
    refused(source(&server).open(&initramfs(&world)).map(|_| ()), Reason::NotFound);
    assert_eq!(server.requests().len(), 1, "a 404 is not tried again");
}

#[test]
fn one_byte_too_many_is_refused_and_never_handed_on() {
    let world = World::new(1000);
    let all = world.initramfs.clone();
    let (result, _) = download(&world, move |_, out| {
        head(out, 200, CHUNKED);
        chunk(out, &all);
        chunk(out, b"x");
        chunk(out, b"");
    });
    refused(result, Reason::SizeMismatch);
    let (result, server) = download(&world, |_, out| {
        head(out, 200, CHUNKED);
        while chunk(out, &[0; 4096]) {}
    });
    refused(result, Reason::SizeMismatch);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_blob_that_ends_early_by_its_own_word_is_refused() {
    let world = World::new(1000);
    let part = world.initramfs[..999].to_vec();
    let (result, server) = download(&world, move |_, out| {
        head(out, 200, CHUNKED);
        chunk(out, &part);
        chunk(out, b"");
    });
    refused(result, Reason::SizeMismatch);
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let world = World::new(1_000_000);
    for framing in ["Content-Length: 1000000\r\n", CHUNKED, ""] {
        let honest = world.clone();
        let (result, server) = download(&world, move |request, out| match request.from() {
            None => {
                head(out, 200, framing);
                match framing {
                    CHUNKED => chunk(out, &honest.initramfs[..300_000]),
                    _ => send(out, &honest.initramfs[..300_000]),
                };
            }
            Some(from) if from < 700_000 => {
                let range =
                    format!("Content-Range: bytes {from}-999999/1000000\r\nContent-Length: {}\r\n", 1_000_000 - from);
                head(out, 206, &range);
                send(out, &honest.initramfs[from..from + 300_000]);
            }
            _ => honest.answer(request, out),
        });
        assert_eq!(result.unwrap(), world.initramfs, "{framing}");
        let ranges: Vec<_> = server.requests().iter().map(Request::from).collect();
        assert!(ranges.len() >= 3 && ranges[1].is_some(), "{ranges:?}");
    }
}

#[test]
fn a_server_that_does_not_resume_is_skipped_through() {
    let world = World::new(500_000);
    let all = world.initramfs.clone();
    let (result, _) = download(&world, move |request, out| {
        head(out, 200, "Content-Length: 500000\r\n");
        send(out, &all[..if request.earlier == 0 { 200_000 } else { 500_000 }]);
    });
    assert_eq!(result.unwrap(), world.initramfs);
}

/// Sends 100 of the 1000 bytes of the world, and ends.
fn begin(world: &World, out: &mut TcpStream) {
    head(out, 200, "Content-Length: 1000\r\n");
    send(out, &world.initramfs[..100]);
}

const ODD_RANGES: [&str; 8] = [
    "bytes 0-999/1000",
    "bytes 99-999/1000",
    "bytes 101-999/1000",
    "bytes 100-1000/1000",
    "bytes 100-999/1001",
    "bytes */1000",
    "lines 100-999/1000",
    "",
];

/// No byte is put in a wrong place, and a download that has begun is not lost.
#[test]
fn any_answer_to_a_range_but_the_right_one_ends_in_the_right_bytes() {
    let world = World::new(1000);
    let odd = |request: &Request, out: &mut TcpStream, n: usize| {
        let from = request.from().unwrap();
        match n {
            0..8 => reply(out, 206, &format!("Content-Range: {}\r\n", ODD_RANGES[n]), &[7; 1000][from..]),
            8 => reply(out, 206, "", &[7; 900]),
            9 => reply(out, 206, "Content-Range: bytes 100-999/1000\r\n", &[7; 899]),
            n => reply(out, [400, 403, 404, 416, 501][n - 10], "Content-Range: bytes */1000\r\n", b"no"),
        }
    };
    for n in 0..15 {
        // The second request goes to a new URL of the same store, and may be answered well.
        for heals in [false, true] {
            let honest = world.clone();
            let (result, server) = download(&world, move |request, out| match (request.earlier, request.from()) {
                (0, _) => begin(&honest, out),
                (1, Some(_)) => odd(request, out, n),
                (_, Some(_)) if !heals => odd(request, out, n),
                _ => honest.answer(request, out),
            });
            assert_eq!(result.unwrap(), world.initramfs, "{n} {heals}");
            let ranges: Vec<_> = server.requests().iter().map(Request::from).collect();
            let last = if heals { vec![] } else { vec![None] };
            assert_eq!(ranges, [vec![None, Some(100), Some(100)], last].concat(), "{n}");
        }
    }
    // Nobody asked for a part at all.
    let (result, _) = download(&world, |_, out| reply(out, 206, "Content-Range: bytes 0-999/1000\r\n", &[0; 1000]));
    refused(result, Reason::ServerError);
}

/// `crane registry serve` refuses a range without an end, Nexus leaves out the unit, and a server may send less.
#[test]
fn ranges_have_an_end_and_any_part_that_begins_right_is_taken() {
    let world = World::new(1000);
    let honest = world.clone();
    let (result, server) = download(&world, move |request, out| match request.from() {
        None => begin(&honest, out),
        Some(from) => {
            let end = (from + 300).min(1000);
            let range = format!("Content-Range: {from}-{}/*\r\n", end - 1);
            reply(out, 206, &range, &honest.initramfs[from..end]);
        }
    });
    assert_eq!(result.unwrap(), world.initramfs);
    let asked: Vec<_> = server.requests().iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert_eq!(asked, ["bytes=100-999", "bytes=400-999", "bytes=700-999"]);
}

#[test]
fn a_server_that_cuts_and_does_not_resume_costs_a_bounded_number_of_bytes() {
    let size = 4_000_000;
    let world = World::new(size);
    let sent = Arc::new(AtomicUsize::new(0));
    let (all, counter) = (world.initramfs.clone(), sent.clone());
    let (result, server) = download(&world, move |_, out| {
        head(out, 200, &format!("Content-Length: {size}\r\n"));
        // Nothing follows the part that breaks off: what is sent is also received.
        send(out, &all[..size * 3 / 4]);
        counter.fetch_add(size * 3 / 4, Ordering::SeqCst);
    });
    let e = refused(result, Reason::ByteBudget);
    assert!(e.message.contains("1000000 of 4000000 are still missing"), "{e}");
    let (sent, requests) = (sent.load(Ordering::SeqCst), server.requests().len());
    let budget = 2 * size + 1024 * 1024;
    // One answer is dropped because it is the whole image, and the one that goes beyond the budget is cut off there.
    assert!(sent <= budget + 2 * size * 3 / 4, "{sent} bytes in {requests} requests");
}

/// As long as each part is received, no byte of it is fetched twice; the rest is heads of answers.
#[test]
fn on_a_line_that_breaks_every_few_megabytes_little_is_fetched_twice() {
    const MIB: u64 = 1024 * 1024;
    let initramfs = World::new(32 * MIB as usize).initramfs;
    let (registry, size) = (Registry::start(), initramfs.len() as u64);
    let blob = Blob { digest: registry.blob("os", &initramfs), size };
    let line = Line::start(&registry.address, |n| MIB + n * 7 % 5 * MIB + n * 1000);
    assert!(fetch(&mut source(&line), &blob).unwrap() == initramfs);
    let carried = line.carried();
    assert!(carried >= size && carried - size <= size * 3 / 100, "{carried} of {size}");
}

#[test]
fn a_connection_that_keeps_breaking_is_given_up() {
    let world = World::new(1000);
    let (result, server) = download(&world, |_, out| {
        head(out, 200, "Content-Length: 1000\r\n");
    });
    let e = refused(result, Reason::Unreachable);
    assert!(e.message.contains("after 0 of 1000 bytes"), "{e}");
    assert_eq!(server.requests().len(), 6);
}

#[test]
fn progress_makes_up_for_broken_connections() {
    let world = World::new(2_000_000);
    let honest = world.clone();
    let (result, server) = download(&world, move |request, out| {
        let from = request.from().unwrap_or(0);
        let range = format!("Content-Range: bytes {from}-1999999/2000000\r\nContent-Length: {}\r\n", 2_000_000 - from);
        head(out, if from == 0 { 200 } else { 206 }, &range);
        send(out, &honest.initramfs[from..(from + 200_000).min(2_000_000)]);
    });
    assert_eq!(result.unwrap(), world.initramfs);
    assert!(server.requests().len() > 6);
}

#[test]
fn what_was_fetched_is_not_thrown_away_for_an_outage_of_minutes() {
    let patience = Patience::default();
    let pauses = (0..patience.resume_attempts - 1).map(|n| patience.retry_pause * 2u32.saturating_pow(n).min(32));
    assert!(pauses.sum::<Duration>() >= Duration::from_secs(280));

    let world = World::new(1000);
    let honest = world.clone();
    let (result, server) = download(&world, move |request, out| match request.earlier {
        0 => {
            head(out, 200, "Content-Length: 1000\r\n");
            send(out, &honest.initramfs[..500]);
        }
        1..=12 => reply(out, 503, "", b""),
        _ => honest.answer(request, out),
    });
    assert_eq!(result.unwrap(), world.initramfs);
    assert_eq!(server.requests().last().unwrap().from(), Some(500));
}

#[test]
fn a_download_that_stalls_is_taken_up_again() {
    let world = World::new(1000);
    let honest = world.clone();
    let server = broken(&world, "/blobs/", move |request, out| match request.from() {
        None => {
            head(out, 200, "Content-Length: 1000\r\n");
            send(out, &honest.initramfs[..500]);
            std::thread::sleep(Duration::from_secs(30));
        }
        _ => honest.answer(request, out),
    });
    let mut options = options(&[&server.address]);
    options.patience.idle = Duration::from_millis(300);
    assert_eq!(fetch(&mut source_with(&server, &options), &initramfs(&world)).unwrap(), world.initramfs);
}

#[test]
fn a_download_that_drips_is_given_up() {
    let world = World::new(100_000);
    let server = broken(&world, "/blobs/", |_, out| {
        head(out, 200, "Content-Length: 100000\r\n");
        while send(out, &[0; 10]) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut options = options(&[&server.address]);
    options.patience.rate_window = Duration::from_millis(500);
    options.patience.rate_min = 10_000;
    let begin = Instant::now();
    refused(fetch(&mut source_with(&server, &options), &initramfs(&world)), Reason::TooSlow);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// The end of a window is no failed attempt.
#[test]
fn a_download_that_is_slow_but_not_too_slow_goes_on() {
    let world = World::new(100_000);
    let server = broken(&world, "/blobs/", |_, out| {
        head(out, 200, "Content-Length: 100000\r\n");
        while send(out, &[0; 10]) {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut options = options(&[&server.address]);
    options.patience.rate_window = Duration::from_millis(50);
    options.patience.rate_min = 0;
    let mut source = source_with(&server, &options);
    let mut body = source.open(&initramfs(&world)).unwrap();
    let end = Instant::now() + Duration::from_secs(1);
    while Instant::now() < end {
        body.chunk().unwrap();
    }
    assert_eq!(server.requests().len(), 1);
}

/// A slow disk is not a slow server.
#[test]
fn time_between_the_chunks_is_not_held_against_the_server() {
    let world = World::new(3_000_000);
    let server = broken(&world, "nothing", |_, _| ());
    let mut options = options(&[&server.address]);
    options.patience.rate_window = Duration::from_millis(500);
    options.patience.rate_min = 100_000_000;
    let mut source = source_with(&server, &options);
    let mut body = source.open(&initramfs(&world)).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    while body.chunk().unwrap().is_some() {}
}

#[test]
fn foreign_urls_of_layers_are_never_followed() {
    let elsewhere = Fault::start(|_, out| reply(out, 200, "", b"kernel"));
    let mut world = World::new(1000);
    let mut manifest = common::manifest("v1.0.0", Architecture::Amd64, b"kernel", &world.initramfs);
    manifest["layers"][0]["urls"] = json!([format!("http://{}/kernel", elsewhere.address)]);
    let raw = bytes(&manifest);
    world.manifest(&raw);
    world.tag("stable", &bytes(&common::index(&[("amd64", &raw)])));
    world.files.remove(&World::path(b"kernel"));
    let server = broken(&world, "nothing", |_, _| ());
    let mut source = source_with(&server, &options(&[&server.address, &elsewhere.address]));
    let release = source.offer(Architecture::Amd64).unwrap().release;
    refused(fetch(&mut source, &release.kernel.blob().unwrap()), Reason::NotFound);
    assert!(elsewhere.requests().is_empty());
}
