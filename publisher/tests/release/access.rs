//! The way to a registry: credentials, certificate authorities, the command line, failures that pass.

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
    std::fs::create_dir(&none).unwrap();
    let reference = format!("{}/os:stable", registry.address);
    let arguments = ["inspect", &reference, "--plain-http", &registry.address];
    // Either variable alone replaces the store of the system.
    let output = run(&arguments, &[("SSL_CERT_DIR", path(&none)), ("SSL_CERT_FILE", "/dev/null")]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn an_authority_is_trusted_when_it_is_named() {
    let folder = TempDir::new().unwrap();
    let certificates = common::tls::certificates();
    let registry = Registry::start().sibling(&common::tls::section(&certificates));
    let images = [images::files(folder.path(), Amd64, 1)];
    let publish = |registry_ca| {
        let options = Options { access: Access { plain_http: vec![], registry_ca }, ..Options::default() };
        publisher::release(&format!("{}/os", registry.address), &metadata("1.0.0"), &images, &[], &options)
    };
    let error = publish(None).unwrap_err();
    assert_eq!(error.exit, Exit::Unavailable);
    assert!(error.message.contains("certificate"), "{error}");
    publish(Some(certificates.path().join("ca.pem"))).unwrap();
    assert_eq!(publish(Some(folder.path().join("none.pem"))).unwrap_err().exit, Exit::Config);
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
        let access = Access { plain_http: vec![address.clone()], registry_ca: None };
        let options = Options { access, ..Options::default() };
        publisher::release(&format!("{address}/os"), &metadata("1.0.0"), &images, &[], &options)
    };
    let error = try_with(1000).unwrap_err();
    assert_eq!((error.exit, error.reason), (Exit::Unavailable, "registry-failed"));
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
