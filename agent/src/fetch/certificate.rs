//! Certificates of servers: their verification, and the words for one that fails it.

use std::sync::Arc;
use std::{fmt, io};

use chrono::{DateTime, NaiveDateTime, SecondsFormat};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};

use crate::base::error::{Error, Reason};
use crate::base::text;

/// The verification of rustls, unchanged. An error for the time of a certificate also has the times in it.
#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<WebPkiServerVerifier>);

/// A certificate outside the time of its validity. In seconds since 1970-01-01 UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
struct WrongTime {
    not_before: i64,
    not_after: i64,
    /// The clock of this device.
    now: i64,
    /// It is that of an authority, not the server's own.
    of_authority: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now).map_err(|e| {
            let limit = match &e {
                rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => *not_after,
                rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                    *not_before
                }
                _ => return e,
            };
            let chain = [end_entity].into_iter().chain(intermediates);
            wrong_time(chain, limit, now).map_or(e, |wrong| CertificateError::Other(OtherError(Arc::new(wrong))).into())
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The certificate of the chain that `limit` belongs to, with both its times.
fn wrong_time<'a>(
    chain: impl Iterator<Item = &'a CertificateDer<'a>>,
    limit: UnixTime,
    now: UnixTime,
) -> Option<WrongTime> {
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).ok();
    let (limit, now) = (seconds(limit)?, seconds(now)?);
    chain.enumerate().find_map(|(place, certificate)| {
        let (not_before, not_after) = validity(certificate)?;
        let of_authority = place > 0;
        [not_before, not_after].contains(&limit).then_some(WrongTime { not_before, not_after, now, of_authority })
    })
}

/// The first and the last second of a certificate, since 1970-01-01 UTC (RFC 5280, 4.1: `TBSCertificate`, in DER).
#[must_use]
pub fn validity(certificate: &[u8]) -> Option<(i64, i64)> {
    const INTEGER: u8 = 0x02;
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (tbs, _) = element(certificate, SEQUENCE)?;
    let rest = element(tbs, VERSION).map_or(tbs, |(_, rest)| rest);
    let (_, rest) = element(rest, INTEGER)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let (validity, _) = element(rest, SEQUENCE)?;
    let (not_before, rest) = time(validity)?;
    let (not_after, _) = time(rest)?;
    Some((not_before, not_after))
}

/// The content of the first element, which has this tag, and what follows it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length - 0x80))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    if *first == tag { rest.split_at_checked(length) } else { None }
}

/// A `Time`: `YYMMDDHHMMSSZ` from 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn time(bytes: &[u8]) -> Option<(i64, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (digits, rest) = element(bytes, UTC_TIME).or_else(|| element(bytes, GENERALIZED_TIME))?;
    let digits = std::str::from_utf8(digits).ok()?;
    let century = match digits.len() {
        13 if digits < "5" => "20",
        13 => "19",
        _ => "",
    };
    let time = NaiveDateTime::parse_from_str(&format!("{century}{digits}"), "%Y%m%d%H%M%SZ").ok()?;
    Some((time.and_utc().timestamp(), rest))
}

impl fmt::Display for WrongTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let date = |seconds| {
            let time = DateTime::from_timestamp(seconds, 0);
            time.map_or(format!("{seconds} s"), |time| time.to_rfc3339_opts(SecondsFormat::Secs, true))
        };
        let whose = if self.of_authority { "the certificate of its authority" } else { "its certificate" };
        let fault = if self.now < self.not_before { "is not valid yet" } else { "expired" };
        let (from, to, now) = (date(self.not_before), date(self.not_after), date(self.now));
        write!(f, "{whose} {fault}: it is valid from {from} to {to}, and the clock of this device says {now}")
    }
}

impl std::error::Error for WrongTime {}

/// A failed TLS handshake in words.
pub(super) struct Explained {
    pub(super) reason: Reason,
    /// Follows the name of the server and a colon.
    pub(super) message: String,
    pub(super) remedy: String,
}

impl Explained {
    /// The error of a request for `what` to `server`.
    pub(super) fn error(self, server: &str, what: &str) -> Error {
        Error::new(self.reason, format!("cannot fetch {what} from {server}: {}", self.message)).remedy(self.remedy)
    }
}

/// The error of TLS that another one comes from.
fn error_in<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    // An error of a stream hides the one that it was made from.
    let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.downcast_ref().or_else(|| error_in(hidden?)).or_else(|| error_in(error.source()?))
}

/// The words for a failed request to `host`; `None` if no certificate is the cause. `shown`: the server saw the client
/// certificate of the settings.
pub(super) fn explain(error: &reqwest::Error, host: &str, shown: bool) -> Option<Explained> {
    use AlertDescription as Alert;
    match error_in(error)? {
        rustls::Error::InvalidCertificate(e) => Some(untrusted(e, host)),
        // About the server's own certificate, this side would have sent the alert.
        rustls::Error::AlertReceived(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied),
        ) => Some(client_certificate_wanted(&format!("TLS alert {alert:?}"), shown)),
        _ => None,
    }
}

/// A server that refuses this device for its client certificate, or for having none.
pub(super) fn client_certificate_wanted(cause: &str, shown: bool) -> Explained {
    let (message, remedy) = if shown {
        (
            format!("it refuses the client certificate of registry_cert ({cause})"),
            "Check that an authority of this server issued it, and that it has not expired: openssl x509 -noout -issuer \
             -dates -in FILE.",
        )
    } else {
        (
            format!("it wants a client certificate ({cause})"),
            "Name certificate and key in registry_cert= and registry_key=; the agent shows them to the source only.",
        )
    };
    Explained { reason: Reason::ClientCertificateWanted, message, remedy: remedy.into() }
}

fn untrusted(error: &CertificateError, host: &str) -> Explained {
    if let CertificateError::Other(OtherError(other)) = error {
        if let Some(wrong) = other.downcast_ref::<WrongTime>() {
            return Explained {
                reason: Reason::CertificateTime,
                message: wrong.to_string(),
                remedy: "Check the clock of this device (date -u). If it is right, renew the certificate.".into(),
            };
        }
        // The name that webpki gives it.
        if other.to_string() == "CaUsedAsEndEntity" {
            return Explained {
                reason: Reason::CertificateUntrusted,
                message:
                    "its own certificate is that of an authority (CA:TRUE), which the agent refuses, in registry_ca \
                          too"
                    .into(),
                remedy: format!("Make the certificate again, and name it in registry_ca=: {}", self_signed(host)),
            };
        }
    }
    let (message, remedy) = match error {
        // Of a stranger with the name of a known authority.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "no authority that this device knows issued its certificate".into(),
            "Name the authority in registry_ca=. If you do not know it, something between this device and the server \
             answers in its place: a proxy, or the sign-in page of a network.",
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
            text::escape(&error.to_string()),
            "Use a name of the certificate, or issue it for this one (subjectAltName). The sign-in page of a network \
             answers so, too.",
        ),
        _ => (text::escape(&format!("its certificate cannot be used: {error}")), "Issue the certificate again."),
    };
    Explained { reason: Reason::CertificateUntrusted, message, remedy: remedy.into() }
}

/// The command that makes a self-signed certificate which the agent takes as that of a server.
fn self_signed(host: &str) -> String {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let kind = if name.parse::<std::net::IpAddr>().is_ok() { "IP" } else { "DNS" };
    format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 -subj /CN=registry -addext \
         basicConstraints=critical,CA:FALSE -addext subjectAltName={kind}:{name} -keyout key.pem -out cert.pem"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Those of the built-in authorities are known to be between 1990 and 2060.
    #[test]
    fn the_times_of_real_certificates_are_found() {
        for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
            let (not_before, not_after) = validity(certificate).unwrap();
            assert!(631_152_000 < not_before && not_before < not_after && not_after < 2_840_140_800);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_times_or_none(cut in 0usize..400, place in 0usize..400, byte: u8) {
            let mut bytes = webpki_root_certs::TLS_SERVER_ROOT_CERTS[0].to_vec();
            let place = place.min(bytes.len() - 1);
            bytes[place] = byte;
            let _ = validity(&bytes);
            let _ = validity(&bytes[..cut.min(bytes.len())]);
        }
    }
}
