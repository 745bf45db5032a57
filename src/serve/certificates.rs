//! The certificate that clients are shown in TLS: that of `--listen-cert`, reloaded when its
//! files change. A separate thread reads them, so that no connection waits for a file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use openssl::error::ErrorStack;

use crate::both;
use crate::complaint::Complaint;
use crate::config::ListenTls;
use crate::identity::{self, Identity};
use crate::language::Words;
use crate::net::tls::{openssl_words, Acceptor};
use crate::report::log;

/// How often the files are checked for changes.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long to wait before trying again when the two files do not match: a renewal writes one
/// after the other.
const PAUSE: Duration = Duration::from_secs(1);

/// The certificate that new connections are shown.
pub struct Certificates {
    certificate_file: String,
    key_file: String,
    current: Mutex<(Acceptor, Identity)>,
}

/// Identifies one version of a file.
#[derive(PartialEq, Eq)]
struct Stamp {
    /// Device and inode: a renewal often replaces the file.
    place: (u64, u64),
    size: u64,
    /// The times of its last modification and of its last status change, each with nanoseconds.
    times: [(i64, i64); 2],
}

impl Stamp {
    fn of(file: &str) -> Option<Stamp> {
        let meta = fs::metadata(file).ok()?;
        Some(Stamp {
            place: (meta.dev(), meta.ino()),
            size: meta.size(),
            times: [
                (meta.mtime(), meta.mtime_nsec()),
                (meta.ctime(), meta.ctime_nsec()),
            ],
        })
    }
}

/// Why OpenSSL refuses a certificate or its key, such as one that is too short.
fn refusal(error: &ErrorStack) -> Words {
    let words = openssl_words(&error.to_string());
    both!("OpenSSL refuses it: {words}", "OpenSSL 拒绝使用：{words}")
}

impl Certificates {
    /// Creates them from the files as they were read at the start. Fails with a message for the
    /// operator; `source` is the flag or the variable that names the certificate.
    pub fn new(tls: &ListenTls, source: &str) -> Result<Certificates, Complaint> {
        let acceptor = Acceptor::new(&tls.identity);
        let acceptor = acceptor.map_err(|error| Complaint::new(source, refusal(&error)))?;
        Ok(Certificates {
            certificate_file: tls.certificate_file.clone(),
            key_file: tls.key_file.clone(),
            current: Mutex::new((acceptor, tls.identity.clone())),
        })
    }

    /// The acceptor for a new connection.
    pub(crate) fn acceptor(&self) -> Acceptor {
        self.current().0.clone()
    }

    fn current(&self) -> MutexGuard<'_, (Acceptor, Identity)> {
        // The value is replaced in one assignment, so it is valid even after a panic.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that reads the files whenever they have changed or a message is received,
    /// until the sender is dropped.
    pub fn watch(self: Arc<Self>) -> Result<Sender<()>, Complaint> {
        let (ask, asked) = mpsc::channel();
        let thread = thread::Builder::new().name("certificates".to_owned());
        let watching = move || self.look(&asked);
        match thread.spawn(watching) {
            Ok(_) => Ok(ask),
            Err(error) => Err(Complaint::io(Words::new("threads", "线程"), &error)),
        }
    }

    fn look(&self, asked: &Receiver<()>) {
        // The files may have changed since they were read, so the first check reads them.
        let mut seen = None;
        loop {
            let is_asked = match asked.recv_timeout(LOOK_EVERY) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut found = Some(self.stamps());
            if found == seen && !is_asked {
                continue;
            }
            let mut outcome = self.renew();
            if outcome.is_err() {
                thread::sleep(PAUSE);
                found = Some(self.stamps());
                outcome = self.renew();
            }
            match outcome {
                Ok(Some(identity)) => log::certificate_renewed(&identity),
                Ok(None) if is_asked => log::certificate_unchanged(),
                Ok(None) => {}
                Err((file, problem)) => log::certificate_kept(file, &problem),
            }
            log::flush_waiting();
            seen = found;
        }
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.certificate_file, &self.key_file].map(|file| Stamp::of(file))
    }

    /// Reads the files, and uses their certificate for new connections. Returns it if it has
    /// changed.
    /// On failure gives the file that is at fault, and why.
    fn renew(&self) -> Result<Option<Identity>, (&str, Words)> {
        let at = |file| move |problem| (file, problem);
        let (certificate_file, key_file) = (self.certificate_file.as_str(), self.key_file.as_str());
        let chain = identity::read_chain(certificate_file).map_err(at(certificate_file))?;
        let key = identity::read_key(key_file).map_err(at(key_file))?;
        let identity = Identity::new(chain, key).map_err(at(key_file))?;
        let old = self.current().1.clone();
        if old.chain == identity.chain && old.key.public_eq(&identity.key) {
            return Ok(None);
        }
        let acceptor = Acceptor::new(&identity);
        let acceptor = acceptor.map_err(|error| (certificate_file, refusal(&error)))?;
        *self.current() = (acceptor, identity.clone());
        Ok(Some(identity))
    }
}
