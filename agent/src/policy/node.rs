//! The label `updates.kubesolo.io/block=true` on the Kubernetes node: nobody updates this device now.
//!
//! As in KubeSolo OS, the label holds an update back only if the API server says that it is there. A server that does not
//! answer holds nothing back: the update may fix it.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::base::error::Reason;
use crate::base::{files, json, limits, text};
use crate::config::Config;
use crate::fetch::cluster::{self, Credentials};
use crate::policy::gate::{Gate, Lifted};

const LABEL: &str = "updates.kubesolo.io/block";
/// Names and labels only: a whole node lists every image on it.
const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, application/json";
const NAME: &str = "node-block";

/// Asks the API server.
#[must_use]
pub fn gate(config: &Config, lifted: Lifted) -> Gate {
    let file = &config.kubeconfig;
    if fs::symlink_metadata(file).is_err() {
        return Gate::open(NAME, format!("there is no {}", file.display()));
    }
    match is_blocked(file, config.node_name.as_deref()) {
        Ok(false) => Gate::open(NAME, "the node has no such label"),
        Ok(true) if lifted.force => Gate::open(NAME, format!("the node has {LABEL}=true; allowed by --force")),
        Ok(true) => Gate::closed(
            NAME,
            Reason::NodeBlocked,
            format!("the node has the label {LABEL}=true"),
            format!("Remove it (kubectl label node --all {LABEL}-), or run `kubesolo-update apply --force`."),
        ),
        Err(why) => {
            log::info!("unknown whether the node is blocked: {why}");
            Gate::open(NAME, format!("unknown, which does not hold the update back: {why}"))
        }
    }
}

fn is_blocked(file: &Path, node: Option<&str>) -> Result<bool, String> {
    let credentials = read(file)?;
    let mut url = credentials.server.join("api/v1/nodes").map_err(|e| e.to_string())?;
    url.query_pairs_mut().append_pair("labelSelector", &format!("{LABEL}=true")).append_pair("limit", "1");
    if let Some(node) = node {
        url.query_pairs_mut().append_pair("fieldSelector", &format!("metadata.name={node}"));
    }
    let answer = cluster::ask(&credentials, url, METADATA_ONLY, limits::NODES_BYTES);
    let server = text::escape(credentials.server.as_str());
    let answer = answer.map_err(|why| format!("{server}: {why}"))?;
    #[derive(Deserialize)]
    struct Nodes {
        items: Vec<IgnoredAny>,
    }
    let nodes: Nodes = json::parse(&answer, "list of nodes").map_err(|e| e.message)?;
    Ok(!nodes.items.is_empty())
}

fn read(file: &Path) -> Result<Credentials, String> {
    Entries::parse(&credential(file)?)?.credentials(file)
}

/// A file with credentials, or named in one.
fn credential(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = files::read_linked(file, limits::KUBECONFIG_BYTES, Reason::UnsafeFile).map_err(|e| e.message)?;
    bytes.ok_or_else(|| format!("{} is not there", file.display()))
}

/// Content of a kubeconfig with one cluster and one user. With several, the right one would be a guess.
#[derive(Default)]
pub(crate) struct Entries(Vec<(&'static str, String)>);

const ENTRIES: [&str; 8] = [
    "server",
    "certificate-authority",
    "certificate-authority-data",
    "client-certificate",
    "client-certificate-data",
    "client-key",
    "client-key-data",
    "token",
];

impl Entries {
    /// Reads JSON, or the YAML that Kubernetes' own tools write: one `key: value` in a line.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > limits::KUBECONFIG_BYTES {
            return Err(format!("more than {} bytes", limits::KUBECONFIG_BYTES));
        }
        let mut entries = Self::default();
        if bytes.trim_ascii_start().first() == Some(&b'{') {
            let all: Value = json::parse(bytes, "kubeconfig").map_err(|e| e.message)?;
            entries.walk(&all)?;
        } else {
            let all = std::str::from_utf8(bytes).map_err(|_| "it is not text in UTF-8")?;
            for line in all.lines() {
                let line = line.trim_start_matches([' ', '-']).trim_end();
                if let Some((key, value)) = line.split_once(':') {
                    entries.add(key, plain(value.trim())?)?;
                }
            }
        }
        Ok(entries)
    }

    fn walk(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Object(members) => members.iter().try_for_each(|(key, value)| match value {
                Value::String(text) => self.add(key, text),
                _ => self.walk(value),
            }),
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(item)),
            _ => Ok(()),
        }
    }

    fn add(&mut self, key: &str, value: &str) -> Result<(), String> {
        let Some(key) = ENTRIES.into_iter().find(|known| *known == key) else { return Ok(()) };
        if self.get(key).is_some() {
            return Err(format!("it has {key} twice: only one cluster and one user are supported"));
        }
        self.0.push((key, value.to_owned()));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str())
    }

    fn credentials(&self, file: &Path) -> Result<Credentials, String> {
        // In the file itself, or in another one that it names.
        let content = |key: &str| -> Result<Option<Vec<u8>>, String> {
            if let Some(data) = self.get(&format!("{key}-data")) {
                return STANDARD.decode(data).map(Some).map_err(|_| format!("{key}-data is not base64"));
            }
            let Some(name) = self.get(key) else { return Ok(None) };
            let place = crate::base::replace::folder_of(file).join(name);
            credential(&place).map(Some)
        };
        let server = self.get("server").ok_or("it names no server")?;
        let bad = || format!("server \"{}\" is not an https URL", text::escape(server));
        let mut server = Url::parse(server).map_err(|_| bad())?;
        if server.scheme() != "https" {
            return Err(bad());
        }
        if !server.path().ends_with('/') {
            server.set_path(&format!("{}/", server.path()));
        }
        Ok(Credentials {
            server,
            authorities: content("certificate-authority")?.ok_or("it names no certificate authority")?,
            client: content("client-certificate")?.zip(content("client-key")?),
            token: self.get("token").map(str::to_owned),
        })
    }
}

/// The value of a line, without quotes. A value over several lines, or elsewhere, is not understood.
fn plain(value: &str) -> Result<&str, String> {
    if value.starts_with(['|', '>', '&', '*', '!', '{', '[']) && value != "{}" && value != "[]" {
        return Err(format!("\"{}\" uses unsupported YAML: write the file as JSON", text::escape(value)));
    }
    let quoted = |quote| value.strip_prefix(quote)?.strip_suffix(quote);
    Ok(quoted('"').or_else(|| quoted('\'')).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As KubeSolo and kubeadm write it.
    const YAML: &str = "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: kubesolo
contexts:
- context:
    cluster: kubesolo
    user: admin
  name: kubesolo
current-context: kubesolo
kind: Config
preferences: {}
users:
- name: admin
  user:
    client-certificate-data: Q0VSVA==
    client-key-data: S0VZ
";

    fn credentials(text: &str) -> Result<Credentials, String> {
        Entries::parse(text.as_bytes())?.credentials(Path::new("/nowhere/kubeconfig"))
    }

    #[test]
    fn a_kubeconfig_is_read_as_yaml_and_as_json() {
        let json = r#"{"apiVersion": "v1", "clusters": [{"name": "kubesolo", "cluster": {"server": "https://127.0.0.1:6443",
            "certificate-authority-data": "Q0E="}}], "users": [{"name": "admin", "user": {"client-certificate-data": "Q0VSVA==",
            "client-key-data": "S0VZ"}}]}"#;
        let quoted = YAML.replace("https://127.0.0.1:6443", "\"https://127.0.0.1:6443\"");
        for text in [YAML, json, &quoted] {
            let found = credentials(text).unwrap();
            assert_eq!(found.server.as_str(), "https://127.0.0.1:6443/");
            assert_eq!(found.authorities, b"CA");
            assert_eq!(found.client, Some((b"CERT".to_vec(), b"KEY".to_vec())));
        }
        let token =
            YAML.replace("client-key-data: S0VZ", "token: abc").replace("client-certificate-data: Q0VSVA==", "x: y");
        let found = credentials(&token).unwrap();
        assert_eq!((found.client, found.token.as_deref()), (None, Some("abc")));
    }

    #[test]
    fn what_is_not_understood_is_said_and_nothing_is_guessed() {
        for (text, words) in [
            (String::new(), "no server"),
            (YAML.replace("https:", "http:"), "not an https URL"),
            (
                YAML.replace("certificate-authority-data: Q0E=", "insecure-skip-tls-verify: true"),
                "no certificate authority",
            ),
            (format!("{YAML}- cluster:\n    server: https://other\n"), "it has server twice"),
            (YAML.replace("Q0E=", "|"), "unsupported YAML"),
            (YAML.replace("Q0E=", "not base64"), "not base64"),
            (YAML.replace("client-key-data: S0VZ", "client-key: admin.key"), "/nowhere/admin.key"),
            ("x".repeat(limits::KUBECONFIG_BYTES as usize + 1), "more than"),
            ("{".to_owned(), "kubeconfig"),
        ] {
            let why = credentials(&text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(why.contains(words), "{words}: {why}");
        }
    }
}
