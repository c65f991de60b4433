//! KubeSolo's own view of itself: the status on its API socket, and the files of its upgrade.
//!
//! The socket is off by default there, and `kubesoloctl` upgrades without it, so the files count where it does not answer:
//! <https://github.com/portainer/kubesolo>, `docs/configuration/upgrade-api.md` and `internal/upgrade`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use reqwest::Url;
use serde::Deserialize;

use crate::base::error::Reason;
use crate::base::{files, json, limits, text};
use crate::config::Config;
use crate::fetch::cluster::{Line, Question};
use crate::policy::gate::{Gate, Lifted};

/// The socket, in KubeSolo's folder.
const SOCKET: &str = "config.sock";
/// Where its status is, on the socket.
const STATUS: &str = "http://localhost/api/v1/status";
/// The longest that the status is waited for: KubeSolo gives its own checks 10 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// The folder of its upgrade, in KubeSolo's folder.
const UPGRADE: &str = "upgrade";
/// A run without a process counts as waiting to start for this long (`queuedGrace`), in seconds.
const QUEUED: i64 = 120;
/// The reason of an error in a file of KubeSolo.
const UNSAFE: Reason = Reason::UnsafeFile;
const NAME: &str = "kubesolo-upgrade";

/// `GET /api/v1/status`, as far as it counts here.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Status {
    pub(super) health: Option<Health>,
    upgrade: Option<Upgrade>,
}

/// KubeSolo's verdict on itself.
#[derive(Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Health {
    healthy: bool,
    /// `ok`, or the cause.
    #[serde(default)]
    checks: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, rename_all = "camelCase")]
struct Upgrade {
    in_flight: bool,
    current: Option<Run>,
    /// The version that was started and is not known to be healthy.
    pending_verify: String,
}

/// An upgrade or a rollback, also in `upgrade/state.json`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Run {
    from: String,
    to: String,
    started: Option<DateTime<Utc>>,
    /// 0 until it is known.
    pid: i32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    current: Option<Run>,
}

impl Health {
    /// Why KubeSolo is not well; `None`: it is.
    pub(super) fn complaint(&self) -> Option<String> {
        let failed = self.checks.iter().flatten().filter(|(_, result)| *result != "ok");
        let failed: Vec<_> = failed.map(|(name, why)| format!("{name}: {why}")).collect();
        match (self.healthy, failed.is_empty()) {
            (true, _) => None,
            (false, true) => Some("KubeSolo is not healthy, and names no check".into()),
            (false, false) => Some(text::escape(&failed.join("; "))),
        }
    }
}

/// True if KubeSolo has its API on a socket.
pub(super) fn has_socket(config: &Config) -> bool {
    fs::symlink_metadata(config.data_dir.join(SOCKET)).is_ok()
}

/// Asks KubeSolo itself, within `time`. `None`: it has no socket.
///
/// # Errors
/// Why it does not answer, escaped.
pub(super) fn status(config: &Config, time: Duration) -> Option<Result<Status, String>> {
    let named = |why| format!("{}: {why}", config.data_dir.join(SOCKET).display());
    has_socket(config).then(|| asked(config, time).map_err(named))
}

fn asked(config: &Config, time: Duration) -> Result<Status, String> {
    let socket = files::resolve(&config.data_dir.join(SOCKET), UNSAFE).map_err(|e| e.message)?;
    let socket = socket.ok_or("it is not there")?;
    let meta = socket.symlink_metadata().map_err(|e| e.to_string())?;
    if !meta.file_type().is_socket() {
        return Err("it is not a socket".into());
    }
    files::check_owner(&meta, &socket, UNSAFE).map_err(|e| e.message)?;
    let url = Url::parse(STATUS).map_err(|e| e.to_string())?;
    let question = Question { accept: "application/json", limit: limits::KUBESOLO_STATUS_BYTES, time };
    let answer = Line::on_socket(&socket)?.get(url, &question).map_err(|failure| failure.to_string())?;
    parse(&answer)
}

/// Reads the answer of the socket.
///
/// # Errors
/// The cause, escaped.
fn parse(answer: &[u8]) -> Result<Status, String> {
    json::parse(answer, "status").map_err(|e| e.message)
}

/// Keeps an update from a KubeSolo that replaces itself: a revert of the OS would come between the release that it left and
/// the data that it has changed.
#[must_use]
pub fn gate(config: &Config, lifted: Lifted) -> Gate {
    match upgrade(config, Utc::now()) {
        Ok(None) => Gate::open(NAME, "no upgrade of KubeSolo is under way"),
        Ok(Some(what)) if lifted.force => Gate::open(NAME, format!("{what}; allowed by --force")),
        Ok(Some(what)) => Gate::closed(
            NAME,
            Reason::KubesoloUpgrade,
            what,
            "Wait until it is over: the next run asks again. If it never ends, see `kubesoloctl status`, or run \
             `kubesolo-update apply --force`.",
        ),
        Err(why) => {
            log::warn!("unknown whether KubeSolo is being upgraded: {why}");
            Gate::unknown(NAME, format!("unknown, which does not hold the update back: {why}"))
        }
    }
}

/// An upgrade of KubeSolo that is not over, in words.
fn upgrade(config: &Config, now: DateTime<Utc>) -> Result<Option<String>, String> {
    let asked = status(config, PATIENCE);
    if let Some(Ok(Status { upgrade: Some(upgrade), .. })) = &asked {
        return Ok(upgrade.words());
    }
    let folder = config.data_dir.join(UPGRADE);
    if fs::symlink_metadata(&folder).is_err() {
        return asked.and_then(Result::err).map_or(Ok(None), Err);
    }
    let file = |name: &str, limit| files::read(&folder.join(name), limit, UNSAFE).map_err(|e| e.message);
    let pending = file("pending", limits::VERSION_FILE_BYTES)?.unwrap_or_default();
    let state = file("state.json", limits::KUBESOLO_STATUS_BYTES as u64)?;
    let state: Option<State> =
        state.map(|bytes| json::parse(&bytes, "upgrade/state.json")).transpose().map_err(|e| e.message)?;
    let current = state.and_then(|state| state.current);
    let pending_verify = String::from_utf8_lossy(&pending).trim().to_owned();
    Ok(Upgrade { in_flight: current.as_ref().is_some_and(|run| run.lives(now)), current, pending_verify }.words())
}

impl Upgrade {
    fn words(&self) -> Option<String> {
        if self.in_flight {
            let run = self.current.as_ref().map(|run| format!(" from {} to {}", run.from, run.to)).unwrap_or_default();
            return Some(text::escape(&format!("KubeSolo changes its version{run}")));
        }
        let version = &self.pending_verify;
        (!version.is_empty()).then(|| text::escape(&format!("KubeSolo {version} has not proved to be healthy yet")))
    }
}

impl Run {
    /// By KubeSolo's own rule (`State.InFlight`): its process is there, or it was only just asked for.
    fn lives(&self, now: DateTime<Utc>) -> bool {
        if self.pid > 0 {
            return kill(Pid::from_raw(self.pid), None) != Err(Errno::ESRCH);
        }
        let waits = |started| (TimeDelta::zero()..TimeDelta::seconds(QUEUED)).contains(&(now - started));
        self.started.is_some_and(waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From KubeSolo's documentation.
    const WELL: &str = r#"{"version": "v1.2.2", "containerMode": false,
        "health": {"healthy": true, "checks": {"apiserver": "ok", "node": "ok", "coredns": "ok"}},
        "agent": {"configuredImage": "docker.io/portainer/agent:2.31.0", "inSync": true},
        "upgrade": {"inFlight": false, "last": {"id": "3f9c2a1b7e40", "operation": "upgrade", "from": "v1.2.1",
            "to": "v1.2.2", "phase": "done", "result": "succeeded", "hostChanged": true, "messages": ["..."]},
            "rollbackTarget": {"from": "v1.2.1", "to": "v1.2.2", "created": "2026-10-08T01:02:03Z"}}}"#;

    #[test]
    fn the_status_of_kubesolo_is_read_as_its_documentation_has_it() {
        let words = |text: &str| {
            let status = parse(text.as_bytes()).unwrap();
            (status.health.and_then(|health| health.complaint()), status.upgrade.and_then(|upgrade| upgrade.words()))
        };
        assert_eq!(words(WELL), (None, None));
        let ill = WELL
            .replace("true, \"checks\"", "false, \"checks\"")
            .replace("\"coredns\": \"ok\"", "\"coredns\": \"no pod\"");
        assert_eq!(words(&ill).0.unwrap(), "coredns: no pod");
        let current =
            r#""inFlight": true, "current": {"from": "v1", "to": "v2", "pid": 7, "started": "2026-10-08T01:02:03Z"},"#;
        let changing = WELL.replace("\"inFlight\": false,", current);
        assert_eq!(words(&changing).1.unwrap(), "KubeSolo changes its version from v1 to v2");
        let unproven = WELL.replace("\"inFlight\": false,", "\"inFlight\": false, \"pendingVerify\": \"v1.2.2\",");
        assert_eq!(words(&unproven).1.unwrap(), "KubeSolo v1.2.2 has not proved to be healthy yet");
        // A KubeSolo that has no such member says nothing about it.
        assert_eq!(words("{}"), (None, None));
        for odd in ["", "[]", "{\"health\": {}}", "{\"health\": {\"healthy\": \"yes\"}}", &WELL[..WELL.len() - 1]] {
            assert!(parse(odd.as_bytes()).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_run_of_a_process_that_is_gone_holds_nothing_back() {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let run = |pid, seconds| Run { pid, started: Some(now - TimeDelta::seconds(seconds)), ..Run::default() };
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        let pid = i32::try_from(gone.id()).unwrap();
        gone.wait().unwrap();
        assert!(run(i32::try_from(std::process::id()).unwrap(), 9999).lives(now));
        assert!(!run(pid, 1).lives(now));
        // One that has no process yet, and one that never got one. The clock may have been set back.
        assert!(run(0, 1).lives(now) && !run(0, QUEUED).lives(now) && !run(0, -9999).lives(now));
    }
}
