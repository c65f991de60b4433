//! The way to a registry: credentials, certificate authorities, the command line, failures that pass.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use super::common::fault::{Fault, Request, reply};
use super::*;

#[test]
fn credentials_come_from_environment_or_docker_and_are_never_shown() {
    // htpasswd of user `ci`, password `hunter2-secret`
    const ENTRY: &str = "$2y$04$dnr762oOwwV7pDcEeTXveOWaB/IhESZWFvtMthpPC9JEeGHmTdGWu";
    let folder = TempDir::new().unwrap();
    let htpasswd = folder.path().join("htpasswd");
    std::fs::write(&htpasswd, format!("ci:{ENTRY}\n")).unwrap();
    let registry =
        Registry::start().sibling(&format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display()));
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", registry.address);
    let plain = unsigned(&registry, &reference, &images);
    let arguments = [&plain[..], &["--verbose"]].concat();
    let docker = folder.path().join("docker");
    std::fs::create_dir(&docker).unwrap();
    // base64 of ci:hunter2-secret
    let config = json!({"auths": {(registry.address.clone()): {"auth": "Y2k6aHVudGVyMi1zZWNyZXQ="}}});
    std::fs::write(docker.join("config.json"), bytes(&config)).unwrap();

    let denied = run(&arguments, &[]);
    assert_eq!(denied.status.code(), Some(69), "{}", text(&denied.stderr));
    assert!(text(&denied.stderr).contains("KUBESOLO_RELEASE_USER"), "{}", text(&denied.stderr));
    let wrong = [("KUBESOLO_RELEASE_USER", "ci"), ("KUBESOLO_RELEASE_PASSWORD", "hunter2-wrong")];
    let refused = run(&arguments, &wrong);
    assert_eq!(refused.status.code(), Some(69));
    let by_environment = run(
        &arguments,
        &[("KUBESOLO_RELEASE_USER", "ci"), ("KUBESOLO_RELEASE_PASSWORD", "hunter2-secret"), ("RUST_LOG", "trace")],
    );
    assert!(by_environment.status.success(), "{}", text(&by_environment.stderr));
    let by_docker = run(&arguments, &[("DOCKER_CONFIG", path(&docker))]);
    assert!(by_docker.status.success(), "{}", text(&by_docker.stderr));
    for output in [denied, refused, by_environment, by_docker] {
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(!shown.contains("hunter2") && !shown.contains("Y2k6"), "{shown}");
    }
}

#[test]
fn without_certificate_authorities_in_the_system_it_works() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let none = folder.path().join("none");
    // Debian's store has a folder of Java's.
    std::fs::create_dir_all(none.join("java")).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let arguments = ["inspect", &reference, "--plain-http", &registry.address];
    // Either variable alone replaces the store of the system.
    let output = run(&arguments, &[("SSL_CERT_DIR", path(&none)), ("SSL_CERT_FILE", "/dev/null")]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_pipe_in_the_place_of_the_authorities_holds_nothing_up() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reference = format!("{}/os:stable", registry.address);
    // The limit ends a test that would never end.
    let mut command = Command::new("timeout");
    command.args(["300", env!("CARGO_BIN_EXE_kubesolo-release"), "inspect", &reference]);
    let output = command.args(["--plain-http", &registry.address]).env("SSL_CERT_FILE", &pipe).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status.code(), text(&output.stderr));
}

#[test]
fn a_document_that_does_not_arrive_is_a_failure() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    publish(&registry, "1.0.0", &images, &[]).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let repository = format!("{}/os", registry.address);
    for arguments in
        [&["inspect", &reference, "--json"][..], &["inspect", &reference], &["list", &repository, "--json"]]
    {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubesolo-release"));
        let output = command.args(arguments).args(["--plain-http", &registry.address]).stdout(full).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.contains("standard output")), (Some(73), true), "{arguments:?}: {said}");
    }
}

#[test]
fn an_authority_is_trusted_when_it_is_named() {
    let folder = TempDir::new().unwrap();
    let certificates = common::tls::certificates();
    let registry = Registry::start().sibling(&common::tls::section(&certificates));
    let images = [images::files(folder.path(), Amd64, 1)];
    let publish = |registry_ca| {
        let options = Options { access: Access { registry_ca, ..Access::default() }, ..Options::default() };
        publisher::release(&format!("{}/os", registry.address), &metadata("1.0.0"), &images, &[], &options)
    };
    let error = publish(None).unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");
    publish(Some(certificates.path().join("ca.pem"))).unwrap();
    assert_eq!(publish(Some(folder.path().join("none.pem"))).unwrap_err().exit(), Exit::Config);
}

#[test]
fn a_command_line_that_is_wrong_ends_with_64() {
    let publish = ["publish", "localhost:1/os", "--version", "1.0.0", "--channel", "c"];
    let lines: [&[&str]; 7] = [
        &[],
        &["keygen"],
        &["keygen", "dir", "--private", "a", "--public", "b"],
        &[&publish[..], &["--unsigned"]].concat(),
        &[&publish[..], &["--amd64", "k", "i"]].concat(),
        &[&publish[..], &["--amd64", "k", "--unsigned"]].concat(),
        &["sign", "localhost:1/os:t", "--signature", "s"],
    ];
    for line in lines {
        let output = run(line, &[]);
        assert_eq!(output.status.code(), Some(64), "{line:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{line:?}");
    }
    assert!(run(&["--help"], &[]).status.success());
}

#[test]
fn a_registry_that_is_busy_for_a_moment_is_asked_again() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let images = [images::files(folder.path(), Amd64, 1)];
    let try_with = |busy| {
        let address = common::front::start(&registry, busy);
        let access = Access { plain_http: vec![address.clone()], ..Access::default() };
        let options = Options { access, ..Options::default() };
        publisher::release(&format!("{address}/os"), &metadata("1.0.0"), &images, &[], &options)
    };
    let error = try_with(1000).unwrap_err();
    assert_eq!(error.reason, Reason::RegistryFailed);
    try_with(2).unwrap();
}

#[test]
fn the_script_for_ci_publishes_from_its_environment() {
    let (registry, folder) = (Registry::start(), TempDir::new().unwrap());
    let (_, keys) = key(&folder, "key");
    let [amd64, arm64] = both(&folder);
    let reference = format!("{}/os", registry.address);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/scripts/push-oci-artifact.sh");
    let key = folder.path().join("key");
    let fixed = [
        ("KUBESOLO_RELEASE", env!("CARGO_BIN_EXE_kubesolo-release")),
        ("REGISTRY", &reference),
        ("VERSION", "1.0.0"),
        ("CHANNEL", "edge"),
        ("KEY", path(&key)),
        ("PLAIN_HTTP", &registry.address),
        ("RELEASE_NOTES", "two words"),
        ("BOARD", ""),
    ];
    let run = |more: &[(&str, &str)]| {
        let mut command = Command::new(&script);
        command.args(["--also-tag", "next"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.envs(fixed).envs(more.iter().copied()).output().unwrap()
    };
    let one = [("ARCH", "amd64"), ("KERNEL", path(&amd64.kernel)), ("INITRAMFS", path(&amd64.initramfs))];
    assert!(run(&one).status.success(), "{}", text(&run(&one).stderr));
    let found = look(&registry, "os:edge", &keys).unwrap();
    found.trusted().unwrap();
    assert_eq!(found.manifests[0].release_notes.as_deref(), Some("two words"));
    assert_eq!((found.manifests.len(), &found.manifests[0].board), (1, &None));

    let two = [
        ("AMD64_KERNEL", path(&amd64.kernel)),
        ("AMD64_INITRAMFS", path(&amd64.initramfs)),
        ("ARM64_KERNEL", path(&arm64.kernel)),
        ("ARM64_INITRAMFS", path(&arm64.initramfs)),
    ];
    assert!(run(&two).status.success(), "{}", text(&run(&two).stderr));
    assert_eq!(look(&registry, "os:next", &keys).unwrap().manifests.len(), 2);

    for wrong in [&one[1..], &one[..2], &two[..1], &[("ARCH", "riscv64")], &[("KEY", "")], &[]] {
        assert_eq!(run(wrong).status.code(), Some(64), "{wrong:?}: {}", text(&run(wrong).stderr));
    }
}

const CI: [(&str, &str); 2] = [("KUBESOLO_RELEASE_USER", "ci"), ("KUBESOLO_RELEASE_PASSWORD", "hunter2-secret")];
/// The header that Basic sends for these: base64 of ci:hunter2-secret.
const BASIC: &str = "Basic Y2k6aHVudGVyMi1zZWNyZXQ=";

/// A server that gives every request that is not for a token this challenge, and tokens `t0`, `t1`, ….
fn challenging(realm: impl Fn(&Request) -> String + Send + Sync + 'static) -> Fault {
    Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return reply(out, 200, "", format!("{{\"token\":\"t{}\"}}", request.earlier).as_bytes());
        }
        let challenge = format!("WWW-Authenticate: Bearer realm=\"{}\",service=\"s\"\r\n", realm(request));
        reply(out, 401, &challenge, b"");
    })
}

fn inspect_as_ci(server: &Fault, more: &[&str]) -> Output {
    let reference = format!("{}/os:stable", server.address);
    run(&[&["inspect", &reference, "--plain-http", &server.address], more].concat(), &CI)
}

fn passwords(server: &Fault) -> Vec<String> {
    let asked = server.requests().into_iter().filter(|request| request.header("authorization") == Some(BASIC));
    asked.map(|request| request.path).collect()
}

/// How often a token server got the password. The registry itself may always have it.
fn asked_for_tokens(server: &Fault) -> usize {
    passwords(server).iter().filter(|path| path.starts_with("/token")).count()
}

#[test]
fn the_password_goes_to_no_token_server_of_another_host() {
    let elsewhere = challenging(|_| String::new());
    // The same address in another spelling is another host.
    let realm = format!("http://{}/token", elsewhere.address.replace("127.0.0.1", "localhost"));
    let shown = realm.clone();
    let server = challenging(move |_| realm.clone());
    let refused = inspect_as_ci(&server, &[]);
    assert_eq!(refused.status.code(), Some(77), "{}", text(&refused.stderr));
    for said in [&shown[..], "--registry-auth-host localhost"] {
        assert!(text(&refused.stderr).contains(said), "{}", text(&refused.stderr));
    }
    assert!(elsewhere.requests().is_empty());
    // A registry that names its own server first, and another one later.
    let later = challenging(move |request| match request.earlier {
        0 => "/token".to_owned(),
        _ => shown.clone(),
    });
    inspect_as_ci(&later, &[]);
    assert_eq!(asked_for_tokens(&later), 1);
    assert!(elsewhere.requests().is_empty());
    // A host that the user names.
    let plain = elsewhere.address.replace("127.0.0.1", "localhost");
    inspect_as_ci(&server, &["--registry-auth-host", "localhost", "--plain-http", &plain]);
    assert_eq!(asked_for_tokens(&elsewhere), 1);
}

#[test]
fn a_redirect_takes_the_password_nowhere() {
    let elsewhere = challenging(|_| String::new());
    let target = elsewhere.address.clone();
    let server = Fault::start(move |request, out| {
        if request.path.starts_with("/token") {
            return reply(out, 307, &format!("Location: http://{target}/token\r\n"), b"");
        }
        reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b"");
    });
    let refused = inspect_as_ci(&server, &[]);
    assert_eq!(refused.status.code(), Some(77), "{}", text(&refused.stderr));
    assert!(elsewhere.requests().is_empty(), "{}", text(&refused.stderr));
}

/// A registry that keeps nothing but what it has, whose tokens are good for four requests each. It does not say where it put
/// a blob, as some registries do not.
fn forgetful() -> Fault {
    let had: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let used = AtomicUsize::new(0);
    Fault::start(move |request, out| {
        let token = format!("t{}", used.load(SeqCst) / 4);
        if request.path.starts_with("/token") {
            return reply(out, 200, "", format!("{{\"access_token\":\"{token}\"}}").as_bytes());
        }
        if request.header("authorization") != Some(&format!("Bearer {token}")) {
            return reply(out, 401, "WWW-Authenticate: Bearer realm=\"/token\"\r\n", b"");
        }
        used.fetch_add(1, SeqCst);
        let name = request.path.rsplit(['/', '=']).next().unwrap().replace("%3A", ":");
        match (request.method.as_str(), request.path.contains("/uploads/")) {
            ("POST", _) => reply(out, 202, "Location: /v2/os/blobs/uploads/1?state=x\r\n", b""),
            ("PUT", upload) => {
                had.lock().unwrap().insert(name);
                let place = if upload { "" } else { "Location: /v2/os/manifests/x\r\n" };
                reply(out, 201, place, b"");
            }
            _ if had.lock().unwrap().contains(&name) => reply(out, 200, "", b""),
            _ => reply(out, 404, "", b""),
        }
    })
}

#[test]
fn a_publication_outlives_its_tokens_and_needs_no_word_about_the_place_of_a_blob() {
    let (server, folder) = (forgetful(), TempDir::new().unwrap());
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", server.address);
    let release = ["publish", &reference, "--version", "1.0.0", "--channel", "stable", "--unsigned"];
    let place = ["--plain-http", &server.address, "--amd64", path(&images.kernel), path(&images.initramfs)];
    let done = run(&[&release[..], &place].concat(), &CI);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(asked_for_tokens(&server) > 2, "the tokens were renewed");
    let pushed: Vec<_> = server.requests().into_iter().filter(|request| request.method == "PUT").collect();
    assert!(pushed.len() >= 5 && pushed.iter().all(|put| put.header("authorization") != Some(BASIC)));
}

#[test]
fn the_password_of_the_environment_is_for_one_registry() {
    let server = challenging(|_| "/token".to_owned());
    let reference = format!("{}/os:stable", server.address);
    let arguments = ["inspect", &reference, "--plain-http", &server.address];
    run(&arguments, &[&CI[..], &[("KUBESOLO_RELEASE_HOST", "registry.example.com")]].concat());
    assert!(passwords(&server).is_empty() && !server.requests().is_empty());
    run(&arguments, &[&CI[..], &[("KUBESOLO_RELEASE_HOST", &server.address)]].concat());
    assert!(!passwords(&server).is_empty());
}

/// A registry that takes uploads, and wants a password for everything.
fn with_password(answer: impl Fn(&Request, &mut std::net::TcpStream) + Send + Sync + 'static) -> Fault {
    Fault::start(move |request, out| match request.header("authorization") {
        Some(BASIC) => answer(request, out),
        _ => reply(out, 401, "WWW-Authenticate: Basic realm=\"registry\"\r\n", b""),
    })
}

fn publish_as_ci(server: &Fault, more: &[&str]) -> Output {
    let folder = TempDir::new().unwrap();
    let images = images::files(folder.path(), Amd64, 1);
    let reference = format!("{}/os", server.address);
    let release = ["publish", &reference, "--version", "1.0.0", "--channel", "stable", "--unsigned", "--verbose"];
    let place = ["--plain-http", &server.address, "--amd64", path(&images.kernel), path(&images.initramfs)];
    run(&[&release[..], &place, more].concat(), &CI)
}

#[test]
fn a_registry_that_names_another_host_for_an_upload_sends_no_login_there() {
    for redirects in [false, true] {
        let elsewhere = Fault::start(|_, out| reply(out, 201, "Location: /x\r\n", b""));
        let place = format!("Location: http://{}/v2/os/blobs/uploads/1?state=hunter2-state\r\n", elsewhere.address);
        let server = with_password(move |request, out| match request.method.as_str() {
            "POST" if redirects => reply(out, 202, "Location: /v2/os/blobs/uploads/1\r\n", b""),
            "POST" => reply(out, 202, &place, b""),
            "PUT" if request.path.contains("/uploads/") => reply(out, 307, &place, b""),
            "PUT" => reply(out, 201, "Location: /v2/os/manifests/x\r\n", b""),
            _ => reply(out, 404, "", b""),
        });
        let done = publish_as_ci(&server, &["--plain-http", &elsewhere.address]);
        let said = text(&done.stderr);
        assert!(done.status.success(), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
        let got = elsewhere.requests();
        assert!(got.len() >= 3 && got.iter().all(|put| put.method == "PUT"), "{got:?}");
        assert!(got.iter().all(|put| put.header("authorization").is_none()), "{got:?}");
        // Without the permission to use a host in the clear, nothing goes there.
        let refused = publish_as_ci(&server, &[]);
        assert_eq!(refused.status.code(), Some(69), "{}", text(&refused.stderr));
        assert_eq!(elsewhere.requests().len(), got.len());
    }
}

#[test]
fn a_registry_that_refuses_an_upload_is_quoted_without_the_login_that_it_repeats() {
    const ENVELOPE: &str = r#"{"errors":[{"code":"DIGEST_INVALID","message":"no such digest"},
        {"code":"TOO_BIG","message":"ci:hunter2-secret Y2k6aHVudGVyMi1zZWNyZXQ="}]}"#;
    for (status, body, code, shown) in [
        (400, ENVELOPE, "registry-failed", "answers 400: DIGEST_INVALID: no such digest; TOO_BIG: ci:*** ***"),
        (405, "{\"errors\":[{\"code\":\"DENIED\"}]}", "registry-denied", "answers 405: DENIED"),
        (413, "<html>too large</html>", "registry-failed", "answers 413: <html>too large</html>"),
        (301, "", "registry-failed", "answers 301"),
    ] {
        let server = with_password(move |request, out| match request.method.as_str() {
            "POST" => reply(out, 202, "Location: /v2/os/blobs/uploads/1\r\n", b""),
            "PUT" => reply(out, status, "Location: /elsewhere\r\n", body.as_bytes()),
            _ => reply(out, 404, "", b""),
        });
        let refused = publish_as_ci(&server, &["--json"]);
        let (document, said) = (text(&refused.stdout), text(&refused.stderr));
        assert_eq!(refused.status.code(), Some(69), "{said}");
        let error: serde_json::Value = serde_json::from_str(&document).unwrap();
        assert_eq!(error["error"]["reason"], code, "{document}");
        assert!(error["error"]["message"].as_str().unwrap().contains(shown), "{document}");
        assert!(!document.contains("hunter2") && !said.contains("hunter2"), "{document}{said}");
        assert_eq!(server.requests().iter().filter(|request| request.method == "PUT").count(), 1);
    }
}

#[test]
fn a_registry_behind_a_proxy_that_wants_a_client_certificate_takes_a_release() {
    use super::common::proxy::{KINDS, LOGIN};
    let certificates = common::tls::certificates();
    let at = certificates.path();
    common::tls::client(at, "publisher");
    let clients = format!("{}    clientcas:\n      - {}/ca.pem\n", common::tls::section(&certificates), at.display());
    let registry = Registry::start().sibling(&clients);
    let images = images::files(at, Amd64, 1);
    let (authority, certificate, secret) = (at.join("ca.pem"), at.join("publisher.pem"), at.join("publisher.key"));
    let secret_text = std::fs::read_to_string(&secret).unwrap();
    let secret_line = secret_text.lines().nth(1).unwrap();
    for (kind, login) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let proxy = kind.start(login);
        let reference = kind.name_of(&registry.address) + "/os";
        let release = ["publish", &reference, "--version", "1.0.0", "--channel", "stable", "--unsigned", "--verbose"];
        let images = ["--amd64", path(&images.kernel), path(&images.initramfs)];
        let identity = ["--registry-cert", path(&certificate), "--registry-key", path(&secret)];
        let trusted = ["--registry-ca", path(&authority)];
        let by = |arguments: &[&[&str]], login: &str| {
            let at = format!("http://{login}{}", proxy.address);
            let done = run(&arguments.concat(), &[("https_proxy", &at), ("no_proxy", "")]);
            let said = text(&done.stderr) + &text(&done.stdout);
            assert!(!said.contains("hunter2") && !said.contains(secret_line), "{said}");
            (done.status.code(), said)
        };
        let known = if login { format!("{LOGIN}@") } else { String::new() };
        if login {
            let (code, said) = by(&[&release, &images, &identity, &trusted], "");
            assert!(code == Some(69) && said.contains("https_proxy=http://USER:PASSWORD@"), "{said}");
        }
        let (code, said) = by(&[&release, &images, &trusted], &known);
        assert!(code == Some(69) && said.contains("--registry-cert and --registry-key"), "{said}");
        let (code, said) = by(&[&release, &images, &identity, &trusted], &known);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = by(&[&["inspect", &format!("{reference}:stable")], &identity, &trusted], &known);
        assert!(code == Some(0) && said.contains("1.0.0"), "{said}");
        assert!(proxy.log_with("CONNECT").contains("CONNECT"), "{}", proxy.log());
    }
}
