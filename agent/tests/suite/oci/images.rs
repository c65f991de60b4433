//! Downloads: size, resuming, speed.

use std::time::{Duration, Instant};

use kubesolo_update::base::error::Reason;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::source::Source;
use serde_json::json;

use super::*;
use crate::common::fault::{Fault, Request, World, chunk, head, reply, send};
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

#[test]
fn a_part_that_was_not_asked_for_is_refused() {
    let world = World::new(1000);
    for range in
        ["bytes 0-999/1000", "bytes 99-999/1000", "bytes 100-998/1000", "bytes 100-999/1001", "bytes */1000", ""]
    {
        let all = world.initramfs.clone();
        let (result, _) = download(&world, move |request, out| match request.from() {
            None => {
                head(out, 200, "Content-Length: 1000\r\n");
                send(out, &all[..100]);
            }
            Some(from) => reply(out, 206, &format!("Content-Range: {range}\r\n"), &all[from..]),
        });
        refused(result, Reason::RangeMismatch);
    }
    // Nobody asked for a part at all.
    let (result, _) = download(&world, |_, out| reply(out, 206, "Content-Range: bytes 0-999/1000\r\n", &[0; 1000]));
    refused(result, Reason::ServerError);
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
