use std::process::Command;

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

/// Several clusters, users and contexts, as `kubectl config set-context` leaves them, edited by hand.
const SEVERAL: &str = "# Two clusters.
apiVersion: v1
kind: Config
'current-context': site # the one of this device
clusters:
- name: lab
  cluster: {server: 'https://lab.example', certificate-authority-data: TEFC}
- name: \"site\"
  cluster:
    \"server\": https://site.example:6443/k8s   # behind a proxy
    certificate-authority-data: |
      U0lURQ==
contexts:
- {name: lab, context: {cluster: lab, user: lab-admin}}
- name: site
  context:
    cluster: site
    namespace: default
    user: site-admin
users:
- name: lab-admin
  user: {token: lab-secret}
- name: site-admin
  user:
    token: >-
      site-secret
";

fn credentials_in(folder: &Path, text: &str) -> Result<Credentials, String> {
    let config = parse(text.as_bytes())?;
    Context::current(&config)?.credentials(&folder.join("kubeconfig"))
}

fn credentials(text: &str) -> Result<Credentials, String> {
    credentials_in(Path::new("/nowhere"), text)
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
}

#[test]
fn the_current_context_chooses_cluster_and_user() {
    for (current, server, authorities, token) in [
        ("site", "https://site.example:6443/k8s/", &b"SITE"[..], "site-secret"),
        ("lab", "https://lab.example/", b"LAB", "lab-secret"),
    ] {
        let found =
            credentials(&SEVERAL.replace("'current-context': site", &format!("current-context: {current}"))).unwrap();
        assert_eq!((found.server.as_str(), &found.authorities[..]), (server, authorities));
        assert_eq!((found.client, found.token.as_deref()), (None, Some(token)));
    }
}

#[test]
fn a_token_is_only_sent_for_the_user_that_it_belongs_to() {
    // Without a user there is no token, although the file has two.
    let nobody = SEVERAL.replace("    user: site-admin\n", "");
    assert_eq!(credentials(&nobody).unwrap().token, None);
    for (text, words) in [
        (SEVERAL.replace("user: site-admin", "user: gone"), "users has no entry with the name \"gone\""),
        (SEVERAL.replace("- name: lab-admin", "- name: site-admin"), "users has the name \"site-admin\" twice"),
        (SEVERAL.replace("'current-context': site", "current-context: ''"), "several contexts and no current-context"),
    ] {
        let why = credentials(&text).err().unwrap_or_else(|| panic!("{text}"));
        assert!(why.contains(words), "{words}: {why}");
    }
}

#[test]
fn nothing_is_joined_that_no_context_joins() {
    let one = YAML.replace("current-context: kubesolo\n", "");
    let found = credentials(&one).unwrap();
    assert_eq!((found.server.as_str(), found.client.is_some()), ("https://127.0.0.1:6443/", true), "the only context");
    let apart = credentials(&one.replace("    user: admin\n", "")).unwrap();
    assert_eq!((apart.client, apart.token), (None, None), "the context has no user");
    let elsewhere = credentials(&one.replace("    user: admin\n", "    user: other\n")).err().unwrap();
    assert!(elsewhere.contains("users has no entry with the name \"other\""), "{elsewhere}");
    let start = one.find("contexts:").unwrap();
    let bare = [&one[..start], &one[one.find("kind:").unwrap()..]].concat();
    assert!(credentials(&bare).unwrap().client.is_some(), "without contexts: the only cluster and the only user");
}

#[test]
fn a_password_in_the_address_of_a_server_is_not_shown() {
    for address in
        ["http://me:secret@site.example", "https://me:secret@site.example:99999", "ftp://me:secret@a/?secret"]
    {
        let why = credentials(&SEVERAL.replace("https://site.example:6443/k8s", address)).err().unwrap();
        assert!(why.contains("is not an https URL") && !why.contains("secret"), "{why}");
    }
    let found = credentials(&SEVERAL.replace("https://site", "https://me:secret@site")).unwrap();
    assert_eq!(found.server.as_str(), "https://site.example:6443/k8s/");
}

#[test]
fn files_are_relative_to_the_kubeconfig() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pki")).unwrap();
    for (name, content) in [("ca.pem", "CA"), ("pki/admin.pem", "CERT"), ("pki/admin.key", "KEY"), ("token", "new\n")] {
        std::fs::write(folder.path().join(name), content).unwrap();
    }
    let text = YAML
        .replace("certificate-authority-data: Q0E=", "certificate-authority: ca.pem")
        .replace("client-certificate-data: Q0VSVA==", "client-certificate: pki/admin.pem")
        .replace("client-key-data: S0VZ", "client-key: pki/admin.key\n    token: old\n    tokenFile: token");
    let found = credentials_in(folder.path(), &text).unwrap();
    assert_eq!(found.authorities, b"CA");
    assert_eq!(found.client, Some((b"CERT".to_vec(), b"KEY".to_vec())));
    assert_eq!(found.token.as_deref(), Some("new"), "the file takes precedence");
    assert!(credentials(&text).err().unwrap().contains("/nowhere/ca.pem is not there"));
}

#[test]
fn an_unusable_kubeconfig_is_reported_with_the_cause_and_nothing_is_guessed() {
    let user = |user: &str| {
        let (head, _) = YAML.split_once("    client-certificate-data").unwrap();
        format!("{head}    {user}\n")
    };
    for (text, words) in [
        (String::new(), "no kubeconfig"),
        ("nonsense".to_owned(), "no kubeconfig"),
        ("{".to_owned(), ":1: "),
        ("kind: Config\n".to_owned(), "no cluster"),
        (YAML.replace("https:", "http:"), "not an https URL"),
        (
            YAML.replace("certificate-authority-data: Q0E=", "insecure-skip-tls-verify: true"),
            "insecure-skip-tls-verify",
        ),
        (YAML.replace("certificate-authority-data: Q0E=", "x: y"), "no certificate authority"),
        (YAML.replace("certificate-authority-data: Q0E=", "proxy-url: http://p"), "proxy-url"),
        (YAML.replace("Q0E=", "not base64"), "not base64"),
        (YAML.replace("Q0E=", "[Q0E=]"), "certificate-authority-data is not text"),
        (YAML.replace("    client-key-data: S0VZ\n", ""), "needs both"),
        (YAML.replace("client-key-data: S0VZ", "client-key: admin.key"), "/nowhere/admin.key"),
        (user("exec: {command: /bin/aws, apiVersion: client.authentication.k8s.io/v1}"), "no credential plugins"),
        (user("auth-provider: {name: gcp}"), "no credential plugins"),
        (user("username: admin"), "no passwords"),
        (YAML.replace("apiVersion: v1", "apiVersion: v1\nkind: Config"), ":14: the key kind is there twice"),
        (YAML.replace("cluster: kubesolo", "<<: {cluster: kubesolo}"), ":9: YAML merge keys (<<)"),
        (YAML.replace("preferences: {}", "preferences: &a {}\nextensions: *a"), ":15: YAML aliases"),
        (format!("{YAML}---\n{YAML}"), "several documents"),
        (format!("a: {}{}\n", "[".repeat(20), "]".repeat(20)), "deeper than 16"),
        ("x".repeat(limits::KUBECONFIG_BYTES as usize + 1), "more than"),
    ] {
        let why = credentials(&text).err().unwrap_or_else(|| panic!("{text}"));
        assert!(why.contains(words), "{words}: {why}");
    }
    // A plugin beside a token does not matter.
    let both = user("{token: abc, exec: {command: x}}").replace("  user:\n    {", "  user: {");
    assert_eq!(credentials(&both).unwrap().token.as_deref(), Some("abc"));
}

/// `kubectl` shows the cluster and the user that it would use.
#[test]
fn kubectl_uses_the_same_cluster_and_user() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let lab = SEVERAL.replace("'current-context': site", "current-context: lab");
    let json = YAML.replace("current-context: kubesolo", "\"current-context\": \"kubesolo\"");
    for text in [YAML, SEVERAL, &lab, &json] {
        std::fs::write(&file, text).unwrap();
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&file).args(["config", "view", "--minify", "--raw", "-o", "json"]);
        let output = kubectl.output().expect("kubectl (package kubernetes-client)");
        assert!(output.status.success(), "{output:?}");
        let view: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let (cluster, user) = (&view["clusters"][0]["cluster"], &view["users"][0]["user"]);
        let ours = credentials(text).unwrap();
        assert_eq!(cluster["server"].as_str().unwrap(), ours.server.as_str().trim_end_matches('/'));
        assert_eq!(cluster["certificate-authority-data"], STANDARD.encode(&ours.authorities));
        assert_eq!(user["token"].as_str(), ours.token.as_deref());
        let certificate = ours.client.map(|(certificate, _)| STANDARD.encode(certificate));
        assert_eq!(user["client-certificate-data"].as_str(), certificate.as_deref());
    }
    // Neither takes these.
    for text in [
        SEVERAL.replace("- name: lab-admin", "- name: site-admin"),
        SEVERAL.replace("'current-context': site", "'current-context': gone"),
        YAML.replace("Q0E=", "[Q0E=]"),
    ] {
        std::fs::write(&file, &text).unwrap();
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(&file).args(["config", "view", "--minify", "--raw"]);
        assert!(!kubectl.output().unwrap().status.success(), "{text}");
        assert!(credentials(&text).is_err(), "{text}");
    }
}
