//! `update.conf`, and the command line over it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kubesolo_update::base::error::{Error, Exit, Reason};
use kubesolo_update::config::{Auto, BootEnv, Conf, Config, Origin, Overrides, manual, report, rows};
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
    assert_eq!(error.reason, Reason::BadConfig, "{error}");
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
pre_update_timeout=60
registry_auth=/data/auth.json
registry_auth_hosts=auth.example, other.example:5001
registry_token_cache=/run/tokens",
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
    assert_eq!(config.pre_update_dir.as_deref(), Some(Path::new("/data/pre-update.d")));
    assert_eq!(config.pre_update_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.registry_auth.as_deref(), Some(Path::new("/data/auth.json")));
    assert_eq!(config.registry_auth_hosts, ["auth.example", "other.example:5001"]);
    assert_eq!(config.registry_token_cache.as_deref(), Some(Path::new("/run/tokens")));
}

/// `DOCS=1 cargo test -p kubesolo-update --test suite config::` writes the file.
#[test]
fn a_comment_behind_a_value_is_refused_with_file_and_line() {
    for (text, key) in [
        ("auto=check\nchannel=stable # beta later\n", "channel"),
        ("\npubkey=/etc/kubesolo/release.pem\t# ours\n", "pubkey"),
    ] {
        let error = Conf::parse(text.as_bytes(), "update.conf").unwrap_err();
        assert!(error.message.starts_with(&format!("update.conf:2: {key}: a comment")), "{error}");
        assert!(error.remedy.contains("line of its own"), "{error:?}");
    }
    // A number sign is a part of some values.
    Conf::parse(b"# all\nserver=https://a.example/#os\n", "update.conf").unwrap();
}

#[test]
fn the_commented_example_is_generated_from_the_rows_and_sets_nothing() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/update.conf");
    let expected = manual::commented();
    if std::env::var_os("DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let text = fs::read_to_string(path).unwrap();
    assert!(
        text == expected,
        "docs/update.conf is out of date: DOCS=1 cargo test -p kubesolo-update --test suite config::"
    );
    assert_eq!(config(&text), config(""));
    assert!(text.lines().all(|line| line.len() <= 120));
}

/// Devices in the field have them.
#[test]
fn no_key_of_the_first_version_is_lost() {
    let keys = "allow_unsigned auto auto_reboot auto_rollback_after board bootenv channel data_dir freshness freshness_pubkey \
                health_dir health_timeout healthcheck_url kubeconfig legacy_file_signatures machine_id_file \
                maintenance_window maintenance_zone node_name plain_http pre_update_dir pre_update_timeout pubkey registry \
                registry_ca require_fresh server signature_threshold slot_a slot_b tag version_file wariness";
    assert_eq!(keys.split_whitespace().count(), 33);
    for key in keys.split_whitespace() {
        assert!(rows::named(key).is_some(), "{key}");
    }
}

#[test]
fn every_row_is_complete_and_its_values_are_accepted_by_its_reader() {
    let mut keys: Vec<&str> = rows::all().map(|setting| setting.key).collect();
    for setting in rows::all() {
        let key = setting.key;
        assert!(!setting.form.is_empty() && setting.help.ends_with('.'), "{key}");
        assert_eq!(setting.default.is_empty(), !setting.unset.is_empty(), "{key}: a default, or words for none");
        // These two are set together or not at all.
        let partner = match key {
            "registry_cert" => "registry_key=/a\n",
            "registry_key" => "registry_cert=/a\n",
            _ => "",
        };
        let text = format!("{partner}{key}={}", setting.typical());
        let config = config(&text);
        assert_eq!(config.warnings, [""; 0], "{key}");
        for value in [setting.default].iter().chain(setting.choices.iter().map(|(word, _)| word)) {
            assert!(value.is_empty() || setting.check(value).is_ok(), "{key}={value}");
        }
        if !setting.example.is_empty() {
            let shown = report::effective(
                &Conf::parse(format!("{partner}{key}={}", setting.example).as_bytes(), "f").unwrap(),
                &Overrides::default(),
            );
            assert!(
                shown.unwrap().iter().any(|one| one.key == key && one.value.as_deref() == Some(setting.example)),
                "{key}"
            );
        }
    }
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), rows::all().count(), "no key is declared twice");
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
    assert_eq!((null.auto_rollback_after, null.signature_threshold.keys()), (3, 1));
    assert_eq!(
        (null.health_timeout, null.health_dir.as_path()),
        (Duration::from_secs(300), Path::new("/etc/kubesolo/health.d"))
    );
    assert_eq!(config("auto_rollback_after=0").auto_rollback_after, 0);
}

#[test]
fn a_file_that_cannot_be_read_is_not_a_missing_one() {
    let dir = tempfile::tempdir().unwrap();
    let error = Config::load(dir.path(), &Overrides::default()).unwrap_err();
    assert_eq!(error.exit(), Exit::Config);
    let file = dir.path().join("update.conf");
    fs::write(&file, vec![b'#'; 64 * 1024]).unwrap();
    Config::load(&file, &Overrides::default()).unwrap();
    fs::write(&file, vec![b'#'; 64 * 1024 + 1]).unwrap();
    let error = Config::load(&file, &Overrides::default()).unwrap_err();
    assert_eq!(error.reason, Reason::LimitExceeded);
}

#[test]
fn unknown_keys_are_told_with_file_and_line_and_nothing_else_happens() {
    let config = config("channel=beta\n\nchanel=stable\n\u{1b}[31m=x\n");
    assert_eq!(config.channel.as_deref(), Some("beta"));
    assert_eq!(config.warnings.len(), 2);
    assert_eq!(config.warnings[0], "update.conf:3: unknown key \"chanel\" has no effect. Did you mean channel?");
    assert!(config.warnings[1].starts_with("update.conf:4: ") && !config.warnings[1].contains('\u{1b}'));
}

#[test]
fn a_key_twice_is_refused_with_both_lines() {
    let message = refused("tag=a\n\ntag=a\n");
    assert!(message == "update.conf:3: tag is already set (update.conf:1)", "{message}");
    refused("tag=\ntag=a\n");
}

#[test]
fn server_and_registry_together_are_refused() {
    assert!(refused("server=https://a.example\nregistry=b.example/os").contains("both server and registry"));
    assert!(refused("registry_key=/a").contains("registry_key is set alone"));
    let both = Overrides::default().with("server", "a").with("registry", "b/os");
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
        ("registry_timeout=14", "registry_timeout"),
        ("registry_timeout=601", "registry_timeout"),
        ("max_rate=4095", "max_rate"),
        ("max_rate=K", "max_rate"),
        ("max_rate=17592186044416M", "max_rate"),
        ("max_rate=1.5M", "max_rate"),
    ] {
        let message = refused(&format!("\n{line}\n"));
        assert!(message.starts_with("update.conf:2: ") && message.contains(key), "{message}");
    }
    assert!(refused("channel=beta\nstable\n").contains("update.conf:2: not of the form key=value"));
    let error = Conf::parse(b"channel=beta\ntag=\xff\n", "update.conf").unwrap_err();
    assert!(error.exit() == Exit::Config && error.message.starts_with("update.conf:2: "), "{error}");
}

#[test]
fn the_command_line_wins_key_by_key() {
    let file = "server=https://a.example\ntag=one\nchannel=beta\nmaintenance_window=01:00-02:00\nplain_http=a\nslot_a=/a\n\
                bootenv=grub:/a\nauto_rollback_after=1\nhealth_dir=/a\ndata_dir=/a\npubkey=/a\nregistry_ca=/a\nslot_b=/a\n";
    let nothing = Overrides::default();
    assert_eq!(config_over(file, &nothing).unwrap().tag.as_deref(), Some("one"));
    let mut over = Overrides::default().with("registry", "b.example/os").with("tag", "two").with("channel", "stable");
    for (key, value) in
        [("maintenance_window", ""), ("plain_http", "b"), ("bootenv", "grub:/b"), ("auto_rollback_after", "2")]
    {
        over.set(key, Some(value));
    }
    for key in ["pubkey", "registry_ca", "slot_a", "slot_b", "health_dir", "data_dir"] {
        over.set(key, Some("/b"));
    }
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
        let over = Overrides::default().with("registry", reference);
        config_over("registry=a.example/os\ntag=v2", &over).unwrap().tag
    };
    assert_eq!(tag("b.example/os:v4"), None);
    assert_eq!(tag("b.example:1/os@sha256:00"), None);
    assert_eq!(tag("b.example:1/os").as_deref(), Some("v2"));
    assert_eq!(config("registry=a.example/os:v4\ntag=v2").tag.as_deref(), Some("v2"), "in one file the source decides");
}

#[test]
fn a_limit_of_the_rate_has_units_of_1024() {
    for (text, bytes) in [("4096", 4096), ("4k", 4096), ("500K", 512_000), ("2M", 2_097_152)] {
        assert_eq!(config(&format!("max_rate={text}")).max_rate, Some(bytes));
    }
    assert_eq!((config("").max_rate, config("").registry_timeout.as_secs()), (None, 60));
    assert_eq!(config("registry_timeout=600").registry_timeout.as_secs(), 600);
}

/// A settings file with drop-ins, in a folder of its own.
struct Files(tempfile::TempDir);

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("update.conf.d")).unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self(folder)
    }

    fn conf(&self) -> PathBuf {
        self.0.path().join("update.conf")
    }

    fn drop_in(&self, name: &str) -> PathBuf {
        self.0.path().join("update.conf.d").join(name)
    }

    fn config(&self) -> Result<Config, Error> {
        Config::load(&self.conf(), &Overrides::default())
    }

    /// Value and place of a setting in effect, the place without the folder.
    fn shown(&self, key: &str, over: &Overrides) -> (Option<String>, String) {
        let all = report::effective(&Conf::load(&self.conf()).unwrap(), over).unwrap();
        let one = all.into_iter().find(|one| one.key == key).unwrap();
        (one.value, self.without_folder(&one.place.to_string()))
    }

    fn problems(&self) -> Vec<String> {
        let checked = report::check(None, &self.conf()).unwrap();
        checked.problems.iter().map(|problem| self.without_folder(&problem.to_string())).collect()
    }

    fn without_folder(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn a_later_drop_in_wins_whole_and_an_empty_value_resets_to_the_default() {
    let files = Files::new(&[
        ("update.conf", "channel=beta\ntag=one\nplain_http=a b\nhealth_timeout=10\nauto=check"),
        ("update.conf.d/20-b.conf", "channel=stable\nhealth_timeout="),
        ("update.conf.d/10-a.conf", "channel=edge\nplain_http=c\nauto=activate"),
        ("update.conf.d/30-c.conf.off", "channel=off"),
        ("update.conf.d/.hidden.conf", "channel=hidden"),
    ]);
    let config = files.config().unwrap();
    assert_eq!((config.channel.as_deref(), config.tag.as_deref()), (Some("stable"), Some("one")));
    assert_eq!((config.plain_http, config.auto), (vec!["c".to_owned()], Auto::Activate));
    assert_eq!(config.health_timeout, Duration::from_secs(300));
    fs::remove_file(files.conf()).unwrap();
    assert_eq!(files.config().unwrap().channel.as_deref(), Some("stable"), "also without update.conf");
}

#[test]
fn a_source_in_a_drop_in_replaces_either_source_and_a_tag_that_it_has_of_its_own() {
    let with = |drop_in: &str| {
        let files =
            Files::new(&[("update.conf", "server=https://a.example\ntag=v1"), ("update.conf.d/1.conf", drop_in)]);
        files.config().map(|config| (config.source, config.tag))
    };
    assert_eq!(with("registry=b.example/os").unwrap(), (oci("b.example/os"), Some("v1".into())));
    assert_eq!(with("registry=b.example/os:v2").unwrap(), (oci("b.example/os:v2"), None));
    assert_eq!(with("registry=").unwrap().0, Some(Origin::Http("https://a.example".into())));
    assert_eq!(with("server=").unwrap().0, None);
    let both = with("server=https://b.example\nregistry=b.example/os").unwrap_err();
    assert!(both.message.contains("1.conf:2: both server and registry are set"), "{both}");
}

#[test]
fn a_drop_in_is_trusted_like_the_file_itself() {
    let files = Files::new(&[("update.conf.d/1.conf", "channel=beta")]);
    let drop_in = files.drop_in("1.conf");
    let refused = || {
        let error = files.config().unwrap_err();
        assert_eq!(error.reason, Reason::BadConfig, "{error}");
        error.message
    };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    files.config().unwrap();
    mode(&drop_in, 0o666);
    assert!(refused().contains("1.conf"));
    mode(&drop_in, 0o644);
    mode(drop_in.parent().unwrap(), 0o777);
    assert!(refused().contains("update.conf.d"));
    mode(drop_in.parent().unwrap(), 0o755);
    std::os::unix::fs::symlink(&drop_in, drop_in.with_file_name("2.conf")).unwrap();
    assert!(refused().contains("symbolic link"));
    fs::remove_dir_all(drop_in.parent().unwrap()).unwrap();
    fs::write(drop_in.parent().unwrap(), "").unwrap();
    assert!(refused().contains("not a folder"));

    let many = Files::new(&[]);
    for n in 0..=64 {
        assert!(n < 65 && many.config().is_ok());
        fs::write(many.drop_in(&format!("{n}.conf")), "").unwrap();
    }
    assert_eq!(many.config().unwrap_err().reason, Reason::LimitExceeded);
}

#[test]
fn each_setting_in_effect_is_shown_with_its_place_and_without_passwords() {
    let files = Files::new(&[
        ("update.conf", "# a device\nserver=https://me:secret@a.example/os\nauto=check\nchannel=beta"),
        ("update.conf.d/1.conf", "healthcheck_url=http://me:se=cret@b.example:8080/h?token=secret\nauto=\n"),
    ]);
    let none = Overrides::default();
    let some = |value: &str, place: &str| (Some(value.to_owned()), place.to_owned());
    assert_eq!(files.shown("server", &none), some("https://***@a.example/os", "update.conf:2"));
    assert_eq!(
        files.shown("healthcheck_url", &none),
        some("http://***@b.example:8080/h?***", "update.conf.d/1.conf:1")
    );
    assert_eq!(files.shown("auto", &none), some("stage", "default"));
    assert_eq!(files.shown("board", &none), (None, "default".into()));
    let over = Overrides::default().with("channel", "stable").with("registry", "c.example/os");
    assert_eq!(files.shown("channel", &over), some("stable", "the command line"));
    assert_eq!((files.shown("server", &over).0, files.shown("registry", &over).0), (None, Some("c.example/os".into())));
    let mut over = Overrides::default();
    over.bundle = Some("release.tar".into());
    assert_eq!(files.shown("bundle", &over), some("release.tar", "the command line"));
    assert_eq!(files.shown("server", &over).0, None);
}

#[test]
fn no_message_has_the_value_of_a_setting_that_may_contain_a_password() {
    for line in [
        "server=ftp://me:secret@a.example",
        "registry=https://me:secret@a.example/os",
        "healthcheck_url=me:secret@a.example",
        "healthcheck_url=http://a b/?secret",
        "me:secret",
        "plain_http=http://me:secret@a.example",
    ] {
        let message = refused(line);
        assert!(!message.contains("secret"), "{message}");
    }
}

#[test]
fn a_line_that_is_no_setting_is_not_shown_with_its_password() {
    let lines = "https://me:secret@a.example/?a=b\nme:secret=1\nhttps://a.example/?secret&a=b\nnot a name=1\n";
    let files = Files::new(&[("update.conf", lines)]);
    let said = [files.problems(), files.config().unwrap().warnings].concat().join("\n");
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(said.matches("update.conf:4: ").count(), 2, "{said}");
    assert!(said.contains("has no effect"), "{said}");
}

#[test]
fn a_check_reports_every_problem_of_every_file_with_its_line() {
    let files = Files::new(&[
        ("update.conf", "chanel=beta\nauto=never\nrequire_fresh=yes\nwariness\nauto=stage\n"),
        ("update.conf.d/1.conf", "auto=stage\nfreshness=no\nzzz=1\n"),
    ]);
    assert_eq!(
        files.problems(),
        [
            "update.conf:1: unknown key \"chanel\" has no effect. Did you mean channel?",
            "update.conf:2: auto=\"never\": expected check, stage or activate",
            "update.conf:4: not of the form key=value",
            "update.conf:5: auto is already set (update.conf:2)",
            "update.conf.d/1.conf:3: unknown key \"zzz\" has no effect",
            "update.conf:3: require_fresh=yes with freshness=no (update.conf.d/1.conf:2) would install nothing",
        ]
    );
    let good = Files::new(&[("update.conf", "channel=beta\n"), ("update.conf.d/1.conf", "auto=stage\n")]);
    assert_eq!(good.problems(), [""; 0]);
    let one = report::check(Some(&good.conf()), Path::new("/dev/null")).unwrap();
    assert_eq!((one.files.len(), one.settings), (1, 1), "a named file is checked alone");
    assert_eq!(report::check(Some(Path::new("/nowhere")), &good.conf()).unwrap_err().exit(), Exit::Config);
}

#[test]
fn a_value_that_a_later_file_replaces_stops_no_command() {
    let files = Files::new(&[("update.conf", "auto=never"), ("update.conf.d/1.conf", "auto=check")]);
    assert_eq!(files.config().unwrap().auto, Auto::Check);
    assert_eq!(files.problems().len(), 1);
    assert_eq!(Conf::load(&files.conf()).unwrap().warnings, []);
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
