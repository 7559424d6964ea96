//! The least that a client of OVSDB can do: it sends bytes that are ready, and counts the messages that come back.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What a client sent to a server, message by message.
#[derive(Clone, Default)]
pub struct Recording {
    /// What comes before the first transaction.
    pub handshake: Vec<u8>,
    /// Requests of the handshake.
    pub questions: usize,
    /// The transactions.
    pub transactions: Vec<u8>,
    /// Number of transactions.
    pub count: usize,
}

/// Listens at `at` for one client, passes on all that it and the server at `server` say, and keeps what the client says.
pub struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    pub fn listen(at: &Path, server: &Path) -> Self {
        let _ = std::fs::remove_file(at);
        let listener = UnixListener::bind(at).unwrap();
        let server = server.to_owned();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&bytes);
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut upstream = UnixStream::connect(server).unwrap();
            let (mut back, mut answers) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let mut chunk = vec![0; 1 << 16];
            while let Ok(read @ 1..) = client.read(&mut chunk) {
                kept.lock().unwrap().extend_from_slice(&chunk[..read]);
                upstream.write_all(&chunk[..read]).unwrap();
            }
            let _ = upstream.shutdown(Shutdown::Both);
        });
        Self { bytes }
    }

    pub fn recording(&self) -> Recording {
        let mut recording = Recording::default();
        let mut framer = ovsdb::Framer::new(1 << 30);
        framer.buffer().extend_from_slice(&self.bytes.lock().unwrap());
        while let Some(message) = framer.next_message().unwrap() {
            if message.starts_with(br#"{"method":"transact""#) {
                recording.transactions.extend_from_slice(&message);
                recording.count += 1;
            } else {
                recording.handshake.extend_from_slice(&message);
                recording.questions += 1;
            }
        }
        recording
    }
}

/// Counts whole JSON objects in a stream; those with an `id` of null are notifications.
#[derive(Default)]
struct Counter {
    depth: u32,
    in_string: bool,
    escaped: bool,
    start: Vec<u8>,
}

impl Counter {
    fn replies(&mut self, bytes: &[u8]) -> usize {
        let mut replies = 0;
        let (mut depth, mut in_string, mut escaped) = (self.depth, self.in_string, self.escaped);
        for &byte in bytes {
            if self.start.len() < 10 {
                self.start.push(byte);
            }
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        replies += usize::from(self.start != br#"{"id":null"#);
                        self.start.clear();
                    }
                }
                _ => {}
            }
        }
        (self.depth, self.in_string, self.escaped) = (depth, in_string, escaped);
        replies
    }
}

fn await_replies(stream: &mut UnixStream, wanted: usize) {
    let mut counter = Counter::default();
    let mut chunk = vec![0; 1 << 16];
    let mut seen = 0;
    while seen < wanted {
        let read = stream.read(&mut chunk).unwrap();
        assert!(read > 0, "the server closed the connection after {seen} of {wanted} replies");
        seen += counter.replies(&chunk[..read]);
    }
}

/// Replays a recording: how long until the handshake is answered, and then until all transactions are.
pub fn replay(server: &Path, recording: &Recording) -> (Duration, Duration) {
    let began = Instant::now();
    let mut stream = UnixStream::connect(server).unwrap();
    stream.write_all(&recording.handshake).unwrap();
    await_replies(&mut stream, recording.questions);
    let connected = began.elapsed();
    let began = Instant::now();
    thread::scope(|scope| {
        let mut sender = stream.try_clone().unwrap();
        scope.spawn(move || sender.write_all(&recording.transactions).unwrap());
        await_replies(&mut stream, recording.count);
    });
    (connected, began.elapsed())
}
