//! Redirects and tokens: what is sent where.

use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use kubesolo_update::base::error::Reason;
use kubesolo_update::base::limits;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::source::source::Source;

use super::*;
use crate::common::fault::{Fault, Request, World, head, reply, send};

fn redirect(out: &mut TcpStream, to: &str) {
    reply(out, 307, &format!("Location: {to}\r\n"), b"");
}

#[test]
fn redirects_have_a_limit() {
    let world = World::new(10);
    let chain = |length: usize| {
        let honest = world.clone();
        broken(&world, "stable", move |request, out| {
            let step: usize = request.path.split("step=").nth(1).map_or(0, |n| n.parse().unwrap());
            if step < length {
                return redirect(out, &format!("/v2/os/manifests/stable?step={}", step + 1));
            }
            honest.answer(&Request { path: "/v2/os/manifests/stable".into(), ..request.clone() }, out);
        })
    };
    offer(&chain(limits::REDIRECTS)).unwrap();
    let server = chain(limits::REDIRECTS + 1);
    refused(offer(&server), Reason::LimitExceeded);
    let server = Fault::start(|request, out| redirect(out, &request.path));
    refused(offer(&server), Reason::LimitExceeded);
    assert_eq!(server.requests().len(), limits::REDIRECTS + 1);
}

#[test]
fn a_redirect_leads_to_plain_http_only_where_that_is_listed() {
    let world = World::new(1000);
    let store = broken(&world, "nothing", |_, _| ());
    let elsewhere = store.address.clone();
    let server = broken(&world, "/blobs/", move |request, out| {
        redirect(out, &format!("http://{elsewhere}{}?X-Amz-Signature=secret", request.path));
    });
    let e = refused(fetch(&mut source(&server), &initramfs(&world)), Reason::NotHttps);
    assert!(!e.message.contains("secret"), "{e}");
    assert!(store.requests().is_empty());
    let world_store = world.clone();
    let store = Fault::start(move |request, out| {
        let path = request.path.split('?').next().unwrap().to_owned();
        world_store.answer(&Request { path, ..request.clone() }, out);
    });
    let elsewhere = store.address.clone();
    let server = broken(&world, "/blobs/", move |request, out| {
        redirect(out, &format!("http://user:password@{elsewhere}{}?X-Amz-Signature=secret", request.path));
    });
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert!(store.requests().iter().all(|r| r.header("authorization").is_none()), "a Location gives no credentials");
}

#[test]
fn a_redirect_to_nowhere_is_refused() {
    for to in ["http://", "mailto:nobody@example.org", "file:///etc/passwd", "data:,x"] {
        let server = Fault::start(move |_, out| redirect(out, to));
        offer(&server).map(|_| to).unwrap_err();
    }
}

/// A registry that wants a token from itself; `token` answers for it.
fn guarded(world: &World, token: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static) -> Fault {
    let world = world.clone();
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return token(request, out);
        }
        if request.header("authorization") == Some("Bearer good") {
            return world.answer(request, out);
        }
        let realm = own.lock().unwrap().clone();
        let challenge =
            format!("Bearer realm=\"http://{realm}/token\",service=\"the service\",scope=\"repository:os:pull\"");
        reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
    });
    *address.lock().unwrap() = server.address.clone();
    server
}

#[test]
fn a_token_is_fetched_once_and_used_for_everything() {
    for name in ["token", "access_token"] {
        let world = World::new(1000);
        let server = guarded(&world, move |_, out| reply(out, 200, "", format!("{{\"{name}\":\"good\"}}").as_bytes()));
        let mut source = source(&server);
        assert_eq!(source.offer(Architecture::Amd64).unwrap().signatures.len(), 1);
        assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
        assert_eq!(server.count("/token"), 1);
        assert_eq!(server.requests()[1].path, "/token?service=the+service&scope=repository%3Aos%3Apull");
    }
}

#[test]
fn an_expired_token_is_renewed_in_the_middle_of_a_download() {
    let world = World::new(100_000);
    let (honest, blob) = (world.clone(), World::path(&world.initramfs));
    let valid = Arc::new(Mutex::new(1));
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        let mut valid = valid.lock().unwrap();
        if request.path.starts_with("/token") {
            if request.header("authorization").is_some() {
                return reply(out, 401, "", b"the old token is not good enough to get a new one");
            }
            return reply(out, 200, "", format!("{{\"token\":\"t{valid}\"}}").as_bytes());
        }
        if request.header("authorization") != Some(format!("Bearer t{valid}").as_str()) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", own.lock().unwrap());
            return reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        }
        if request.path == blob && request.from().is_none() {
            *valid += 1;
            head(out, 200, "Content-Length: 100000\r\n");
            send(out, &honest.initramfs[..30_000]);
            return;
        }
        honest.answer(request, out);
    });
    *address.lock().unwrap() = server.address.clone();
    assert_eq!(fetch(&mut source(&server), &initramfs(&world)).unwrap(), world.initramfs);
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_token_goes_to_nobody_else() {
    let world = World::new(1000);
    let store = broken(&world, "nothing", |_, _| ());
    let elsewhere = store.address.clone();
    let mut with_redirect = world.clone();
    with_redirect.files.retain(|path, _| !path.contains("/blobs/"));
    let address = Arc::new(Mutex::new(String::new()));
    let own = address.clone();
    let server = Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return reply(out, 200, "", b"{\"token\":\"good\"}");
        }
        if request.header("authorization") != Some("Bearer good") {
            let challenge = format!("Bearer realm=\"http://{}/token\"", own.lock().unwrap());
            return reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b"");
        }
        redirect(out, &format!("http://{elsewhere}{}", request.path));
    });
    *address.lock().unwrap() = server.address.clone();
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert!(!store.requests().is_empty());
    assert!(store.requests().iter().all(|r| r.header("authorization").is_none()));
}

/// The store of a registry that redirects must not be able to collect tokens by asking for them.
#[test]
fn a_challenge_after_a_redirect_is_not_answered() {
    let world = World::new(1000);
    let store = Fault::start(|_, out| {
        reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b"");
    });
    let elsewhere = store.address.clone();
    let server =
        broken(&world, "/blobs/", move |request, out| redirect(out, &format!("http://{elsewhere}{}", request.path)));
    let mut source = source_with(&server, &options(&[&server.address, &store.address]));
    refused(fetch(&mut source, &initramfs(&world)), Reason::AccessDenied);
    assert_eq!(store.count("/token"), 0);
}

#[test]
fn the_answer_of_a_token_server_has_a_limit() {
    let world = World::new(10);
    let answer = |size: u64| {
        let mut answer = b"{\"token\":\"good\"}".to_vec();
        answer.resize(size as usize, b' ');
        answer
    };
    let (full, more) = (answer(limits::TOKEN_BYTES), answer(limits::TOKEN_BYTES + 1));
    offer(&guarded(&world, move |_, out| reply(out, 200, "", &full))).unwrap();
    refused(offer(&guarded(&world, move |_, out| reply(out, 200, "", &more))), Reason::LimitExceeded);
}

#[test]
fn of_what_an_error_says_so_many_bytes_are_read_and_no_more() {
    let world = World::new(10);
    let said = |body: Vec<u8>| {
        let server = guarded(&world, move |_, out| reply(out, 403, "", &body));
        refused(offer(&server), Reason::AccessDenied).message
    };
    let padded = |size: u64| [vec![b' '; size as usize - 1], b"!".to_vec()].concat();
    assert!(said(padded(limits::ERROR_BODY_BYTES)).ends_with("answers 403: !"));
    assert!(said(padded(limits::ERROR_BODY_BYTES + 1)).ends_with("answers 403"));
    let long = [b"quota exceeded".to_vec(), vec![b' '; 1 << 20]].concat();
    assert!(said(long).ends_with("answers 403: quota exceeded"), "a long answer is cut, not dropped");
}

#[test]
fn an_answer_without_a_token_is_a_fault_of_the_token_server() {
    let world = World::new(10);
    for body in ["{}", "{\"token\":\"\"}", "{\"token\":\"a\\nInjected: header\"}", "{\"token\":5}", ""] {
        let server = guarded(&world, move |_, out| reply(out, 200, "", body.as_bytes()));
        refused(offer(&server), Reason::ServerError);
        assert!(server.requests().iter().all(|r| r.header("injected").is_none()));
    }
    refused(offer(&guarded(&world, |_, out| reply(out, 200, "", b"{\"token\":\"wrong\"}"))), Reason::AccessDenied);
    refused(offer(&guarded(&world, |_, out| reply(out, 403, "", b""))), Reason::AccessDenied);
    refused(offer(&guarded(&world, |_, out| reply(out, 200, "", b"<html>"))), Reason::CaptivePortal);
}

#[test]
fn challenges_that_cannot_be_met_are_a_refused_access() {
    for challenge in
        ["Basic realm=\"registry\"", "Bearer service=\"no realm\"", "Bearer realm=\"http://[\"", "Bearer", ",,=", ""]
    {
        let server = Fault::start(move |_, out| reply(out, 401, &format!("WWW-Authenticate: {challenge}\r\n"), b""));
        refused(offer(&server), Reason::AccessDenied);
    }
    // Another scheme is not asked in the way of this one.
    let server = Fault::start(|_, out| reply(out, 401, "WWW-Authenticate: Basic realm=\"/token\"\r\n", b""));
    refused(offer(&server), Reason::AccessDenied);
    assert_eq!(server.count("/token"), 0);
    let elsewhere = Fault::start(|_, out| reply(out, 200, "", b"{\"token\":\"t\"}"));
    let realm = elsewhere.address.clone();
    let server = Fault::start(move |_, out| {
        reply(out, 401, &format!("WWW-Authenticate: Bearer realm=\"http://{realm}/token\"\r\n"), b"");
    });
    refused(offer(&server), Reason::NotHttps);
    assert!(elsewhere.requests().is_empty());
}

// ---- proxies

/// Settings of the environment are of the process: the test runs itself again in another one.
#[test]
fn a_proxy_named_by_the_environment_is_used() {
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::a_proxy_named_by_the_environment_is_used");
    if std::env::var_os("http_proxy").is_some_and(|proxy| proxy == std::env::var_os("TEST_PROXY").unwrap_or_default()) {
        let options = FetchOptions { proxy: None, ..options(&["registry.invalid"]) };
        let offer = OciSource::new(&options, "registry.invalid/os", None, "stable").unwrap().offer(Architecture::Amd64);
        assert_eq!(offer.unwrap().signatures.len(), 1);
        return;
    }
    let world = World::new(10);
    let proxy = Fault::start(move |request, out| {
        let path = request.path.strip_prefix("http://registry.invalid").unwrap_or_default().to_owned();
        world.answer(&Request { path, ..request.clone() }, out);
    });
    let url = format!("http://user:password@{}", proxy.address);
    let run = |no_proxy: &str| {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &name])
            .envs([("http_proxy", url.as_str()), ("TEST_PROXY", url.as_str()), ("no_proxy", no_proxy)])
            .output()
            .unwrap()
    };
    let used = run("");
    assert!(used.status.success(), "{}", String::from_utf8_lossy(&used.stdout));
    assert!(proxy.requests().iter().all(|r| r.header("proxy-authorization") == Some("Basic dXNlcjpwYXNzd29yZA==")));
    assert_eq!(proxy.count("manifests/stable"), 1);
    let unused = run("registry.invalid");
    assert!(!unused.status.success());
    assert_eq!(proxy.count("manifests/stable"), 1);
    for output in [used, unused] {
        let text = [output.stdout, output.stderr].concat();
        assert!(!String::from_utf8_lossy(&text).contains("password"), "credentials are not shown");
    }
}
