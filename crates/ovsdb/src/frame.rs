//! Where one JSON message ends and the next begins: OVSDB's JSON-RPC has no delimiter (RFC 7047 §4).

use bytes::{Buf, BytesMut};

/// Why the byte stream holds no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message starts with something else than `{`.
    #[error("byte {0:#04x} where a message must start with '{{'")]
    NoObject(u8),
    /// A closing bracket without an opening one.
    #[error("unbalanced brackets")]
    Unbalanced,
    /// More bytes than allowed without an end.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
}

/// Room that each read finds, so that a large message takes few of them.
const READ: usize = 64 * 1024;
/// Bytes of a message whose room is worth giving back.
const LARGE: usize = 1 << 20;

/// Splits a byte stream into messages. Each byte is looked at once.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// Bytes looked at; one more than there are when an escaped character is still to come.
    scanned: usize,
    depth: usize,
    in_string: bool,
    limit: usize,
}

impl Framer {
    /// A splitter that refuses messages of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(READ), scanned: 0, depth: 0, in_string: false, limit }
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.buffer.reserve(READ);
        &mut self.buffer
    }

    /// The next whole message, if its end has arrived.
    ///
    /// # Errors
    /// When the stream cannot be JSON objects one after the other; the connection is then of no more use.
    pub fn next_message(&mut self) -> Result<Option<BytesMut>, FrameError> {
        if self.depth == 0 {
            let blanks = self.buffer.iter().take_while(|b| b.is_ascii_whitespace()).count();
            self.buffer.advance(blanks);
            self.scanned = 0;
        }
        let bytes: &[u8] = &self.buffer;
        let (mut at, mut depth, mut in_string) = (self.scanned, self.depth, self.in_string);
        while let Some(&byte) = bytes.get(at) {
            if in_string {
                at += text(&bytes[at..]);
                match bytes.get(at) {
                    Some(b'"') => {
                        in_string = false;
                        at += 1;
                    }
                    Some(_) => at += 2,
                    None => {}
                }
                continue;
            }
            if depth == 0 && byte != b'{' {
                return Err(FrameError::NoObject(byte));
            }
            at += 1;
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.checked_sub(1).ok_or(FrameError::Unbalanced)?;
                    if depth == 0 {
                        (self.scanned, self.depth, self.in_string) = (0, 0, false);
                        let message = self.buffer.split_to(at);
                        // The room of a large message goes with it; else it would be held for ever.
                        if message.len() > LARGE {
                            self.buffer = BytesMut::from(&self.buffer[..]);
                        }
                        return Ok(Some(message));
                    }
                }
                _ => {}
            }
        }
        (self.scanned, self.depth, self.in_string) = (at, depth, in_string);
        if self.buffer.len() > self.limit { Err(FrameError::TooLong(self.limit)) } else { Ok(None) }
    }
}

/// How many bytes come before the first quotation mark or backslash. Most of what a server sends is text, so it is looked at
/// eight bytes at a time.
fn text(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    // The highest bit of each byte that is zero; above the lowest such byte others may be marked by a borrow.
    let zero = |word: u64| word.wrapping_sub(LOW) & !word & (LOW << 7);
    let mut at = 0;
    while let Some(word) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*word);
        let found = zero(word ^ (LOW * u64::from(b'"'))) | zero(word ^ (LOW * u64::from(b'\\')));
        if found != 0 {
            return at + found.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !matches!(byte, b'"' | b'\\')).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut framer = Framer::new(1 << 20);
        let mut out = Vec::new();
        for chunk in chunks {
            framer.buffer().extend_from_slice(chunk);
            while let Some(message) = framer.next_message()? {
                out.push(message.to_vec());
            }
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(texts in prop::collection::vec("[a-z\"\\\\é{\\]]{0,40}", 1..6), cut in 1usize..40) {
            let messages: Vec<Vec<u8>> = texts.iter().map(|t| serde_json::to_vec(&serde_json::json!({"a": [t, {"b": t}]})).unwrap()).collect();
            let joined: Vec<u8> = messages.concat();
            let chunks: Vec<&[u8]> = joined.chunks(cut).collect();
            prop_assert_eq!(split(&chunks).unwrap(), messages);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&[&bytes]);
        }
    }

    #[test]
    fn garbage_and_giants_are_errors() {
        assert_eq!(split(&[b"]"]), Err(FrameError::NoObject(b']')));
        assert_eq!(split(&[b"{}}"]), Err(FrameError::NoObject(b'}')));
        let mut framer = Framer::new(8);
        framer.buffer().extend_from_slice(b"{\"aaaaaaaaaaaa");
        assert_eq!(framer.next_message(), Err(FrameError::TooLong(8)));
    }
}
