//! Locks of a FleetLock server: the server is a stand-in with a real count of locks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::{Arc, Mutex};

use bootenv::SlotId;
use serde_json::{Value, json};

use crate::cli_support::{Device, publish};
use crate::common::fault::{Fault, reply};
use crate::common::registry::Registry;

/// The devices that have a lock, by group.
type Locks = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// A server that grants one lock for each group.
fn server(locks: &Locks) -> Fault {
    let locks = locks.clone();
    Fault::start(move |request, out| {
        let asked: Value = serde_json::from_str(&request.body).unwrap();
        let word = |name: &str| asked["client_params"][name].as_str().unwrap().to_owned();
        if request.method != "POST" || request.header("fleet-lock-protocol") != Some("true") {
            return reply(out, 400, "", b"no FleetLock");
        }
        let mut locks = locks.lock().unwrap();
        let held = locks.entry(word("group")).or_default();
        let free = held.is_empty() || held.contains(&word("id"));
        match request.path.as_str() {
            "/v1/pre-reboot" if free => {
                held.insert(word("id"));
            }
            "/v1/pre-reboot" => {
                return reply(out, 409, "", br#"{"kind": "failed_lock", "value": "no free slot in the group"}"#);
            }
            "/v1/steady-state" => {
                held.remove(&word("id"));
            }
            _ => return reply(out, 404, "", b""),
        }
        reply(out, 200, "", b"");
    })
}

fn holders(locks: &Locks, group: &str) -> usize {
    locks.lock().unwrap().get(group).map_or(0, BTreeSet::len)
}

/// A device with a staged release, which asks this server.
fn device(registry: &Registry, server: &impl AsRef<str>, id: &str) -> Device {
    let device = Device::new();
    let address = server.as_ref();
    device.write("id", format!("{id}\n").as_bytes());
    let settings =
        format!("fleetlock_url=http://{address}\nfleetlock_group=edge\nplain_http={address}\nmachine_id_file=id\n");
    device.write("conf", settings.as_bytes());
    device.from(registry, &["apply"]).code(0);
    device
}

const IDS: [&str; 2] = ["00000000000000000000000000000001", "00000000000000000000000000000002"];

#[test]
fn of_a_group_one_device_is_on_trial_and_the_next_one_after_its_commit() {
    let (registry, locks) = (Registry::start(), Locks::default());
    let server = server(&locks);
    publish(&registry, "1.0.0", 1);
    let [first, second] = IDS.map(|id| device(&registry, &server, id));

    first.here(&["activate"]).code(0);
    let id = first.here(&["status", "--json"]).json()["public_id"].clone();
    assert!(locks.lock().unwrap()["edge"].contains(id.as_str().unwrap()));
    assert_ne!(id, IDS[0], "machine-id(5) keeps it from the network");
    let before = (second.env_bytes(), second.tree("B"));
    let error = second.here(&["activate", "--json"]).refused(75, "fleetlock");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("refuses group edge: 409 failed_lock: no free slot in the group"), "{message}");
    assert_eq!((second.env_bytes(), second.tree("B")), before);

    // The lock is kept over the reboot, and the whole trial.
    first.power_on();
    assert_eq!(holders(&locks, "edge"), 1);
    first.here(&["healthcheck"]).code(0);
    assert_eq!((first.env().active, holders(&locks, "edge")), (SlotId::B, 0));
    assert!(!first.path("S/fleetlock.json").exists());
    second.here(&["activate"]).code(0);
    assert_eq!(holders(&locks, "edge"), 1);
}

/// While the device restarts once more, it still needs the lock.
#[test]
fn after_a_revert_the_lock_is_released_by_the_slot_that_is_back() {
    let (registry, locks) = (Registry::start(), Locks::default());
    let server = server(&locks);
    publish(&registry, "1.0.0", 1);
    let device = device(&registry, &server, IDS[0]);
    device.here(&["activate"]).code(0);
    device.power_on();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert_eq!(holders(&locks, "edge"), 1);
    device.power_on();
    fs::remove_dir_all(device.path("health.d")).unwrap();
    device.here(&["healthcheck"]).code(0);
    assert_eq!((device.env().active, holders(&locks, "edge")), (SlotId::A, 0));
}

/// A power cut between the grant and the store leaves a lock without a trial, and an outage at the release one too many.
#[test]
fn a_lock_that_serves_no_trial_is_released_by_the_next_run() {
    let (registry, locks) = (Registry::start(), Locks::default());
    let server = server(&locks);
    publish(&registry, "1.0.0", 1);
    let device = device(&registry, &server, IDS[0]);
    let held = json!({
        "schema": 1, "url": format!("http://{}", server.address), "group": "before", "id": IDS[1],
        "since": "2026-01-01T00:00:00Z",
    });
    locks.lock().unwrap().entry("before".into()).or_default().insert(IDS[1].to_owned());
    device.write("S/fleetlock.json", held.to_string().as_bytes());
    // The settings of today name another group.
    device.power_on();
    let ran = device.here(&["healthcheck"]).code(0);
    assert_eq!((holders(&locks, "before"), device.path("S/fleetlock.json").exists()), (0, false), "{ran:?}");
    // A server that is away at the release is asked again.
    let away =
        json!({"schema": 1, "url": "http://127.0.0.1:1", "group": "edge", "id": "x", "since": "2026-01-01T00:00:00Z"});
    device.write("S/fleetlock.json", away.to_string().as_bytes());
    let ran = device.from(&registry, &["run"]).code(0);
    assert!(ran.stderr.contains("the FleetLock server http://127.0.0.1:1/ "), "{ran:?}");
    assert!(device.path("S/fleetlock.json").exists());
}

#[test]
fn a_server_that_is_away_holds_the_activation_back_until_a_person_says_otherwise() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    for status in [None, Some(404), Some(503), Some(301)] {
        let server = Fault::start(move |_, out| {
            if let Some(status) = status {
                reply(out, status, "Location: /elsewhere\r\n", b"<html>");
            }
        });
        let device = device(&registry, &server, IDS[0]);
        let before = device.env_bytes();
        let error = device.here(&["activate", "--json"]).refused(75, "fleetlock");
        assert!(error["remedy"].as_str().unwrap().contains("activate --force"), "{error}");
        assert_eq!(device.env_bytes(), before);
        // A redirect is not followed.
        assert_eq!(server.count("elsewhere"), 0);
        let forced = device.here(&["activate", "--force"]).code(0);
        assert!(forced.stderr.contains("the update continues without a lock"), "{forced:?}");
    }
}
