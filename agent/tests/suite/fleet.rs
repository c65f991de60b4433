//! The files of the folder `fleet`: alerts, dashboard and Ansible role, against the program and the tools that read them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kubesolo_update::base::digest::Digest;
use serde_json::Value;

use crate::cli_support::{Device, publish};
use crate::common::registry::Registry;

fn fleet(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fleet")).join(path)
}

/// Each word of a text that has the form of a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("kubesolo_update_")).map(str::to_owned).collect()
}

/// An alert or a panel on a metric that does not exist stays silent for ever.
#[test]
fn alerts_and_dashboard_use_metrics_that_exist() {
    let docs = fs::read_to_string(fleet("../docs/operating.md")).unwrap();
    // `the_documentation_names_every_metric_and_every_gate` holds this page against the program.
    let known = metrics_in(&docs);
    let rules = fs::read_to_string(fleet("prometheus/kubesolo-update.rules.yml")).unwrap();
    let dashboard: Value =
        serde_json::from_slice(&fs::read(fleet("grafana/kubesolo-update.json")).unwrap()).expect("JSON");
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<_> = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap()).collect();
    assert!(!panels.is_empty() && queries.iter().all(|query| query["expr"].is_string()), "{queries:#?}");
    for text in [rules, dashboard.to_string()] {
        let used = metrics_in(&text);
        assert!(!used.is_empty());
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "no such metric: {unknown:?}");
    }
}

#[test]
fn promtool_accepts_the_alerts_and_their_tests() {
    for (command, file) in [("check", "kubesolo-update.rules.yml"), ("test", "kubesolo-update.test.yml")] {
        match Command::new("promtool").args([command, "rules", file]).current_dir(fleet("prometheus")).output() {
            Err(_) => println!("promtool is not here"),
            Ok(output) => assert!(output.status.success(), "{output:?}"),
        }
    }
}

/// A device that finds its settings in a file, as real ones do, and a playbook that runs the role on it.
fn ansible(device: &Device, action: &str) -> Output {
    let play = format!(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  roles:\n  - role: kubesolo_update\n    vars:\n      \
         kubesolo_update_action: {action}\n      kubesolo_update_program: {}\n      kubesolo_update_reboot: false\n  \
         tasks:\n  - ansible.builtin.copy:\n      content: \"{{{{ kubesolo_update_status | to_json }}}}\"\n      dest: {}\n    \
         when: kubesolo_update_status is defined\n",
        device.path("agent").display(),
        device.path("status.json").display(),
    );
    device.write("play.yml", play.as_bytes());
    Command::new("ansible-playbook")
        .args(["-i", "localhost,", "play.yml"])
        .current_dir(device.dir.path())
        .env("ANSIBLE_ROLES_PATH", fleet("ansible/roles"))
        .env("ANSIBLE_LOCALHOST_WARNING", "false")
        .env("ANSIBLE_LOCAL_TEMP", device.path("ansible"))
        .env("ANSIBLE_REMOTE_TEMP", device.path("ansible"))
        .output()
        .unwrap()
}

#[track_caller]
fn recap(output: &Output, changed: u32) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains(&format!("changed={changed} ")), "{text}\n{output:?}");
}

/// Only `gather` sets the status here, and the playbook writes it into a file: the one change there.
#[test]
#[ignore = "needs ansible: part of make test-all"]
fn the_role_reads_a_device_updates_it_and_goes_back() {
    let (registry, device) = (Registry::start(), Device::new());
    let settings = format!(
        "registry={0}/os\nchannel=stable\nplain_http={0}\npubkey=K\nslot_a=A\nslot_b=B\nbootenv=grub:grubenv\n\
         data_dir=data\nhealth_dir=health.d\n",
        registry.address
    );
    device.write("conf", settings.as_bytes());
    device.script(
        "agent",
        &format!(
            "cd {} || exit\n[ ! -e cmdline ] || set -- \"$@\" --cmdline cmdline\nexec {} --conf conf --state S/state.json \"$@\"",
            device.dir.path().display(),
            device.program.display()
        ),
    );
    publish(&registry, "1.0.0", 1);
    recap(&ansible(&device, "gather"), 1);
    let status: Value = serde_json::from_slice(&fs::read(device.path("status.json")).unwrap()).unwrap();
    assert_eq!(status["phase"], "idle");

    recap(&ansible(&device, "apply"), 1);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(device.phase(), "success");
    let before = Digest::of(&device.env_bytes());
    recap(&ansible(&device, "apply"), 0);
    assert_eq!(Digest::of(&device.env_bytes()), before, "the release on offer runs already");

    device.write("conf", [settings.as_bytes(), b"maintenance_window=03:00-03:00\n"].concat().as_slice());
    publish(&registry, "2.0.0", 2);
    let held = ansible(&device, "apply");
    recap(&held, 0);
    assert!(String::from_utf8_lossy(&held.stdout).contains("maintenance window"), "{held:?}");

    device.write("conf", settings.as_bytes());
    recap(&ansible(&device, "apply"), 1);
    recap(&ansible(&device, "rollback"), 1);
    assert_eq!(device.phase(), "rolled_back", "the activation is cancelled");
    assert!(!ansible(&device, "reboot").status.success(), "no such action");
}
