//! What clients are shown in TLS: the certificate of `--listen-cert`, and of its files when
//! they have changed. A thread of its own reads them, so that nobody waits for a file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::both;
use crate::complaint::Complaint;
use crate::config::ListenTls;
use crate::identity::{self, Identity};
use crate::language::Words;
use crate::net::tls::Acceptor;
use crate::report::log;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How long two files that do not belong together are given: whoever renews them writes one
/// after the other.
const PAUSE: Duration = Duration::from_secs(1);

/// The certificate that new connections are shown.
pub struct Certificates {
    certificate_file: String,
    key_file: String,
    current: Mutex<(Acceptor, Identity)>,
}

/// Tells one state of a file from another; none where it is not there.
#[derive(PartialEq, Eq)]
struct Stamp {
    /// Device and inode: renewed files often replace the old ones.
    place: (u64, u64),
    size: u64,
    /// When it was written and when it was moved or changed otherwise, each with nanoseconds.
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

impl Certificates {
    /// With what the files held at the start. Fails with words for the operator.
    pub fn new(tls: &ListenTls) -> Result<Certificates, Complaint> {
        let acceptor = Acceptor::new(&tls.identity);
        let acceptor = acceptor
            .map_err(|error| Complaint::new("--listen-cert", Words::same(error.to_string())))?;
        Ok(Certificates {
            certificate_file: tls.certificate_file.clone(),
            key_file: tls.key_file.clone(),
            current: Mutex::new((acceptor, tls.identity.clone())),
        })
    }

    /// What a new connection gets.
    pub(crate) fn acceptor(&self) -> Acceptor {
        self.current().0.clone()
    }

    fn current(&self) -> MutexGuard<'_, (Acceptor, Identity)> {
        // A panic elsewhere leaves nothing half done here.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the files whenever they have changed, or something is sent, in a thread of its
    /// own that goes on until the sender is dropped.
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
        // The files may have changed since they were read: the first look reads them.
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
                Err(problem) => log::certificate_kept(&self.certificate_file, &problem),
            }
            log::flush_waiting();
            seen = found;
        }
    }

    fn stamps(&self) -> [Option<Stamp>; 2] {
        [&self.certificate_file, &self.key_file].map(|file| Stamp::of(file))
    }

    /// Reads the files, and takes what they hold for new connections. Gives it where it is
    /// something new.
    fn renew(&self) -> Result<Option<Identity>, Words> {
        let chain = identity::read_chain(&self.certificate_file)?;
        let key = identity::read_key(&self.key_file)?;
        let identity = Identity::new(chain, key)?;
        let old = self.current().1.clone();
        if old.chain == identity.chain && old.key.public_eq(&identity.key) {
            return Ok(None);
        }
        let acceptor = Acceptor::new(&identity).map_err(|error| both!("{error}", "{error}"))?;
        *self.current() = (acceptor, identity.clone());
        Ok(Some(identity))
    }
}
