//! Is Kubernetes on this device well? KubeSolo itself answers on its socket; without an answer the API server is asked by
//! kubeconfig: `/readyz`, the node of this device, and the pods of `kube-system`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::base::{files, limits, text};
use crate::config::{AutoSwitch, Config};
use crate::device::health::{Check, Room};
use crate::fetch::cluster::{self, Credentials, Failure, Line, Question};
use crate::policy::{kubeconfig, kubesolo};

/// The name of the check.
const NAME: &str = "kubernetes";
/// How long Kubernetes must be well in a row. One look would also find a pod well that ends again and again.
const STEADY: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);
/// Time after the start of the kernel in which Kubernetes may still start, so that a run waits for it. KubeSolo gives a new
/// version of itself as long.
const START: Duration = Duration::from_secs(600);
/// The longest time for one look, of all its questions together.
const LOOK: Duration = Duration::from_secs(20);
/// Pods that a message names.
const NAMED: usize = 3;
/// Where the pods are that the cluster itself consists of.
const PODS: [&str; 5] = ["api", "v1", "namespaces", "kube-system", "pods"];
const JSON: &str = "application/json";

/// The result of one look.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Well,
    Unwell(String),
    /// It could not be made, and the cause lies in settings or limits, not in this boot.
    Unable(String),
}

/// Checks it, unless the settings turn that off, or nothing shows that Kubernetes runs here. A run early in a boot waits for a
/// Kubernetes that is still starting, up to `window` seconds after the start of the kernel.
#[must_use]
pub fn check(config: &Config, room: &Room, window: u64) -> Option<Check> {
    let setting = config.health_kubernetes;
    if setting == AutoSwitch::No || setting == AutoSwitch::Auto && !is_here(config) {
        return None;
    }
    if room.left.is_zero() {
        let budget = config.health_timeout.as_secs();
        return Some(Check::of(NAME, Err(format!("not started: the {budget} s for all checks are over"))));
    }
    let watch = Watch::new(room, START.min(Duration::from_secs(window)).saturating_sub(uptime()));
    let begin = Instant::now();
    let result = watch.follow(|left| look(config, left), || begin.elapsed(), std::thread::sleep);
    let unable = matches!(result, Look::Unable(_)) && setting == AutoSwitch::Auto;
    let check = Check::of(
        NAME,
        match result {
            Look::Well => Ok(()),
            Look::Unwell(why) | Look::Unable(why) => Err(why),
        },
    );
    Some(Check { wanted: unable, ..check })
}

fn is_here(config: &Config) -> bool {
    kubesolo::has_socket(config) || fs::symlink_metadata(&config.kubeconfig).is_ok()
}

/// Time since the start of the kernel; without an answer nothing is waited for.
fn uptime() -> Duration {
    let uptime = files::read_kernel(Path::new("/proc/uptime")).unwrap_or_default();
    let seconds = uptime.split('.').next().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(u64::MAX))
}

/// The times of one run.
#[derive(Debug)]
struct Watch {
    /// Time for all looks.
    left: Duration,
    /// How long it must be well in a row.
    steady: Duration,
    /// Until then, counted from the beginning of the run, Kubernetes may be unwell.
    start: Duration,
}

impl Watch {
    fn new(room: &Room, start: Duration) -> Self {
        // After another check has failed, the boot is unhealthy whatever time passes.
        let steady = if room.condemned { Duration::ZERO } else { STEADY.min(room.left / 2) };
        Self { left: room.left, steady, start: if room.condemned { Duration::ZERO } else { start } }
    }

    /// Looks until there is a result. `now` is the time since the beginning.
    fn follow(
        &self,
        mut look: impl FnMut(Duration) -> Look,
        now: impl Fn() -> Duration,
        mut pause: impl FnMut(Duration),
    ) -> Look {
        let mut well_since = None;
        loop {
            let at = now();
            let found = look(self.left.saturating_sub(at).min(LOOK));
            let ends = now() >= self.left;
            match found {
                Look::Well => {
                    let since = *well_since.get_or_insert(at);
                    if at - since >= self.steady {
                        return Look::Well;
                    }
                    if ends {
                        let (well, steady) = ((at - since).as_secs(), self.steady.as_secs());
                        return Look::Unwell(format!("well for {well} s in a row, which is less than {steady} s"));
                    }
                }
                Look::Unwell(why) if ends || well_since.is_none() && at >= self.start => return Look::Unwell(why),
                // It was well a moment ago.
                Look::Unwell(why) if at >= self.start => return Look::Unwell(format!("no longer well: {why}")),
                Look::Unwell(_) => well_since = None,
                Look::Unable(why) => return Look::Unable(why),
            }
            pause(PAUSE.min(self.left.saturating_sub(now())));
        }
    }
}

/// One look, within `left`.
fn look(config: &Config, left: Duration) -> Look {
    let end = Instant::now() + left;
    let own = match kubesolo::status(config, kubesolo::PATIENCE.min(left)) {
        Some(Ok(status)) => match status.health {
            Some(health) => return health.complaint().map_or(Look::Well, Look::Unwell),
            None => Some("KubeSolo does not say how it is".to_owned()),
        },
        Some(Err(why)) => Some(why),
        None => None,
    };
    let file = &config.kubeconfig;
    if fs::symlink_metadata(file).is_err() {
        let absent = format!("there is no {}", file.display());
        return Look::Unwell(own.map_or_else(|| absent.clone(), |why| format!("{why}; {absent}")));
    }
    let credentials = match kubeconfig::read(file) {
        Ok(credentials) => credentials,
        Err(why) => return Look::Unable(why),
    };
    let server = text::escape(credentials.server.as_str());
    match by_kubeconfig(credentials, config.node_name.as_deref(), end) {
        Ok(()) => Look::Well,
        Err(Trouble::Ill(why)) => Look::Unwell(format!("{server}: {why}")),
        Err(Trouble::Unknown(why)) => Look::Unable(format!("{server}: {why}")),
    }
}

/// Why the API server does not say that all is well.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    Ill(String),
    /// Settings or limits keep the agent from knowing.
    Unknown(String),
}

fn by_kubeconfig(credentials: Credentials, node: Option<&str>, end: Instant) -> Result<(), Trouble> {
    let line = Line::to(&credentials).map_err(Trouble::Unknown)?;
    let server = Server { line, credentials, end };
    server.is_ready()?;
    let node = server.ready_node(node)?;
    server.pods(&node)
}

/// Sets annotations of the node of this device. One without a value is removed.
///
/// # Errors
/// Why the API server did not take them, escaped.
pub(crate) fn annotate(config: &Config, annotations: &BTreeMap<&str, Option<String>>) -> Result<(), String> {
    let credentials = kubeconfig::read(&config.kubeconfig)?;
    let shown = text::escape(credentials.server.as_str());
    let server = Server { line: Line::to(&credentials)?, credentials, end: Instant::now() + LOOK };
    server.annotate(config.node_name.as_deref(), annotations).map_err(|why| format!("{shown}: {why}"))
}

struct Server {
    line: Line,
    credentials: Credentials,
    end: Instant,
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: Page,
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Page {
    r#continue: String,
}

/// A node or a pod, as far as it counts here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    phase: String,
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    r#type: String,
    status: String,
}

impl Object {
    fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|condition| condition.r#type == "Ready" && condition.status == "True")
    }

    /// Why a pod is not well, if it counts on `node`. One that has ended or is being deleted does not: its controller makes
    /// another one, which does.
    fn complaint(&self, node: &str) -> Option<String> {
        let elsewhere = self.spec.node_name.as_deref().is_some_and(|name| !name.is_empty() && name != node);
        let ended = self.metadata.deletion_timestamp.is_some() || matches!(&*self.status.phase, "Succeeded" | "Failed");
        match &*self.status.phase {
            _ if elsewhere || ended => None,
            "Running" if self.is_ready() => None,
            "Running" => Some(format!("{} is not Ready", self.metadata.name)),
            phase => Some(format!("{} is {phase}", self.metadata.name)),
        }
    }
}

impl Server {
    fn ask(&self, path: &[&str], query: &[(&str, &str)], accept: &str) -> Result<Vec<u8>, Failure> {
        let url = self.url(path, query);
        self.line.get(url, &Question { accept, limit: limits::KUBERNETES_PAGE_BYTES, time: self.time() })
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.credentials.server.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// Time for the next question.
    fn time(&self) -> Duration {
        cluster::PATIENCE.min(self.end.saturating_duration_since(Instant::now()))
    }

    fn annotate(&self, name: Option<&str>, annotations: &BTreeMap<&str, Option<String>>) -> Result<(), String> {
        let node = self.node(name).map_err(|trouble| match trouble {
            Trouble::Ill(why) | Trouble::Unknown(why) => why,
        })?;
        let patch = json!({"metadata": {"annotations": annotations}}).to_string();
        let url = self.url(&["api", "v1", "nodes", &node.metadata.name], &[("fieldManager", "kubesolo-update")]);
        self.line.patch(url, patch, self.time()).map_err(|failure| failure.to_string())
    }

    fn read<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)], what: &str) -> Result<T, Trouble> {
        let answer = self.ask(path, query, JSON).map_err(|failure| match failure {
            // The answer to another release would be the same.
            Failure::Status(403) => {
                Trouble::Unknown(format!("{what}: the account of the kubeconfig may not read this"))
            }
            Failure::TooLong(_) => Trouble::Unknown(format!("{what}: {failure}")),
            failure => Trouble::Ill(format!("{what}: {failure}")),
        })?;
        // Not by the strict reader of signed documents: the server is known by its certificate, and nests deeply.
        let wrong = |e: serde_json::Error| Trouble::Ill(format!("{what}: {}", text::escape(&e.to_string())));
        serde_json::from_slice(&answer).map_err(wrong)
    }

    fn is_ready(&self) -> Result<(), Trouble> {
        match self.ask(&["readyz"], &[], "*/*") {
            Ok(answer) if answer.trim_ascii() == b"ok" => Ok(()),
            Ok(_) => Err(Trouble::Ill("readyz: its answer is not ok".into())),
            Err(failure) => Err(Trouble::Ill(format!("readyz: {failure}"))),
        }
    }

    /// The name of the node of this device, which is Ready.
    fn ready_node(&self, name: Option<&str>) -> Result<String, Trouble> {
        let node = self.node(name)?;
        if node.is_ready() {
            return Ok(node.metadata.name);
        }
        Err(Trouble::Ill(format!("node {} is not Ready", text::escape(&node.metadata.name))))
    }

    /// The node of this device.
    fn node(&self, name: Option<&str>) -> Result<Object, Trouble> {
        match name {
            Some(name) => self.read(&["api", "v1", "nodes", name], &[], "node"),
            None => {
                let nodes: List<Object> = self.read(&["api", "v1", "nodes"], &[("limit", "2")], "nodes")?;
                let several = nodes.items.len() > 1;
                match nodes.items.into_iter().next() {
                    None => Err(Trouble::Ill("the cluster has no node".into())),
                    Some(_) if several => self.read(&["api", "v1", "nodes", &host_name()], &[], "node of this host"),
                    Some(node) => Ok(node),
                }
            }
        }
    }

    fn pods(&self, node: &str) -> Result<(), Trouble> {
        let (mut ill, mut seen, mut next) = (vec![], 0, String::new());
        loop {
            let page = limits::PODS_PAGE.to_string();
            let mut query = vec![("limit", page.as_str())];
            if !next.is_empty() {
                query.push(("continue", &next));
            }
            let pods: List<Object> = self.read(&PODS, &query, "pods of kube-system")?;
            seen += pods.items.len();
            ill.extend(pods.items.iter().filter_map(|pod| pod.complaint(node)));
            next = pods.metadata.r#continue;
            if next.is_empty() {
                break;
            }
            if seen >= limits::PODS {
                return Err(Trouble::Unknown(format!("kube-system has more than {} pods", limits::PODS)));
            }
        }
        if ill.is_empty() {
            return Ok(());
        }
        let more = if ill.len() > NAMED { format!(", and {} more", ill.len() - NAMED) } else { String::new() };
        ill.truncate(NAMED);
        Err(Trouble::Ill(format!("kube-system: {}{more}", text::escape(&ill.join(", ")))))
    }
}

/// The name that a kubelet gives its node unless a setting names another one: that of the host, in lower case.
fn host_name() -> String {
    files::read_kernel(Path::new("/proc/sys/kernel/hostname")).unwrap_or_default().trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The result of a run with a clock that stands still but for pauses, and how many seconds it takes. `looks` has one result a
    /// look, the last of them for ever.
    fn run(room: Room, start: u64, looks: &[bool]) -> (Look, u64) {
        let (clock, count) = (Cell::new(Duration::ZERO), Cell::new(0));
        let look = |_| {
            let well = looks[count.replace(count.get() + 1).min(looks.len() - 1)];
            if well { Look::Well } else { Look::Unwell("ill".into()) }
        };
        let watch = Watch::new(&room, Duration::from_secs(start));
        let found = watch.follow(look, || clock.get(), |pause| clock.set(clock.get() + pause));
        (found, clock.get().as_secs())
    }

    fn room(seconds: u64) -> Room {
        Room { left: Duration::from_secs(seconds), condemned: false }
    }

    fn ill(why: &str) -> Look {
        Look::Unwell(why.into())
    }

    #[test]
    fn kubernetes_must_be_well_for_thirty_seconds_in_a_row() {
        assert_eq!(run(room(300), 0, &[true]), (Look::Well, 30));
        let once = [&[true; 5][..], &[false]].concat();
        assert_eq!(run(room(300), 0, &once), (ill("no longer well: ill"), 10));
        // A pause in between begins it again.
        let again = [&[true; 5][..], &[false], &[true]].concat();
        assert_eq!(run(room(300), 100, &again), (Look::Well, 42));
        // A device with less time for its checks.
        assert_eq!(run(room(20), 0, &[true]), (Look::Well, 10));
        assert_eq!(
            run(room(50), 100, &[&[false; 15][..], &[true]].concat()).0,
            ill("well for 20 s in a row, which is less than 25 s")
        );
    }

    #[test]
    fn a_kubernetes_that_starts_is_waited_for_within_the_limits() {
        assert_eq!(run(room(300), 100, &[false, false, true]), (Look::Well, 34));
        assert_eq!(run(room(300), 100, &[false]), (ill("ill"), 100));
        assert_eq!(run(room(60), 100, &[false]), (ill("ill"), 60), "never longer than all checks may take");
        assert_eq!(run(room(300), 0, &[false]), (ill("ill"), 0), "late in a boot nothing is waited for");
        let condemned = Room { condemned: true, ..room(300) };
        assert_eq!(run(condemned, 100, &[false]), (ill("ill"), 0));
        assert_eq!(run(condemned, 100, &[true]), (Look::Well, 0));
    }

    #[test]
    fn a_pod_counts_while_it_should_run_on_this_node() {
        let complaint = |json: serde_json::Value| serde_json::from_value::<Object>(json).unwrap().complaint("here");
        let ready = serde_json::json!([{"type": "Ready", "status": "True"}]);
        let pod = |node: &str, phase: &str, conditions: &serde_json::Value| {
            serde_json::json!({"metadata": {"name": "p"}, "spec": {"nodeName": node},
                "status": {"phase": phase, "conditions": conditions}})
        };
        let none = serde_json::json!([]);
        assert_eq!(complaint(pod("here", "Running", &ready)), None);
        assert_eq!(complaint(pod("here", "Running", &none)).unwrap(), "p is not Ready");
        assert_eq!(complaint(pod("", "Pending", &none)).unwrap(), "p is Pending");
        for other in [pod("there", "Pending", &none), pod("here", "Succeeded", &none), pod("here", "Failed", &none)] {
            assert_eq!(complaint(other), None);
        }
        let mut leaving = pod("here", "Running", &none);
        leaving["metadata"]["deletionTimestamp"] = "2026-11-28T00:00:00Z".into();
        assert_eq!(complaint(leaving), None);
    }
}
