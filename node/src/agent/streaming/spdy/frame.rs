//! SPDY/3.1 frames: eight bytes that say what follows, then that.

use std::io;

pub const HEADER_BYTES: usize = 8;
const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FLAG_FIN: u8 = 1;
/// `REFUSED_STREAM`: nothing was done with it.
const REFUSED: u32 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GO_AWAY: u16 = 7;
const HEADERS: u16 = 8;

/// The head of a frame; `length` bytes follow it.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    Data { stream: u32, is_last: bool, length: usize },
    Control { kind: u16, is_last: bool, length: usize },
}

/// What a control frame says.
#[derive(Debug, PartialEq, Eq)]
pub enum Control<'a> {
    /// A stream begins; `block` are its headers.
    SynStream {
        stream: u32,
        block: &'a [u8],
    },
    /// More headers, which must be read as compression goes on across blocks.
    Headers {
        block: &'a [u8],
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    Other,
}

impl Frame {
    pub fn parse(header: [u8; HEADER_BYTES]) -> io::Result<Self> {
        let [a, b, c, d, flags, length @ ..] = header;
        let word = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        let is_last = flags & FLAG_FIN != 0;
        if word & CONTROL == 0 {
            return Ok(Self::Data { stream: word, is_last, length });
        }
        let version = (word >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(invalid(format!("a frame of SPDY/{version}")));
        }
        Ok(Self::Control { kind: word as u16, is_last, length })
    }
}

impl<'a> Control<'a> {
    pub fn parse(kind: u16, payload: &'a [u8]) -> io::Result<Self> {
        let short = || invalid(format!("a control frame of type {kind} and {} bytes", payload.len()));
        let number =
            || payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) & !CONTROL).ok_or_else(short);
        Ok(match kind {
            // Behind the number: the stream that it belongs to, its priority and its slot.
            SYN_STREAM => Self::SynStream { stream: number()?, block: payload.get(10..).ok_or_else(short)? },
            SYN_REPLY | HEADERS => Self::Headers { block: payload.get(4..).ok_or_else(short)? },
            RST_STREAM => Self::Reset { stream: number()? },
            PING => Self::Ping { id: number()? },
            _ => Self::Other,
        })
    }
}

pub fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the client sent {what}"))
}

fn header(word: u32, is_last: bool, length: usize) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = word.to_be_bytes();
    let [_, length @ ..] = (length as u32).to_be_bytes();
    [a, b, c, d, if is_last { FLAG_FIN } else { 0 }, length[0], length[1], length[2]]
}

/// The head of a frame with `length` bytes of data, at most 16 MiB.
pub fn data_header(stream: u32, is_last: bool, length: usize) -> [u8; HEADER_BYTES] {
    header(stream, is_last, length)
}

fn control(kind: u16, parts: &[&[u8]]) -> Vec<u8> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut frame = header(CONTROL | u32::from(VERSION) << 16 | u32::from(kind), false, length).to_vec();
    frame.extend(parts.concat());
    frame
}

pub fn syn_reply(stream: u32, block: &[u8]) -> Vec<u8> {
    control(SYN_REPLY, &[&stream.to_be_bytes(), block])
}

#[cfg(test)]
pub fn syn_stream(stream: u32, is_last: bool, block: &[u8]) -> Vec<u8> {
    let mut frame = control(SYN_STREAM, &[&stream.to_be_bytes(), &[0; 6], block]);
    frame[4] = u8::from(is_last);
    frame
}

pub fn reset(stream: u32) -> Vec<u8> {
    control(RST_STREAM, &[&stream.to_be_bytes(), &REFUSED.to_be_bytes()])
}

pub fn ping(id: u32) -> Vec<u8> {
    control(PING, &[&id.to_be_bytes()])
}

/// Nothing went wrong; no new streams.
pub fn go_away() -> Vec<u8> {
    control(GO_AWAY, &[&[0; 8]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_are_written() {
        let head = |frame: &[u8]| Frame::parse(*frame.first_chunk().unwrap()).unwrap();
        assert_eq!(
            head(&data_header(5, true, 70_000)),
            Frame::Data { stream: 5, is_last: true, length: 70_000 }
        );
        let ping = ping(7);
        assert_eq!(ping, [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 7]);
        assert_eq!(head(&ping), Frame::Control { kind: PING, is_last: false, length: 4 });
        assert_eq!(Control::parse(PING, &ping[8..]).unwrap(), Control::Ping { id: 7 });
        let reset = reset(9);
        assert_eq!(Control::parse(RST_STREAM, &reset[8..]).unwrap(), Control::Reset { stream: 9 });
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_refused() {
        assert!(Control::parse(SYN_STREAM, &[0; 9]).is_err());
        assert!(Control::parse(PING, &[]).is_err());
        assert!(Frame::parse([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
        assert_eq!(Control::parse(4, &[]).unwrap(), Control::Other);
    }
}
