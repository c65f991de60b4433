//! Logins: what a registry and its token server get, and what nobody else gets.

use std::fs;
use std::sync::{Arc, Mutex};

use kubesolo_update::fetch::login::Logins;
use kubesolo_update::fetch::options::Authentication;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::common::fault::{head, reply, send};
use crate::common::token_server::{PAIR, PASSWORD, REFRESH, USER};

const BASIC: &str = "Basic Y2k6aHVudGVyMi1zZWNyZXQ=";

/// Settings with this entry for `server`, without TLS to `hosts`.
fn with_login(server: &str, entry: &serde_json::Value, hosts: &[&str]) -> FetchOptions {
    let file = json!({"auths": {(server): entry}}).to_string();
    let logins = Logins::parse(file.as_bytes(), "the file").unwrap();
    let authentication = Authentication { logins, ..Authentication::default() };
    FetchOptions { authentication, ..options(hosts) }
}

fn password() -> serde_json::Value {
    json!({"auth": PAIR})
}

/// Looks at the tag as the account of the tests.
fn look(server: &Fault, entry: &serde_json::Value) -> Result<Offer, Error> {
    let options = with_login(&server.address, entry, &[&server.address]);
    source_with(server, &options).offer(Architecture::Amd64)
}

fn authorizations(server: &Fault) -> Vec<Option<String>> {
    server.requests().iter().map(|request| request.header("authorization").map(str::to_owned)).collect()
}

/// A registry whose challenge is this one; the release is for those who send `accepted`.
fn guarded(
    world: &World,
    challenge: impl Fn(&Request) -> String + Send + Sync + 'static,
    accepted: &'static str,
    token: impl Fn(&Request, &mut TcpStream) + Send + Sync + 'static,
) -> Fault {
    let world = world.clone();
    Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return token(request, out);
        }
        if request.header("authorization") == Some(accepted) {
            return world.answer(request, out);
        }
        reply(out, 401, &format!("WWW-Authenticate: {}\r\n", challenge(request)), b"");
    })
}

#[test]
fn a_password_goes_along_so_that_a_look_is_one_request() {
    let world = World::new(1000);
    let server = guarded(&world, |_| "Basic realm=\"r\"".into(), BASIC, |_, _| ());
    let options = with_login(&server.address, &password(), &[&server.address]);
    let mut source = source_with(&server, &options);
    source.look(&Known::default()).unwrap();
    assert_eq!(authorizations(&server), [Some(BASIC.to_owned())]);
    source.offer(Architecture::Amd64).unwrap();
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert!(authorizations(&server).iter().all(|sent| sent.as_deref() == Some(BASIC)));
}

#[test]
fn a_look_with_a_token_server_is_three_requests() {
    let world = World::new(1000);
    let server = guarded(
        &world,
        |_| "Bearer realm=\"/token\",service=\"s\"".into(),
        "Bearer good",
        |request, out| match request.header("authorization") {
            Some(BASIC) => reply(out, 200, "", b"{\"token\":null,\"access_token\":\"good\"}"),
            _ => reply(out, 401, "", b""),
        },
    );
    let options = with_login(&server.address, &password(), &[&server.address]);
    source_with(&server, &options).look(&Known::default()).unwrap();
    let paths: Vec<_> = server.requests().into_iter().map(|request| request.path).collect();
    // A challenge without a scope: the agent names the right that it needs.
    let token = "/token?service=s&scope=repository%3Aos%3Apull";
    assert_eq!(paths, ["/v2/os/manifests/stable", token, "/v2/os/manifests/stable"]);
}

#[test]
fn several_scopes_are_asked_for_one_by_one() {
    let world = World::new(10);
    let challenge =
        |_: &Request| "Negotiate, Basic realm=x, bearer  realm=\"/token?a=b\" , scope=\"one two\",".to_owned();
    let server = guarded(&world, challenge, "Bearer good", |_, out| {
        reply(out, 200, "", b"{\"token\":\"\",\"access_token\":\"good\"}");
    });
    offer(&server).unwrap();
    assert_eq!(server.requests()[1].path, "/token?a=b&scope=one&scope=two");
}

/// A token server in the way of OAuth2 alone.
fn by_post(world: &World, get: u16) -> Fault {
    guarded(
        world,
        |_| "Bearer realm=\"/token\",service=\"s\",scope=\"one two\"".into(),
        "Bearer good",
        move |request, out| {
            let body = &request.body;
            let known = body.contains(&format!("refresh_token={REFRESH}"))
                || body.contains(&format!("username={USER}&password={PASSWORD}"));
            match request.method.as_str() {
                "POST" if known => reply(out, 200, "", b"{\"access_token\":\"good\"}"),
                "POST" => reply(out, 400, "", b"{\"error\":\"invalid_grant\"}"),
                _ => reply(out, get, "", b""),
            }
        },
    )
}

#[test]
fn a_refresh_token_is_posted_and_a_password_where_there_is_no_get() {
    let world = World::new(10);
    let server = by_post(&world, 500);
    look(&server, &json!({"auth": "MDA6", "identitytoken": REFRESH})).unwrap();
    let asked = &server.requests()[1];
    assert_eq!((asked.method.as_str(), asked.path.as_str()), ("POST", "/token"));
    assert_eq!(
        asked.body,
        format!("grant_type=refresh_token&refresh_token={REFRESH}&client_id=kubesolo-update&service=s&scope=one+two")
    );
    assert_eq!(asked.header("content-type"), Some("application/x-www-form-urlencoded"));
    for status in [404, 405] {
        let server = by_post(&world, status);
        look(&server, &password()).unwrap();
        assert_eq!(server.count("/token"), 2);
    }
    let server = by_post(&world, 404);
    let error = refused(look(&server, &json!({"identitytoken": "another"})), Reason::LoginRefused);
    assert!(error.message.contains("in the file"), "{error}");
}

#[test]
fn a_registry_token_is_sent_as_it_is() {
    let world = World::new(10);
    let entry = json!({"registrytoken": "good"});
    let server = guarded(&world, |_| "Bearer realm=\"/token\"".into(), "Bearer good", |_, _| ());
    look(&server, &entry).unwrap();
    assert!(authorizations(&server).iter().all(|sent| sent.as_deref() == Some("Bearer good")));
    let server = guarded(&world, |_| "Bearer realm=\"/token\"".into(), "Bearer other", |_, _| ());
    refused(look(&server, &entry), Reason::LoginRefused);
    assert_eq!(server.count("/token"), 0);
}

#[test]
fn a_registry_that_refuses_a_password_is_asked_what_it_takes() {
    let world = World::new(10);
    for refusal in [400, 403] {
        let honest = world.clone();
        let server = Fault::start(move |request, out| match request.header("authorization") {
            _ if request.path.starts_with("/token") => reply(out, 200, "", b"{\"token\":\"good\"}"),
            Some("Bearer good") => honest.answer(request, out),
            Some(_) => reply(out, refusal, "", b""),
            None => reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b""),
        });
        look(&server, &password()).unwrap();
        assert_eq!(server.count("/token"), 1);
    }
    // A refusal of the account itself ends soon.
    let server = Fault::start(|request, out| match request.header("authorization") {
        Some(_) => reply(out, 403, "", b"expired"),
        None => reply(out, 401, "WWW-Authenticate: Basic realm=r\r\n", b""),
    });
    refused(look(&server, &password()), Reason::AccessDenied);
    assert_eq!(server.requests().len(), 3);
}

/// The places that a registry can name to get at a password.
#[test]
fn no_trick_with_the_realm_gets_a_login() {
    let elsewhere = Fault::start(|_, out| reply(out, 200, "", b"{\"token\":\"t\"}"));
    let (_, port) = elsewhere.address.rsplit_once(':').unwrap();
    for realm in [
        format!("http://localhost:{port}/token"),
        format!("//localhost:{port}/token"),
        format!("http://127.0.0.1@localhost:{port}/token"),
        format!("http://user:password@127.0.0.1:{port}/token"),
        "http://169.254.169.254/token".into(),
        "http://[fe80::1]/token".into(),
        "http://metadata.google.internal/token".into(),
        "ftp://127.0.0.1/token".into(),
        "data:token".into(),
        "http://[".into(),
    ] {
        let own = realm.clone();
        let server = guarded(&World::new(10), move |_| format!("Bearer realm=\"{own}\""), "", |_, _| ());
        for entry in [password(), json!({"identitytoken": REFRESH})] {
            let hosts = [server.address.as_str(), &format!("localhost:{port}"), &elsewhere.address];
            let options = with_login(&server.address, &entry, &hosts);
            let error = refused(source_with(&server, &options).offer(Architecture::Amd64), Reason::ForeignTokenServer);
            assert!(error.message.contains("the login was not sent"), "{realm}: {error}");
        }
        assert!(elsewhere.requests().is_empty(), "{realm}");
    }
    // A host that the settings name, and a token server that sends the request on.
    let realm = format!("http://localhost:{port}/token");
    let server = guarded(&World::new(10), move |_| format!("Bearer realm=\"{realm}\""), "Bearer t", |_, _| ());
    let mut options = with_login(&server.address, &password(), &[&server.address, &format!("localhost:{port}")]);
    options.authentication.token_hosts = vec!["localhost".into()];
    source_with(&server, &options).look(&Known::default()).unwrap();
    assert_eq!(authorizations(&elsewhere), [Some(BASIC.to_owned())]);
    let target = format!("http://localhost:{port}/stolen");
    let server = guarded(
        &World::new(10),
        |_| "Bearer realm=\"/token\"".into(),
        "",
        move |_, out| reply(out, 307, &format!("Location: {target}\r\n"), b""),
    );
    for entry in [password(), json!({"identitytoken": REFRESH})] {
        let options = with_login(&server.address, &entry, &[&server.address, &format!("localhost:{port}")]);
        refused(source_with(&server, &options).offer(Architecture::Amd64), Reason::ForeignTokenServer);
    }
    assert_eq!(elsewhere.count("/stolen"), 0);
}

#[test]
fn a_login_is_for_its_registry_and_repository() {
    let world = World::new(10);
    let server = guarded(&world, |_| "Basic realm=r".into(), BASIC, |_, _| ());
    for key in ["registry.example".to_owned(), format!("{}/other", server.address), format!("{}/o", server.address)] {
        let options = with_login(&key, &password(), &[&server.address]);
        refused(source_with(&server, &options).offer(Architecture::Amd64), Reason::AccessDenied);
        assert!(authorizations(&server).iter().all(Option::is_none), "{key}");
    }
    let options = with_login(&format!("{}/os", server.address), &password(), &[&server.address]);
    source_with(&server, &options).offer(Architecture::Amd64).unwrap();
}

#[test]
fn a_login_does_not_follow_a_redirect() {
    let world = World::new(1000);
    let store = broken(&world, "nothing", |_, _| ());
    let elsewhere = store.address.clone();
    let honest = world.clone();
    let server = Fault::start(move |request, out| match request.path.contains("/blobs/") {
        true => reply(out, 307, &format!("Location: http://{elsewhere}{}\r\n", request.path), b""),
        false => honest.answer(request, out),
    });
    let options = with_login(&server.address, &password(), &[&server.address, &store.address]);
    let mut source = source_with(&server, &options);
    assert_eq!(fetch(&mut source, &initramfs(&world)).unwrap(), world.initramfs);
    assert_eq!(authorizations(&server), [Some(BASIC.to_owned())]);
    assert!(!store.requests().is_empty() && authorizations(&store).iter().all(Option::is_none));
}

#[test]
fn a_refused_login_is_told_after_one_renewal() {
    let world = World::new(10);
    let server = guarded(&world, |_| "Basic realm=r".into(), "Basic other", |_, _| ());
    let error = refused(look(&server, &password()), Reason::LoginRefused);
    assert!(error.message.contains(&server.address) && error.message.contains("in the file"), "{error}");
    assert_eq!(server.requests().len(), 1);
    // Each token is refused.
    let server = guarded(
        &world,
        |_| "Bearer realm=\"/token\"".into(),
        "",
        |request, out| {
            reply(out, 200, "", format!("{{\"token\":\"t{}\"}}", request.earlier).as_bytes());
        },
    );
    refused(look(&server, &password()), Reason::AccessDenied);
    assert_eq!((server.count("/token"), server.count("/v2/")), (1, 2));
}

#[test]
fn a_token_is_renewed_with_the_login_in_the_middle_of_an_image() {
    let world = World::new(100_000);
    let (honest, blob, valid) = (world.clone(), World::path(&world.initramfs), Arc::new(Mutex::new(0)));
    let server = Fault::start(move |request, out| {
        let mut valid = valid.lock().unwrap();
        if request.path.starts_with("/token") {
            return match request.header("authorization") {
                Some(BASIC) => reply(out, 200, "", format!("{{\"token\":\"t{valid}\"}}").as_bytes()),
                _ => reply(out, 401, "", b""),
            };
        }
        if request.header("authorization") != Some(format!("Bearer t{valid}").as_str()) {
            return reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b"");
        }
        if request.path == blob && request.header("range").is_none() {
            *valid += 1;
            head(out, 200, "Content-Length: 100000\r\n");
            send(out, &honest.initramfs[..30_000]);
            return;
        }
        honest.answer(request, out);
    });
    let options = with_login(&server.address, &password(), &[&server.address]);
    assert_eq!(fetch(&mut source_with(&server, &options), &initramfs(&world)).unwrap(), world.initramfs);
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_server_that_repeats_a_secret_does_not_get_it_into_a_message() {
    let world = World::new(10);
    let echo = |request: &Request, out: &mut TcpStream| {
        let said = format!("{:?} {:?} {PASSWORD} token-secret", request.headers, request.body);
        reply(out, 403, "", said.as_bytes());
    };
    let server = Fault::start(echo);
    let error = refused(look(&server, &password()), Reason::AccessDenied);
    assert!(error.message.contains("***"), "{error}");
    assert!(!error.message.contains("hunter2") && !error.message.contains(PAIR), "{error}");
    let token = |_: &Request, out: &mut TcpStream| reply(out, 200, "", b"{\"token\":\"token-secret\"}");
    let server = Fault::start(move |request, out| match request.header("authorization") {
        _ if request.path.starts_with("/token") => token(request, out),
        Some("Bearer token-secret") => echo(request, out),
        _ => reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b""),
    });
    let error = refused(look(&server, &password()), Reason::AccessDenied);
    assert!(error.message.contains("***") && !error.message.contains("token-secret"), "{error}");
    let server = guarded(&world, |_| "Bearer realm=\"/token\"".into(), "", echo);
    for entry in [password(), json!({"identitytoken": REFRESH})] {
        let error = refused(look(&server, &entry), Reason::LoginRefused);
        assert!(!error.message.contains("hunter2") && !error.message.contains(PAIR), "{error}");
    }
}

#[test]
fn a_token_file_saves_requests_and_gives_one_registry_nothing_of_another() {
    let (world, folder) = (World::new(10), TempDir::new().unwrap());
    let bearer = || {
        guarded(
            &world,
            |_| "Bearer realm=\"/token\"".into(),
            "Bearer good",
            |_, out| {
                reply(out, 200, "", b"{\"token\":\"good\",\"expires_in\":300}");
            },
        )
    };
    let (server, other) = (bearer(), bearer());
    let cached = |server: &Fault| {
        let mut options = with_login(&server.address, &password(), &[&server.address]);
        options.authentication.token_cache = Some(folder.path().join("tokens"));
        source_with(server, &options).look(&Known::default()).unwrap();
    };
    cached(&server);
    assert_eq!(server.requests().len(), 3);
    cached(&server);
    assert_eq!(server.requests().len(), 4, "the second run has the token of the first");
    cached(&other);
    assert_eq!(authorizations(&other)[0].as_deref(), Some(BASIC), "no token of another registry");
    // Somebody writes a token of theirs into it: it goes to its registry, is refused, and the run goes on.
    let file = folder.path().join("tokens");
    let poisoned = fs::read_to_string(&file).unwrap().replace("\"good\"", "\"theirs\"");
    fs::write(&file, poisoned).unwrap();
    cached(&server);
    assert!(authorizations(&server).contains(&Some("Bearer theirs".into())) && server.count("/token") == 2);
    assert!(!fs::read_to_string(&file).unwrap().contains("hunter2"));
}
