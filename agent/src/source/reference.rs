//! Names of releases in registries: `host/path`, `host/path:tag`, `host/path@sha256:…`.
//!
//! The parser of the OCI crate takes any such name, with defaults of its own (a public registry, the tag `latest`) that are
//! nobody's wish on a device; and its regular expression takes 13 MiB of memory, more than all the rest of an update.

use std::net::Ipv6Addr;

/// The parts of a reference, none of them a default.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// With a dot, a port, an IPv6 address in brackets, or `localhost`.
    pub host: &'a str,
    /// Path of the repository on that host.
    pub repository: &'a str,
    /// The tag, if one is written.
    pub tag: Option<&'a str>,
    /// The text after the `@`.
    pub digest: Option<&'a str>,
}

/// Splits a reference.
///
/// # Errors
/// The error says what is wrong.
pub fn parse(reference: &str) -> Result<Parts<'_>, &'static str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let (host, path) = name.split_once('/').filter(|(host, _)| is_host(host)).ok_or("it does not start with a host")?;
    let (repository, tag) = match path.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    if repository.len() > 255 || !repository.split('/').all(is_path_component) {
        return Err("its path is not the name of a repository: lower-case letters, digits and single separators");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("its tag is not valid");
    }
    Ok(Parts { host, repository, tag, digest })
}

/// The server that answers for a host: that of Docker Hub has another name than its references.
pub(crate) fn server(host: &str) -> &str {
    if host == "docker.io" { "index.docker.io" } else { host }
}

/// Letters, digits and `_`, also `.` and `-` but not at the start; at most 128.
#[must_use]
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn is_host(host: &str) -> bool {
    if let Some((address, port)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok() && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let label = |label: &str| {
        label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.split('.').all(label) && port.is_none_or(is_port) && (host.contains(['.', ':']) || host == "localhost")
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok() && port.bytes().all(|b| b.is_ascii_digit())
}

/// Letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(alphanumeric)
        && component.ends_with(alphanumeric)
        && component
            .split(alphanumeric)
            .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::digest::Digest;
    use oci_client::Reference;
    use proptest::prelude::*;

    #[test]
    fn the_parts_are_told_apart() {
        let parts = |text| parse(text).map(|p| (p.host, p.repository, p.tag, p.digest));
        assert_eq!(parts("a.b/c"), Ok(("a.b", "c", None, None)));
        assert_eq!(parts("a:5000/c/d:e"), Ok(("a:5000", "c/d", Some("e"), None)));
        assert_eq!(parts("localhost/c:e@sha256:00"), Ok(("localhost", "c", Some("e"), Some("sha256:00"))));
        assert_eq!(parts("[::1]/c"), Ok(("[::1]", "c", None, None)));
        assert_eq!(parts("[fe80::1]:5000/c/d:e"), Ok(("[fe80::1]:5000", "c/d", Some("e"), None)));
        for wrong in [
            "",
            "/",
            "a",
            "a:5000",
            "a/b",
            "a.b/",
            "a.b/c:",
            "a.b//c",
            "a.b/C",
            "a:x/c",
            "a:+1/c",
            "a:65536/c",
            "[::1/c",
            "[::1]5000/c",
            "[::1]:/c",
            "[1.2.3.4]/c",
            "::1/c",
        ] {
            parse(wrong).map(|_| wrong).unwrap_err();
        }
    }

    fn agree(text: &str) {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for text in [text.to_owned(), format!("{text}@{digest}")] {
            let oracle = text.parse::<Reference>();
            match (parse(&text), oracle) {
                (Ok(ours), Ok(theirs)) => {
                    assert_eq!((ours.host, ours.repository), (theirs.registry(), theirs.repository()), "{text}");
                    let default = ours.tag.is_none() && ours.digest.is_none();
                    assert_eq!(ours.tag, theirs.tag().filter(|_| !default), "{text}");
                    assert_eq!(ours.digest, theirs.digest(), "{text}");
                }
                // They know no IPv6 addresses, and look at the digest at once.
                (Ok(ours), Err(e)) => {
                    let digest = ours.digest.is_none_or(|digest| digest.parse::<Digest>().is_ok());
                    assert!(ours.host.starts_with('[') || !digest, "{text}: only we accept it: {e}");
                }
                // They also take names without host, for a public registry, and ports that there are not.
                (Err(why), Ok(theirs)) => assert!(
                    theirs.registry() == "docker.io"
                        || theirs.registry().rsplit(':').next().is_some_and(|p| p.len() > 4),
                    "{text}: only we refuse it: {why}"
                ),
                (Err(_), Err(_)) => {}
            }
        }
    }

    proptest! {
        #[test]
        fn the_crate_for_oci_reads_the_same(text in "[ab]{1,2}[.:][a1-]{1,3}/[aA.1_/-]{1,8}(:[aA._-]{0,4})?") {
            agree(&text);
        }

        #[test]
        fn the_crate_for_oci_reads_the_same_in_arbitrary_text(text in "[aA1._:/@-]{0,16}|[ -~]{0,16}") {
            // Of one script: a word in their tags can be of any, and registries only know this one.
            agree(&text);
        }
    }
}
