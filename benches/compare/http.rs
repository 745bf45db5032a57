//! The part of HTTP/1.1 that the generator and the upstream need.

/// The head of a message.
#[derive(Debug, Default)]
pub struct Head {
    /// Its length, including the empty line.
    pub length: usize,
    /// The status of a response.
    pub status: u16,
    /// The target of a request.
    pub target: String,
    /// Content-Length.
    pub content_length: u64,
    /// Transfer-Encoding: chunked.
    pub chunked: bool,
    /// Connection: close.
    pub close: bool,
    /// Upgrade: websocket.
    pub upgrade: bool,
}

impl Head {
    /// Parses the head of a request; none while it is incomplete.
    pub fn request(bytes: &[u8]) -> Result<Option<Head>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut fields);
        let status = request.parse(bytes).map_err(|error| error.to_string())?;
        let httparse::Status::Complete(length) = status else {
            return Ok(None);
        };
        let mut head = Head {
            length,
            target: request.path.unwrap_or_default().to_owned(),
            ..Head::default()
        };
        head.fields(request.headers);
        Ok(Some(head))
    }

    /// Parses the head of a response; none while it is incomplete.
    pub fn response(bytes: &[u8]) -> Result<Option<Head>, String> {
        let mut fields = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut fields);
        let status = response.parse(bytes).map_err(|error| error.to_string())?;
        let httparse::Status::Complete(length) = status else {
            return Ok(None);
        };
        let mut head = Head {
            length,
            status: response.code.unwrap_or_default(),
            ..Head::default()
        };
        head.fields(response.headers);
        Ok(Some(head))
    }

    fn fields(&mut self, fields: &[httparse::Header<'_>]) {
        for field in fields {
            let value = std::str::from_utf8(field.value).unwrap_or_default();
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("content-length") {
                self.content_length = value.parse().unwrap_or_default();
            } else if is("transfer-encoding") {
                self.chunked = value.eq_ignore_ascii_case("chunked");
            } else if is("connection") {
                self.close = value.eq_ignore_ascii_case("close");
            } else if is("upgrade") {
                self.upgrade = value.eq_ignore_ascii_case("websocket");
            }
        }
    }
}

/// Decodes the chunked coding without keeping the content.
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    size: u64,
    /// Whether the line that is being read is not empty.
    filled: bool,
}

#[derive(Debug, Default, PartialEq)]
enum ChunkState {
    #[default]
    Size,
    Data,
    DataEnd,
    Trailer,
    Done,
}

impl Chunks {
    /// Whether the last chunk is over.
    pub fn done(&self) -> bool {
        self.state == ChunkState::Done
    }

    /// Decodes bytes. Returns how many belonged to the body, and how many were content.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(usize, u64), String> {
        let (mut at, mut content) = (0, 0);
        while at < bytes.len() && !self.done() {
            if self.state == ChunkState::Data {
                let n = self.size.min((bytes.len() - at) as u64);
                at += n as usize;
                content += n;
                self.size -= n;
                if self.size == 0 {
                    self.state = ChunkState::DataEnd;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            match (&self.state, byte) {
                (_, b'\r') => {}
                (ChunkState::Size, b'\n') => {
                    self.state = match self.size {
                        0 => ChunkState::Trailer,
                        _ => ChunkState::Data,
                    };
                    self.filled = false;
                }
                (ChunkState::Size, digit) => {
                    let digit = char::from(digit).to_digit(16).ok_or("not a chunk's size")?;
                    self.size = self.size << 4 | u64::from(digit);
                }
                (ChunkState::DataEnd, b'\n') => self.state = ChunkState::Size,
                (ChunkState::DataEnd, _) => return Err("a chunk is too long".to_owned()),
                (_, b'\n') if self.filled => self.filled = false,
                (_, b'\n') => self.state = ChunkState::Done,
                (_, _) => self.filled = true,
            }
        }
        Ok((at, content))
    }
}
