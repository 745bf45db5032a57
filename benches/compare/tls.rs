//! Certificates, made on the fly and checked by nobody: the upstream's, and the one that
//! clients are shown.

use std::fs;
use std::io;
use std::path::Path;

use openssl::asn1::{Asn1Integer, Asn1Time};
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{Ssl, SslAcceptor, SslConnector, SslMethod, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509Name, X509};

/// A server's side of TLS, with session tickets for those who want them.
pub fn acceptor() -> io::Result<SslAcceptor> {
    let (certificate, key) = build()?;
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
    acceptor.set_certificate(&certificate)?;
    acceptor.set_private_key(&key)?;
    Ok(acceptor.build())
}

/// Writes what clients are shown into `folder`: `cert.pem`, `key.pem`, and `both.pem`.
pub fn write_files(folder: &Path) -> io::Result<()> {
    let (certificate, key) = build()?;
    let (certificate, key) = (certificate.to_pem()?, key.private_key_to_pem_pkcs8()?);
    fs::write(folder.join("cert.pem"), &certificate)?;
    fs::write(folder.join("key.pem"), &key)?;
    fs::write(folder.join("both.pem"), [certificate, key].concat())
}

/// The client's side of TLS.
#[derive(Clone)]
pub struct Connector(SslConnector);

impl Connector {
    /// One that trusts anybody.
    pub fn new() -> io::Result<Connector> {
        let mut connector = SslConnector::builder(SslMethod::tls())?;
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_alpn_protos(b"\x08http/1.1")?;
        Ok(Connector(connector.build()))
    }

    /// The beginning of a handshake, which resumes nothing.
    pub fn begin(&self) -> io::Result<Ssl> {
        Ok(self.0.configure()?.into_ssl("bench.example")?)
    }
}

fn build() -> Result<(X509, PKey<Private>), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509Name::builder()?;
    name.append_entry_by_text("CN", "bench.example")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    let serial: Asn1Integer = BigNum::from_u32(1)?.to_asn1_integer()?;
    certificate.set_serial_number(&serial)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_pubkey(&key)?;
    let (today, tomorrow) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(1)?);
    certificate.set_not_before(&today)?;
    certificate.set_not_after(&tomorrow)?;
    let names = SubjectAlternativeName::new()
        .dns("bench.example")
        .build(&certificate.x509v3_context(None, None))?;
    certificate.append_extension(names)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    Ok((certificate.build(), key))
}
