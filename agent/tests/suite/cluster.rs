//! A cluster that is not there: an API server whose answers are values of Kubernetes' own types, behind nginx with TLS; and
//! KubeSolo's socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    APIGroupList, APIResource, APIResourceList, APIVersions, ListMeta, ObjectMeta,
};
use serde::Serialize;
use tempfile::TempDir;

use crate::common::fault::{Fault, Request, head, reply, send};
use crate::common::nginx::Nginx;
use crate::common::tls;

/// A fault of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It takes a request for pods, and never answers.
    Hangs,
    /// The account may not read pods.
    Forbids,
    /// The list of pods ends in its middle.
    Half,
    /// The connection ends in the middle of that list.
    Cut,
    /// It gives all pods at once, whatever was asked for.
    NoPages,
    /// It never comes to the end of its pages.
    Endless,
    /// It is not ready.
    NotReady,
}

/// The content of the cluster.
#[derive(Clone, Default)]
pub struct World {
    pub nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    pub fit: Option<Fit>,
}

/// The stand-in. Its account is a token.
pub struct Cluster {
    world: Arc<Mutex<Arc<World>>>,
    pub server: Fault,
    certificates: TempDir,
    port: u16,
    _nginx: Nginx,
}

/// The token of its account.
pub const TOKEN: &str = "good";

impl Cluster {
    /// One node and one pod, both well.
    pub fn start() -> Self {
        let world =
            World { nodes: vec![node("node-7", "True")], pods: vec![pod("coredns", "Running", "True")], fit: None };
        let world = Arc::new(Mutex::new(Arc::new(world)));
        let known = world.clone();
        let server = Fault::start(move |request, out| {
            if request.method == "PATCH" {
                return patch(Arc::make_mut(&mut known.lock().unwrap()), request, out);
            }
            let world = known.lock().unwrap().clone();
            answer(&world, request, out);
        });
        let certificates = tls::certificates();
        let (at, behind) = (certificates.path(), &server.address);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let more = format!(
            "listen 127.0.0.1:{port} ssl; ssl_certificate {0}/cert.pem; ssl_certificate_key {0}/key.pem;
             location / {{ proxy_pass http://{behind}; proxy_buffering off; }}",
            at.display()
        );
        let _nginx = Nginx::start(at, &more);
        Self { world, server, certificates, port, _nginx }
    }

    /// A kubeconfig with this token.
    pub fn kubeconfig(&self, token: &str) -> String {
        // kubectl takes no file without a context.
        let context =
            "contexts:\n- context: {cluster: kubesolo, user: admin}\n  name: kubesolo\ncurrent-context: kubesolo\n";
        kubeconfig(self.certificates.path(), self.port, &format!("    token: {token}\n{context}"))
    }

    /// The annotations of the first node.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        self.world.lock().unwrap().nodes[0].metadata.annotations.clone().unwrap_or_default()
    }

    pub fn set(&self, change: impl FnOnce(&mut World)) {
        change(Arc::make_mut(&mut self.world.lock().unwrap()));
    }
}

/// A kubeconfig for a server on this port with the authority of a folder. `user`: the lines of the user.
pub fn kubeconfig(certificates: &Path, port: u16, user: &str) -> String {
    let authority = STANDARD.encode(fs::read(certificates.join("ca.pem")).unwrap());
    format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {authority}\n    server: \
         https://127.0.0.1:{port}\n  name: kubesolo\nkind: Config\nusers:\n- name: admin\n  user:\n{user}"
    )
}

/// A node whose condition Ready is `ready`.
pub fn node(name: &str, ready: &str) -> Node {
    let condition = NodeCondition { type_: "Ready".into(), status: ready.into(), ..NodeCondition::default() };
    let status = NodeStatus { conditions: Some(vec![condition]), ..NodeStatus::default() };
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    Node { metadata, status: Some(status), ..Node::default() }
}

/// A pod of kube-system on `node-7`.
pub fn pod(name: &str, phase: &str, ready: &str) -> Pod {
    let condition = PodCondition { type_: "Ready".into(), status: ready.into(), ..PodCondition::default() };
    let status = PodStatus { phase: Some(phase.into()), conditions: Some(vec![condition]), ..PodStatus::default() };
    let metadata =
        ObjectMeta { name: Some(name.into()), namespace: Some("kube-system".into()), ..ObjectMeta::default() };
    let spec = PodSpec { node_name: Some("node-7".into()), ..PodSpec::default() };
    Pod { metadata, spec: Some(spec), status: Some(status) }
}

fn json(out: &mut TcpStream, value: &impl Serialize) {
    reply(out, 200, "Content-Type: application/json\r\n", &serde_json::to_vec(value).unwrap());
}

fn answer(world: &World, request: &Request, out: &mut TcpStream) {
    if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
        return reply(out, 401, "", b"{}");
    }
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let query: BTreeMap<_, _> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let resource = |name: &str, kind: &str, namespaced| APIResource {
        name: name.into(),
        kind: kind.into(),
        namespaced,
        verbs: vec!["get".into(), "list".into()],
        ..APIResource::default()
    };
    match path {
        "/readyz" if world.fit == Some(Fit::NotReady) => reply(out, 500, "", b"[-]etcd failed"),
        "/readyz" => reply(out, 200, "", b"ok"),
        "/api" => json(out, &APIVersions { versions: vec!["v1".into()], ..APIVersions::default() }),
        "/apis" => json(out, &APIGroupList::default()),
        "/api/v1" => json(
            out,
            &APIResourceList {
                group_version: "v1".into(),
                resources: vec![resource("nodes", "Node", false), resource("pods", "Pod", true)],
            },
        ),
        // No node has a label.
        "/api/v1/nodes" => {
            let items = if query.contains_key("labelSelector") { vec![] } else { world.nodes.clone() };
            json(out, &List { items, metadata: ListMeta::default() });
        }
        "/api/v1/namespaces/kube-system/pods" => pods(world, &query, out),
        _ => {
            let named = path.strip_prefix("/api/v1/nodes/");
            match world.nodes.iter().find(|node| node.metadata.name.as_deref() == named && named.is_some()) {
                Some(node) => json(out, node),
                None => reply(out, 404, "", b"{}"),
            }
        }
    }
}

/// A merge patch of the annotations of a node.
fn patch(world: &mut World, request: &Request, out: &mut TcpStream) {
    let (path, _) = request.path.split_once('?').unwrap();
    let named = path.strip_prefix("/api/v1/nodes/");
    let node = world.nodes.iter_mut().find(|node| node.metadata.name.as_deref() == named && named.is_some());
    let refusal = match (&node, world.fit) {
        _ if request.header("authorization") != Some(&format!("Bearer {TOKEN}")) => 401,
        (_, Some(Fit::Forbids)) => 403,
        (None, _) => 404,
        _ if request.header("content-type") != Some("application/merge-patch+json") => 415,
        _ => 0,
    };
    let Some(node) = node.filter(|_| refusal == 0) else { return reply(out, refusal, "", b"{}") };
    let patch: serde_json::Value = serde_json::from_str(&request.body).unwrap();
    let annotations = node.metadata.annotations.get_or_insert_default();
    for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
        match value.as_str() {
            Some(value) => drop(annotations.insert(key.clone(), value.to_owned())),
            None => drop(annotations.remove(key)),
        }
    }
    json(out, node);
}

fn pods(world: &World, query: &BTreeMap<&str, &str>, out: &mut TcpStream) {
    let number = |key: &str| query.get(key).and_then(|number| number.parse::<usize>().ok());
    let (begin, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(usize::MAX));
    let limit = if world.fit == Some(Fit::NoPages) { usize::MAX } else { limit };
    let items: Vec<Pod> = world.pods.iter().skip(begin).take(limit).cloned().collect();
    let end = begin + items.len();
    let more = end < world.pods.len();
    let endless = world.fit == Some(Fit::Endless);
    let next = if endless { Some("0".into()) } else { more.then(|| end.to_string()) };
    let list = List { items, metadata: ListMeta { continue_: next, ..ListMeta::default() } };
    let bytes = serde_json::to_vec(&list).unwrap();
    let half = &bytes[..bytes.len() / 2];
    match world.fit {
        Some(Fit::Hangs) => loop {
            std::thread::park();
        },
        Some(Fit::Forbids) => reply(out, 403, "", b"{}"),
        Some(Fit::Half) => reply(out, 200, "Content-Type: application/json\r\n", half),
        Some(Fit::Cut) => {
            head(out, 200, &format!("Content-Length: {}\r\n", bytes.len()));
            send(out, half);
        }
        _ => reply(out, 200, "Content-Type: application/json\r\n", &bytes),
    }
}

/// KubeSolo's socket in `folder`, for root alone. `answer` gives status and body for a path; `None`: never.
pub fn socket(folder: &Path, answer: impl Fn(&str) -> Option<(u16, String)> + Send + 'static) {
    let path = folder.join("config.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    std::thread::spawn(move || {
        let mut waiting = vec![];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            match answer(&path) {
                None => waiting.push(stream),
                Some((status, body)) => {
                    let head = format!(
                        "HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                }
            }
        }
    });
}
