//! `tls-server-end-point` (RFC 5929, section 4): the hash of the server's certificate that SCRAM-SHA-256-PLUS binds to.

use ring::digest::{SHA256, SHA384, SHA512, digest};

use crate::net::Stream;

/// DER's tags, as far as the way to a certificate's signature algorithm leads past them.
const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;

/// Signature algorithms by their object identifiers' DER contents, with the hash that each is made with. MD5 and SHA-1
/// are bound with SHA-256, says the RFC. Algorithms without a hash of their own name (RSA-PSS, Ed25519) have no
/// binding: PostgreSQL's server knows none for them either before version 16.
const SIGNED_WITH_SHA256: [&[u8]; 4] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x04], // md5WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05], // sha1WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b], // sha256WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],       // ecdsa-with-SHA256
];
const SIGNED_WITH_SHA384: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c], // sha384WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],       // ecdsa-with-SHA384
];
const SIGNED_WITH_SHA512: [&[u8]; 2] = [
    &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d], // sha512WithRSAEncryption
    &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],       // ecdsa-with-SHA512
];

/// What SCRAM-SHA-256-PLUS binds to on a connection to a server; `None` in clear, or where the certificate's algorithm
/// has no binding.
pub fn binding_of(stream: &Stream) -> Option<Vec<u8>> {
    match stream {
        Stream::Plain(_) => None,
        Stream::Tls(stream) => server_end_point(stream.get_ref().1.peer_certificates()?.first()?),
    }
}

/// The binding of a session whose server showed this certificate (DER); `None` where its algorithm has none.
pub fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let algorithm = signature_algorithm(certificate)?;
    let hash = if SIGNED_WITH_SHA256.contains(&algorithm) {
        &SHA256
    } else if SIGNED_WITH_SHA384.contains(&algorithm) {
        &SHA384
    } else if SIGNED_WITH_SHA512.contains(&algorithm) {
        &SHA512
    } else {
        return None;
    };
    Some(digest(hash, certificate).as_ref().to_vec())
}

/// `Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE { algorithm OID, … }, … }`
fn signature_algorithm(certificate: &[u8]) -> Option<&[u8]> {
    let (inside, _) = element(SEQUENCE, certificate)?;
    let (_to_be_signed, rest) = element(SEQUENCE, inside)?;
    let (algorithm, _) = element(SEQUENCE, rest)?;
    element(OBJECT_IDENTIFIER, algorithm).map(|(identifier, _)| identifier)
}

/// The contents of the element that `der` begins with, and what follows it; `None` if its tag is another.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // the length's own length is in the low bits; a certificate needs no more than four bytes
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(algorithm: &'static rcgen::SignatureAlgorithm) -> Vec<u8> {
        let key = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        let p256 = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        assert_eq!(server_end_point(&p256), Some(digest(&SHA256, &p256).as_ref().to_vec()));
        let p384 = certificate(&rcgen::PKCS_ECDSA_P384_SHA384);
        assert_eq!(server_end_point(&p384), Some(digest(&SHA384, &p384).as_ref().to_vec()));
        assert_eq!(server_end_point(&certificate(&rcgen::PKCS_ED25519)), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_binding() {
        let whole = certificate(&rcgen::PKCS_ECDSA_P256_SHA256);
        for length in 0..whole.len() / 2 {
            assert_eq!(server_end_point(&whole[..length]), None);
        }
        assert_eq!(server_end_point(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0]), None);
        assert_eq!(server_end_point(&[0x30, 0x80, 0, 0]), None);
    }
}
