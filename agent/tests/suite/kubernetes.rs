//! Kubernetes is well: the health check, and the gate for an upgrade of KubeSolo, against stand-ins of both servers.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use bootenv::SlotId;
use serde_json::{Value, json};

use crate::cli_support::{Device, publish};
use crate::cluster::{Cluster, Fit, TOKEN, node, pod, socket};
use crate::common::registry::Registry;

/// A device with this kubeconfig, whose checks have 4 s: Kubernetes must be well for 2 s of them. It may not be starting.
fn device(kubeconfig: Option<&str>, more: &str) -> Device {
    let device = Device::new();
    if let Some(text) = kubeconfig {
        device.write("kubeconfig", text.as_bytes());
    }
    device.write(
        "conf",
        format!("kubeconfig=kubeconfig\n{}{more}", if more.contains("timeout") { "" } else { "health_timeout=4\n" })
            .as_bytes(),
    );
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1 ks.health_window=0\n");
    device
}

/// Time for a look at thousands of pods on a busy machine.
const SLOWLY: &str = "health_timeout=20\n";

/// The result of the check of Kubernetes; null if it was not made.
fn checked(device: &Device) -> Value {
    let run = device.here(&["healthcheck", "--json"]).json();
    let checks = run["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == "kubernetes").cloned().unwrap_or_default()
}

#[track_caller]
fn passes(device: &Device) {
    let check = checked(device);
    assert_eq!(check["passed"], true, "{check}");
}

#[track_caller]
fn fails(device: &Device, words: &str) {
    let check = checked(device);
    let message = check["message"].as_str().unwrap_or_default();
    assert!(check["passed"] == false && check["wanted"].is_null() && message.contains(words), "{words}: {check}");
}

/// A failed check that only warns.
#[track_caller]
fn warns(device: &Device, words: &str) {
    let check = checked(device);
    let message = check["message"].as_str().unwrap_or_default();
    assert!(check["passed"] == false && check["wanted"] == true && message.contains(words), "{words}: {check}");
}

#[test]
fn a_trial_is_committed_while_kubernetes_is_well_and_reverted_while_it_is_not() {
    let (registry, cluster) = (Registry::start(), Cluster::start());
    publish(&registry, "1.0.0", 1);
    for well in [true, false] {
        let device = device(Some(&cluster.kubeconfig(TOKEN)), "");
        device.from(&registry, &["apply", "--activate"]).code(0);
        device.power_on();
        cluster.set(|world| world.nodes = vec![node("node-7", if well { "True" } else { "False" })]);
        let run = device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(i32::from(!well));
        assert_eq!(device.env().active, if well { SlotId::B } else { SlotId::A }, "{run:?}");
        assert_eq!(run.stdout.contains("node node-7 is not Ready"), !well, "{run:?}");
    }
}

/// The members that `kubectl get` finds.
fn kubectl(device: &Device, arguments: &[&str], path: &str) -> String {
    let mut kubectl = Command::new("kubectl");
    kubectl.current_dir(device.dir.path()).env("HOME", device.dir.path()).args(["--kubeconfig", "kubeconfig", "get"]);
    let output = kubectl.args(arguments).arg(format!("-o=jsonpath={{.items[*].{path}}}")).output();
    let output = output.expect("kubectl (package kubernetes-client)");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The real client reads the same stand-in.
#[test]
fn kubectl_finds_the_same_nodes_and_pods_ready() {
    const READY: &str = "status.conditions[?(@.type==\"Ready\")].status";
    let cluster = Cluster::start();
    let device = device(Some(&cluster.kubeconfig(TOKEN)), "");
    for ready in ["True", "False", "Unknown"] {
        cluster.set(|world| world.nodes = vec![node("node-7", ready)]);
        assert_eq!(kubectl(&device, &["nodes"], READY), ready);
        if ready == "True" { passes(&device) } else { fails(&device, "node node-7 is not Ready") }
    }
    cluster.set(|world| world.nodes = vec![node("node-7", "True")]);
    for (phase, words) in [
        ("Pending", Some("kube-system: dns is Pending")),
        ("Running", Some("kube-system: dns is not Ready")),
        // The kubelet ended them at a shutdown, or they have done their work.
        ("Failed", None),
        ("Succeeded", None),
    ] {
        cluster.set(|world| world.pods = vec![pod("dns", phase, "False")]);
        assert_eq!(kubectl(&device, &["pods", "-n", "kube-system"], "status.phase"), phase);
        assert_eq!(kubectl(&device, &["pods", "-n", "kube-system"], READY), "False");
        words.map_or_else(|| passes(&device), |words| fails(&device, words));
    }
}

#[test]
fn of_several_nodes_that_of_this_device_counts() {
    let cluster = Cluster::start();
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_lowercase();
    cluster.set(|world| world.nodes = vec![node("left", "False"), node(&hostname, "True"), node("node-7", "True")]);
    passes(&device(Some(&cluster.kubeconfig(TOKEN)), ""));
    fails(&device(Some(&cluster.kubeconfig(TOKEN)), "node_name=left\n"), "node left is not Ready");
    fails(&device(Some(&cluster.kubeconfig(TOKEN)), "node_name=none\n"), "node: its answer is 404");
    // A pod of another node is none of this device's business.
    cluster.set(|world| world.pods = vec![pod("dns", "Pending", "False")]);
    passes(&device(Some(&cluster.kubeconfig(TOKEN)), ""));
    fails(&device(Some(&cluster.kubeconfig(TOKEN)), "node_name=node-7\n"), "dns is Pending");
}

#[test]
fn thousands_of_pods_are_read_in_pages() {
    let cluster = Cluster::start();
    let device = device(Some(&cluster.kubeconfig(TOKEN)), SLOWLY);
    let mut pods: Vec<_> = (0..3000).map(|n| pod(&format!("pod-{n}"), "Running", "True")).collect();
    cluster.set(|world| world.pods = pods.clone());
    passes(&device);
    assert!(cluster.server.count("limit=100&continue=2900") >= 1);
    for n in [5, 700, 1500, 2999] {
        pods[n] = pod(&format!("pod-{n}"), "Pending", "False");
    }
    cluster.set(|world| world.pods = pods);
    fails(&device, "kube-system: pod-5 is Pending, pod-700 is Pending, pod-1500 is Pending, and 1 more");
}

#[test]
fn a_server_that_misbehaves_is_not_waited_for_and_never_counts_as_well() {
    let cluster = Cluster::start();
    let device = device(Some(&cluster.kubeconfig(TOKEN)), "");
    let slow = self::device(Some(&cluster.kubeconfig(TOKEN)), SLOWLY);
    let strict = self::device(Some(&cluster.kubeconfig(TOKEN)), &format!("{SLOWLY}health_kubernetes=yes\n"));
    let set = |fit, pods: usize| {
        let pods = (0..pods).map(|n| pod(&format!("{n}-{}", "x".repeat(900)), "Running", "True")).collect();
        cluster.set(|world| (world.pods, world.fit) = (pods, Some(fit)));
    };
    for (fit, words) in [
        (Fit::Hangs, "pods of kube-system: "),
        (Fit::Half, "pods of kube-system: EOF"),
        (Fit::Cut, "pods of kube-system: "),
        (Fit::NotReady, "readyz: its answer is 500"),
    ] {
        set(fit, 50);
        fails(&device, words);
    }
    // These would not change with another release: they only warn, unless the settings ask for the check.
    for (fit, pods, words) in [
        (Fit::Forbids, 1, "the account of the kubeconfig may not read this"),
        (Fit::NoPages, 4700, "its answer has more than 4194304 bytes"),
        (Fit::Endless, 100, "kube-system has more than 5000 pods"),
    ] {
        set(fit, pods);
        warns(&slow, words);
        fails(&strict, words);
    }
    fails(&self::device(Some(&cluster.kubeconfig("wrong")), ""), "its answer is 401");
    let away = cluster.kubeconfig(TOKEN).replace("https://127.0.0.1:", "https://127.0.0.2:");
    fails(&self::device(Some(&away), ""), "https://127.0.0.2:");
}

#[test]
fn the_setting_decides_whether_there_must_be_a_kubernetes() {
    let cluster = Cluster::start();
    assert_eq!(checked(&device(None, "")), Value::Null);
    fails(&device(None, "health_kubernetes=yes\n"), "there is no kubeconfig");
    let unusable = cluster.kubeconfig(TOKEN).replace("server: https", "server: ftp");
    warns(&device(Some(&unusable), ""), "is not an https URL");
    fails(&device(Some(&unusable), "health_kubernetes=yes\n"), "is not an https URL");
    assert_eq!(checked(&device(Some(&unusable), "health_kubernetes=no\n")), Value::Null);
    assert!(cluster.server.requests().is_empty());
}

/// The answer of the socket, see KubeSolo's `docs/configuration/upgrade-api.md`.
fn status(healthy: bool, upgrade: &Value) -> String {
    let dns = if healthy { "ok" } else { "no ready CoreDNS pod" };
    let checks = json!({"apiserver": "ok", "node": "ok", "coredns": dns});
    let health = json!({"healthy": healthy, "checks": checks});
    json!({"version": "v1.2.2", "containerMode": false, "health": health, "upgrade": upgrade}).to_string()
}

#[test]
fn kubesolo_itself_is_believed_where_it_answers() {
    let cluster = Cluster::start();
    let idle = json!({"inFlight": false});
    let with = |answer: Option<(u16, String)>| {
        let device = device(Some(&cluster.kubeconfig(TOKEN)), "");
        socket(&device.path("data"), move |path| if path == "/api/v1/status" { answer.clone() } else { None });
        device
    };
    cluster.set(|world| world.nodes = vec![node("node-7", "False")]);
    passes(&with(Some((200, status(true, &idle)))));
    cluster.set(|world| world.nodes = vec![node("node-7", "True")]);
    fails(&with(Some((200, status(false, &idle)))), "coredns: no ready CoreDNS pod");
    assert!(cluster.server.requests().is_empty());
    // One that does not answer this question: the API server is asked.
    for answer in [(404, String::new()), (200, "{}".into()), (200, "{".into()), (200, "x".repeat(300_000))] {
        passes(&with(Some(answer)));
    }
    let device = with(Some((200, status(false, &idle))));
    fs::set_permissions(device.path("data/config.sock"), fs::Permissions::from_mode(0o666)).unwrap();
    passes(&device);
    assert!(cluster.server.count("/readyz") >= 5);
}

/// The verdict of the gate, with its message.
fn gate(device: &Device, registry: &Registry) -> (bool, String) {
    let check = device.from(registry, &["check", "--json"]).code(0).json();
    let gate =
        check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == "kubesolo-upgrade").unwrap().clone();
    (gate["open"] == true, gate["message"].as_str().unwrap().to_owned())
}

#[test]
fn no_update_begins_while_kubesolo_changes_its_own_version() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let device = Device::new();
    device.write("conf", b"data_dir=data\n");
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let current = json!({"inFlight": true, "current": {"from": "v1.2.1", "to": "v1.2.2", "phase": "verifying"}});
    for (upgrade, words) in [
        (current, "KubeSolo changes its version from v1.2.1 to v1.2.2"),
        (json!({"inFlight": false, "pendingVerify": "v1.2.2"}), "KubeSolo v1.2.2 has not proved to be healthy yet"),
    ] {
        let answer = status(true, &upgrade);
        socket(&device.path("data"), move |_| Some((200, answer.clone())));
        for command in ["apply", "run"] {
            let error = device.from(&registry, &[command, "--json"]).refused(75, "kubesolo-upgrade");
            assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        }
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    }
    device.from(&registry, &["apply", "--force"]).code(0);
    // It began between the two steps.
    device.here(&["activate", "--json"]).refused(75, "kubesolo-upgrade");
    socket(&device.path("data"), |_| Some((200, status(true, &json!({"inFlight": false})))));
    device.here(&["activate"]).code(0);
}

/// The socket is off by default, and its server is stopped in the middle of an upgrade.
#[test]
fn an_upgrade_of_kubesolo_is_found_in_its_files_where_the_socket_is_silent() {
    let registry = Registry::start();
    publish(&registry, "1.0.0", 1);
    let device = Device::new();
    device.write("conf", b"data_dir=data\n");
    assert!(gate(&device, &registry).0);
    fs::create_dir(device.path("data/upgrade")).unwrap();
    let run = |pid: u32| json!({"current": {"from": "v1", "to": "v2", "pid": pid, "started": "2026-10-08T01:02:03Z"}});
    device.write("data/upgrade/state.json", run(std::process::id()).to_string().as_bytes());
    assert_eq!(gate(&device, &registry), (false, "KubeSolo changes its version from v1 to v2".into()));
    socket(&device.path("data"), |_| Some((503, String::new())));
    assert!(!gate(&device, &registry).0);
    device.write("data/upgrade/state.json", json!({"last": {"from": "v1", "to": "v2"}}).to_string().as_bytes());
    assert!(gate(&device, &registry).0);
    device.write("data/upgrade/pending", b"v2\n");
    assert_eq!(gate(&device, &registry), (false, "KubeSolo v2 has not proved to be healthy yet".into()));
    // The socket knows better.
    socket(&device.path("data"), |_| Some((200, status(true, &json!({"inFlight": false})))));
    assert!(gate(&device, &registry).0);
    // Unknown.
    fs::remove_file(device.path("data/upgrade/pending")).unwrap();
    fs::remove_file(device.path("data/config.sock")).unwrap();
    device.write("data/upgrade/state.json", b"{\"current\": 7");
    let (open, message) = gate(&device, &registry);
    assert!(open && message.starts_with("unknown, which does not hold the update back"), "{message}");
}

/// The annotations of the node: version, phase and trial.
fn reported(cluster: &Cluster) -> [Option<String>; 3] {
    let all = cluster.annotations();
    ["version", "phase", "trial"].map(|name| all.get(&format!("updates.kubesolo.io/{name}")).cloned())
}

#[test]
fn the_node_says_which_release_runs_and_where_its_update_stands() {
    let (registry, cluster) = (Registry::start(), Cluster::start());
    let settings = format!(
        "node_report=yes\nauto=activate\nregistry={0}/os\nchannel=stable\nplain_http={0}\npubkey=K\n",
        registry.address
    );
    let device = device(Some(&cluster.kubeconfig(TOKEN)), &settings);
    let text = |word: &str| Some(word.to_owned());
    publish(&registry, "1.0.0", 1);
    device.here(&["run"]).code(0);
    let trial = device.env().trial.to_string();
    assert_eq!(reported(&cluster), [None, text("activated"), Some(trial)]);
    // Others annotate the node too.
    cluster.set(|world| {
        let others = &mut world.nodes[0].metadata.annotations;
        others.get_or_insert_default().insert("example.com/mine".into(), "kept".into());
    });
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(reported(&cluster), [text("1.0.0"), text("success"), None]);

    publish(&registry, "2.0.0", 2);
    device.here(&["run"]).code(0);
    device.power_on();
    device.make_unhealthy();
    device.here(&["healthcheck", "--auto-rollback-after", "1"]).code(1);
    assert_eq!(reported(&cluster)[1], text("activated"), "a revert waits for nothing");
    device.make_healthy();
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    assert_eq!(reported(&cluster), [text("1.0.0"), text("rolled_back"), None]);
    assert_eq!(cluster.annotations()["example.com/mine"], "kept");
}

#[test]
fn a_node_that_cannot_be_annotated_stops_nothing() {
    let cluster = Cluster::start();
    for (fit, token, words) in [(Some(Fit::Forbids), TOKEN, "its answer is 403"), (None, "bad", "its answer is 401")] {
        cluster.set(|world| world.fit = fit);
        let device = device(Some(&cluster.kubeconfig(token)), "node_report=yes\nhealth_kubernetes=no\n");
        let run = device.here(&["healthcheck"]).code(0);
        assert!(run.stderr.contains("the annotations of the node are out of date: https://127.0.0.1"), "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
    }
    let device = device(Some(&cluster.kubeconfig(TOKEN)), "health_kubernetes=no\n");
    cluster.set(|world| world.fit = None);
    device.here(&["healthcheck"]).code(0);
    assert_eq!(reported(&cluster), [None, None, None], "it is off unless it is asked for");
}
