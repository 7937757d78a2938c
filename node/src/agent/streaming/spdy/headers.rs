//! The headers of a stream: names and values, compressed with one dictionary and one state for the connection.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::frame::invalid;

/// A block that is larger when it is decompressed is no honest one.
const MAX_BLOCK: usize = 64 << 10;
/// No headers.
pub const NONE: [u8; 4] = [0; 4];

/// Of the dictionary, what has a length before it.
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// And what follows without.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Au\
     thoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidd\
     en404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr Ma\
     y Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,imag\
     e/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicpri\
     vatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// What both sides presume to have been sent already, by the specification.
fn dictionary() -> Vec<u8> {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS {
        dictionary.extend((word.len() as u32).to_be_bytes());
        dictionary.extend(word.as_bytes());
    }
    dictionary.extend(TAIL.as_bytes());
    dictionary
}

/// Reads the client's blocks, in their order.
pub struct Decompressor(Decompress);

impl Decompressor {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub fn decompress(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut plain = Vec::with_capacity(1024);
        loop {
            let before = (self.0.total_in(), plain.len());
            let result = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            block = &block[(self.0.total_in() - before.0) as usize..];
            if let Err(error) = result {
                error.needs_dictionary().ok_or_else(|| invalid("headers that cannot be decompressed"))?;
                let known = self.0.set_dictionary(&dictionary());
                known.map_err(|_| invalid("headers compressed with another dictionary"))?;
                continue;
            }
            if plain.len() > MAX_BLOCK {
                return Err(invalid("headers that are too large"));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(plain.len());
            } else if block.is_empty() || (self.0.total_in(), plain.len()) == before {
                return Ok(plain);
            }
        }
    }
}

/// Writes our blocks, in their order.
pub struct Compressor(Compress);

impl Compressor {
    pub fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&dictionary()).expect("a new stream takes a dictionary");
        Self(compress)
    }

    pub fn compress(&mut self, mut plain: &[u8]) -> io::Result<Vec<u8>> {
        let mut block = Vec::with_capacity(plain.len() + 64);
        loop {
            let before = self.0.total_in();
            self.0.compress_vec(plain, &mut block, FlushCompress::Sync).map_err(io::Error::other)?;
            plain = &plain[(self.0.total_in() - before) as usize..];
            if plain.is_empty() && block.len() < block.capacity() {
                return Ok(block);
            }
            block.reserve(block.len());
        }
    }
}

/// Names and values; of a name's several values, the first.
pub fn parse(mut block: &[u8]) -> io::Result<Vec<(String, String)>> {
    let short = || invalid("headers that are cut off");
    let number = |block: &mut &[u8]| {
        let (bytes, rest) = block.split_first_chunk().ok_or_else(short)?;
        *block = rest;
        Ok::<_, io::Error>(u32::from_be_bytes(*bytes) as usize)
    };
    let count = number(&mut block)?;
    let mut headers = Vec::new();
    let text = |block: &mut &[u8]| {
        let length = number(block)?;
        let (bytes, rest) = block.split_at_checked(length).ok_or_else(short)?;
        *block = rest;
        Ok::<_, io::Error>(String::from_utf8_lossy(bytes).into_owned())
    };
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        let value = text(&mut block)?;
        let value = value.split('\0').next().unwrap_or_default().to_owned();
        headers.push((name, value));
    }
    Ok(headers)
}

#[cfg(test)]
pub fn encode(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_be_bytes());
        block.extend(text.as_bytes());
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_one_connection_are_read_in_their_order() {
        let (mut compressor, mut decompressor) = (Compressor::new(), Decompressor::new());
        for port in ["80", "81", "65535"] {
            let block = encode(&[("streamtype", "data"), ("port", port)]);
            let compressed = compressor.compress(&block).unwrap();
            // The first block names the dictionary that the specification gives, by its checksum.
            if port == "80" {
                assert_eq!(compressed[2..6], [0xe3, 0xc6, 0xa7, 0xc2]);
            }
            let headers = parse(&decompressor.decompress(&compressed).unwrap()).unwrap();
            let expected = [("streamtype", "data"), ("port", port)];
            assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let bomb = Compressor::new().compress(&vec![0; 1 << 20]).unwrap();
        assert!(bomb.len() < MAX_BLOCK);
        assert!(Decompressor::new().decompress(&bomb).is_err());
        assert!(Decompressor::new().decompress(b"no zlib at all").is_err());
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let whole = encode(&[("port", "80")]);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
        assert!(parse(&[0xff; 4]).is_err());
        assert_eq!(parse(&NONE).unwrap(), []);
    }
}
