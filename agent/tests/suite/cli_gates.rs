//! Everything that can put an update off or refuse it, as the real program meets it.

use crate::{cli_support, cluster, common};

use std::fs;
use std::os::unix::fs::PermissionsExt;

use bootenv::grub::Block;
use bootenv::protocol::{BootState, Booted};
use bootenv::uboot::{Environment, Format};
use bootenv::{SlotId, TrialId};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use cli_support::{Device, Ran, publish, publish_as};
use common::nginx::Nginx;
use common::registry::Registry;
use kubesolo_release::Metadata;
use kubesolo_release::extras::Extras;
use kubesolo_update::base::digest::Digest;
use kubesolo_update::base::limits;
use kubesolo_update::release::extras::Requirement;
use kubesolo_update::release::release::Architecture;
use kubesolo_update::schedule::clock::Clock;
use serde_json::{Value, json};

fn gate(check: &Value, name: &str) -> Value {
    let found = check["gates"].as_array().unwrap().iter().find(|gate| gate["name"] == name);
    found.unwrap_or_else(|| panic!("no gate {name} in {check:#}")).clone()
}

/// Publishes a release with this date and these waves.
fn in_waves(registry: &Registry, version: &str, salt: u8, date: DateTime<Utc>, waves: &str) {
    let release_date = date.to_rfc3339_opts(SecondsFormat::Secs, true);
    let plain = Metadata::new(version.parse().unwrap(), "stable");
    publish_as(registry, salt, Metadata { release_date, rollout: Some(waves.parse().unwrap()), ..plain }, "os:stable");
}

#[test]
fn a_device_waits_for_its_wave_and_says_when_it_comes() {
    let (registry, device) = (Registry::start(), Device::new());
    let date = Utc::now() - TimeDelta::hours(1);
    in_waves(&registry, "1.0.0", 1, date, "5%@0h,25%@24h,100%@72h");

    device.write("conf", b"wariness=100\n");
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let error = device.from(&registry, &["run", "--json"]).refused(75, "rollout");
    assert!(error["message"].as_str().unwrap().contains("5 % of the devices may install it by now"), "{error}");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    let last = (date + TimeDelta::hours(72)).to_rfc3339_opts(SecondsFormat::Secs, true);
    assert_eq!(gate(&check, "rollout")["opens_at"], json!(last));
    device.from(&registry, &["check"]).code(0).says(&[
        "is held back by rollout until 20",
        "gate:         closed rollout",
        "; opens 20",
    ]);

    // A person need not wait.
    let lifted = device.from(&registry, &["apply", "--ignore-rollout"]).code(0);
    assert!(lifted.stderr.contains("--ignore-rollout is in effect"), "{lifted:?}");
    // A release that was fetched may be activated: waves do not count any more.
    device.here(&["activate"]).code(0);

    // Canaries go first.
    let canary = Device::new();
    canary.write("conf", b"wariness=0\n");
    canary.from(&registry, &["run"]).code(0).says(&["1.0.0"]);
}

#[test]
fn before_its_date_a_release_is_for_nobody_and_when_all_may_take_it_for_the_wary_too() {
    let registry = Registry::start();
    let canary = Device::new();
    canary.write("conf", b"wariness=0\n");
    in_waves(&registry, "1.0.0", 1, Utc::now() + TimeDelta::hours(3), "5%@0h,100%@72h");
    canary.from(&registry, &["run", "--json"]).refused(75, "rollout");
    // No wave reaches the last ones: the rest waits for the next publication.
    in_waves(&registry, "1.0.0", 1, Utc::now() - TimeDelta::hours(100), "5%@0h,99%@72h");
    let wary = Device::new();
    wary.write("conf", b"wariness=100\n");
    let error = wary.from(&registry, &["run", "--json"]).refused(75, "rollout");
    assert!(error["remedy"].as_str().unwrap().contains("No wave of this release"), "{error}");
    in_waves(&registry, "1.0.0", 1, Utc::now() - TimeDelta::hours(100), "5%@0h,100%@72h");
    wary.from(&registry, &["run"]).code(0);
    canary.from(&registry, &["run"]).code(0);
}

/// Moving the tag back stops a rollout: who has not taken the release does not hear of it any more.
#[test]
fn publishing_stops_a_rollout() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.write("conf", b"auto=activate\nwariness=100\n");
    device.from(&registry, &["run"]).code(0);
    device.power_on();
    device.here(&["healthcheck"]).code(0);
    in_waves(&registry, "1.1.0", 2, Utc::now(), "5%@0h,100%@72h");
    device.from(&registry, &["run", "--json"]).refused(75, "rollout");
    publish(&registry, "1.0.0", 1);
    assert_eq!(device.from(&registry, &["run", "--json"]).code(0).json()["outcome"], "up-to-date");
}

/// Two devices draw differently, one device draws alike: from the machine's id if it has one, else from its own.
#[test]
fn a_device_keeps_its_place_from_run_to_run() {
    let (registry, device) = (Registry::start(), Device::new());
    in_waves(&registry, "1.0.0", 1, Utc::now(), "0%@0h,100%@9h");
    let place = |device: &Device, conf: &str| {
        device.write("conf", conf.as_bytes());
        device.from(&registry, &["run", "--json"]).refused(75, "rollout");
        // A run that waits does not read the same release again; a check does.
        let check = device.from(&registry, &["check", "--json"]).code(0).json();
        let message = gate(&check, "rollout")["message"].as_str().unwrap().to_owned();
        message.split("is at ").nth(1).unwrap().to_owned()
    };
    device.write("id", b"0123456789abcdef0123456789abcdef\n");
    device.write("other-id", b"0123456789abcdef0123456789abcde0\n");
    device.write("no-id", b"uninitialized\n");
    device.write("zeros", b"00000000000000000000000000000000\n");
    let [by_id, by_other] = ["id", "other-id"].map(|id| place(&device, &format!("machine_id_file={id}\n")));
    assert_ne!(by_id, by_other);
    assert_eq!(place(&Device::new(), &format!("machine_id_file={}\n", device.path("id").display())), by_id);
    // Without one it draws an id of its own, once.
    let own = place(&device, "machine_id_file=no-id\n");
    for file in ["gone", "zeros"] {
        assert_eq!(place(&device, &format!("machine_id_file={file}\n")), own);
    }
    assert_ne!(place(&Device::new(), "machine_id_file=gone\n"), own);
    // A check comes before the first run and must not write anything down.
    let fresh = Device::new();
    fresh.write("conf", b"machine_id_file=gone\n");
    let check = fresh.from(&registry, &["check", "--json"]).code(0).json();
    assert!(gate(&check, "rollout")["message"].as_str().unwrap().contains("no id yet"), "{check:#}");
    assert_eq!(fresh.names("S"), [""; 0]);
}

/// Makes a program of the device's `pre-update.d`.
fn hook(device: &Device, name: &str, script: &str) {
    fs::create_dir_all(device.path("hooks")).unwrap();
    device.write("conf", b"pre_update_dir=hooks\npre_update_timeout=2\n");
    device.script(&format!("hooks/{name}"), script);
}

/// A person with grub-editenv, while the programs are asked.
#[test]
fn what_another_program_stores_meanwhile_is_not_undone() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    let theirs = |device: &Device| String::from_utf8(device.env_bytes()).unwrap().contains("other=mine");
    hook(&device, "10-edit", "sed -i s/other=kept/other=mine/ grubenv");
    for _ in 0..2 {
        device.here(&["activate", "--json"]).refused(75, "env-busy");
        assert!(theirs(&device) && device.env().success, "{:?}", device.env());
        device.write("grubenv", String::from_utf8(device.env_bytes()).unwrap().replace("=mine", "=kept").as_bytes());
    }
    hook(&device, "10-edit", "true");
    device.here(&["activate"]).code(0);
    assert!(!device.env().success);
}

#[test]
fn programs_can_put_an_update_off_or_refuse_it_before_anything_is_erased() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    publish(&registry, "2.0.0", 2);
    for (script, code, reason, words) in [
        ("echo 'backup runs \x1b[31m'; exit 75", 75, "hook-later", "10-ask says \"later\": backup runs \\u{1b}[31m"),
        ("echo no >&2; exit 1", 77, "hook-refused", "exit status: 1: no"),
        ("kill -9 $$", 77, "hook-refused", "signal: 9"),
        ("sleep 60", 77, "hook-refused", "no answer within the 2 s"),
        ("yes", 77, "hook-refused", "no answer within the 2 s"),
        ("exit 127", 77, "hook-refused", "127"),
    ] {
        hook(&device, "10-ask", script);
        let before = (device.tree("A"), device.tree("B"), device.env_bytes());
        let error = device.from(&registry, &["apply", "--json"]).refused(code, reason);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words) && message.len() < 600, "{script}: {message}");
        assert!(error["remedy"].as_str().unwrap().contains("No slot was changed."), "{error}");
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before, "{script}");
        assert_eq!(device.phase() == "failed", code == 77, "{script}");
    }
    // A program that cannot even be started says nothing.
    device.write("hooks/10-ask", b"\x7fELF, but not really");
    device.from(&registry, &["apply", "--json"]).refused(77, "hook-refused");
    // Each step asks for itself.
    hook(&device, "10-ask", "[ $KUBESOLO_UPDATE_STEP = stage ] || exit 75");
    device.from(&registry, &["apply"]).code(0);
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    device.here(&["activate", "--json"]).refused(75, "hook-later");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    // A slot that was written before that is reported.
    publish(&registry, "3.0.0", 3);
    let error = device.from(&registry, &["apply", "--activate", "--json"]).refused(75, "hook-later");
    assert!(error["remedy"].as_str().unwrap().ends_with("Slot B has 3.0.0, complete and not activated."), "{error}");
    assert_eq!((device.phase().as_str(), device.version_in(SlotId::B).as_deref()), ("staged", Some("3.0.0")));
}

#[test]
fn programs_are_asked_in_order_with_what_is_about_to_happen_and_only_when_it_is() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let note = |name: &str| {
        format!(
            "echo {name} $KUBESOLO_UPDATE_STEP ${{KUBESOLO_UPDATE_FROM:-nothing}} $KUBESOLO_UPDATE_TO ${{KUBESOLO_UPDATE_DIGEST%:*}} >>asked"
        )
    };
    hook(&device, "20-second", &note("20-second"));
    hook(&device, "10-first", &note("10-first"));
    device.write("hooks/README", b"not a program");
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    assert!(gate(&check, "pre-update")["message"].as_str().unwrap().ends_with("10-first, 20-second"), "{check:#}");
    device.from(&registry, &["apply", "--dry-run"]).code(0);
    assert!(!device.path("asked").exists(), "a look sets nothing in motion");

    device.from(&registry, &["apply"]).code(0);
    device.from(&registry, &["apply"]).code(0); // staged already
    device.here(&["activate"]).code(0);
    device.here(&["activate"]).code(0); // activated already
    let asked = fs::read_to_string(device.path("asked")).unwrap();
    let expected = ["stage", "activate"]
        .map(|step| format!("10-first {step} nothing 1.0.0 sha256\n20-second {step} nothing 1.0.0 sha256\n"));
    assert_eq!(asked, expected.concat());
}

#[test]
fn no_trial_begins_that_a_panic_would_never_end() {
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    device.from(&registry, &["apply"]).code(0);
    for line in ["", "panic=0 ", "panic=5 panic=0 "] {
        device.write("cmdline", format!("{line}kubesolo.slot=A ks.trial=00000000 ks.proto=1\n").as_bytes());
        let before = (device.tree("A"), device.tree("B"), device.env_bytes());
        let error = device.here(&["activate", "--json"]).refused(78, "no-panic-timeout");
        assert!(error["remedy"].as_str().unwrap().contains("panic=5"), "{error}");
        assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before, "{line}");
        device.here(&["status", "-v"]).code(0).says(&["a panic lasts until somebody cuts the power"]);
    }
    device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
    device.here(&["status", "-v"]).code(0).says(&["a panic reboots after 5 s"]);
    device.here(&["activate"]).code(0);
    assert_eq!(device.env().active, SlotId::B);
}

/// A server that answers like an API server whose node has the label or not, and knows every client with a certificate.
struct ApiServer {
    nginx: Nginx,
    port: u16,
    certificates: tempfile::TempDir,
}

const BLOCKED: &str = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"7"},
    "items":[{"metadata":{"name":"node-7","labels":{"updates.kubesolo.io/block":"true"}}}]}"#;
const FREE: &str = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{},"items":[]}"#;

impl ApiServer {
    fn start(answer: &str) -> Self {
        let certificates = common::tls::certificates();
        let at = certificates.path();
        // As KubeSolo makes it: RSA, in PKCS#1.
        let client = "openssl genrsa -traditional -out admin.key 2048 && \
            openssl req -new -key admin.key -subj /O=system:masters/CN=admin -out admin.csr && \
            openssl x509 -req -in admin.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out admin.pem";
        let made = std::process::Command::new("sh").args(["-c", client]).current_dir(at).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        fs::write(at.join("answer"), answer.replace('\n', " ")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let certs = at.display();
        let more = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {certs}/cert.pem; ssl_certificate_key {certs}/key.pem;
             ssl_client_certificate {certs}/ca.pem; ssl_verify_client optional;
             location = /api/v1/nodes {{
               set $who $ssl_client_verify;
               if ($http_authorization = 'Bearer good') {{ set $who SUCCESS; }}
               if ($who != SUCCESS) {{ return 401; }}
               if ($arg_labelSelector != 'updates.kubesolo.io%2Fblock%3Dtrue') {{ return 404; }}
               default_type application/json; rewrite ^ /answer break; }}"
        );
        Self { nginx: Nginx::start(at, &more), port, certificates }
    }

    fn kubeconfig(&self, user: &str) -> String {
        let at = self.certificates.path();
        let data = |name: &str| {
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, fs::read(at.join(name)).unwrap())
        };
        let user = match user {
            "admin" => format!(
                "    client-certificate-data: {}\n    client-key-data: {}\n",
                data("admin.pem"),
                data("admin.key")
            ),
            token => format!("    token: {token}\n"),
        };
        cluster::kubeconfig(at, self.port, &user)
    }
}

#[test]
fn a_node_that_is_labelled_as_blocked_is_not_updated_and_force_lifts_that() {
    let (registry, server) = (Registry::start(), ApiServer::start(BLOCKED));
    publish(&registry, "1.0.0", 1);
    let device = Device::new();
    device.write("kubeconfig", server.kubeconfig("admin").as_bytes());
    device.write("conf", b"kubeconfig=kubeconfig\nnode_name=node-7\n");
    let before = (device.tree("A"), device.tree("B"), device.env_bytes());
    let error = device.from(&registry, &["run", "--json"]).refused(75, "node-blocked");
    assert!(error["message"].as_str().unwrap().contains("updates.kubesolo.io/block=true"), "{error}");
    assert_eq!((device.tree("A"), device.tree("B"), device.env_bytes()), before);
    let asked = server.nginx.requests().pop().unwrap();
    assert!(asked.ends_with("&fieldSelector=metadata.name%3Dnode-7"), "{asked}");
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    assert_eq!(gate(&check, "node-block")["reason"], json!("node-blocked"));
    // No other server is asked, and a user without a certificate may have a token.
    device.write("kubeconfig", server.kubeconfig("good").as_bytes());
    let check = [&device.asking(&registry, &["check", "--json"])[..], &["--pubkey", "K"]].concat();
    let proxied = device.command(&check).env("HTTPS_PROXY", "http://127.0.0.1:9").output().unwrap();
    assert_eq!(gate(&Ran::from(proxied).code(0).json(), "node-block")["reason"], json!("node-blocked"));
    device.from(&registry, &["apply", "--force"]).code(0);
    device.here(&["activate", "--json"]).refused(75, "node-blocked");
    device.here(&["activate", "--force"]).code(0);
}

/// As in KubeSolo OS: an unknown state is no reason to stay, because the update may be the repair.
#[test]
fn a_node_that_is_not_blocked_or_cannot_be_asked_is_updated() {
    let (registry, server) = (Registry::start(), ApiServer::start(FREE));
    publish(&registry, "1.0.0", 1);
    let other = ApiServer::start(BLOCKED);
    let good = server.kubeconfig("admin");
    let stranger = other.kubeconfig("admin").replace(&other.port.to_string(), &server.port.to_string());
    for (name, kubeconfig, words) in [
        ("no label", good.clone(), "no such label"),
        ("nobody there", good.replace(&server.port.to_string(), "1"), "unknown"),
        ("somebody else's authority", stranger, "unknown"),
        ("no certificate", other.kubeconfig("abc"), "its answer is 401"),
        ("not a kubeconfig", "nonsense".to_owned(), "no kubeconfig"),
    ] {
        let device = Device::new();
        device.write("kubeconfig", kubeconfig.as_bytes());
        device.write("conf", b"kubeconfig=kubeconfig\n");
        let check = device.from(&registry, &["check", "--json"]).code(0).json();
        let found = gate(&check, "node-block");
        let message = found["message"].as_str().unwrap();
        assert!(found["open"] == json!(true) && message.contains(words), "{name}: {message}");
        // Not known is not "not blocked".
        let known = name == "no label";
        assert_eq!(found.get("unknown").is_none(), known, "{name}: {found}");
        let shown = if known { "gate:         open   node-block" } else { "gate:         warn   node-block: unknown" };
        device.from(&registry, &["check", "-v"]).says(&[shown]);
        device.from(&registry, &["run"]).code(0);
    }
    // A wrong answer does not say that the node is blocked either.
    let endless = BLOCKED.to_owned() + &" ".repeat(limits::NODES_BYTES);
    for answer in ["", "[]", "{\"items\": null}", &endless] {
        let server = ApiServer::start(answer);
        let device = Device::new();
        device.write("kubeconfig", server.kubeconfig("admin").as_bytes());
        device.write("conf", b"kubeconfig=kubeconfig\n");
        device.from(&registry, &["apply", "--dry-run"]).code(0);
    }
}

/// Of two clusters and two users, the current context names those that count.
#[test]
fn a_token_goes_to_the_cluster_of_its_context_only() {
    let (registry, server) = (Registry::start(), ApiServer::start(BLOCKED));
    publish(&registry, "1.0.0", 1);
    let device = Device::new();
    let both = |context: &str, token: &str| {
        let one = server.kubeconfig(token);
        let (head, users) = one.split_once("kind: Config\n").unwrap();
        format!(
            "{head}# Another cluster.\n- name: other\n  cluster: {{server: \"https://127.0.0.1:1\"}}\nkind: Config\n\
             'current-context': {context}\n\
             contexts:\n- {{name: site, context: {{cluster: kubesolo, user: admin}}}}\n\
             - {{name: other, context: {{cluster: kubesolo, user: other}}}}\n{users}- name: other\n  user: {{token: bad}}\n"
        )
    };
    let node_block = |kubeconfig: &str| {
        device.write("kubeconfig", kubeconfig.as_bytes());
        device.write("conf", b"kubeconfig=kubeconfig\n");
        let check = device.from(&registry, &["check", "--json"]).code(0).json();
        gate(&check, "node-block").clone()
    };
    for user in ["good", "admin"] {
        let found = node_block(&both("site", user));
        assert_eq!(found["reason"], json!("node-blocked"), "{user}: {found}");
    }
    let found = node_block(&both("other", "good"));
    assert!(found["message"].as_str().unwrap().contains("its answer is 401"), "the token of the other user: {found}");
    let found = node_block(&both("gone", "good"));
    assert!(found["message"].as_str().unwrap().contains("no entry with the name"), "{found}");
    device.here(&["doctor"]).says(&["warn  kubeconfig"]);
}

/// The gates that a device on folders can close, in the order of docs/operating.md, each with code and reason.
///
/// The others: no source offers a release of another architecture (`http` refuses it before the gates), and slots in folders
/// boot nothing that could need memory. Only `run` asks not-before, see [`only_a_run_waits_for_retry_after`]. A device whose
/// slot is on trial has no free one that could be too small. The clock closes only where no time server sets it.
const CLOSABLE: [(&str, i32, &str); 19] = [
    ("maintenance-window", 75, "window"),
    ("channel", 77, "other-channel"),
    ("board", 77, "other-board"),
    ("minimum-version", 77, "too-old"),
    ("requires", 77, "loader-too-old"),
    ("settings", 78, "setting-missing"),
    ("security-epoch", 77, "security-epoch"),
    ("version", 77, "downgrade"),
    ("failed-before", 75, "failed-before"),
    ("bytes-failed-before", 75, "bytes-failed-before"),
    ("freshness", 75, "not-fresh"),
    ("node-block", 75, "node-blocked"),
    ("kubesolo-upgrade", 75, "kubesolo-upgrade"),
    ("boot-environment", 75, "single-copy"),
    ("trial", 75, "no-free-slot"),
    ("clock", 75, "clock"),
    ("space", 73, "not-permitted"),
    ("rollout", 75, "rollout"),
    ("pre-update", 78, "hooks-unreadable"),
];

/// True if these gates can be closed together on this machine.
fn can_close(gates: &[&str]) -> bool {
    let synchronised = Clock::system(Utc::now(), None).synchronised;
    gates != ["trial", "space"] && !(synchronised && gates.contains(&"clock"))
}

/// A device with a release on offer that is held back by these gates and no other.
fn held_by(closed: &[&str], digests: [Digest; 2], kubeconfig: &str) -> (Device, &'static str) {
    let is = |gate: &str| closed.contains(&gate);
    let mut device = Device::of_ordinary_user();
    let choose = |gate: &str, closed: &'static str, open: &'static str| if is(gate) { closed } else { open };
    let conf = [
        choose("maintenance-window", "maintenance_window=03:00-03:00", ""),
        choose("channel", "channel=other", "channel=stable"),
        choose("board", "board=other", "board=this"),
        choose("freshness", "require_fresh=yes", ""),
        choose("node-block", "kubeconfig=kubeconfig", ""),
        choose("rollout", "wariness=100", "wariness=0"),
        choose("pre-update", "pre_update_dir=version", ""),
        choose("settings", "", "region=eu"),
        "version_file=version",
        "data_dir=data",
    ];
    device.write("conf", (conf.join("\n") + "\n").as_bytes());
    device.write("kubeconfig", kubeconfig.as_bytes());
    device.write("version", choose("version", "2.0.0", "0.9.0").as_bytes());
    let failed = digests.map(|release| {
        json!({"release": release, "kernel": Digest([1; 32]), "initramfs": Digest([2; 32]), "version": "1.0.0",
            "failed_at": "2026-11-01T00:00:00Z", "reason": "it never came up"})
    });
    let trust = json!({
        "schema": 1,
        "security_epoch": if is("security-epoch") { 9 } else { 3 },
        "failed": if is("failed-before") { failed.to_vec() } else { vec![] },
        "last_seen": is("clock").then(|| Utc::now() + TimeDelta::days(900)),
    });
    device.write("S/trust.json", trust.to_string().as_bytes());
    if is("kubesolo-upgrade") {
        fs::create_dir(device.path("data/upgrade")).unwrap();
        device.write("data/upgrade/pending", b"v1.2.2\n");
        device.hand_over(&device.path("data"));
    }
    if is("bytes-failed-before") {
        let kernel = Digest::of(&common::images::kernel(Architecture::current(), 1));
        // A clock that was set back counts from the latest time known.
        let failed_at = Utc::now() - TimeDelta::minutes(1) + TimeDelta::days(if is("clock") { 900 } else { 0 });
        let failed_at = failed_at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let wrong = json!({"digest": kernel, "failed_at": failed_at, "times": 1});
        device.write("S/fetch.json", json!({"schema": 1, "wrong": [wrong]}).to_string().as_bytes());
    }
    let mut state = BootState::committed(SlotId::A);
    let loader = choose("requires", "", " ks.loader=1");
    if is("requires") {
        device.write("cmdline", b"panic=5 kubesolo.slot=A ks.trial=00000000 ks.proto=1\n");
    }
    if is("trial") {
        let activated = state.activate(Booted::ordinary(SlotId::A), TrialId(42)).unwrap();
        state = BootState { counter: 2, ..activated };
        let line = format!("panic=5 kubesolo.slot=B ks.trial=0000002a ks.proto=1{loader}\n");
        device.write("cmdline", line.as_bytes());
    }
    if is("boot-environment") {
        device.bootenv = "uboot:fw_env.config";
        device.write("fw_env.config", b"env 0x0 0x1000\n");
        let environment = Environment::default().with(&state.variables());
        device.write("env", &environment.encode(0x1000, Format::Single, 0).unwrap());
    } else {
        let block = Block::parse(&device.env_bytes()).unwrap().with(&state.variables()).unwrap();
        device.write("grubenv", block.bytes());
    }
    if is("space") {
        fs::set_permissions(device.path("B"), fs::Permissions::from_mode(0o555)).unwrap();
    }
    device.hand_over(&device.path("S"));
    (device, choose("minimum-version", "late", "stable"))
}

/// The first closed gate by `check`, `apply --dry-run`, `run` and `apply`. A check ends with 0 and has no code.
fn first_closed(device: &Device, registry: &Registry, tag: &str) -> Vec<(Option<i64>, String)> {
    let ask = |command: &[&str]| {
        let mut arguments = device.asking(registry, command);
        let at = arguments.iter().position(|argument| *argument == "--tag").unwrap();
        arguments[at + 1] = tag;
        device.run(&[&arguments[..], &["--pubkey", "K", "--json"]].concat())
    };
    let check = ask(&["check"]).code(0).json();
    assert_eq!(check["verdict"], "held", "{check:#}");
    let first = check["gates"].as_array().unwrap().iter().find(|gate| gate["open"] == json!(false)).unwrap();
    assert_eq!(check["reason"], first["reason"], "{check:#}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut found = vec![(None, text(&check["reason"]))];
    for command in [&["apply", "--dry-run"][..], &["run"], &["apply"]] {
        let error = ask(command).json()["error"].clone();
        found.push((error["exit_code"].as_i64(), text(&error["reason"])));
    }
    found
}

/// A release for this board from 0.5.0 on (tag `late`: from 3.0.0 on) whose waves begin now. Gives the digests of both.
fn publish_for_gates(registry: &Registry) -> [Digest; 2] {
    [("stable", "0.5.0"), ("late", "3.0.0")].map(|(tag, minimum)| {
        let metadata = Metadata {
            min_compatible_version: Some(minimum.parse().unwrap()),
            security_epoch: Some(3),
            board: Some("this".into()),
            rollout: Some("1%@0h,100%@8000h".parse().unwrap()),
            release_date: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            extras: Extras {
                requires: [Requirement::KernelArgs].into(),
                agent_settings: Some("region!".parse().unwrap()),
                ..Extras::default()
            },
            ..Metadata::new("1.0.0".parse().unwrap(), "stable")
        };
        publish_as(registry, 1, metadata, &format!("os:{tag}"))
    })
}

#[test]
fn every_command_finds_the_same_first_closed_gate() {
    let (registry, server) = (Registry::start(), ApiServer::start(BLOCKED));
    let digests = publish_for_gates(&registry);
    let kubeconfig = server.kubeconfig("admin");
    for (n, (gate, code, reason)) in CLOSABLE.into_iter().enumerate() {
        for behind in [None].into_iter().chain(CLOSABLE[n + 1..].iter().map(|(gate, ..)| Some(*gate))) {
            let closed: Vec<_> = [gate].into_iter().chain(behind).collect();
            if !can_close(&closed) {
                continue;
            }
            // A window cannot be asked by a wrong clock.
            let reason = if closed == ["maintenance-window", "clock"] { "clock" } else { reason };
            let (device, tag) = held_by(&closed, digests, &kubeconfig);
            let before = (device.tree("A"), device.tree("B"));
            let with_code = (Some(i64::from(code)), reason.to_owned());
            let expected = vec![(None, reason.to_owned()), with_code.clone(), with_code.clone(), with_code];
            assert_eq!(first_closed(&device, &registry, tag), expected, "{closed:?}");
            assert_eq!((device.tree("A"), device.tree("B")), before, "{closed:?}");
        }
    }
}

/// `check` shows the gate at its place, `run` evaluates it before all others, and a person's `apply` ignores it.
#[test]
fn only_a_run_waits_for_retry_after() {
    let (registry, server) = (Registry::start(), ApiServer::start(BLOCKED));
    let digests = publish_for_gates(&registry);
    let kubeconfig = server.kubeconfig("admin");
    for (gate, code, reason) in CLOSABLE.into_iter().filter(|(gate, ..)| can_close(&[gate]) && *gate != "clock") {
        let (device, tag) = held_by(&[gate], digests, &kubeconfig);
        let state = json!({"schema": 1, "not_before": Utc::now() + TimeDelta::hours(1)});
        device.write("S/state.json", state.to_string().as_bytes());
        device.hand_over(&device.path("S"));
        let [own, wait] =
            [(code, reason), (75, "not-before")].map(|(code, reason)| (Some(code.into()), reason.to_owned()));
        let shown = if gate == "maintenance-window" { reason } else { "not-before" };
        let expected = vec![(None, shown.to_owned()), own.clone(), wait, own];
        assert_eq!(first_closed(&device, &registry, tag), expected, "{gate}");
    }
}

#[test]
fn the_gates_have_the_order_of_the_documentation() {
    let page = include_str!("../../../docs/operating.md");
    let (_, table) = page.split_once("| gate | closed when |").unwrap();
    let rows = table.lines().skip(2).map_while(|row| row.strip_prefix("| ")?.split(" |").next());
    let documented: Vec<_> = rows.flat_map(|names| names.split(", ")).collect();
    let (registry, device) = (Registry::start(), Device::new());
    publish(&registry, "1.0.0", 1);
    let check = device.from(&registry, &["check", "--json"]).code(0).json();
    let asked: Vec<_> = check["gates"].as_array().unwrap().iter().map(|gate| gate["name"].as_str().unwrap()).collect();
    assert_eq!(asked, documented);
}
