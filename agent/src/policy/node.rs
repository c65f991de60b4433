//! The label `updates.kubesolo.io/block=true` on the Kubernetes node: nobody updates this device now.
//!
//! As in KubeSolo OS, the label holds an update back only if the API server says that it is there. A server that does not
//! answer holds nothing back: the update may fix it.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::error::Reason;
use crate::base::{json, limits, text};
use crate::config::Config;
use crate::fetch::cluster;
use crate::policy::gate::{Gate, Lifted};
use crate::policy::kubeconfig;

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
            log::warn!("unknown whether the node is blocked: {why}");
            Gate::unknown(NAME, format!("unknown, which does not hold the update back: {why}"))
        }
    }
}

/// Why the kubeconfig cannot be used, if it is there; nobody is asked.
#[must_use]
pub fn unusable(config: &Config) -> Option<String> {
    let file = &config.kubeconfig;
    fs::symlink_metadata(file).ok().and_then(|_| kubeconfig::read(file).err())
}

fn is_blocked(file: &Path, node: Option<&str>) -> Result<bool, String> {
    let credentials = kubeconfig::read(file)?;
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
