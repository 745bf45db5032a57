//! Pieces of request and response heads.

/// Separators and single bytes.
#[rustfmt::skip]
pub const LINES: &[&[u8]] = &[
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b": ", b":", b" ", b"\t", b",", b", ", b";", b"\0",
    b"\x7f", b"\x0b", b"\xc3\xa9", b"\xff\xfe", b"\r\n ", b"\r\n\t", b" :", b"\r\r\n", b"\n\r\n",
];

/// Framing fields, and what looks like them.
#[rustfmt::skip]
pub const FRAMING: &[&[u8]] = &[
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"content-length: 44\r\n",
    b"Content-Length: 007\r\n", b"Content-Length: +5\r\n", b"Content-Length: 5, 5\r\n",
    b"Content-Length: 18446744073709551615\r\n", b"Content-Length: 18446744073709551616\r\n",
    b"Content-Length: 4294967301\r\n", b"Content-Length: 5 \r\n", b"Content-Length : 5\r\n",
    b"Content_Length: 5\r\n", b"Content-Length:\t5\r\n", b"Content-Length: ", b"Content-Length",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding: CHUNKED\r\n",
    b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, chunked\r\n", b"Transfer-Encoding: ,chunked\r\n",
    b"Transfer-Encoding: chunked;q=1\r\n", b"Transfer-Encoding:\x0bchunked\r\n",
    b"Transfer-Encoding : chunked\r\n", b" Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n chunked\r\n", b"X: y\rTransfer-Encoding: chunked\r\n",
    b"X: y\nTransfer-Encoding: chunked\r\n", b"Transfer_Encoding: chunked\r\n",
    b"Transfer-Encoding:\r\n", b"Transfer-Encoding: ", b"Transfer-Encoding", b"chunked",
    b"identity", b"0", b"1", b"5", b"9", b"18446744073709551615",
];
