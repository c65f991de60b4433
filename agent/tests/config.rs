//! `update.conf`, and the command line over it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use kubesolo_update::base::error::{Error, Exit};
use kubesolo_update::config::{Auto, BootEnv, Conf, Config, DEFAULT_AUTO_ROLLBACK_AFTER, KEYS, Origin, Overrides};
use kubesolo_update::schedule::window::Window;
use proptest::prelude::*;

fn config_over(text: &str, over: &Overrides) -> Result<Config, Error> {
    Config::resolve(&Conf::parse(text.as_bytes(), "update.conf")?, over)
}

fn config(text: &str) -> Config {
    config_over(text, &Overrides::default()).unwrap()
}

fn refused(text: &str) -> String {
    let error = config_over(text, &Overrides::default()).unwrap_err();
    assert_eq!((error.exit, error.reason), (Exit::Config, "bad-config"), "{error}");
    error.message
}

fn oci(reference: &str) -> Option<Origin> {
    Some(Origin::Oci(reference.into()))
}

#[test]
fn every_key_has_its_effect() {
    let config = config(
        "# a device
registry = registry.example:5000/os
tag=v2
channel=beta
board=rpi5
maintenance_window = Sat,Sun 01:00-05:00; 22:00-04:00
pubkey=/etc/keys
registry_ca=/etc/ca.pem
plain_http=127.0.0.1:5000, mirror.example  [::1]:80
allow_unsigned=yes
version_file=/etc/version
legacy_file_signatures=yes
slot_a=/dev/vda2
slot_b=LABEL=OTHER
bootenv=grub:/boot/grubenv

  # spaces do not count
healthcheck_url=http://127.0.0.1/health?a=b#c
\tauto_rollback_after\t=\t3\r
health_dir=/etc/health.d
health_timeout=90
data_dir=/data
maintenance_zone=Europe/Berlin
auto=activate
auto_reboot=no
wariness=0
machine_id_file=/data/id
kubeconfig=/data/kubeconfig
node_name=node-7
pre_update_dir=/data/pre-update.d
pre_update_timeout=60",
    );
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.source, oci("registry.example:5000/os"));
    assert_eq!((config.tag.as_deref(), config.channel.as_deref()), (Some("v2"), Some("beta")));
    assert_eq!(config.board.as_deref(), Some("rpi5"));
    assert_eq!(config.maintenance_window, "Sat,Sun 01:00-05:00; 22:00-04:00".parse().unwrap());
    assert_eq!(config.pubkey.as_deref(), Some(Path::new("/etc/keys")));
    assert_eq!(config.registry_ca.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(config.plain_http, ["127.0.0.1:5000", "mirror.example", "[::1]:80"]);
    assert!(config.allow_unsigned && config.legacy_file_signatures);
    assert_eq!(config.version_file.as_deref(), Some(Path::new("/etc/version")));
    assert_eq!((config.slot_a.as_deref(), config.slot_b.as_deref()), (Some("/dev/vda2"), Some("LABEL=OTHER")));
    assert_eq!(config.bootenv, Some(BootEnv::Grub("/boot/grubenv".into())));
    assert_eq!(config.healthcheck_url.as_deref(), Some("http://127.0.0.1/health?a=b#c"));
    assert_eq!(config.auto_rollback_after, 3);
    assert_eq!(config.health_dir, Path::new("/etc/health.d"));
    assert_eq!(config.health_timeout, Duration::from_secs(90));
    assert_eq!(config.data_dir, Path::new("/data"));
    assert_eq!(config.maintenance_zone.as_deref(), Some("Europe/Berlin"));
    assert_eq!((config.auto, config.auto_reboot, config.wariness.percent()), (Auto::Activate, false, 0));
    assert_eq!((config.kubeconfig.to_str(), config.node_name.as_deref()), (Some("/data/kubeconfig"), Some("node-7")));
    assert_eq!(config.machine_id_file, Path::new("/data/id"));
    assert_eq!(config.pre_update_dir, Path::new("/data/pre-update.d"));
    assert_eq!(config.pre_update_timeout, Duration::from_secs(60));
}

/// `docs/update.conf` names every key, each as a comment, with a value that is accepted.
#[test]
fn the_commented_example_has_every_key_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/update.conf");
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(config(&text), config(""), "as it is, it sets nothing");
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
    let lines: Vec<&str> =
        lines.into_iter().filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let mut named: Vec<&str> = lines.iter().map(|line| line.split_once('=').expect(line).0).collect();
    named.sort_unstable();
    assert_eq!(named, KEYS);
    for line in lines {
        assert_eq!(config(line).warnings, [""; 0], "{line}");
    }
}

#[test]
fn a_missing_file_and_an_empty_device_mean_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let missing = Config::load(&dir.path().join("update.conf"), &Overrides::default()).unwrap();
    let null = Config::load(Path::new("/dev/null"), &Overrides::default()).unwrap();
    assert_eq!(missing, null);
    assert_eq!(null, config(""));
    assert_eq!(null, config("channel=\nmaintenance_window=\nauto_rollback_after=\n"), "an empty value is none");
    assert_eq!((null.source.clone(), null.maintenance_window), (None, Window::always()));
    assert!(!null.allow_unsigned && !null.legacy_file_signatures);
    assert_eq!((null.auto, null.auto_reboot, null.wariness.percent()), (Auto::Stage, true, 50));
    assert_eq!(null.auto_rollback_after, DEFAULT_AUTO_ROLLBACK_AFTER);
    assert_eq!(config("auto_rollback_after=0").auto_rollback_after, 0);
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(dir.path(), &Overrides::default()).unwrap_err();
    assert_eq!(error.exit, Exit::Config);
    let file = dir.path().join("update.conf");
    fs::write(&file, vec![b'#'; 64 * 1024]).unwrap();
    Config::load(&file, &Overrides::default()).unwrap();
    fs::write(&file, vec![b'#'; 64 * 1024 + 1]).unwrap();
    let error = Config::load(&file, &Overrides::default()).unwrap_err();
    assert_eq!((error.exit, error.reason), (Exit::Data, "limit-exceeded"));
}

#[test]
fn unknown_keys_are_told_with_file_and_line_and_nothing_else_happens() {
    let config = config("channel=beta\n\nchanel=stable\n\u{1b}[31m=x\n");
    assert_eq!(config.channel.as_deref(), Some("beta"));
    assert_eq!(config.warnings.len(), 2);
    assert!(config.warnings[0].starts_with("update.conf:3: key \"chanel\" is not known"), "{:?}", config.warnings);
    assert!(config.warnings[1].starts_with("update.conf:4: ") && !config.warnings[1].contains('\u{1b}'));
}

#[test]
fn a_key_twice_is_refused_with_both_lines() {
    let message = refused("tag=a\n\ntag=a\n");
    assert!(message.contains("update.conf:3") && message.contains("tag") && message.contains("line 1"), "{message}");
    refused("tag=\ntag=a\n");
}

#[test]
fn server_and_registry_together_are_refused() {
    assert!(refused("server=https://a.example\nregistry=b.example/os").contains("both server and registry"));
    let both = Overrides { server: Some("a".into()), registry: Some("b/os".into()), ..Overrides::default() };
    assert!(config_over("", &both).unwrap_err().message.contains("the command line"));
    assert_eq!(config("server=\nregistry=b.example/os").source, oci("b.example/os"));
}

#[test]
fn the_mark_that_some_editors_put_in_front_is_no_part_of_the_first_key() {
    let marked = config("\u{feff}channel=beta\n");
    assert_eq!((marked.channel.as_deref(), &marked.warnings[..]), (Some("beta"), &[][..]));
}

#[test]
fn a_server_is_a_url_or_an_oci_reference() {
    assert_eq!(config("server=http://a.example/x").source, Some(Origin::Http("http://a.example/x".into())));
    assert_eq!(config("server=https://a.example").source, Some(Origin::Http("https://a.example".into())));
    assert_eq!(config("server=a.example/os:stable").source, oci("a.example/os:stable"));
    refused("server=ftp://a.example");
    refused("server=oci://a.example/os");
    refused("registry=https://a.example/os");
}

#[test]
fn wrong_values_are_told_with_file_line_and_key() {
    for (line, key) in [
        ("maintenance_window=2-4", "maintenance_window"),
        ("auto_rollback_after=-1", "auto_rollback_after"),
        ("health_timeout=5m", "health_timeout"),
        ("health_timeout=0", "from 1"),
        ("healthcheck_url=127.0.0.1:8080/healthz", "healthcheck_url"),
        ("healthcheck_url=ftp://a.example/", "healthcheck_url"),
        ("allow_unsigned=maybe", "allow_unsigned"),
        ("legacy_file_signatures=on", "legacy_file_signatures"),
        ("plain_http=http://a.example", "plain_http"),
        ("plain_http=*.example", "plain_http"),
        ("bootenv=/boot/grubenv", "bootenv"),
        ("bootenv=grub:", "bootenv"),
        ("bootenv=lilo:/x", "bootenv"),
        ("maintenance_window=Sat 1:00-2:00", "maintenance_window"),
        ("maintenance_window=Caturday 01:00-02:00", "maintenance_window"),
        ("auto=yes", "auto"),
        ("auto_reboot=later", "auto_reboot"),
        ("wariness=101", "wariness"),
        ("wariness=-1", "wariness"),
        ("pre_update_timeout=5m", "pre_update_timeout"),
    ] {
        let message = refused(&format!("\n{line}\n"));
        assert!(message.starts_with("update.conf:2: ") && message.contains(key), "{message}");
    }
    assert!(refused("channel=beta\nstable\n").contains("update.conf:2: \"stable\" is not of the form key=value"));
    let error = Conf::parse(b"channel=beta\ntag=\xff\n", "update.conf").unwrap_err();
    assert!(error.exit == Exit::Config && error.message.starts_with("update.conf:2: "), "{error}");
}

#[test]
fn the_command_line_wins_key_by_key() {
    let file = "server=https://a.example\ntag=one\nchannel=beta\nmaintenance_window=01:00-02:00\nplain_http=a\nslot_a=/a\n\
                bootenv=grub:/a\nauto_rollback_after=1\nhealth_dir=/a\ndata_dir=/a\npubkey=/a\nregistry_ca=/a\nslot_b=/a\n";
    let nothing = Overrides::default();
    assert_eq!(config_over(file, &nothing).unwrap().tag.as_deref(), Some("one"));
    let over = Overrides {
        registry: Some("b.example/os".into()),
        bundle: None,
        tag: Some("two".into()),
        channel: Some("stable".into()),
        maintenance_window: Some(Window::always()),
        pubkey: Some("/b".into()),
        registry_ca: Some("/b".into()),
        plain_http: vec!["b".into()],
        slot_a: Some("/b".into()),
        slot_b: Some("/b".into()),
        bootenv: Some(BootEnv::Grub("/b".into())),
        auto_rollback_after: Some(2),
        health_dir: Some("/b".into()),
        data_dir: Some("/b".into()),
        server: None,
    };
    let config = config_over(file, &over).unwrap();
    assert_eq!(config.source, oci("b.example/os"), "the file's server gives way");
    assert_eq!((config.tag.as_deref(), config.channel.as_deref()), (Some("two"), Some("stable")));
    assert_eq!((config.maintenance_window, config.auto_rollback_after), (Window::always(), 2));
    assert_eq!((config.plain_http, config.bootenv), (vec!["b".to_owned()], Some(BootEnv::Grub("/b".into()))));
    assert_eq!((config.slot_a.as_deref(), config.slot_b.as_deref()), (Some("/b"), Some("/b")));
    for path in [Some(config.health_dir), Some(config.data_dir), config.pubkey, config.registry_ca] {
        assert_eq!(path.as_deref(), Some(Path::new("/b")));
    }
}

#[test]
fn a_reference_with_a_tag_on_the_command_line_leaves_no_room_for_the_tag_of_the_file() {
    let tag = |reference: &str| {
        let over = Overrides { registry: Some(reference.into()), ..Overrides::default() };
        config_over("registry=a.example/os\ntag=v2", &over).unwrap().tag
    };
    assert_eq!(tag("b.example/os:v4"), None);
    assert_eq!(tag("b.example:1/os@sha256:00"), None);
    assert_eq!(tag("b.example:1/os").as_deref(), Some("v2"));
    assert_eq!(config("registry=a.example/os:v4\ntag=v2").tag.as_deref(), Some("v2"), "in one file the source decides");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let _ = Conf::parse(&bytes, "update.conf").and_then(|conf| Config::resolve(&conf, &Overrides::default()));
    }

    #[test]
    fn no_text_of_lines_panics(text in "((server|tag|channel|plain_http|bootenv|x) ?= ?[ -~]{0,20}\n|#.*\n){0,9}") {
        let _ = Conf::parse(text.as_bytes(), "update.conf").and_then(|conf| Config::resolve(&conf, &Overrides::default()));
    }
}
