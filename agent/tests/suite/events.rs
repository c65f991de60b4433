//! Steps of attempts as CloudEvents, for the receiver of `event_url=`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use kubesolo_update::base::limits;
use kubesolo_update::state::history::Entry;
use kubesolo_update::state::records::{CheckRun, HookRun, Record};
use kubesolo_update::state::store::Store;
use kubesolo_update::update::records::LockedRecords;
use serde_json::{Value, json};

use crate::cli_support::trace::{can_trace, traced};
use crate::cli_support::{Device, publish};
use crate::common::fault::{Fault, reply};
use crate::common::registry::Registry;

/// A receiver: the bodies that it took, in order. `status` answers each request.
fn receiver(status: impl Fn(usize) -> u16 + Send + Sync + 'static) -> (Fault, Arc<Mutex<Vec<Value>>>) {
    let (taken, all) = (Arc::<Mutex<Vec<Value>>>::default(), Arc::new(Mutex::new(0)));
    let into = taken.clone();
    let server = Fault::start(move |request, out| {
        let mut all = all.lock().unwrap();
        *all += 1;
        assert_eq!(request.header("content-type"), Some("application/cloudevents+json; charset=utf-8"));
        let status = status(*all);
        if status == 200 {
            into.lock().unwrap().push(serde_json::from_str(&request.body).unwrap());
        }
        reply(out, status, "Location: http://127.0.0.1:9/elsewhere\r\n", b"");
    });
    (server, taken)
}

/// A device that sends its events there, and updates by its timer.
fn device(registry: &Registry, receiver: &str) -> Device {
    let device = Device::new();
    let settings = format!(
        "event_url=http://{receiver}/hook?token=hunter2\nplain_http={receiver} {at}\nauto=activate\nregistry={at}/os\n\
         channel=stable\npubkey=K\ndata_dir=data\nhealth_dir=health.d\nmachine_id_file=id\n",
        at = registry.address
    );
    device.write("conf", settings.as_bytes());
    device.write("id", b"0123456789abcdef0123456789abcdef\n");
    device
}

fn steps(events: &[Value]) -> Vec<String> {
    events.iter().map(|event| event["data"]["step"].as_str().unwrap().to_owned()).collect()
}

fn pending(device: &Device) -> usize {
    Store::new(&device.path("S/state.json")).pending_events().unwrap().len()
}

/// A release that is committed, and one that fails its trial.
fn two_updates(registry: &Registry, device: &Device) {
    publish(registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    publish(registry, "2.0.0", 2);
    device.here(&["run"]).code(0);
    device.fails_its_trial_and_is_back();
}

const STEPS: [&str; 12] = [
    "applying",
    "staged",
    "activated",
    "health-checking",
    "succeeded",
    "applying",
    "staged",
    "activated",
    "health-checking",
    "failed",
    "rollback-started",
    "rolled-back",
];

#[test]
fn each_step_of_an_update_reaches_the_receiver_once_and_in_order() {
    let registry = Registry::start();
    let (server, taken) = receiver(|_| 200);
    let device = device(&registry, &server.address);
    two_updates(&registry, &device);
    let events = taken.lock().unwrap().clone();
    assert_eq!(steps(&events), STEPS);
    let number = |event: &Value| event["sequence"].as_str().unwrap().parse().unwrap();
    let sequence: Vec<u64> = events.iter().map(number).collect();
    assert_eq!(sequence, (1..=12).collect::<Vec<_>>());
    assert_eq!(pending(&device), 0);
    let failed = &events[9]["data"];
    assert_eq!((&failed["to_version"], &failed["asked_by"]), (&json!("2.0.0"), &json!("timer")));
    assert!(failed["error"].as_str().unwrap().contains("unhealthy: 10-node"), "{failed}");
    assert_eq!((&failed["exit_code"], &failed["reason"]), (&json!(77), &json!("unhealthy")));
    device.here(&["metrics"]).code(0).says(&["kubesolo_update_events_pending 0\n"]);
}

#[test]
fn events_wait_in_order_for_a_receiver_that_fails_and_no_verdict_waits_for_it() {
    let registry = Registry::start();
    // 500, a redirect, a refusal; then it takes one event and refuses the next one.
    let (server, taken) = receiver(|request| match request {
        1 => 500,
        2 => 302,
        3 => 403,
        5 => 503,
        _ => 200,
    });
    let device = device(&registry, &server.address);
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    assert_eq!(pending(&device), 3);
    device.power_on();
    let ran = device.here(&["healthcheck"]).code(0);
    assert!(ran.stderr.contains("5 events wait for their receiver: http://127.0.0.1:"), "{ran:?}");
    assert!(!ran.stderr.contains("hunter2"), "{ran:?}");
    assert_eq!(device.phase(), "success");
    device.here(&["metrics"]).code(0).says(&["kubesolo_update_events_pending 5\n"]);
    device.here(&["run"]).code(0);
    device.here(&["run"]).code(0);
    assert_eq!((steps(&taken.lock().unwrap()), pending(&device)), (vec!["applying".to_owned()], 4));
    device.here(&["run"]).code(0);
    assert_eq!(steps(&taken.lock().unwrap()), STEPS[..5]);
    assert_eq!(server.count("elsewhere"), 0, "no redirect is followed");
}

/// The phase of the device at each request.
fn phases(device: &Device, answers: bool) -> (Fault, Arc<Mutex<Vec<String>>>) {
    let (state, seen) = (device.path("S/state.json"), Arc::<Mutex<Vec<String>>>::default());
    let into = seen.clone();
    let server = Fault::start(move |_, out| {
        let state: Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
        into.lock().unwrap().push(state["phase"].as_str().unwrap().into());
        if answers {
            return reply(out, 200, "", b"");
        }
        // Until the device gives up.
        let _ = std::io::Read::read(out, &mut [0]);
    });
    (server, seen)
}

#[test]
fn the_receiver_is_asked_only_after_a_verdict_and_never_between_a_revert_and_its_reboot() {
    let registry = Registry::start();
    let device = device(&registry, "127.0.0.1:9");
    let (server, seen) = phases(&device, true);
    let conf = fs::read_to_string(device.path("conf")).unwrap().replace("127.0.0.1:9", &server.address);
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    device.write("conf", conf.as_bytes());
    device.power_on();
    device.make_unhealthy();
    for _ in 0..2 {
        device.here(&["healthcheck", "--auto-rollback-after", "2"]).code(1);
    }
    assert_eq!((device.phase().as_str(), seen.lock().unwrap().len()), ("rolled_back", 0));
    device.make_healthy();
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(*seen.lock().unwrap(), vec!["rolled_back"; 7]);
}

#[test]
fn a_receiver_that_never_answers_is_left_alone_after_20_seconds_in_all() {
    let registry = Registry::start();
    let device = device(&registry, "127.0.0.1:9");
    let (server, seen) = phases(&device, false);
    let conf = fs::read_to_string(device.path("conf")).unwrap().replace("127.0.0.1:9", &server.address);
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    device.write("conf", conf.as_bytes());
    device.power_on();
    let ran = device.here(&["healthcheck"]).code(0);
    assert!(ran.stderr.contains("5 events wait for their receiver"), "{ran:?}");
    assert_eq!((seen.lock().unwrap().clone(), pending(&device)), (vec!["success".to_owned()], 5));
}

#[test]
fn an_answer_without_end_is_not_read() {
    let registry = Registry::start();
    let server = Fault::start(|_, out| {
        use std::io::Write;
        let _ = out.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while out.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let device = device(&registry, &server.address);
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    assert_eq!(pending(&device), 0);
}

#[test]
fn a_run_that_is_killed_repeats_an_event_with_the_same_id_and_loses_none() {
    let registry = Registry::start();
    let (server, taken) = receiver(|_| 200);
    let device = device(&registry, &server.address);
    publish(&registry, "1.0.0", 1);
    device.here(&["apply", "--activate"]).code(0);
    let copies = device.names("S/outbox").into_iter().map(|name| device.path("S/outbox").join(name));
    let copies: Vec<_> = copies.map(|path| (fs::read(&path).unwrap(), path)).collect();
    assert_eq!(pending(&device), 3);
    device.here(&["run"]).code(0);
    // The first event was taken, and the power went before its file was renamed.
    for name in device.names("S/outbox") {
        fs::remove_file(device.path("S/outbox").join(name)).unwrap();
    }
    copies.iter().for_each(|(bytes, path)| fs::write(path, bytes).unwrap());
    device.here(&["run"]).code(0);
    let ids: Vec<_> = taken.lock().unwrap().iter().map(|event| event["id"].clone()).collect();
    assert_eq!(ids[..3], ids[3..]);
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
}

/// Ids of all steps in the records of a device, as their events have them.
fn recorded(device: &Device) -> BTreeSet<String> {
    let folder = device.path("S/records");
    let names = if folder.exists() { device.names("S/records") } else { vec![] };
    let records = names.iter().filter(|name| name.ends_with(".json")).map(|name| fs::read(folder.join(name)).unwrap());
    let of = |record: Value| {
        let id = record["id"].as_str().unwrap().to_owned();
        let steps = record["steps"].as_array().unwrap().clone();
        steps.into_iter().map(move |step| format!("{id}.{}-{}", step["number"], step["step"].as_str().unwrap()))
    };
    records.flat_map(|bytes| of(serde_json::from_slice(&bytes).unwrap())).collect()
}

/// A file counts once it has its name.
#[test]
fn each_recorded_step_reaches_the_receiver_wherever_the_run_was_killed() {
    if !can_trace() {
        return;
    }
    let registry = Registry::start();
    let (server, taken) = receiver(|_| 200);
    publish(&registry, "1.0.0", 1);
    for number in 1.. {
        let device = device(&registry, &server.address);
        let killed = traced(&device, &device.local(&["run"]), &[format!("inject=rename:signal=SIGKILL:when={number}")]);
        device.here(&["run"]).code(0);
        let ids: BTreeSet<_> =
            taken.lock().unwrap().drain(..).map(|event| event["id"].as_str().unwrap().to_owned()).collect();
        let lost: Vec<_> = recorded(&device).into_iter().filter(|step| !ids.contains(step)).collect();
        assert_eq!(lost, Vec::<String>::new(), "killed at rename {number}");
        if killed.status.success() {
            assert!(number > 12, "{number}: {killed:?}");
            break;
        }
    }
}

#[test]
fn a_full_outbox_loses_the_oldest_events_and_the_numbers_show_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    let mut records = LockedRecords::lock(&path).unwrap();
    records.announce_steps();
    for n in 0..limits::EVENTS as u32 + 3 {
        records.state.begin(format!("{n:08x}"), chrono::Utc::now());
        records.record_rollback(chrono::Utc::now());
    }
    let pending = records.pending_events();
    let numbers: Vec<u64> = pending.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (4..limits::EVENTS as u64 + 4).collect::<Vec<_>>());
    // Numbers go on where all events were taken.
    pending.iter().for_each(|(_, path)| records.event_sent(path).unwrap());
    records.state.begin("ffffffff".into(), chrono::Utc::now());
    records.record_rollback(chrono::Utc::now());
    assert_eq!(records.pending_events()[0].0, limits::EVENTS as u64 + 4);
    assert_eq!(fs::metadata(folder.path().join("outbox")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn events_have_no_texts_of_programs_in_them() {
    let registry = Registry::start();
    let (server, taken) = receiver(|_| 200);
    let device = device(&registry, &server.address);
    device.write("id", b"");
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    device.power_on();
    device.make_unhealthy();
    device.script("health.d/20-leak", "echo password=hunter2; exit 1");
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    {
        let records = LockedRecords::lock(&device.path("S/state.json")).unwrap();
        let attempt = records.state.attempt.id.clone();
        records.add_evidence(&attempt, |evidence| {
            let output = "password=hunter2".to_owned();
            evidence.log = Some(output.clone());
            evidence.panic = Some(output.clone());
            evidence.checks = vec![CheckRun {
                name: "20-leak".into(),
                message: output.clone(),
                output: output.clone(),
                ..CheckRun::default()
            }];
            // The hooks stay when the last good system adds what it finds.
            evidence.hooks = vec![HookRun { name: "30-drain".into(), output, ..HookRun::default() }];
        });
    }
    fs::remove_file(device.path("health.d/20-leak")).unwrap();
    device.make_healthy();
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    let events = taken.lock().unwrap().clone();
    let last = &events.last().unwrap()["data"];
    assert_eq!((&last["step"], &last["evidence"]["hooks"][0]["name"]), (&json!("rolled-back"), &json!("30-drain")));
    assert!(!json!(events).to_string().contains("hunter2"), "{events:#?}");
}

#[test]
fn without_a_receiver_nothing_waits_for_one() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    assert!(!device.path("S/outbox").exists());
}

/// A receiver with the SDK of CloudEvents. It writes each event that it understands, as one line of JSON.
const SDK: &str = r#"
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from cloudevents.http import from_http

class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        event = from_http(dict(self.headers.items()), body)
        print(json.dumps({**event.get_attributes(), "data": event.get_data()}), flush=True)
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
#[ignore = "needs the CloudEvents SDK: part of make test-all"]
fn the_sdk_of_cloudevents_reads_each_event() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/python");
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", SDK]).env("PYTHONPATH", tools).stdout(Stdio::piped());
    let mut python = Killed(python.spawn().unwrap());
    let mut lines = BufReader::new(python.0.stdout.take().unwrap()).lines();
    let port: u16 = lines.next().expect("the SDK of CloudEvents in target/tools/python").unwrap().parse().unwrap();
    let registry = Registry::start();
    let device = device(&registry, &format!("127.0.0.1:{port}"));
    two_updates(&registry, &device);
    drop(python);
    let events: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    assert_eq!(steps(&events), STEPS);
    let status = device.here(&["status", "--json"]).json();
    let shown = status["public_id"].as_str().unwrap();
    for event in &events {
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["source"], format!("/kubesolo-update/{shown}"));
        assert_eq!(event["datacontenttype"], "application/json");
        let (kind, step) = (event["type"].as_str().unwrap(), event["data"]["step"].as_str().unwrap());
        assert_eq!(kind, format!("io.kubesolo.update.{step}"));
        assert_eq!(event["subject"], event["data"]["attempt"]);
        assert!(chrono::DateTime::parse_from_rfc3339(event["time"].as_str().unwrap()).is_ok());
    }
}

#[test]
fn an_event_fits_into_a_block_whatever_the_record_has() {
    let long = "\u{1b}".repeat(100_000);
    let mut record = Record::default();
    record.follow(Entry { error: long, phase: kubesolo_update::state::phase::Phase::Failed, ..Entry::default() });
    let event = kubesolo_update::state::outbox::Event::of(&record, &record.steps[0]);
    assert!(serde_json::to_string(&event).unwrap().len() < 4096);
}
