//! The verdict of a device on a freshness statement. It holds nothing back unless the settings require that.

use chrono::{DateTime, Utc};

use crate::base::digest::Digest;
use crate::base::error::{Error, Reason, Result};
use crate::base::text;
use crate::config::{AutoSwitch, Config};
use crate::policy::gate::Gate;
use crate::policy::trust_policy::TrustPolicy;
use crate::release::release::{Architecture, Release};
use crate::release::statement::{Published, Statement};
use crate::schedule::clock::{Clock, shown};
use crate::source::source::Source;
use crate::state::freshness::{FreshnessReport, FreshnessVerdict};
use crate::state::trust::{Serial, Trust};
use crate::trust::keys::KeySet;
use crate::trust::signature::Fingerprint;

/// Name of the gate.
const NAME: &str = "freshness";

/// A verdict, and what is to be remembered of it.
#[derive(Clone, Debug)]
pub struct FreshnessFinding {
    /// The verdict.
    pub verdict: FreshnessReport,
    /// How far the statements of this channel have come with this one, for each key that signed it.
    pub serials: Vec<Serial>,
    /// When a verified statement was made, unless that is too far ahead of the clock.
    pub issued: Option<DateTime<Utc>>,
}

/// The question whether a release is the latest, and what a statement is measured against.
#[derive(Debug)]
pub struct FreshnessCheck<'a> {
    /// The settings.
    pub config: &'a Config,
    /// The serials seen before.
    pub trust: &'a Trust,
    /// The keys that count.
    pub policy: &'a TrustPolicy,
    /// The time.
    pub clock: &'a Clock,
    /// The release on offer.
    pub release: &'a Release,
    /// The offer had to be fetched, so that one more request costs little.
    pub changed: bool,
}

impl FreshnessCheck<'_> {
    /// Asks the source, if the settings or an earlier statement require it, or the offer has changed.
    ///
    /// # Errors
    /// 78 when the keys cannot be used. A fault of the statement is a verdict.
    pub fn look(&self, source: &mut dyn Source) -> Result<Option<FreshnessFinding>> {
        let config = self.config;
        let expected = self.is_expected();
        if config.freshness == AutoSwitch::No || !(expected || self.changed) {
            return Ok(None);
        }
        let keys = match &config.freshness_pubkey {
            // One key that is used by a machine every day is enough, and when it is revoked there is none.
            Some(place) => KeySet::load(place)?.needing(1, &self.policy.revoked).ok(),
            None => self.policy.keys.clone(),
        };
        let seen = match source.freshness() {
            Ok(None) if !expected => return Ok(None),
            Ok(None) => FreshnessFinding::without(FreshnessReport::unknown(
                Reason::NoStatement,
                "the source has no freshness statement",
            )),
            Err(e) if !expected => {
                log::info!("no freshness statement: {e}");
                return Ok(None);
            }
            Err(e) => {
                FreshnessFinding::without(FreshnessReport::unknown(e.reason, format!("no freshness statement: {e}")))
            }
            Ok(Some(published)) => self.judge(&published, keys.as_ref()),
        };
        match seen.verdict.word {
            FreshnessVerdict::Fresh => log::info!("{}", seen.verdict.message),
            FreshnessVerdict::Stale | FreshnessVerdict::Unknown => log::warn!("{}", seen.verdict.message),
        }
        Ok(Some(seen))
    }

    fn channel(&self) -> Option<&str> {
        self.config.channel.as_deref().or(self.release.channel.as_deref())
    }

    /// Without a statement the release is not known to be the latest: the settings say so, or there was one before.
    fn is_expected(&self) -> bool {
        let config = self.config;
        let set = config.freshness == AutoSwitch::Yes || config.require_fresh || config.freshness_pubkey.is_some();
        let of_channel = |known: &Serial| self.channel().is_none_or(|channel| channel == known.channel);
        set || self.trust.serials.iter().any(of_channel)
    }

    /// The verdict on a release by a statement, here and now.
    fn judge(&self, published: &Published, keys: Option<&KeySet>) -> FreshnessFinding {
        let Some(keys) = keys else {
            let message = "no key to verify a freshness statement";
            return FreshnessFinding::without(FreshnessReport::unknown(Reason::NoKey, message));
        };
        let (statement, signers) = match prove(published, keys) {
            Ok(proven) => proven,
            Err(e) => return FreshnessFinding::without(FreshnessReport::unknown(e.reason, e.message)),
        };
        let Statement { serial, .. } = statement;
        let known = signers.iter().filter_map(|key| self.trust.serial(&statement.channel, key)).max();
        if let Some(known) = known.filter(|known| *known > serial) {
            let message = format!("the freshness statement has serial {serial}, after {known} was seen before");
            return FreshnessFinding::without(FreshnessReport::new(
                FreshnessVerdict::Stale,
                Reason::SerialWentBack,
                message,
            ));
        }
        let verdict = measure(&statement, self.clock, self.channel(), self.release.architecture, self.release.digest);
        // Statements of other channels leave nothing behind: their serials could displace those of this one.
        let own = self.channel().is_none_or(|channel| channel == statement.channel);
        let kept = if own { signers } else { vec![] };
        let serials = kept.into_iter().map(|key| Serial { channel: statement.channel.clone(), key, serial });
        let verdict = verdict.with(Some(serial), Some(statement.not_after));
        let issued = Some(statement.issued).filter(|issued| own && self.clock.may_be_past(*issued));
        FreshnessFinding { verdict, serials: serials.collect(), issued }
    }
}

impl FreshnessFinding {
    fn without(verdict: FreshnessReport) -> Self {
        Self { verdict, serials: vec![], issued: None }
    }

    /// The refusal of a statement that is older than one seen before: somebody replays it.
    #[must_use]
    pub fn refusal(&self) -> Option<Error> {
        (self.verdict.reason == Some(Reason::SerialWentBack.into())).then(|| {
            Error::new(Reason::SerialWentBack, self.verdict.message.clone()).remedy(
                "Find out who offers an old statement. If the publisher lost its count, sign with a new key, and \
                 revoke the old one.",
            )
        })
    }
}

fn prove(published: &Published, keys: &KeySet) -> Result<(Statement, Vec<Fingerprint>)> {
    // A signature over something else that names these bytes is not of a statement.
    let plain: Vec<_> = published.signatures.iter().filter(|s| s.payload.is_none()).cloned().collect();
    let signers = keys
        .vouching(&published.statement, &plain)
        .map_err(|e| Error::new(Reason::StatementNotProven, format!("the freshness statement is not valid: {e}")))?;
    Ok((Statement::parse(&published.statement)?, signers))
}

fn measure(
    statement: &Statement,
    clock: &Clock,
    channel: Option<&str>,
    architecture: Architecture,
    digest: Digest,
) -> FreshnessReport {
    if let Some(channel) = channel.filter(|channel| *channel != statement.channel) {
        let (theirs, ours) = (text::escape(&statement.channel), text::escape(channel));
        return FreshnessReport::unknown(
            Reason::OtherChannel,
            format!("the freshness statement is for {theirs}, not for {ours}"),
        );
    }
    match statement.latest(architecture) {
        Some(latest) if latest == digest => {}
        Some(latest) => {
            let message = format!("the latest release is {latest}, and the offer is {digest}");
            return FreshnessReport::new(FreshnessVerdict::Stale, Reason::NotTheLatest, message);
        }
        None => {
            let message = format!("the freshness statement lacks {architecture}");
            return FreshnessReport::unknown(Reason::OtherArchitecture, message);
        }
    }
    match clock.for_expiry() {
        Err(e) => FreshnessReport::unknown(e.reason, format!("unknown whether this is the latest release: {e}")),
        Ok(_) if !clock.may_be_past(statement.issued) => {
            let message = format!("the clock shows {}, before the date of the statement", shown(clock.shown));
            FreshnessReport::unknown(Reason::Clock, message)
        }
        Ok(now) if now > statement.not_after => FreshnessReport::expired(statement.not_after),
        Ok(_) => FreshnessReport::new(
            FreshnessVerdict::Fresh,
            None,
            format!("the latest release until {}", shown(statement.not_after)),
        ),
    }
}

/// Holds back what is not proven to be the latest, if the settings ask for that, and what somebody replays in any case.
#[must_use]
pub fn gate(config: &Config, seen: Option<&FreshnessFinding>) -> Gate {
    let Some(seen) = seen else { return Gate::open(NAME, "not asked for") };
    let message = &seen.verdict.message;
    if let Some(refusal) = seen.refusal() {
        return Gate::closed(NAME, refusal.reason, refusal.message, refusal.remedy);
    }
    match seen.verdict.word {
        FreshnessVerdict::Fresh => Gate::open(NAME, message),
        FreshnessVerdict::Stale | FreshnessVerdict::Unknown if !config.require_fresh => {
            Gate::open(NAME, format!("warning: {message}"))
        }
        FreshnessVerdict::Stale | FreshnessVerdict::Unknown => {
            Gate::closed(NAME, Reason::NotFresh, message, "Publish a new freshness statement, or set require_fresh=no.")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::TimeDelta;

    use super::*;
    use crate::schedule::clock::build_date;

    fn at(days: i64) -> DateTime<Utc> {
        build_date() + TimeDelta::days(days)
    }

    fn clock(days: i64, synchronised: bool) -> Clock {
        Clock { shown: at(days), synchronised, last_seen: Some(at(50)) }
    }

    fn measured(clock: &Clock, digest: u8) -> (FreshnessVerdict, Option<Reason>) {
        let digests = BTreeMap::from([(Architecture::current().to_string(), Digest([1; 32]))]);
        let statement = Statement { channel: "stable".into(), serial: 1, issued: at(100), not_after: at(114), digests };
        let verdict = measure(&statement, clock, Some("stable"), Architecture::current(), Digest([digest; 32]));
        (verdict.word, verdict.reason.and_then(|reason| reason.known()))
    }

    #[test]
    fn a_statement_is_measured_only_with_a_clock_that_can_be_right() {
        assert_eq!(measured(&clock(110, true), 1), (FreshnessVerdict::Fresh, None));
        assert_eq!(measured(&clock(110, false), 1), (FreshnessVerdict::Fresh, None), "no NTP, and no doubt");
        assert_eq!(measured(&clock(114, true), 1), (FreshnessVerdict::Fresh, None));
        assert_eq!(measured(&clock(115, true), 1), (FreshnessVerdict::Stale, Some(Reason::Expired)));
        // Of the clock and the latest time known the later one counts.
        let known = |days| Clock { last_seen: Some(at(days)), ..clock(114, true) };
        assert_eq!(measured(&known(114), 1), (FreshnessVerdict::Fresh, None));
        assert_eq!(
            measured(&known(115), 1),
            (FreshnessVerdict::Stale, Some(Reason::Expired)),
            "a clock set back by a day"
        );
        assert_eq!(
            measured(&clock(99, true), 1),
            (FreshnessVerdict::Fresh, None),
            "a publisher's clock is a day ahead"
        );
        for wrong in [clock(-1, true), clock(40, false), clock(40, true), known(116), clock(98, true)] {
            assert_eq!(measured(&wrong, 1), (FreshnessVerdict::Unknown, Some(Reason::Clock)));
            // Another release is the latest whatever the time is.
            assert_eq!(measured(&wrong, 2), (FreshnessVerdict::Stale, Some(Reason::NotTheLatest)));
        }
    }

    #[test]
    fn what_was_fresh_ends_by_itself() {
        let verdict = FreshnessReport::new(FreshnessVerdict::Fresh, None, "fresh").with(Some(1), Some(at(114)));
        let by = |clock| verdict.clone().by_now(&clock).word;
        assert_eq!(by(clock(114, true)), FreshnessVerdict::Fresh);
        assert_eq!(by(clock(115, true)), FreshnessVerdict::Stale);
        assert_eq!(by(clock(40, false)), FreshnessVerdict::Unknown);
        let stale = FreshnessReport::new(FreshnessVerdict::Stale, Reason::NotTheLatest, "").with(None, Some(at(114)));
        assert_eq!(stale.clone().by_now(&clock(40, false)), stale);
    }
}
