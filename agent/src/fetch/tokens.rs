//! Tokens of token servers, kept until they expire: in memory for one run, and in a file where the settings name one.
//!
//! A token counts for one origin, repository, scope and account. Its life is counted from the moment at which the answer
//! came, by a clock that nobody sets: `issued_at` of the answer is of no use to a device with a wrong clock. The file is
//! valid for one boot, because that clock starts again with the next one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use reqwest::header::HeaderValue;
use serde::{Deserialize, Serialize};

use crate::base::error::Reason;
use crate::base::{files, json, limits, replace};

/// The shortest life of a token, and that of one whose answer names none (CNCF Distribution, token authentication).
pub(crate) const LIFE_MIN: Duration = Duration::from_secs(60);
/// The longest life, whatever the token server promises.
pub(crate) const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Tokens in the cache; the oldest ones go first.
const TOKENS: usize = 16;
const SCHEMA: u32 = 1;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A clock that nobody sets.
pub(crate) trait Clock {
    /// The time since a moment that stays the same for as long as the system runs.
    fn now(&self) -> Duration;

    /// Waits.
    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The time since the start of the system, with the time that it slept.
pub(crate) struct SinceBoot;

impl Clock for SinceBoot {
    fn now(&self) -> Duration {
        // No Linux of this century is without this clock.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
    }
}

/// The use that a token is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Use {
    /// Scheme, host and port.
    pub(crate) origin: String,
    /// Empty where the URL is none of a registry.
    pub(crate) repository: String,
    /// The rights that this program asks for.
    pub(crate) scope: String,
    /// The account, as [`crate::fetch::login::Login::who`] names it; empty for nobody.
    pub(crate) who: String,
}

/// The tokens of one run.
pub(crate) struct Tokens {
    clock: Box<dyn Clock>,
    kept: Vec<Kept>,
    file: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    of: Use,
    token: String,
    /// Milliseconds of the clock at which it expires.
    until: u64,
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
struct Stored {
    schema: u32,
    boot_id: String,
    tokens: Vec<Kept>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.kept.iter().map(|kept| &kept.of)).finish()
    }
}

impl Tokens {
    /// Begins with the tokens of `file`, as far as they count. A file that cannot be trusted is reported and replaced with
    /// the next token: it can cost a request, and nothing else.
    pub(crate) fn new(clock: Box<dyn Clock>, file: Option<&Path>) -> Self {
        let mut tokens = Self { clock, kept: vec![], file: file.map(Path::to_owned) };
        if let Some(file) = file {
            match read(file) {
                Ok(kept) => tokens.kept = kept,
                Err(why) => log::warn!("ignoring the tokens in {}: {why}", file.display()),
            }
        }
        let end = tokens.clock.now() + LIFE_MAX;
        tokens.kept.retain(|kept| Duration::from_millis(kept.until) <= end && header(&kept.token).is_some());
        tokens
    }

    /// The token for this use, while it is valid.
    pub(crate) fn token(&self, of: &Use) -> Option<String> {
        let kept = self.kept.iter().find(|kept| kept.of == *of)?;
        (self.clock.now() < Duration::from_millis(kept.until)).then(|| kept.token.clone())
    }

    /// The `Authorization` header with it.
    pub(crate) fn get(&self, of: &Use) -> Option<HeaderValue> {
        header(&self.token(of)?)
    }

    /// Keeps a token that came just now, for as long as its server said.
    pub(crate) fn put(&mut self, of: Use, token: String, life: Duration) {
        let until = self.clock.now() + life.clamp(LIFE_MIN, LIFE_MAX);
        self.kept.retain(|kept| kept.of != of);
        self.kept.push(Kept { of, token, until: u64::try_from(until.as_millis()).unwrap_or(u64::MAX) });
        let surplus = self.kept.len().saturating_sub(TOKENS);
        self.kept.drain(..surplus);
        self.store();
    }

    /// Forgets a token that its registry refused.
    pub(crate) fn drop(&mut self, of: &Use) {
        let before = self.kept.len();
        self.kept.retain(|kept| kept.of != *of);
        if self.kept.len() != before {
            self.store();
        }
    }

    fn store(&self) {
        let Some(file) = &self.file else { return };
        let stored = Stored { schema: SCHEMA, boot_id: boot_id(), tokens: self.kept.clone() };
        let written =
            serde_json::to_vec(&stored).map_err(Into::into).and_then(|json| replace::replace(file, &json, 0o600));
        if let Err(e) = written {
            log::warn!("cannot write the tokens to {}: {e}", file.display());
        }
    }
}

/// The header with a token, if it can be one.
pub(crate) fn header(token: &str) -> Option<HeaderValue> {
    let plain = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| plain)?;
    value.set_sensitive(true);
    Some(value)
}

fn boot_id() -> String {
    files::read_kernel(Path::new(BOOT_ID)).unwrap_or_default().trim().to_owned()
}

/// The tokens of this boot in a file; none if there is no file.
fn read(file: &Path) -> Result<Vec<Kept>, String> {
    let content = files::read_secret(file, limits::TOKEN_CACHE_BYTES, Reason::UnsafeFile).map_err(|e| e.to_string())?;
    let Some(content) = content else { return Ok(vec![]) };
    // The message of the parser could quote a token.
    let stored: Stored = json::parse(&content, "tokens").map_err(|_| "not in the form that this program writes")?;
    if stored.schema != SCHEMA || stored.tokens.len() > TOKENS {
        return Err("not in the form that this program writes".into());
    }
    let id = boot_id();
    if id.is_empty() || stored.boot_id != id {
        log::debug!("{} is of another boot", file.display());
        return Ok(vec![]);
    }
    Ok(stored.tokens)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::rc::Rc;

    use tempfile::TempDir;

    use super::*;

    #[derive(Clone, Default)]
    struct Fake(Rc<Cell<u64>>);

    impl Clock for Fake {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.get())
        }
    }

    fn of(origin: &str) -> Use {
        let text = str::to_owned;
        Use { origin: text(origin), repository: text("os"), scope: text("repository:os:pull"), who: text("user u") }
    }

    fn tokens(clock: &Fake, file: Option<&Path>) -> Tokens {
        Tokens::new(Box::new(clock.clone()), file)
    }

    #[test]
    fn a_token_lives_from_its_answer_for_its_time_and_at_least_a_minute() {
        let clock = Fake::default();
        clock.0.set(1000);
        for (life, lives) in [(300, 300), (60, 60), (59, 60), (0, 60), (u64::MAX / 2000, LIFE_MAX.as_secs())] {
            let start = clock.0.get();
            let mut tokens = tokens(&clock, None);
            tokens.put(of("https://r"), "t".into(), Duration::from_secs(life));
            clock.0.set(start + lives - 1);
            assert_eq!(tokens.get(&of("https://r")).unwrap(), "Bearer t", "{life}");
            clock.0.set(start + lives);
            assert_eq!(tokens.get(&of("https://r")), None, "{life}");
        }
    }

    #[test]
    fn a_token_counts_for_one_use() {
        let mut tokens = tokens(&Fake::default(), None);
        tokens.put(of("https://r"), "t".into(), LIFE_MIN);
        let base = of("https://r");
        for other in [
            of("http://r"),
            of("https://r:5000"),
            Use { repository: "other".into(), ..base.clone() },
            Use { scope: "repository:os:pull,push".into(), ..base.clone() },
            Use { who: String::new(), ..base.clone() },
        ] {
            assert_eq!(tokens.get(&other), None, "{other:?}");
            tokens.drop(&other);
        }
        assert!(tokens.get(&base).is_some());
        tokens.drop(&base);
        assert_eq!(tokens.get(&base), None);
    }

    #[test]
    fn a_file_keeps_tokens_for_this_boot_and_this_user() {
        let (folder, clock) = (TempDir::new().unwrap(), Fake::default());
        let file = folder.path().join("tokens");
        tokens(&clock, Some(&file)).put(of("https://r"), "t".into(), Duration::from_secs(300));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        clock.0.set(299);
        assert!(tokens(&clock, Some(&file)).get(&of("https://r")).is_some());
        clock.0.set(300);
        assert!(tokens(&clock, Some(&file)).get(&of("https://r")).is_none());
        clock.0.set(0);
        let other_boot = fs::read_to_string(&file).unwrap().replace(&boot_id(), "another");
        fs::write(&file, other_boot).unwrap();
        assert!(tokens(&clock, Some(&file)).get(&of("https://r")).is_none());
    }

    #[test]
    fn a_poisoned_file_gives_nothing_and_is_replaced() {
        let (folder, clock) = (TempDir::new().unwrap(), Fake::default());
        let file = folder.path().join("tokens");
        let stored = |token: &str, until: u64| {
            let kept = Kept { of: of("https://r"), token: token.into(), until };
            serde_json::to_string(&Stored { schema: SCHEMA, boot_id: boot_id(), tokens: vec![kept] }).unwrap()
        };
        let good = stored("t", 5000);
        let day = u64::try_from(LIFE_MAX.as_millis()).unwrap();
        for (content, mode) in [
            (stored("t\r\nX-Header: 1", 5000), 0o600),
            (stored("", 5000), 0o600),
            (stored("t", day + 1), 0o600),
            (stored("t", u64::MAX), 0o600),
            (good.replace("\"schema\":1", "\"schema\":2"), 0o600),
            (good.replace("\"schema\":1", "\"schema\":1,\"schema\":1"), 0o600),
            ("nonsense".into(), 0o600),
            ("x".repeat(limits::TOKEN_CACHE_BYTES as usize + 1), 0o600),
            (good.clone(), 0o644),
            (good.clone(), 0o602),
        ] {
            fs::write(&file, &content).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let mut tokens = tokens(&clock, Some(&file));
            assert_eq!(tokens.get(&of("https://r")), None, "{content:.80} {mode:o}");
            tokens.put(of("https://r"), "new".into(), LIFE_MIN);
            assert!(Tokens::new(Box::new(clock.clone()), Some(&file)).get(&of("https://r")).is_some());
        }
        // The control: the same content is read where nothing is wrong with it.
        fs::write(&file, &good).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(tokens(&clock, Some(&file)).get(&of("https://r")).is_some());
        // A link leads no write elsewhere.
        let (link, target) = (folder.path().join("link"), folder.path().join("target"));
        fs::write(&target, "precious").unwrap();
        symlink(&target, &link).unwrap();
        tokens(&clock, Some(&link)).put(of("https://r"), "t".into(), LIFE_MIN);
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    }
}
