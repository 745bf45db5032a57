//! Certificates with their keys, which two settings give and which are useless alone.

use crate::both;
use crate::cli::flags::Settings;
use crate::cli::settings::Given;
use crate::cli::values::{Chain, Key};
use crate::cli::variables::source_of;
use crate::complaint::Complaint;
use crate::config::ListenTls;
use crate::identity::Identity;

/// The certificates that the program presents.
pub(super) struct Identities {
    /// To the upstream.
    pub(super) upstream: Option<Identity>,
    /// To clients.
    pub(super) clients: Option<ListenTls>,
}

impl Identities {
    /// Takes the certificates and keys out of the settings.
    pub(super) fn take(
        settings: &mut Settings,
        given: &[Vec<Given>],
    ) -> Result<Identities, Complaint> {
        let (chain, key) = (settings.tls_cert.take(), settings.tls_key.take());
        let upstream = identity(given, (chain, "--tls-cert"), (key, "--tls-key"))?;
        let (chain, key) = (settings.listen_cert.take(), settings.listen_key.take());
        let files = chain.as_ref().zip(key.as_ref());
        let files = files.map(|(chain, key)| (chain.path.clone(), key.path.clone()));
        let clients = identity(given, (chain, "--listen-cert"), (key, "--listen-key"))?;
        let clients = clients.zip(files).map(|(identity, files)| ListenTls {
            certificate_file: files.0,
            key_file: files.1,
            identity,
        });
        Ok(Identities { upstream, clients })
    }
}

/// Combines a certificate with its key. Fails if one of them is missing or they do not match.
fn identity(
    given: &[Vec<Given>],
    (chain, chain_flag): (Option<Chain>, &'static str),
    (key, key_flag): (Option<Key>, &'static str),
) -> Result<Option<Identity>, Complaint> {
    let source = |flag: &'static str| source_of(given, flag).unwrap_or(flag);
    let alone = |flag, other: &str| {
        let problem = both!("requires {other}", "须与 {other} 合用");
        Err(Complaint::new(source(flag), problem))
    };
    match (chain, key) {
        (None, None) => Ok(None),
        (Some(_), None) => alone(chain_flag, key_flag),
        (None, Some(_)) => alone(key_flag, chain_flag),
        (Some(chain), Some(key)) => {
            let identity = Identity::new(chain.certificates, key.key);
            identity.map(Some).map_err(|problem| {
                let (key, chain) = (key.path, chain.path);
                let problem = problem.followed_by(&both!(
                    " (got '{key}' and '{chain}')",
                    "（给出的值：'{key}' 和 '{chain}'）"
                ));
                Complaint::new(source(key_flag), problem)
            })
        }
    }
}
