//! A certificate's names and expiry, and `tls-server-end-point` (RFC 5929, section 4): the hash of the server's
//! certificate that SCRAM-SHA-256-PLUS binds to.

use std::net::IpAddr;
use std::time::UNIX_EPOCH;

use jiff::Timestamp;
use ring::digest::{SHA256, SHA384, SHA512, digest};
use rustls::pki_types::CertificateDer;
use x509_cert::certificate::{CertificateInner, Raw};
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{self, Decode};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::net::Stream;

/// A certificate, with its names and its expiry.
#[derive(Debug)]
pub struct Certificate {
    der: CertificateDer<'static>,
    names: Vec<String>,
    expires: Timestamp,
}

impl Certificate {
    /// Parses a certificate. Errors: it is not a certificate.
    pub(super) fn read(der: CertificateDer<'static>) -> Result<Certificate, String> {
        let decoded = decode(&der).map_err(|error| error.to_string())?;
        let expires = UNIX_EPOCH + decoded.tbs_certificate().validity().not_after.to_unix_duration();
        // 9999-12-31T23:59:59Z, "no well-defined expiration date", is an hour or two after jiff's last timestamp
        let expires = Timestamp::try_from(expires).unwrap_or(Timestamp::MAX);
        Ok(Certificate { der, names: names(&decoded), expires })
    }

    /// The subject alternative names, which clients verify; the common name if there are none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When it expires.
    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether the server of this connection uses the same certificate. Only then can a client use channel binding
    /// through pgvane.
    pub fn is_that_of(&self, server: &Stream) -> bool {
        peer_certificate(server).is_some_and(|certificate| *certificate == self.der)
    }
}

/// From when and until when a certificate holds, in seconds of Unix time; `None` if it is no certificate.
pub(super) fn validity(der: &[u8]) -> Option<(u64, u64)> {
    let certificate = decode(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs()))
}

/// Parses with the `Raw` profile: it skips checks that webpki does not make either.
fn decode(der: &[u8]) -> der::Result<CertificateInner<Raw>> {
    CertificateInner::from_der(der)
}

/// Leaves out names of unknown kind or form.
fn names(certificate: &CertificateInner<Raw>) -> Vec<String> {
    let certificate = certificate.tbs_certificate();
    let alternative = certificate.get_extension::<SubjectAltName>().ok().flatten();
    let alternative = alternative.map(|(_is_critical, names)| names.0).unwrap_or_default();
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => address(bytes.as_bytes()),
        _ => None,
    };
    let names: Vec<String> = alternative.iter().filter_map(name).collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().common_name().ok().flatten();
    common.iter().map(|name| name.value().into_owned()).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
}

/// Signature algorithms whose binding uses SHA-256; by the RFC these include MD5 and SHA-1. Algorithms that do not name
/// one hash (RSA-PSS, Ed25519) have no binding: PostgreSQL before version 16 has none for them either.
const BOUND_WITH_SHA256: [ObjectIdentifier; 4] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.4"), // md5WithRSAEncryption
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5"), // sha1WithRSAEncryption
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11"), // sha256WithRSAEncryption
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),  // ecdsa-with-SHA256
];
const BOUND_WITH_SHA384: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12"), // sha384WithRSAEncryption
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3"),   // ecdsa-with-SHA384
];
const BOUND_WITH_SHA512: [ObjectIdentifier; 2] = [
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13"), // sha512WithRSAEncryption
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4"),   // ecdsa-with-SHA512
];

/// What SCRAM-SHA-256-PLUS binds to on a connection to a server. `None` on a plaintext connection, or if the
/// certificate's algorithm has no binding.
pub fn binding_of(server: &Stream) -> Option<Vec<u8>> {
    server_end_point(peer_certificate(server)?)
}

fn peer_certificate(stream: &Stream) -> Option<&CertificateDer<'static>> {
    match stream {
        Stream::Plain(_) => None,
        Stream::Tls(stream) => stream.peer_certificate(),
    }
}

/// The binding of a connection whose server sent this certificate (DER). `None` if its algorithm has none.
fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = decode(certificate).ok()?.signature_algorithm().oid;
    let hash = if BOUND_WITH_SHA256.contains(&algorithm) {
        &SHA256
    } else if BOUND_WITH_SHA384.contains(&algorithm) {
        &SHA384
    } else if BOUND_WITH_SHA512.contains(&algorithm) {
        &SHA512
    } else {
        return None;
    };
    Some(digest(hash, certificate).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn read(params: &CertificateParams) -> Certificate {
        let key = KeyPair::generate().expect("a key");
        Certificate::read(params.self_signed(&key).expect("a certificate").der().clone()).expect("is one")
    }

    #[test]
    fn names_and_expiry_are_read() {
        let mut params = CertificateParams::new(["db.example.org".to_owned(), "10.0.0.1".to_owned()]).expect("names");
        params.subject_alt_names.push(SanType::IpAddress("2001:db8::1".parse().expect("an address")));
        params.not_after = rcgen::date_time_ymd(2061, 2, 3);
        let both = read(&params);
        assert_eq!(both.names(), ["db.example.org", "10.0.0.1", "2001:db8::1"]);
        assert_eq!(both.expires().to_string(), "2061-02-03T00:00:00Z");

        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "old.example.org");
        params.not_after = rcgen::date_time_ymd(2031, 12, 31);
        let old = read(&params);
        assert_eq!(old.names(), ["old.example.org"]);
        assert_eq!(old.expires().to_string(), "2031-12-31T00:00:00Z");
    }

    #[test]
    fn the_binding_uses_the_hash_of_the_signature() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(server_end_point(&p256), Some(digest(&SHA256, &p256).as_ref().to_vec()));
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(server_end_point(&p384), Some(digest(&SHA384, &p384).as_ref().to_vec()));
        assert_eq!(server_end_point(&certificate(&rcgen::PKCS_ED25519)), None);
    }

    #[test]
    fn bytes_that_are_not_a_certificate_have_no_binding() {
        let whole = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for length in 0..whole.len() / 2 {
            assert_eq!(server_end_point(&whole[..length]), None);
        }
        assert_eq!(server_end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
        assert_eq!(server_end_point(&[0x30, 0x80, 0, 0]), None);
    }
}
