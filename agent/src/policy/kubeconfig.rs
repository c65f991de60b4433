//! A kubeconfig: the cluster and the user of its current context.
//!
//! The agent reads the file as kubectl does (k8s.io/client-go, tools/clientcmd), by the events of a YAML parser; JSON is YAML.
//! It runs no program that the file names, and supports neither aliases nor merge keys.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use granit_parser::{Event, Parser, ScalarStyle, StrInput};
use reqwest::Url;

use crate::base::error::Reason;
use crate::base::{files, limits, replace, text};
use crate::fetch::cluster::Credentials;
use crate::fetch::url::without_login;

/// Ways of a user to prove an identity that the agent does not support, with the alternatives.
const NOT_SUPPORTED: [(&str, &str); 3] = [
    ("exec", "the agent runs no credential plugins"),
    ("auth-provider", "the agent runs no credential plugins"),
    ("username", "API servers accept no passwords"),
];

/// Credentials of the current context.
///
/// # Errors
/// The cause, escaped, if the file is missing, not trusted, or not usable.
pub(crate) fn read(file: &Path) -> Result<Credentials, String> {
    let config = parse(&credential(file)?).map_err(|why| format!("{}{why}", file.display()))?;
    Context::current(&config)
        .and_then(|context| context.credentials(file))
        .map_err(|why| format!("{}: {why}", file.display()))
}

/// A file with credentials, or named in one.
fn credential(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = files::read_linked(file, limits::KUBECONFIG_BYTES, Reason::UnsafeFile).map_err(|e| e.message)?;
    bytes.ok_or_else(|| format!("{} is not there", file.display()))
}

/// A value of YAML without tags, anchors and types.
#[derive(Debug)]
pub(crate) enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Reads the bytes of a kubeconfig.
///
/// # Errors
/// `:LINE: ` and the cause, escaped.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node, String> {
    if bytes.len() as u64 > limits::KUBECONFIG_BYTES {
        return Err(format!(": more than {} bytes", limits::KUBECONFIG_BYTES));
    }
    let all = std::str::from_utf8(bytes).map_err(|_| ": it is not text in UTF-8")?;
    let all = all.strip_prefix('\u{feff}').unwrap_or(all);
    let options = granit_parser::options! { emit_comments: false };
    let mut reader = Reader { events: Parser::new_from_str_with_options(all, options), line: 1 };
    let mut document = None;
    while let Some(event) = reader.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd => {}
            _ if document.is_some() => return Err(reader.wrong("it has several documents")),
            event => document = Some(reader.node(event, 0)?),
        }
    }
    match document {
        Some(node @ Node::Map(_)) => Ok(node),
        _ => Err(": it is no kubeconfig: it has no keys with values".into()),
    }
}

struct Reader<'a> {
    events: Parser<'a, StrInput<'a>>,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<Event<'a>>, String> {
        match self.events.next_event() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => Err(format!(":{}: {}", error.marker().line(), text::escape(&error.info()))),
        }
    }

    fn wrong(&self, why: &str) -> String {
        format!(":{}: {why}", self.line)
    }

    fn node(&mut self, event: Event<'a>, depth: usize) -> Result<Node, String> {
        if depth > limits::JSON_DEPTH {
            return Err(self.wrong(&format!("nested deeper than {} levels", limits::JSON_DEPTH)));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => {
                Ok(Node::Null)
            }
            Event::Scalar(text, ..) => Ok(Node::Text(text.into_owned())),
            Event::SequenceStart(..) => self.list(depth),
            Event::MappingStart(..) => self.map(depth),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                Err(self.wrong("YAML aliases (*name) are not supported: write the value in full"))
            }
            _ => Err(self.wrong("a value is missing")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Node, String> {
        let mut items = vec![];
        loop {
            match self.next()? {
                Some(Event::SequenceEnd) => return Ok(Node::List(items)),
                Some(event) => items.push(self.node(event, depth + 1)?),
                None => return Err(self.wrong("a list does not end")),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, String> {
        let mut members: Vec<(String, Node)> = vec![];
        loop {
            let key = match self.next()? {
                Some(Event::MappingEnd) => return Ok(Node::Map(members)),
                Some(Event::Scalar(key, ..)) => key.into_owned(),
                _ => return Err(self.wrong("a key is not text")),
            };
            if key == "<<" {
                return Err(self.wrong("YAML merge keys (<<) are not supported: write the keys in full"));
            }
            if members.iter().any(|(known, _)| *known == key) {
                return Err(self.wrong(&format!("the key {} is there twice", text::escape(&key))));
            }
            let event = self.next()?.ok_or_else(|| self.wrong("a value is missing"))?;
            members.push((key, self.node(event, depth + 1)?));
        }
    }
}

const ABSENT: Node = Node::Null;

impl Node {
    fn member(&self, key: &str) -> &Node {
        let Node::Map(members) = self else { return &ABSENT };
        members.iter().find(|(known, _)| known == key).map_or(&ABSENT, |(_, value)| value)
    }

    /// Text that is not empty.
    fn text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.member(key) {
            Node::Null => Ok(None),
            Node::Text(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Node::List(_) | Node::Map(_) => Err(format!("{key} is not text")),
        }
    }

    fn items(&self, list: &str) -> Result<&[Node], String> {
        match self.member(list) {
            Node::Null => Ok(&[]),
            Node::List(items) => Ok(items),
            Node::Text(_) | Node::Map(_) => Err(format!("{list} is not a list")),
        }
    }

    /// The entry of a list with this name; of two entries with one name neither is meant.
    fn named(&self, list: &str, name: &str) -> Result<&Node, String> {
        let mut found = None;
        for item in self.items(list)? {
            if item.text("name")? == Some(name) && found.replace(item).is_some() {
                return Err(format!("{list} has the name \"{}\" twice", text::escape(name)));
            }
        }
        found.ok_or_else(|| format!("{list} has no entry with the name \"{}\"", text::escape(name)))
    }

    /// The entry of a list that has no other.
    fn only(&self, list: &str) -> Result<Option<&Node>, String> {
        match self.items(list)? {
            [] => Ok(None),
            [item] => Ok(Some(item)),
            _ => Err(format!("it has several {list} and no current-context: run kubectl config use-context NAME")),
        }
    }
}

/// The cluster and the user that belong together.
struct Context<'a> {
    cluster: &'a Node,
    user: &'a Node,
}

impl<'a> Context<'a> {
    /// The current context. Without one, the only context; in a file without contexts, the only cluster and the only user.
    fn current(config: &'a Node) -> Result<Self, String> {
        let named = match config.text("current-context")? {
            Some(name) => Some(config.named("contexts", name).map_err(|why| format!("current-context: {why}"))?),
            None => config.only("contexts")?,
        };
        let Some(named) = named else {
            let cluster = config.only("clusters")?.ok_or("it has no cluster")?;
            let user = config.only("users")?.unwrap_or(&ABSENT);
            return Ok(Self { cluster: cluster.member("cluster"), user: user.member("user") });
        };
        let (name, context) = (named.text("name")?.unwrap_or_default(), named.member("context"));
        let cluster = context.text("cluster")?;
        let cluster = cluster.ok_or_else(|| format!("the context \"{}\" has no cluster", text::escape(name)))?;
        let user = match context.text("user")? {
            Some(user) => config.named("users", user)?.member("user"),
            None => &ABSENT,
        };
        Ok(Self { cluster: config.named("clusters", cluster)?.member("cluster"), user })
    }

    fn credentials(&self, file: &Path) -> Result<Credentials, String> {
        for key in ["proxy-url", "tls-server-name"] {
            if self.cluster.text(key)?.is_some() {
                return Err(format!("the cluster uses {key}, which the agent does not support"));
            }
        }
        if self.cluster.text("insecure-skip-tls-verify")? == Some("true") {
            return Err("the cluster has insecure-skip-tls-verify: name its certificate authority instead".into());
        }
        let authorities = content(self.cluster, "certificate-authority", file)?;
        let (certificate, key) =
            (content(self.user, "client-certificate", file)?, content(self.user, "client-key", file)?);
        if certificate.is_some() != key.is_some() {
            return Err("a client certificate needs both client-certificate and client-key".into());
        }
        let credentials = Credentials {
            server: self.server()?,
            authorities: authorities.ok_or("the cluster names no certificate authority")?,
            client: certificate.zip(key),
            token: self.token(file)?,
        };
        self.check_supported(&credentials)?;
        Ok(credentials)
    }

    fn server(&self) -> Result<Url, String> {
        let server = self.cluster.text("server")?.ok_or("the cluster names no server")?;
        let bad = || format!("server \"{}\" is not an https URL", text::escape(&text::without_secrets(server)));
        let mut server = Url::parse(server).map_err(|_| bad())?;
        // API servers accept no passwords, and messages have this address.
        if server.scheme() != "https" || !without_login(&mut server) {
            return Err(bad());
        }
        if !server.path().ends_with('/') {
            server.set_path(&format!("{}/", server.path()));
        }
        Ok(server)
    }

    /// The file takes precedence, as its content can change.
    fn token(&self, file: &Path) -> Result<Option<String>, String> {
        let Some(name) = self.user.text("tokenFile")? else { return Ok(self.user.text("token")?.map(str::to_owned)) };
        let bytes = credential(&replace::folder_of(file).join(name))?;
        let token =
            String::from_utf8(bytes).map_err(|_| format!("tokenFile {}: not text in UTF-8", text::escape(name)))?;
        Ok(Some(token.trim().to_owned()))
    }

    fn check_supported(&self, credentials: &Credentials) -> Result<(), String> {
        let used = NOT_SUPPORTED.iter().find(|(key, _)| !matches!(self.user.member(key), Node::Null));
        match used {
            Some((key, why)) if credentials.client.is_none() && credentials.token.is_none() => {
                Err(format!("the user has {key}: {why}. Give the user a token, a tokenFile or a client certificate"))
            }
            _ => Ok(()),
        }
    }
}

/// Content of `KEY-data`, else of the file in `KEY`, which is relative to the kubeconfig.
fn content(entry: &Node, key: &str, file: &Path) -> Result<Option<Vec<u8>>, String> {
    if let Some(data) = entry.text(&format!("{key}-data"))? {
        // Line ends do not count, as in Go's encoding/base64.
        let data = data.replace(['\r', '\n'], "");
        return STANDARD.decode(data).map(Some).map_err(|_| format!("{key}-data is not base64"));
    }
    let Some(name) = entry.text(key)? else { return Ok(None) };
    credential(&replace::folder_of(file).join(name)).map(Some)
}

#[cfg(test)]
mod tests;
