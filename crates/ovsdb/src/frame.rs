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

/// Splits a byte stream into messages. Each byte is looked at once.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    scanned: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
    limit: usize,
}

impl Framer {
    /// A splitter that refuses messages of more than `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(64 * 1024), scanned: 0, depth: 0, in_string: false, escaped: false, limit }
    }

    /// Where to read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
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
        while let Some(&byte) = self.buffer.get(self.scanned) {
            if self.depth == 0 && byte != b'{' {
                return Err(FrameError::NoObject(byte));
            }
            self.scanned += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.checked_sub(1).ok_or(FrameError::Unbalanced)?;
                    if self.depth == 0 {
                        let message = self.buffer.split_to(self.scanned);
                        self.scanned = 0;
                        return Ok(Some(message));
                    }
                }
                _ => {}
            }
        }
        if self.buffer.len() > self.limit { Err(FrameError::TooLong(self.limit)) } else { Ok(None) }
    }
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
        fn messages_survive_any_cut(texts in prop::collection::vec(".{0,20}", 1..6), cut in 1usize..7) {
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
