//! Every document of `--json` is one of its schema in `docs/schema`: no member more, none less, each of its type.

use crate::{cli_support, common};

use std::fs;

use chrono::{SecondsFormat, Utc};
use cli_support::{Device, publish, publish_as};
use common::registry::Registry;
use common::schema::Documents;
use kubesolo_release::Metadata;
use kubesolo_release::registry::Access;

/// A device and its documents.
struct Seen {
    registry: Registry,
    device: Device,
    documents: Documents,
}

impl Seen {
    fn new() -> Self {
        let (registry, device) = (Registry::start(), Device::new());
        Self { registry, device, documents: Documents::of("kubesolo-update") }
    }

    /// A command without a source.
    #[track_caller]
    fn here(&mut self, schema: &str, arguments: &[&str]) {
        let ran = self.device.here(&[arguments, &["--json"]].concat());
        self.documents.add(schema, &ran.json());
    }

    /// A command that asks the registry.
    #[track_caller]
    fn from(&mut self, schema: &str, arguments: &[&str]) {
        let ran = self.device.from(&self.registry, &[arguments, &["--json", "--progress", "json"]].concat());
        self.documents.add(schema, &ran.json());
        let lines = ran.stderr.lines().filter(|line| line.starts_with('{'));
        lines.for_each(|line| self.documents.add("progress", &serde_json::from_str(line).unwrap()));
    }
}

#[test]
fn every_document_is_as_its_schema_says() {
    let mut seen = Seen::new();
    updates(&mut seen);
    failures(&mut seen);
    data(&mut seen);
    wave(&mut seen);
    intake(&mut seen);
    for name in ["verify", "history", "receipt", "doctor", "metrics", "status", "explain"] {
        seen.here(name, &[name]);
    }
    seen.here("history-last", &["history", "--last"]);
    seen.here("trust-reset-time", &["trust", "reset-time"]);
    seen.here("trust-reset-time", &["trust", "reset-time"]);
    seen.here("config-show", &["config", "show"]);
    old_loader(&mut seen);
    // `disk` needs the disk of a device.
    seen.documents.judge(&["disk"]);
}

/// An update to its commit, with the reports before, in between and after.
fn updates(seen: &mut Seen) {
    seen.here("status", &["status"]);
    let plain = Metadata::new("1.0.0".parse().unwrap(), "stable");
    let notes = Metadata { release_notes: Some("for people".into()), ..plain };
    publish_as(&seen.registry, 1, notes, "os:stable");
    seen.from("check", &["check"]);
    seen.from("apply", &["apply", "--dry-run"]);
    seen.from("apply", &["apply"]);
    seen.here("status", &["status"]);
    seen.from("apply", &["run"]);
    seen.here("apply", &["activate"]);
    seen.here("rollback", &["rollback"]);
    seen.here("error", &["activate"]);
    seen.from("apply", &["apply", "--retry-failed", "--activate"]);
    seen.device.power_on();
    seen.here("status", &["status"]);
    seen.here("healthcheck", &["healthcheck"]);
}

/// A trial that fails, a closed gate, a damaged slot, wrong settings and wrong commands.
fn failures(seen: &mut Seen) {
    seen.here("error", &["activate"]);
    seen.here("error", &["nonsense"]);
    publish(&seen.registry, "1.1.0", 2);
    seen.from("apply", &["apply", "--activate"]);
    seen.device.power_on();
    seen.device.make_unhealthy();
    seen.here("healthcheck", &["healthcheck", "--auto-rollback-after", "1"]);
    seen.device.make_healthy();
    seen.device.power_on();
    seen.from("check", &["check"]);
    seen.from("error", &["apply"]);
    seen.here("status", &["status"]);
    seen.device.write("A/vmlinuz", b"damaged");
    seen.here("verify", &["verify"]);
    seen.device.write("conf", b"chanel=x\nmaintenance_window=Sat 01:00-02:00\nchannel=a\nchannel=b\n");
    let arguments = ["--conf", "conf", "--json", "config"];
    for (schema, more) in [("config-check", "check"), ("error", "show")] {
        let ran = seen.device.run(&[&arguments[..], &[more]].concat());
        seen.documents.add(schema, &ran.json());
    }
    seen.device.write("conf", b"maintenance_window=Sat 01:00-02:00\nfreshness_pubkey=K\n");
    seen.here("status", &["status"]);
    seen.here("config-show", &["config", "show"]);
    seen.from("check", &["check"]);
    seen.device.write("conf", b"removable_bundles=stage\n");
    seen.here("no-stick", &["run"]);
    fs::remove_file(seen.device.path("conf")).unwrap();
    let absent = seen.registry.address.clone() + "/absent";
    let check = ["check", "--json", "--registry", &absent, "--plain-http", &seen.registry.address];
    let ran = seen.device.run(&seen.device.local(&check));
    seen.documents.add("error", &ran.json());
    let laptop = ["--conf", "/dev/null", "--state", "absent/state.json", "--pubkey", "K", "--json"];
    let reference = seen.registry.address.clone() + "/os";
    let source = ["--registry", &reference, "--tag", "stable", "--plain-http", &seen.registry.address];
    let ran = seen.device.run(&[&["check"], &laptop[..], &source].concat());
    seen.documents.add("check", &ran.json());
}

/// A release whose first wave comes without this device.
fn wave(seen: &mut Seen) {
    let plain = Metadata::new("1.3.0".parse().unwrap(), "stable");
    let release_date = Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true);
    let rollout = Some("1%@0h,100%@72h".parse().unwrap());
    publish_as(&seen.registry, 4, Metadata { release_date, rollout, ..plain }, "os:stable");
    seen.device.write("conf", b"wariness=100\n");
    seen.from("check", &["check"]);
    seen.from("error", &["run"]);
    seen.here("status", &["status"]);
    fs::remove_file(seen.device.path("conf")).unwrap();
}

/// A checkpoint, one that would not fit, and its end.
fn data(seen: &mut Seen) {
    fs::create_dir(seen.device.path("kine")).unwrap();
    seen.device.write("kine/state", b"old");
    seen.here("data", &["data"]);
    seen.here("data-status", &["data", "status"]);
    seen.here("data-check", &["data", "check"]);
    publish(&seen.registry, "1.2.0", 3);
    seen.from("apply", &["apply", "--activate"]);
    seen.here("data-status", &["data", "status"]);
    let _ = fs::remove_file(seen.device.path("S/data-step"));
    seen.device.power_on();
    seen.here("data", &["data"]);
    seen.here("data-status", &["data", "status"]);
    seen.here("healthcheck", &["healthcheck"]);
    seen.here("status", &["status"]);
    fs::File::create(seen.device.path("kine/large")).unwrap().set_len(8 << 40).unwrap();
    seen.here("data-check", &["data", "check"]);
    fs::remove_file(seen.device.path("kine/large")).unwrap();
    seen.here("data-drop", &["data", "drop"]);
}

/// A bundle that is accepted, and a file that is none.
fn intake(seen: &mut Seen) {
    let (address, file) = (seen.registry.address.clone(), seen.device.path("bundle.tar"));
    let access = Access { plain_http: vec![address.clone()], ..Access::default() };
    kubesolo_release::bundle::bundle(&format!("{address}/os:stable"), &file, None, &access).unwrap();
    for file in ["bundle.tar", "missing.tar"] {
        seen.here("intake", &["intake", "add", file, "--pubkey", "K"]);
    }
    seen.here("intake-list", &["intake", "list"]);
    let all = seen.device.here(&["intake", "list", "--json"]).json();
    let id = all[0]["id"].as_str().unwrap().to_owned();
    seen.here("intake", &["intake", "show", &id]);
    seen.here("intake-drop", &["intake", "drop", &id]);
}

/// A device of KubeSolo OS that is switched over.
fn old_loader(seen: &mut Seen) {
    let device = Device::new();
    device.write("grub.cfg", include_bytes!("../../../bootenv/tests/kubesolo-os.cfg"));
    device.write("cmdline", b"BOOT_IMAGE=/vmlinuz kubesolo.slot=A console=ttyS0,115200n8 panic=0 quiet\n");
    seen.device = device;
    seen.here("adopt", &["adopt"]);
    seen.here("adopt", &["adopt"]);
}
