//! What a TLS peer shows of itself, whether or not it would be trusted: for `--check`.

use std::future::poll_fn;
use std::sync::{Arc, Mutex};

use native_tls::Certificate;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::{X509NameRef, X509};

use crate::net::stream::Connection;
use crate::net::tls::{Transport, ALPN};
use crate::text::Escaped;

/// What was seen of a handshake and of the certificate in it.
#[derive(Debug)]
pub struct Inspection {
    /// The version of TLS, as OpenSSL writes it.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// Whom the certificate is for.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it expires.
    pub expires: String,
    /// In how many days that is.
    pub days_left: i32,
    /// Why it would not be trusted, if so: its chain, its dates or its name.
    pub objection: Option<String>,
}

/// Performs a handshake that trusts anything, and tells what was seen. Fails with words.
pub async fn inspect(
    connection: Connection,
    server_name: &str,
    roots: &[Certificate],
) -> Result<Inspection, String> {
    let objection = Arc::new(Mutex::new(None));
    let ssl = ssl(server_name, roots, objection.clone()).map_err(|error| error.to_string())?;
    let transport = Transport::over(connection);
    let mut stream = SslStream::new(ssl, transport).map_err(|error| error.to_string())?;
    loop {
        match stream.connect() {
            Ok(()) => break,
            Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => {
                // A broken socket fails the next step of the handshake, with its reason.
                let _ = poll_fn(|cx| stream.get_ref().poll_unblocked(cx)).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    let ssl = stream.ssl();
    let certificate = ssl.peer_certificate().ok_or("it shows no certificate")?;
    let objection = objection.lock().map_or(None, |mut found| found.take());
    Ok(Inspection {
        version: ssl.version_str().to_owned(),
        cipher: ssl.current_cipher().map_or("", |c| c.name()).to_owned(),
        subject: name(certificate.subject_name()),
        issuer: name(certificate.issuer_name()),
        expires: certificate.not_after().to_string(),
        days_left: days_left(&certificate).unwrap_or_default(),
        objection,
    })
}

fn ssl(
    server_name: &str,
    roots: &[Certificate],
    objection: Arc<Mutex<Option<String>>>,
) -> Result<Ssl, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls())?;
    builder.set_alpn_protos(ALPN)?;
    for root in roots {
        let der = root.to_der().unwrap_or_default();
        // A root that is already there is no harm.
        let _ = builder.cert_store_mut().add_cert(X509::from_der(&der)?);
    }
    builder.set_verify_callback(SslVerifyMode::PEER, move |is_good, context| {
        if !is_good {
            if let Ok(mut first) = objection.lock() {
                first.get_or_insert_with(|| context.error().error_string().to_owned());
            }
        }
        true
    });
    builder.build().configure()?.into_ssl(server_name)
}

fn name(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let kind = entry.object().nid().short_name().unwrap_or("?");
        format!("{kind}={}", Escaped(entry.data().as_slice()))
    });
    parts.collect::<Vec<_>>().join(", ")
}

fn days_left(certificate: &X509) -> Result<i32, ErrorStack> {
    Ok(Asn1Time::days_from_now(0)?
        .diff(certificate.not_after())?
        .days)
}
