//! The differences that an update makes, by `check` and `apply --dry-run`.

use crate::{cli_support, common};

use cli_support::{Device, publish_as};
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_release::extras::Extras;
use serde_json::json;

fn release(version: &str, kernel_args: &str) -> Metadata {
    let extras = Extras { kernel_args: Some(kernel_args.parse().unwrap()), ..Extras::default() };
    Metadata { extras, ..Metadata::new(version.parse().unwrap(), "stable") }
}

/// A device that runs 1.0.0 with some kernel arguments.
fn running(registry: &Registry) -> Device {
    let device = Device::new();
    publish_as(registry, 1, release("1.0.0", "quiet console=tty0 a=1 a=1"), "os:stable");
    device.from(registry, &["apply", "--activate"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    device
}

#[test]
fn a_person_sees_all_that_an_update_changes_before_it_begins() {
    let registry = Registry::start();
    let device = running(&registry);
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!(check.get("changes"), None, "it runs already");
    device.write("conf", b"channel=stable\ncheckpoint_keep=3\nold_key=1\n");
    let plain = release("1.1.0", "quiet console=ttyS0 a=1");
    let extras = Extras {
        requires: ["loader-7".into()].into(),
        agent_settings: Some("channel\nregion!\ntoken!*=hidden\nlevel=3".parse().unwrap()),
        ..plain.extras
    };
    let metadata = Metadata {
        extras,
        security_epoch: Some(2),
        revoked_keys: ["ab".repeat(32).parse().unwrap()].into(),
        supported_until: Some("2999-01-01T00:00:00Z".parse().unwrap()),
        rollout: Some("100%@0h".parse().unwrap()),
        ..plain
    };
    publish_as(&registry, 2, metadata, "os:stable");
    device.from(&registry, &["check"]).code(0).says(&[
        "\nchanges:      kernel ",
        " unpacked (was ",
        "\narguments:    + console=ttyS0  - console=tty0  - a=1\n",
        "\nepoch:        0 to 2, for good\n",
        "\nrevokes:      1 key: abababababababab\n",
        "\nwaves:        100%@0h\n",
        "\nneeds:        loader-7\n",
        "\nsettings:     no effect after the update: checkpoint_keep, old_key\n",
        "\nsettings:     new: region, token, level=3\n",
        "\nsettings:     required, and not set: region, token\n",
    ]);
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    let changes = &check["changes"];
    assert_eq!(
        (&changes["kernel"]["same"], &changes["initramfs"]["same"]),
        (&json!(false), &json!(false)),
        "{check:#}"
    );
    let arguments = json!({"added": ["console=ttyS0"], "removed": ["console=tty0", "a=1"]});
    assert_eq!(changes["kernel_args"], arguments);
    assert_eq!(changes["security_epoch"], json!({"offered": 2, "committed": 0}));
    assert_eq!(changes["settings"]["missing"], json!(["region", "token"]));
    assert!(!check.to_string().contains("hidden"), "{check:#}");
    let gate = check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "settings").unwrap();
    assert_eq!(gate["reason"], "setting-missing");
    assert!(gate["message"].as_str().unwrap().ends_with("does not have: region, token"), "{gate}");
}

#[test]
fn a_rehearsal_names_the_differences_and_an_image_that_stays() {
    let registry = Registry::start();
    let device = running(&registry);
    publish_as(&registry, 1, release("1.1.0", "console=tty0 quiet a=1 a=1"), "os:stable");
    device.from(&registry, &["apply", "--dry-run"]).code(0).says(&[
        "would write 1.1.0 into slot A; nothing was changed\n",
        "\nchanges:      kernel the same; initramfs the same\n",
        "\narguments:    in another order\n",
        "\nnext: kubesolo-update apply\n",
    ]);
    let planned = device.from(&registry, &["apply", "--dry-run", "--json"]).code(0).json();
    assert_eq!(planned["changes"]["kernel"]["same"], true, "{planned:#}");
    assert_eq!(planned["changes"]["kernel"]["size"], planned["changes"]["kernel"]["running_size"], "{planned:#}");
}

/// A setting that is required and set for the next agent, although the running one does not know it.
#[test]
fn a_required_setting_can_be_made_before_the_agent_that_knows_it() {
    let (registry, device) = (Registry::start(), Device::new());
    let extras = Extras { agent_settings: Some("region!".parse().unwrap()), ..Extras::default() };
    let metadata = Metadata { extras, ..Metadata::new("1.0.0".parse().unwrap(), "stable") };
    publish_as(&registry, 1, metadata, "os:stable");
    let refused = device.from(&registry, &["apply", "--json"]).refused(78, "setting-missing");
    assert!(refused["message"].as_str().unwrap().contains("region"), "{refused}");
    device.write("conf", b"region=\n");
    device.from(&registry, &["apply", "--json"]).refused(78, "setting-missing");
    device.write("conf", b"region=eu\n");
    device.from(&registry, &["apply"]).code(0);
}
