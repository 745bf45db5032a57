//! TLS between the generator and the measured program.

use std::fs;
use std::io;
use std::path::Path;

use openssl::ssl::{Ssl, SslConnector, SslMethod, SslVerifyMode};

use crate::tls::certificate;

/// Writes a server certificate into `folder`: `cert.pem`, `key.pem`, and `both.pem`.
pub fn write_files(folder: &Path) -> io::Result<()> {
    let (certificate, key) = certificate()?;
    let (certificate, key) = (certificate.to_pem()?, key.private_key_to_pem_pkcs8()?);
    fs::write(folder.join("cert.pem"), &certificate)?;
    fs::write(folder.join("key.pem"), &key)?;
    fs::write(folder.join("both.pem"), [certificate, key].concat())
}

/// The client's side of TLS.
#[derive(Clone)]
pub struct Connector(SslConnector);

impl Connector {
    /// A connector that verifies no certificate.
    pub fn new() -> io::Result<Connector> {
        let mut connector = SslConnector::builder(SslMethod::tls())?;
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_alpn_protos(b"\x08http/1.1")?;
        Ok(Connector(connector.build()))
    }

    /// Begins a handshake without resumption.
    pub fn begin(&self) -> io::Result<Ssl> {
        Ok(self.0.configure()?.into_ssl("bench.example")?)
    }
}
