//! Why a request is not forwarded, as the client is told.

use crate::http::head::HeadError;

/// A request that is not forwarded: the status for it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The status that the client gets.
    pub status: u16,
    /// Why, in words for the log and the client.
    pub reason: &'static str,
}

impl Rejection {
    /// Of a head that could not be read; none where the client is gone and gets no response.
    pub(crate) fn of(error: HeadError) -> Option<Rejection> {
        let (status, reason) = match error {
            HeadError::Closed | HeadError::Truncated | HeadError::Io(_) => return None,
            HeadError::Malformed(reason) => (400, reason),
            HeadError::Version => (505, "only HTTP/1.0 and 1.1 are spoken here"),
            HeadError::StartLineTooLong => (414, "the request target is too long"),
            HeadError::TooLarge => (431, "the request head is too large"),
        };
        Some(Rejection { status, reason })
    }
}

/// One that is malformed.
pub(super) fn bad(reason: &'static str) -> Rejection {
    Rejection {
        status: 400,
        reason,
    }
}
