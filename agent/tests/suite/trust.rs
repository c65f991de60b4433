//! Keys from files, and what their signatures are worth.

use crate::common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{key, key_id, sign};
use ed25519_dalek::VerifyingKey;
use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};
use ed25519_dalek::pkcs8::{EncodePrivateKey, EncodePublicKey, spki::der::pem::LineEnding};
use kubesolo_update::base::error::{Exit, Reason};
use kubesolo_update::base::limits;
use kubesolo_update::trust::keys::KeySet;
use kubesolo_update::trust::signature::{Fingerprint, Payload, Signature};
use kubesolo_update::trust::sigstore;
use kubesolo_update::trust::stream::StreamVerifier;
use proptest::prelude::*;
use sha2::{Digest as _, Sha512};
use tempfile::TempDir;

const MESSAGE: &[u8] = b"a manifest";

fn hex_key(seed: u8) -> String {
    hex::encode(key(seed).verifying_key().as_bytes())
}

fn signature(seed: u8, message: &[u8]) -> Signature {
    Signature { key_id: Some(key_id(&key(seed))), bytes: sign(&key(seed), message).try_into().unwrap(), payload: None }
}

fn file(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

fn set(seeds: &[u8]) -> KeySet {
    let folder = TempDir::new().unwrap();
    for seed in seeds {
        file(&folder, &format!("{seed}.pub"), hex_key(*seed));
    }
    KeySet::load(folder.path()).unwrap()
}

fn loads(content: impl AsRef<[u8]>) -> Result<KeySet, String> {
    let folder = TempDir::new().unwrap();
    KeySet::load(&file(&folder, "key", content)).map_err(|e| {
        assert_eq!(e.reason, Reason::BadKey, "{e}");
        e.message
    })
}

fn refused(place: &Path) -> String {
    let e = KeySet::load(place).unwrap_err();
    assert_eq!(e.exit(), Exit::Config, "{e}");
    e.message
}

fn openssl(args: &[&str]) {
    let done = Command::new("openssl").args(args).output().expect("openssl is needed: apt-get install openssl");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn hex_and_pem_name_the_same_key_with_any_line_end() {
    let key = key(1).verifying_key();
    let hex = hex_key(1);
    let mut texts =
        vec![hex.clone(), format!("{hex}\n"), format!("{hex}\r\n"), format!("  {}\n\n", hex.to_uppercase())];
    for end in [LineEnding::LF, LineEnding::CRLF, LineEnding::CR] {
        texts.push(key.to_public_key_pem(end).unwrap());
    }
    texts.push(key.to_public_key_pem(LineEnding::LF).unwrap().trim_end().to_owned());
    for text in texts {
        let set = loads(&text).unwrap();
        assert_eq!(set.verify(MESSAGE, &[signature(1, MESSAGE)]).unwrap(), set.ids().collect::<Vec<_>>(), "{text:?}");
    }
}

#[test]
fn what_openssl_makes_and_signs_is_accepted() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &path("key.pem")]);
    openssl(&["pkey", "-in", &path("key.pem"), "-pubout", "-out", &path("key.pub")]);
    file(&folder, "message", MESSAGE);
    openssl(&["pkeyutl", "-sign", "-inkey", &path("key.pem"), "-rawin", "-in", &path("message"), "-out", &path("sig")]);
    let set = KeySet::load(path("key.pub").as_ref()).unwrap();
    let bytes = fs::read(path("sig")).unwrap().try_into().unwrap();
    set.verify(MESSAGE, &[Signature { key_id: None, bytes, payload: None }]).unwrap();
    assert!(refused(path("key.pem").as_ref()).contains("private key"));
}

#[test]
fn keys_of_another_kind_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for algorithm in ["x25519", "ed448"] {
        openssl(&["genpkey", "-algorithm", algorithm, "-out", &path("key.pem")]);
        openssl(&["pkey", "-in", &path("key.pem"), "-pubout", "-out", &path("key.pub")]);
        assert!(refused(path("key.pub").as_ref()).contains("not an Ed25519"), "{algorithm}");
    }
}

#[test]
fn malformed_keys_are_refused_without_being_quoted() {
    let hex = hex_key(1);
    let pem = key(1).verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    let wrong = [
        String::new(),
        "secret words".into(),
        hex[..63].into(),
        format!("{hex}0"),
        format!("{hex}\n{hex}"),
        format!("0x{hex}"),
        pem.replace("PUBLIC", "EC PUBLIC"),
        pem[..pem.len() - 30].into(),
        format!("{pem}{pem}"),
        // y has no x.
        "02".to_owned() + &"00".repeat(31),
    ];
    for text in wrong {
        let message = loads(&text).map(|_| text.clone()).unwrap_err();
        assert!(!message.contains("secret"), "{message}");
    }
    loads([0xff, 0xfe, 0x00]).unwrap_err();
    let private = key(1).to_pkcs8_pem(LineEnding::LF).unwrap();
    let message = loads(&*private).unwrap_err();
    assert!(message.contains("it is a private key"), "{message}");
    assert!(!message.contains(private.lines().nth(1).unwrap()), "{message}");
}

/// A second spelling would be a second key, which can be revoked only by its own name: y is not below the prime here.
#[test]
fn a_key_in_another_spelling_than_its_own_is_refused() {
    for low in 0xed..=0xffu8 {
        for sign in ["7f", "ff"] {
            loads(format!("{low:02x}") + &"ff".repeat(30) + sign).map(|_| low).unwrap_err();
        }
    }
}

/// One private key must not count as two keys, nor come back under another name after it was revoked. Seven points differ
/// from the public key by a point of small order, and its owner can sign for them.
#[test]
fn a_private_key_has_one_public_key() {
    let point = |hex: &str| {
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).unwrap();
        VerifyingKey::from_bytes(&bytes).unwrap().to_edwards()
    };
    // Of order 8: its multiples are all points of small order.
    let small = point("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a");
    let true_key = key(1).verifying_key();
    loads(hex::encode(true_key.as_bytes())).unwrap();
    let mut other = true_key.to_edwards();
    for _ in 1..8 {
        other += small;
        let second = VerifyingKey::from_bytes(other.compress().as_bytes()).unwrap();
        assert!(second != true_key && !second.is_weak());
        let secret = ExpandedSecretKey::from(&key(1).to_bytes());
        let signs = |n: u8| second.verify_strict(&[n], &raw_sign::<Sha512>(&secret, &[n], &second)).is_ok();
        assert!((0..200).any(signs), "the private key has this public key, too");
        let message = loads(hex::encode(second.as_bytes())).unwrap_err();
        assert!(message.contains("prime-order"), "{message}");
    }
}

/// The points of small order, and their spellings that no encoder makes (RFC 7748, "The Provable Security of Ed25519").
#[test]
fn weak_keys_are_refused() {
    let points = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ];
    for point in points {
        loads(point).map(|_| point).unwrap_err();
    }
}

#[test]
fn a_folder_is_a_set_in_which_one_bad_key_spoils_all() {
    let folder = TempDir::new().unwrap();
    assert!(refused(folder.path()).contains("empty"));
    file(&folder, ".hidden", "not a key");
    assert!(refused(folder.path()).contains("empty"));
    file(&folder, "b.pub", hex_key(2));
    file(&folder, "a.pub", hex_key(1));
    file(&folder, "same.pub", hex_key(1));
    let set = KeySet::load(folder.path()).unwrap();
    assert_eq!(set.ids().map(|id| id.to_string()).collect::<Vec<_>>(), [key_id(&key(1)), key_id(&key(2))]);
    file(&folder, "c.pub", "not a key");
    assert!(refused(folder.path()).contains("c.pub"));
    fs::remove_file(folder.path().join("c.pub")).unwrap();
    fs::create_dir(folder.path().join("folder")).unwrap();
    refused(folder.path());
}

#[test]
fn a_key_under_the_name_of_a_backup_is_no_key() {
    let folder = TempDir::new().unwrap();
    file(&folder, "old.pub~", hex_key(9));
    file(&folder, "README.md", "How to add a key.");
    let message = refused(folder.path());
    assert!(message.contains("ignored because of their names: README.md, old.pub~"), "{message}");
    // Keys of any other name count, as in version 0.1.
    for (seed, name) in [(1, "a"), (2, "b.pub"), (3, "release key.txt")] {
        file(&folder, name, hex_key(seed));
    }
    for name in ["c.pub.bak", "c.pub.orig", ".c.pub.swp", "c.pub.dpkg-old", "c.pub.rpmsave", "#c.pub#", "README"] {
        file(&folder, name, hex_key(9));
    }
    let set = KeySet::load(folder.path()).unwrap();
    assert_eq!(set.ids().map(|id| id.to_string()).collect::<Vec<_>>(), [1, 2, 3].map(|seed| key_id(&key(seed))));
    assert_eq!(set.passed_over().len(), 9);
    // A file that pubkey= names is a key, whatever its name.
    KeySet::load(&folder.path().join("old.pub~")).unwrap();
}

#[test]
fn a_key_that_cannot_be_read_is_not_no_key() {
    let folder = TempDir::new().unwrap();
    assert!(refused(&folder.path().join("absent")).contains("absent"));
    std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.pub")).unwrap();
    assert!(refused(folder.path()).contains("dangling.pub"));
}

#[test]
fn size_and_number_of_keys_are_limited() {
    let padded = |size: u64| format!("{}{}", hex_key(1), "\n".repeat(size as usize - 64));
    loads(padded(limits::KEY_FILE_BYTES)).unwrap();
    assert!(loads(padded(limits::KEY_FILE_BYTES + 1)).unwrap_err().contains("4096"));

    let folder = TempDir::new().unwrap();
    for seed in 0..limits::KEYS as u8 {
        file(&folder, &format!("{seed}"), hex_key(seed));
    }
    KeySet::load(folder.path()).unwrap();
    file(&folder, "one-more", hex_key(99));
    assert!(refused(folder.path()).contains("16"));
}

#[test]
fn each_refusal_has_its_own_reason() {
    let set = set(&[1, 2]);
    let refusal = |signatures: &[Signature]| {
        let e = set.verify(MESSAGE, signatures).unwrap_err();
        assert_eq!(e.exit(), Exit::NotAllowed);
        assert!(!e.remedy.is_empty());
        (e.reason, e.message)
    };
    assert_eq!(refusal(&[]).0, Reason::SignatureMissing);
    assert_eq!(refusal(&[signature(3, MESSAGE)]).0, Reason::SignatureUnknownKey);
    assert_eq!(refusal(&[signature(1, b"another manifest")]).0, Reason::SignatureInvalid);
    let unnamed = Signature { key_id: None, ..signature(3, MESSAGE) };
    assert_eq!(refusal(&[unnamed]).0, Reason::SignatureUnknownKey);
    let hostile = Signature { key_id: Some("\x1b[2J".into()), ..signature(3, MESSAGE) };
    assert!(!refusal(&[hostile]).1.contains('\x1b'));
}

#[test]
fn one_good_signature_is_found_among_others_whatever_the_hints_say() {
    let set = set(&[1, 2]);
    let lying = Signature { key_id: Some(key_id(&key(3))), ..signature(2, MESSAGE) };
    let unnamed = Signature { key_id: None, ..signature(1, MESSAGE) };
    let found =
        set.verify(MESSAGE, &[signature(3, MESSAGE), signature(1, b"other"), lying, unnamed.clone(), unnamed]).unwrap();
    assert_eq!(found, set.ids().collect::<Vec<_>>(), "each key once");
}

#[test]
fn a_key_vouches_once_however_often_it_signed() {
    let set = set(&[1, 2]);
    assert_eq!(set.verify(MESSAGE, &vec![signature(1, MESSAGE); limits::SIGNATURES]).unwrap().len(), 1);
    assert_eq!(
        set.verify(MESSAGE, &vec![signature(1, MESSAGE); limits::SIGNATURES + 1]).unwrap_err().exit(),
        Exit::Data
    );
}

fn fingerprint(seed: u8) -> Fingerprint {
    Fingerprint::of(key(seed).verifying_key().as_bytes())
}

fn revoked(seeds: &[u8]) -> BTreeSet<Fingerprint> {
    seeds.iter().map(|seed| fingerprint(*seed)).collect()
}

#[test]
fn as_many_keys_must_sign_as_the_threshold_says_and_each_counts_once() {
    let set = set(&[1, 2, 3]).needing(2, &revoked(&[])).unwrap();
    let by = |seeds: &[u8]| {
        let signatures: Vec<_> = seeds.iter().map(|seed| signature(*seed, MESSAGE)).collect();
        set.verify(MESSAGE, &signatures).map(|ids| ids.len()).map_err(|e| {
            assert_eq!(e.exit(), Exit::NotAllowed);
            e.reason
        })
    };
    assert_eq!(by(&[1, 2]), Ok(2));
    assert_eq!(by(&[3, 9, 1, 2]), Ok(3));
    assert_eq!(by(&[1]), Err(Reason::SignaturesTooFew));
    assert_eq!(by(&[1, 1, 1]), Err(Reason::SignaturesTooFew));
    assert_eq!(by(&[1, 9]), Err(Reason::SignaturesTooFew));
    assert_eq!(by(&[9, 8]), Err(Reason::SignatureUnknownKey));
    assert_eq!(by(&[]), Err(Reason::SignatureMissing));
    // Raw and by cosign, one key is one key.
    let payload = common::cosign_payload(MESSAGE);
    let wrapped = Signature { payload: Some(Payload::Simple(payload.clone())), ..signature(1, &payload) };
    assert_eq!(
        set.verify(MESSAGE, &[wrapped.clone(), signature(1, MESSAGE)]).unwrap_err().reason,
        Reason::SignaturesTooFew
    );
    assert_eq!(set.verify(MESSAGE, &[wrapped, signature(2, MESSAGE)]).unwrap().len(), 2);
}

#[test]
fn a_revoked_key_signs_nothing_any_more() {
    let set = set(&[1, 2, 3]).needing(1, &revoked(&[1])).unwrap();
    let reason = |signatures: &[Signature]| set.verify(MESSAGE, signatures).unwrap_err().reason;
    assert_eq!(reason(&[signature(1, MESSAGE)]), Reason::SignatureRevokedKey);
    assert_eq!(reason(&[signature(1, MESSAGE), signature(9, MESSAGE)]), Reason::SignatureRevokedKey);
    assert_eq!(reason(&[signature(1, b"another")]), Reason::SignatureUnknownKey);
    assert_eq!(set.verify(MESSAGE, &[signature(1, MESSAGE), signature(2, MESSAGE)]).unwrap(), [fingerprint(2).id()]);
    let set = set.needing(2, &revoked(&[1])).unwrap();
    assert_eq!(
        set.verify(MESSAGE, &[signature(1, MESSAGE), signature(2, MESSAGE)]).unwrap_err().reason,
        Reason::SignaturesTooFew
    );
}

#[test]
fn a_threshold_is_met_by_keys_that_are_there_and_not_revoked() {
    let needing = |threshold, gone: &[u8]| {
        set(&[1, 2]).needing(threshold, &revoked(gone)).map(|set| set.ids().count()).map_err(|e| e.reason)
    };
    assert_eq!(needing(2, &[9]), Ok(2));
    assert_eq!(needing(1, &[1]), Ok(1));
    assert_eq!(needing(3, &[]), Err(Reason::TooFewKeys));
    assert_eq!(needing(2, &[1]), Err(Reason::KeysRevoked));
    assert_eq!(needing(1, &[1, 2]), Err(Reason::KeysRevoked));
}

#[test]
fn a_stream_needs_as_many_keys_as_the_whole() {
    let set = set(&[1, 2, 3]).needing(2, &revoked(&[3])).unwrap();
    let by = |seeds: &[u8]| {
        let signatures: Vec<_> = seeds.iter().map(|seed| signature(*seed, MESSAGE)).collect();
        stream(&set, &signatures, MESSAGE, 7).map(|by| by.split(',').count())
    };
    assert_eq!(by(&[2, 1]), Ok(2));
    assert_eq!(by(&[1, 1]), Err(Reason::SignaturesTooFew));
    assert_eq!(by(&[1, 3]), Err(Reason::SignaturesTooFew));
}

#[test]
fn a_payload_of_cosign_vouches_only_for_the_message_that_it_names() {
    let wrapped = |seed: u8, named: &[u8], signed: &[u8]| {
        let payload = common::cosign_payload(named);
        let bytes = sign(&key(seed), if signed.is_empty() { &payload } else { signed }).try_into().unwrap();
        Signature { key_id: None, bytes, payload: Some(Payload::Simple(payload)) }
    };
    let set = set(&[1, 2]);
    let both = [signature(1, MESSAGE), wrapped(1, MESSAGE, b""), wrapped(2, MESSAGE, b"")];
    assert_eq!(set.verify(MESSAGE, &both).unwrap().len(), 2, "each key once");
    for wrong in [wrapped(1, b"another message", b""), wrapped(1, MESSAGE, MESSAGE), wrapped(3, MESSAGE, b"")] {
        set.verify(MESSAGE, &[wrong]).unwrap_err();
    }
    // The payload itself is no message, nor is a signature over it alone one of the message.
    let payload = common::cosign_payload(MESSAGE);
    set.verify(MESSAGE, &[signature(1, &payload)]).unwrap_err();
    let itself = Signature { payload: Some(Payload::Simple(MESSAGE.to_vec())), ..signature(1, MESSAGE) };
    set.verify(MESSAGE, &[itself]).unwrap_err();
}

/// In either form of Ed25519: cosign 3 signs the SHA-512 of what it is over.
#[test]
fn a_statement_of_cosign_vouches_only_for_the_message_that_it_names() {
    let hashed = |over: &[u8]| {
        let hash = Sha512::new_with_prefix(over);
        key(1).sign_prehashed(hash, None).unwrap().to_bytes()
    };
    let pure = |over: &[u8]| <[u8; 64]>::try_from(sign(&key(1), over)).unwrap();
    let of = |payload: Payload, bytes: [u8; 64]| [Signature { key_id: None, bytes, payload: Some(payload) }];
    let statement = common::statement_of(MESSAGE, common::COSIGN_PREDICATE);
    let provenance = common::statement_of(MESSAGE, "https://slsa.dev/provenance/v1");
    let encoded = sigstore::pae(&statement);
    let simple = common::cosign_payload(MESSAGE);
    let set = set(&[1, 2]);
    for good in [
        of(Payload::Statement(statement.clone()), pure(&encoded)),
        of(Payload::Statement(statement.clone()), hashed(&encoded)),
        of(Payload::Simple(simple.clone()), hashed(&simple)),
    ] {
        assert_eq!(set.verify(MESSAGE, &good).unwrap().len(), 1);
        set.verify(b"another message", &good).unwrap_err();
    }
    for wrong in [
        of(Payload::Statement(statement.clone()), pure(&statement)),
        of(Payload::Statement(provenance.clone()), pure(&sigstore::pae(&provenance))),
        of(Payload::Simple(statement.clone()), pure(&statement)),
        of(Payload::Statement(simple.clone()), pure(&sigstore::pae(&simple))),
        // No publisher signs the SHA-512 of a manifest.
        [Signature { key_id: None, bytes: hashed(MESSAGE), payload: None }],
        [Signature { key_id: None, bytes: pure(&encoded), payload: None }],
    ] {
        set.verify(MESSAGE, &wrong).unwrap_err();
    }
}

/// S + L is the same number to a careless verifier: a second signature that nobody made.
fn malleable() -> Signature {
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut other = signature(1, MESSAGE);
    let mut carry = 0;
    for (s, l) in other.bytes[32..].iter_mut().zip(L) {
        let sum = u16::from(*s) + u16::from(l) + carry;
        *s = sum as u8;
        carry = sum >> 8;
    }
    other
}

#[test]
fn signatures_are_not_malleable() {
    assert_eq!(set(&[1]).verify(MESSAGE, &[malleable()]).unwrap_err().reason, Reason::SignatureInvalid);
}

/// Made with key 1, and R of small order: loose verifiers accept it, and for some messages it fits others too.
fn of_small_order() -> Signature {
    let mut bytes = [0; 64];
    let signature = "0100000000000000000000000000000000000000000000000000000000000000\
                     da42ff5b638befc2f2ec31fbc1b835e08ce2a338cd634f3b7b987eed0a08a500";
    hex::decode_to_slice(signature, &mut bytes).unwrap();
    let loose = ed25519_dalek::Verifier::verify(&key(1).verifying_key(), MESSAGE, &bytes.into());
    loose.expect("the example is well made");
    Signature { key_id: None, bytes, payload: None }
}

#[test]
fn signatures_with_a_point_of_small_order_are_refused() {
    assert_eq!(set(&[1]).verify(MESSAGE, &[of_small_order()]).unwrap_err().reason, Reason::SignatureUnknownKey);
}

proptest! {
    #[test]
    fn any_file_is_a_key_or_refused(content in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = loads(content);
    }

    #[test]
    fn no_changed_bit_is_accepted(bit in 0usize..512) {
        let mut changed = signature(1, MESSAGE);
        changed.bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(set(&[1]).verify(MESSAGE, &[changed]).is_err());
    }
}

/// The key that signed `message`, which is taken in pieces of `piece` bytes.
fn stream(keys: &KeySet, signatures: &[Signature], message: &[u8], piece: usize) -> Result<String, Reason> {
    let mut verifier = StreamVerifier::new(keys, signatures).map_err(|e| e.reason)?;
    message.chunks(piece).for_each(|piece| verifier.update(piece));
    verifier.finish().map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")).map_err(|e| {
        assert_eq!(e.exit(), Exit::NotAllowed, "{e}");
        e.reason
    })
}

#[test]
fn a_stream_has_the_signature_of_the_whole_however_it_is_cut() {
    let message: Vec<u8> = (0..100_000u32).map(|n| n.wrapping_mul(7) as u8).collect();
    for piece in [1, 63, 4096, 100_000] {
        let signatures = [signature(3, b"another"), signature(2, &message)];
        assert_eq!(stream(&set(&[1, 2]), &signatures, &message, piece), Ok(key_id(&key(2))));
    }
    assert_eq!(stream(&set(&[1]), &[signature(1, b"")], b"", 1), Ok(key_id(&key(1))));
    for wrong in [&message[1..], &message[..99_999], b""] {
        assert_eq!(stream(&set(&[2]), &[signature(2, &message)], wrong, 1000), Err(Reason::SignatureInvalid));
    }
    assert_eq!(stream(&set(&[1]), &[signature(2, &message)], &message, 1000), Err(Reason::SignatureInvalid));
    assert_eq!(stream(&set(&[1]), &[], &message, 1000), Err(Reason::SignatureMissing));
}

#[test]
fn a_stream_is_as_strict_as_the_whole() {
    for loose in [malleable(), of_small_order()] {
        assert_eq!(stream(&set(&[1]), std::slice::from_ref(&loose), MESSAGE, 3), Err(Reason::SignatureInvalid));
        assert_eq!(stream(&set(&[1]), &[loose, signature(1, MESSAGE)], MESSAGE, 3), Ok(key_id(&key(1))));
    }
}

#[test]
fn pairs_of_key_and_signature_that_hash_an_image_are_limited() {
    let signatures = vec![signature(1, MESSAGE); limits::STREAMED_PAIRS / 2];
    assert_eq!(stream(&set(&[1, 2]), &signatures, MESSAGE, 1), Ok(key_id(&key(1))));
    let more = vec![signature(1, MESSAGE); limits::STREAMED_PAIRS / 2 + 1];
    assert_eq!(stream(&set(&[1, 2]), &more, MESSAGE, 1), Err(Reason::LimitExceeded));
}

#[test]
fn a_signature_file_is_raw_or_lines_of_hex() {
    let (one, two) = (signature(1, MESSAGE).bytes, signature(2, MESSAGE).bytes);
    let read = |file: &[u8]| Signature::parse_file(file).map(|all| all.iter().map(|s| s.bytes).collect::<Vec<_>>());
    assert_eq!(read(&one).unwrap(), [one]);
    let (first, second) = (hex::encode(one), hex::encode_upper(two));
    for text in [format!("{first}\n{second}"), format!("\r\n {first}\r\n\r\n{second}\t\r\n")] {
        assert_eq!(read(text.as_bytes()).unwrap(), [one, two]);
    }
    // 64 bytes are raw, also when they look like text.
    assert_eq!(read(&[b'0'; 64]).unwrap(), [[b'0'; 64]]);
    for wrong in
        [&b""[..], b"\n", &[0; 63], &[0xff; 65], &[b'0'; 127], &[b'0'; 130], format!("{first} {second}").as_bytes()]
    {
        let e = read(wrong).unwrap_err();
        assert_eq!(e.reason, Reason::MalformedSignature, "{wrong:?}");
    }
    let mut longest = vec![b'\n'; limits::SIGNATURE_FILE_BYTES as usize];
    longest[..128].copy_from_slice(first.as_bytes());
    assert_eq!(read(&longest).unwrap(), [one]);
    longest.push(b'\n');
    assert_eq!(read(&longest).unwrap_err().reason, Reason::LimitExceeded);
}
