//! From the process that a machine leaves to the one that it moves to: what has been said and not heard, and the sessions' clients
//! themselves, who notice nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use anyhow::{Context as _, bail, ensure};
use linux::Netns;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::{UnixListener, UnixStream};

use super::client;
use super::line::Rest;

/// Name of the socket, in the namespace of the pod that a machine moves to.
const NAME: &str = "ferrovia-moves";
/// Most bytes that a line may have open in one direction.
const LONGEST: u32 = 1 << 26;
/// Instead of a session: that was all.
const END: u32 = u32::MAX;
/// What is said when all has come.
const TAKEN: u8 = 1;

/// What goes from one process to the other.
#[derive(Debug)]
pub(crate) struct Handover {
    /// What was read of the guest and is no whole frame, and what it has not read.
    pub(crate) guest: (Vec<u8>, Vec<u8>),
    /// The sessions' clients.
    pub(crate) clients: BTreeMap<u32, Rest>,
    /// The last session's number.
    pub(crate) last: u32,
}

/// Listens for a machine that moves to this network namespace.
pub(crate) fn listen() -> anyhow::Result<UnixListener> {
    client::listen_here(NAME).context("cannot listen for the machine that moves here")
}

/// Hands over to the process in another network namespace; done when it has taken all.
pub(crate) async fn send(netns: String, handover: Handover) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || {
        let mut to =
            client::reach(&Netns::named(&netns)?, NAME)?.with_context(|| format!("cannot reach the machine's process of {netns}"))?;
        let Handover { guest: (read, unwritten), clients, last } = handover;
        put(&mut to, 0, None, &read, &unwritten)?;
        for (session, rest) in clients {
            let (stream, read, unwritten) = rest.into_std()?;
            put(&mut to, session, Some(&stream), &read, &unwritten)?;
        }
        put(&mut to, END, None, &[], &[])?;
        to.write_all(&last.to_be_bytes())?;
        let mut taken = [0];
        to.read_exact(&mut taken).context("the machine's process there has not taken it")
    })
    .await?
}

fn put(to: &mut StdStream, session: u32, stream: Option<&StdStream>, read: &[u8], unwritten: &[u8]) -> anyhow::Result<()> {
    let lengths = [session, u32::try_from(read.len())?, u32::try_from(unwritten.len())?];
    let header = lengths.map(u32::to_be_bytes).concat();
    let descriptors: Vec<_> = stream.iter().map(|stream| stream.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if stream.is_some() {
        ensure!(control.push(SendAncillaryMessage::ScmRights(&descriptors)), "no room for a descriptor");
    }
    let sent = sendmsg(&*to, &[IoSlice::new(&header)], &mut control, SendFlags::NOSIGNAL)?;
    to.write_all(&header[sent..])?;
    to.write_all(read)?;
    Ok(to.write_all(unwritten)?)
}

/// Takes what a process hands over that has connected.
pub(crate) async fn receive(from: UnixStream) -> anyhow::Result<Handover> {
    let mut from = from.into_std()?;
    from.set_nonblocking(false)?;
    let (guest, clients, last) = tokio::task::spawn_blocking(move || {
        let mut guest = None;
        let mut clients = Vec::new();
        loop {
            let (header, stream) = header(&mut from)?;
            let [session, read, unwritten] = header;
            let mut bytes = |length: u32| {
                ensure!(length <= LONGEST, "a line with {length} bytes under way");
                let mut bytes = vec![0; usize::try_from(length)?];
                from.read_exact(&mut bytes)?;
                anyhow::Ok(bytes)
            };
            let (read, unwritten) = (bytes(read)?, bytes(unwritten)?);
            match (session, stream) {
                (END, _) => break,
                (0, _) => guest = Some((read, unwritten)),
                (session, Some(stream)) => clients.push((session, StdStream::from(stream), read, unwritten)),
                (session, None) => bail!("session {session} comes without its client"),
            }
        }
        let mut last = [0; 4];
        from.read_exact(&mut last)?;
        from.write_all(&[TAKEN])?;
        Ok((guest.context("nothing is said of the guest")?, clients, u32::from_be_bytes(last)))
    })
    .await??;
    let clients = clients.into_iter().map(|(session, stream, read, unwritten)| {
        stream.set_nonblocking(true)?;
        Ok((session, Rest { stream: UnixStream::from_std(stream)?, read, unwritten }))
    });
    Ok(Handover { guest, clients: clients.collect::<io::Result<_>>()?, last })
}

fn header(from: &mut StdStream) -> anyhow::Result<([u32; 3], Option<OwnedFd>)> {
    let mut header = [0; 12];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(&*from, &mut [IoSliceMut::new(&mut header)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut stream = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            stream = descriptors.last();
        }
    }
    from.read_exact(&mut header[got..])?;
    let words = header.chunks_exact(4).map(|word| word.try_into().map(u32::from_be_bytes).unwrap_or_default());
    let mut all = [0; 3];
    all.iter_mut().zip(words).for_each(|(to, word)| *to = word);
    Ok((all, stream))
}
