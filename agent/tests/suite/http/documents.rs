//! `latest.json` and its signature.

use super::*;
use crate::common::fault::{Fault, chunk, head, reply};
use crate::common::{key, sign};

#[test]
fn the_document_and_its_signature_are_read_and_nothing_else() {
    let site = Site::small();
    let server = site.serve();
    let offer = offer(&server).unwrap();
    assert_eq!(offer.signed, site.get("latest.json"));
    assert_eq!((offer.release.digest, offer.signatures.len()), (Digest::of(&offer.signed), 1));
    assert_eq!(offer.signatures[0].bytes.to_vec(), sign(&key(1), &offer.signed));
    assert_eq!(offer.origin, format!("http://{}/os/latest.json", server.address));
    assert_eq!(paths(&server), ["/os/latest.json", "/os/latest.json.sig"]);
}

#[test]
fn a_look_is_one_request_and_is_not_repeated_by_the_offer() {
    let site = Site::small();
    let server = site.serve();
    let mut source = source(&server);
    assert_eq!(source.look(&Known::default()).unwrap(), Digest::of(site.get("latest.json")));
    source.offer(Architecture::Amd64).unwrap();
    assert_eq!(paths(&server), ["/os/latest.json", "/os/latest.json.sig"]);
}

#[test]
fn the_document_ends_at_its_limit_whatever_its_length_is_announced_as() {
    let site = Site::small();
    let mut raw = site.get("latest.json").to_vec();
    raw.resize(64 * 1024, b' ');
    let mut largest = site.clone();
    largest.put("latest.json", &raw);
    offer(&largest.serve()).unwrap();
    raw.push(b' ');
    largest.put("latest.json", &raw);
    refused(offer(&largest.serve()), Reason::LimitExceeded);
    let server = site.broken("latest.json", |_, out| {
        head(out, 200, "Transfer-Encoding: chunked\r\n");
        while chunk(out, &[b' '; 4096]) {}
    });
    refused(offer(&server), Reason::LimitExceeded);
}

#[test]
fn an_endless_error_is_an_error_after_its_beginning() {
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let server = Site::small().broken("latest.json", move |_, out| {
        head(out, 404, "Transfer-Encoding: chunked\r\n");
        while chunk(out, &[b'x'; 4096]) {
            count.fetch_add(4096, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let e = refused(offer(&server), Reason::NotFound);
    assert!(e.message.len() < 1000, "{e}");
    // All but what is read lies in the buffers of the connection.
    assert!(sent.load(std::sync::atomic::Ordering::SeqCst) < 16 << 20);
}

#[test]
fn a_signature_file_ends_at_its_limit() {
    let mut site = Site::small();
    let line = hex::encode(sign(&key(1), site.get("latest.json")));
    let mut lines = format!("{line}\n").repeat(2048 / 129).into_bytes();
    lines.resize(2048, b'\n');
    site.put("latest.json.sig", &lines);
    assert_eq!(offer(&site.serve()).unwrap().signatures.len(), 15);
    lines.push(b'\n');
    site.put("latest.json.sig", &lines);
    refused(offer(&site.serve()), Reason::LimitExceeded);
}

#[test]
fn a_signature_file_that_is_none_is_no_missing_one() {
    let mut site = Site::small();
    for wrong in [&b""[..], &[0xff; 63], &[0xff; 65], b"00", &[b'0'; 127]] {
        site.put("latest.json.sig", wrong);
        refused(offer(&site.serve()), Reason::MalformedSignature);
    }
    site.put("latest.json.sig", b"<html>log in</html>");
    refused(offer(&site.serve()), Reason::CaptivePortal);
    assert_eq!(offer(&site.without("latest.json.sig").serve()).unwrap().signatures, []);
    let server = site.broken("latest.json.sig", |_, out| reply(out, 403, "", b""));
    refused(offer(&server), Reason::AccessDenied);
}

#[test]
fn the_place_of_the_signature_is_only_believed_on_the_same_server() {
    let site = Site::small();
    let elsewhere = site.serve();
    let same = site.with(json!({"metadata_sig_url": "signatures/1"}));
    let mut same = same.without("latest.json.sig");
    let signature = sign(&key(1), same.get("latest.json"));
    same.put("signatures/1", &signature);
    let server = same.serve();
    assert_eq!(offer(&server).unwrap().signatures[0].bytes.to_vec(), signature);
    assert_eq!(paths(&server)[1..], ["/os/signatures/1"]);

    let port = elsewhere.address.rsplit_once(':').unwrap().1;
    for foreign in [
        format!("http://{}/os/latest.json.sig", elsewhere.address),
        format!("//{}/os/latest.json.sig", elsewhere.address),
        format!("http://localhost:{port}/os/latest.json.sig"),
    ] {
        let site = site.with(json!({"metadata_sig_url": foreign}));
        let server = site.serve();
        assert_eq!(offer(&server).unwrap().signatures.len(), 1, "that beside the document");
        assert_eq!(paths(&server)[1..], ["/os/latest.json.sig"]);
        assert_eq!(offer(&site.without("latest.json.sig").serve()).unwrap().signatures, []);
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[test]
fn what_cannot_be_a_release_is_refused() {
    let site = Site::small();
    for (change, reason) in [
        (json!({"vmlinuz_sha256": null}), Reason::MalformedLatestJson),
        (json!({"initramfs_sha256": ""}), Reason::MalformedLatestJson),
        (json!({"initramfs_sha256": "00"}), Reason::MalformedLatestJson),
        (json!({"vmlinuz_url": null}), Reason::MalformedLatestJson),
        (json!({"initramfs_url": ""}), Reason::MalformedLatestJson),
        (json!({"version": null}), Reason::MalformedLatestJson),
        (json!({"version": "one"}), Reason::MalformedVersion),
        (json!({"architecture": null}), Reason::MalformedLatestJson),
        (json!({"architecture": "riscv64"}), Reason::WrongArchitecture),
        (json!({"schemaVersion": 2}), Reason::MalformedLatestJson),
        (json!({"mediaType": "x"}), Reason::MalformedLatestJson),
        (json!({"version": 1}), Reason::MalformedJson),
    ] {
        println!("{change}");
        refused(offer(&site.with(change).serve()), reason);
    }
    // Either device beside a document for the other one.
    for (asks, theirs) in [(Architecture::Amd64, "arm64"), (Architecture::Arm64, "amd64")] {
        let server = site.with(json!({"architecture": theirs})).serve();
        refused(source(&server).offer(asks), Reason::WrongArchitecture);
    }
    let missing = refused(offer(&site.without("latest.json").serve()), Reason::NotFound);
    assert!(missing.remedy.contains("latest.json"), "{missing:?}");
}

#[test]
fn images_may_lie_anywhere_but_never_without_tls_unless_listed() {
    let site = Site::small();
    let elsewhere = site.serve();
    let mut other = site.clone();
    other.files.retain(|path, _| path.contains("latest.json"));
    let url = format!("http://user:secret@{}/os/kubesolo-os.gz", elsewhere.address);
    let server = other.with(json!({"initramfs_url": url})).serve();
    let mut plain = source(&server);
    let offered = plain.offer(Architecture::Amd64).unwrap();
    refused(fetch(&mut plain, &offered), Reason::NotHttps);

    let listed = FetchOptions { plain_http: vec![elsewhere.address.clone()], ..options() };
    let mut source = HttpSource::new(&listed, &format!("http://{}/os/", server.address), false).unwrap();
    let offered = source.offer(Architecture::Amd64).unwrap();
    assert_eq!(fetch(&mut source, &offered).unwrap(), site.get("kubesolo-os.gz"));
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));

    for wrong in ["file:///etc/passwd", "data:,x", "http://", "http://[", "javascript:x"] {
        let server = site.with(json!({"initramfs_url": wrong})).serve();
        let mut source = super::source(&server);
        let offered = source.offer(Architecture::Amd64).unwrap();
        refused(source.locate(offered.release.initramfs), Reason::BadUrl);
    }
}

#[test]
fn a_size_comes_from_the_server_in_whatever_way_it_tells() {
    let site = Site::small();
    let size = site.get("kubesolo-os.gz").len() as u64;
    let size_from = |server: &Fault| {
        let mut source = source(server);
        let offered = source.offer(Architecture::Amd64).unwrap();
        source.locate(offered.release.initramfs).map(|blob| blob.size)
    };
    let server = site.serve();
    assert_eq!(size_from(&server).unwrap(), size);
    assert_eq!(server.requests().last().unwrap().method, "HEAD");

    // Only GET is allowed, as by a signed URL; with parts, or without.
    let body = site.get("kubesolo-os.gz").to_vec();
    for parts in [true, false] {
        let body = body.clone();
        let server = site.broken("kubesolo-os.gz", move |request, out| match (&request.method[..], parts) {
            ("HEAD", _) => reply(out, 403, "", b""),
            (_, true) => reply(out, 206, &format!("Content-Range: bytes 0-0/{}\r\n", body.len()), &body[..1]),
            (_, false) => reply(out, 200, "", &body),
        });
        assert_eq!(size_from(&server).unwrap(), size);
        assert_eq!(server.requests().last().unwrap().header("range"), Some("bytes=0-0"));
    }
    let server = site.broken("kubesolo-os.gz", |_, out| {
        head(out, 200, "Transfer-Encoding: chunked\r\n");
        chunk(out, b"x");
    });
    refused(size_from(&server), Reason::SizeUnknown);
    refused(size_from(&site.without("kubesolo-os.gz").serve()), Reason::NotFound);
}

#[test]
fn a_size_beyond_the_limit_or_none_at_all_is_refused() {
    let site = Site::small();
    let located = |size: u64| {
        let server =
            site.broken("kubesolo-os.gz", move |_, out| head(out, 200, &format!("Content-Length: {size}\r\n")));
        let mut source = source(&server);
        let offered = source.offer(Architecture::Amd64).unwrap();
        source.locate(offered.release.initramfs)
    };
    let largest = 16 << 30;
    assert_eq!(located(largest).unwrap().size, largest);
    refused(located(largest + 1), Reason::LimitExceeded);
    refused(located(0), Reason::SizeMismatch);
}

#[test]
fn a_server_in_the_settings_is_the_url_of_a_folder() {
    let site = Site::small();
    let server = site.serve();
    for spelled in ["/os", "/os/"] {
        let url = format!("http://{}{spelled}", server.address);
        HttpSource::new(&options(), &url, false).unwrap().offer(Architecture::Amd64).unwrap();
    }
    for wrong in ["http://user:secret@host/os", "https://host/os?key=secret", "https://host/os#secret", "https://"] {
        let e = refused(HttpSource::new(&options(), wrong, false).map(|_| ()), Reason::BadServer);
        assert!(!e.message.contains("secret"), "{e}");
    }
}
