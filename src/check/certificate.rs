//! Inspects the certificate of a TLS peer for `--check`, whether or not it is trusted.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslConnector, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::X509;

use crate::config::{Config, TlsVersion};
use crate::identity::{Identity, Summary};
use crate::net::stream::Connection;
use crate::net::tls::ALPN;
use crate::net::tls_stream::Transport;

/// What a handshake has negotiated, and the certificate that the peer presented.
#[derive(Debug)]
pub struct Inspection {
    /// The version of TLS, as OpenSSL writes it.
    pub version: String,
    /// The cipher suite.
    pub cipher: String,
    /// The certificate.
    pub certificate: Summary,
    /// The first verification error, if any: of the chain, the dates or the name.
    pub objection: Option<String>,
}

/// Performs a handshake that accepts any certificate, and returns what it has shown. Sets
/// `asked` to whether the peer has requested a client certificate, also when it fails.
pub async fn inspect(
    connection: Connection,
    server_name: &str,
    config: &Config,
    asked: &mut bool,
) -> Result<Inspection, String> {
    let objection = Arc::new(Mutex::new(None));
    let ssl = ssl(server_name, config, objection.clone()).map_err(|error| error.to_string())?;
    let transport = Recording {
        transport: Transport::over(connection),
        written: Vec::new(),
    };
    let mut stream = SslStream::new(ssl, transport).map_err(|error| error.to_string())?;
    loop {
        let stepped = stream.connect();
        *asked = answers_with_certificate(&stream.get_ref().written);
        match stepped {
            Ok(()) => break,
            Err(error) if matches!(error.code(), ErrorCode::WANT_READ | ErrorCode::WANT_WRITE) => {
                // If the socket is broken, the next step of the handshake fails with the cause.
                let _ = poll_fn(|cx| stream.get_ref().transport.poll_unblocked(cx)).await;
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
        certificate: Summary::of(&certificate),
        objection,
    })
}

fn ssl(
    server_name: &str,
    config: &Config,
    objection: Arc<Mutex<Option<String>>>,
) -> Result<Ssl, ErrorStack> {
    let mut builder = SslConnector::builder(SslMethod::tls())?;
    builder.set_alpn_protos(ALPN)?;
    builder.set_min_proto_version(Some(match config.tls_min {
        TlsVersion::V1_0 => SslVersion::TLS1,
        TlsVersion::V1_1 => SslVersion::TLS1_1,
        TlsVersion::V1_2 => SslVersion::TLS1_2,
        TlsVersion::V1_3 => SslVersion::TLS1_3,
    }))?;
    if let Some(Identity { chain, key }) = &config.identity {
        let mut chain = chain.iter();
        if let Some(certificate) = chain.next() {
            builder.set_certificate(certificate)?;
        }
        builder.set_private_key(key)?;
        for certificate in chain {
            builder.add_extra_chain_cert(certificate.clone())?;
        }
    }
    for root in &config.roots {
        let der = root.to_der().unwrap_or_default();
        // The error for a root that the store already has is ignored.
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

/// A transport that keeps a copy of what is written to it. OpenSSL does not report whether the
/// peer has requested a certificate, but it answers a request with a Certificate message.
struct Recording {
    transport: Transport,
    written: Vec<u8>,
}

impl Read for Recording {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.transport.read(buf)
    }
}

impl Write for Recording {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.transport.write(buf)?;
        self.written.extend_from_slice(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.transport.flush()
    }
}

/// Whether a client's handshake records include a Certificate message. In TLS 1.2 its type is
/// in the clear (RFC 5246 §7.4.6). TLS 1.3 encrypts it, but a client without a request sends
/// one encrypted record only, its Finished (RFC 8446 §4.4).
fn answers_with_certificate(mut records: &[u8]) -> bool {
    const CHANGE_CIPHER_SPEC: u8 = 20;
    const HANDSHAKE: u8 = 22;
    const APPLICATION_DATA: u8 = 23;
    const CERTIFICATE: u8 = 11;
    let (mut is_protected, mut protected) = (false, 0);
    while let [kind, _, _, high, low, rest @ ..] = records {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (record, rest) = rest.split_at(length.min(rest.len()));
        match *kind {
            CHANGE_CIPHER_SPEC => is_protected = true,
            HANDSHAKE if !is_protected && record.first() == Some(&CERTIFICATE) => return true,
            APPLICATION_DATA => protected += 1,
            _ => {}
        }
        records = rest;
    }
    protected > 1
}
