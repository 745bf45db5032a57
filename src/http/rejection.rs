//! Why a request is not forwarded: the status and the reason that the client gets.

use crate::http::head::HeadError;

/// The refusal of a request that is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status that the client gets.
    pub status: u16,
    /// The reason, for the log and the client.
    pub reason: &'static str,
}

impl Rejection {
    /// The rejection of a head that could not be read; none if the client is gone and cannot get
    /// a response.
    pub(crate) fn of(error: HeadError) -> Option<Rejection> {
        let (status, reason) = match error {
            HeadError::Closed | HeadError::Truncated | HeadError::Io(_) => return None,
            HeadError::Malformed(reason) => (400, reason),
            HeadError::Version => (505, "only HTTP/1.0 and HTTP/1.1 are supported"),
            HeadError::StartLineTooLong => (414, "the request target is too long"),
            HeadError::TooLarge => (431, "the request head is too large"),
        };
        Some(Rejection { status, reason })
    }
}

/// The rejection of a malformed request.
pub(super) fn bad(reason: &'static str) -> Rejection {
    Rejection {
        status: 400,
        reason,
    }
}
