//! The second opinion of `http-net`: a strict HTTP/1 parser without I/O that shares no code with
//! httparse, so that it finds what httparse overlooks.

use http_net::{
    parse_request_head, parse_response_head, Asked, BodyFraming, ChunkStep, ChunkedDecoder,
    FieldSpan, Headers, HttpError, Limits, Parsed,
};
use simple_proxy::http::framing::Framing;

use crate::FieldList;

/// A head as the strict parser reads it.
pub struct Head {
    /// Its length including the empty line, which is where the body begins.
    pub length: usize,
    /// How the body ends.
    pub framing: Framing,
    /// The fields.
    pub fields: FieldList,
}

fn limits() -> Limits {
    Limits::new()
        .with_max_start_line(1 << 20)
        .with_max_field_line(1 << 20)
        .with_max_header_bytes(1 << 20)
        .with_max_headers(1024)
        .with_max_body(u64::MAX)
}

fn framing(framing: BodyFraming) -> Framing {
    match framing {
        BodyFraming::None => Framing::None,
        BodyFraming::Length(length) => Framing::Length(length),
        BodyFraming::Chunked => Framing::Chunked,
        BodyFraming::UntilClose => Framing::UntilClose,
        other => panic!("an unknown framing: {other:?}"),
    }
}

fn fields(headers: Headers<'_>) -> FieldList {
    let fields = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()));
    fields.collect()
}

/// Parses the request head at the start of `bytes`.
pub fn request(bytes: &[u8]) -> Result<Head, HttpError> {
    let mut room = [FieldSpan::default(); 256];
    match parse_request_head(bytes, &limits(), &mut room)? {
        Parsed::Complete { head, len } => Ok(Head {
            length: len,
            framing: framing(head.view().framing()),
            fields: fields(head.view().headers()),
        }),
        _ => Err(HttpError::UnexpectedEof),
    }
}

/// Parses the response head at the start of `bytes`; `is_head` says that the request was HEAD.
pub fn response(bytes: &[u8], is_head: bool) -> Result<Head, HttpError> {
    let mut room = [FieldSpan::default(); 256];
    let asked = Asked {
        head: is_head,
        connect: false,
    };
    match parse_response_head(bytes, &limits(), asked, &mut room)? {
        Parsed::Complete { head, len } => Ok(Head {
            length: len,
            framing: framing(head.view().framing()),
            fields: fields(head.view().headers()),
        }),
        _ => Err(HttpError::UnexpectedEof),
    }
}

/// Decodes the chunked body at the start of `bytes`. Returns the content and the encoded length.
pub fn chunked(bytes: &[u8]) -> Result<(Vec<u8>, usize), HttpError> {
    let mut decoder = ChunkedDecoder::new(&limits());
    let (mut content, mut at) = (Vec::new(), 0);
    loop {
        match decoder.decode(&bytes[at..], true)? {
            ChunkStep::Data { skip, len } => {
                content.extend_from_slice(&bytes[at + skip..at + skip + len]);
                at += skip + len;
            }
            ChunkStep::Trailers { skip, len } => at += skip + len,
            ChunkStep::Done { consumed } => return Ok((content, at + consumed)),
            _ => return Err(HttpError::UnexpectedEof),
        }
    }
}
