//! A private registry from the publisher to the device: real registries, with a login of their own and with a token server.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::common::token_server::{Guarded, PAIR, PASSWORD, REFRESH, USER};
use super::*;
use crate::cli_support::{Device, Ran};

/// Runs the publisher with the account in its environment; nothing that it prints has a secret.
fn publisher(server: &Guarded, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let plain = server.hosts();
    let plain: Vec<&str> = plain.iter().flat_map(|host| ["--plain-http", host]).collect();
    let output = run(&[arguments, &plain, &["--verbose"]].concat(), &[environment, &[("RUST_LOG", "trace")]].concat());
    keeps_secrets(&text(&output.stdout), &text(&output.stderr));
    output
}

fn keeps_secrets(stdout: &str, stderr: &str) {
    for secret in ["hunter2", PAIR, "eyJ"] {
        assert!(!stdout.contains(secret) && !stderr.contains(secret), "{stdout}{stderr}");
    }
}

/// A device that follows `os:stable` of this registry, with settings in its file and nothing on its command line.
fn device(server: &Guarded, key: &Path) -> Device {
    let device = Device::new();
    device.write("K", &fs::read(key).unwrap());
    let auth = device.path("auth.json");
    let conf = format!(
        "registry={}/os\nplain_http={}\nregistry_auth={}\n",
        server.registry.address,
        server.hosts().join(" "),
        auth.display()
    );
    device.write("conf", conf.as_bytes());
    save(&device, "auth.json", &server.docker_config());
    device
}

fn save(device: &Device, name: &str, content: &str) {
    device.write(name, content.as_bytes());
    fs::set_permissions(device.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

fn on(device: &Device, arguments: &[&str]) -> Ran {
    let ran = device.run(&[&device.local(arguments)[..], &["--pubkey", "K", "-vv"]].concat());
    keeps_secrets(&ran.stdout, &ran.stderr);
    ran
}

/// Publishes by the program, reads back by it, and updates a device.
fn from_publisher_to_device(server: &Guarded, environment: &[(&str, &str)]) -> Device {
    let folder = TempDir::new().unwrap();
    let (_, _) = key(&folder, "key");
    let images = images::files(folder.path(), Architecture::current(), 1);
    let reference = format!("{}/os", server.registry.address);
    let (amd64, private) = (format!("--{}", Architecture::current()), folder.path().join("key"));
    let release = ["publish", &reference, "--version", "1.0.0", "--channel", "stable", "--key", path(&private)];
    let done = publisher(
        server,
        &[&release[..], &[&amd64, path(&images.kernel), path(&images.initramfs)]].concat(),
        environment,
    );
    assert!(done.status.success(), "{}", text(&done.stderr));
    let (tag, public) = (format!("{reference}:stable"), folder.path().join("key.pub"));
    let bundle = folder.path().join("bundle.tar");
    for arguments in [
        &["inspect", &tag, "--pubkey", path(&public)][..],
        &["verify", &tag, "--pubkey", path(&public)],
        &["bundle", &tag, path(&bundle)],
    ] {
        let done = publisher(server, arguments, environment);
        assert!(done.status.success(), "{arguments:?} {}", text(&done.stderr));
        let nobody = publisher(server, arguments, &[]);
        assert_eq!(nobody.status.code(), Some(69), "{arguments:?} {}", text(&nobody.stderr));
        fs::remove_file(&bundle).unwrap_or_default();
    }
    let device = device(server, &public);
    on(&device, &["check"]).code(0).says(&["offered:      1.0.0"]);
    on(&device, &["apply"]).code(0);
    assert_eq!(device.version_in(bootenv::SlotId::B).as_deref(), Some("1.0.0"));
    // While nothing is new, a check is one look at the tag.
    on(&device, &["activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let idle = on(&device, &["check"]).code(0).says(&["up to date: 1.0.0"]);
    let requests = if server.tokens.is_some() { 3 } else { 1 };
    let sent = ["GET", "HEAD"].map(|method| idle.stderr.matches(&format!("fetch::client] {method}")).count());
    assert_eq!(sent.iter().sum::<usize>(), requests, "{idle:?}");
    device
}

const ENVIRONMENT: [(&str, &str); 2] = [("KUBESOLO_RELEASE_USER", USER), ("KUBESOLO_RELEASE_PASSWORD", PASSWORD)];

#[test]
fn a_registry_with_passwords_serves_publisher_and_device() {
    let server = Guarded::basic();
    let device = from_publisher_to_device(&server, &ENVIRONMENT);
    save(&device, "auth.json", &server.docker_config().replace(PAIR, "Y2k6d3Jvbmc="));
    on(&device, &["check", "--json"]).refused(69, "login-refused");
    save(&device, "auth.json", "{}");
    on(&device, &["check", "--json"]).refused(69, "access-denied");
    save(
        &device,
        "auth.json",
        &format!("{{\"auths\": {{\"{}\": {{}}}}, \"credsStore\": \"desktop\"}}", server.as_ref()),
    );
    let helped = on(&device, &["check"]).code(69);
    assert!(helped.stderr.contains("credential helper \"desktop\""), "{helped:?}");
}

#[test]
fn a_registry_with_a_token_server_serves_publisher_and_device() {
    let server = Guarded::with_tokens();
    let device = from_publisher_to_device(&server, &ENVIRONMENT);
    let tokens = server.tokens.as_ref().unwrap();
    assert!(tokens.requests().iter().all(|asked| !asked.path.contains("hunter2") && !asked.path.contains(PAIR)));
    // With a refresh token, and tokens that a second run still has.
    let refresh = json!({"auths": {(server.registry.address.clone()): {"auth": "MDA6", "identitytoken": REFRESH}}});
    save(&device, "auth.json", &refresh.to_string());
    let conf = fs::read_to_string(device.path("conf")).unwrap();
    device.write("conf", format!("{conf}registry_token_cache={}\n", device.path("tokens").display()).as_bytes());
    let before = tokens.requests().len();
    for _ in 0..3 {
        on(&device, &["check"]).code(0);
    }
    assert_eq!(tokens.requests().len(), before + 1);
    assert_eq!(tokens.requests()[before].method, "POST");
    assert_eq!(fs::metadata(device.path("tokens")).unwrap().permissions().mode() & 0o7777, 0o600);
    save(&device, "auth.json", &refresh.to_string().replace(REFRESH, "hunter2-over"));
    on(&device, &["check", "--json"]).refused(69, "login-refused");
}

#[test]
fn the_login_of_a_device_comes_from_the_credentials_of_its_unit() {
    let server = Guarded::basic();
    let folder = TempDir::new().unwrap();
    let (secret, _) = key(&folder, "key");
    let published = images::files(folder.path(), Architecture::current(), 1);
    let options = Options { access: Access { plain_http: server.hosts(), ..Access::default() }, ..Options::default() };
    // The open sibling of the registry has the same content.
    let open = server.registry.sibling("");
    let options = Options { access: Access { plain_http: vec![open.address.clone()], ..options.access }, ..options };
    publisher::release(&format!("{}/os", open.address), &metadata("1.0.0"), &[published], &[secret], &options).unwrap();
    let device = device(&server, &folder.path().join("key.pub"));
    let conf = fs::read_to_string(device.path("conf")).unwrap();
    let conf: Vec<&str> = conf.lines().filter(|line| !line.starts_with("registry_auth=")).collect();
    device.write("conf", (conf.join("\n") + "\n").as_bytes());
    save(&device, "registry-auth", &server.docker_config());
    let check = |credentials: bool| -> Ran {
        let mut command = device.command(&[&device.local(&["check", "--json"])[..], &["--pubkey", "K"]].concat());
        if credentials {
            command.env("CREDENTIALS_DIRECTORY", device.dir.path());
        }
        command.output().unwrap().into()
    };
    check(false).refused(69, "access-denied");
    check(true).code(0);
    fs::set_permissions(device.path("registry-auth"), fs::Permissions::from_mode(0o644)).unwrap();
    check(true).refused(78, "bad-credentials");
}
