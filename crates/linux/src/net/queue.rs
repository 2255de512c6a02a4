//! What a socket has received and the program has not read yet.

pub(crate) mod saved;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::errno::Errno;
use crate::file::OpenFile;
use crate::file::buffers::{Buffer, Buffers, GUARANTEED_BYTES, Reservation};
use crate::net::Maker;
use crate::net::address::Address;

/// Bytes that a stream socket holds for its reader.
pub const STREAM_BYTES_MAX: usize = 208 * 1024;
/// Bytes of datagrams that a socket holds for its reader, `DATAGRAM_OVERHEAD_BYTES` counted for each.
pub const DATAGRAMS_BYTES_MAX: usize = 208 * 1024;
/// What a datagram counts beyond its bytes.
const DATAGRAM_OVERHEAD_BYTES: usize = 256;
/// Longest datagram.
pub const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Most files of one message (`SCM_MAX_FD`).
pub const FILES_MAX: usize = 253;
/// Most files of one guest on their way through sockets.
const FILES_IN_FLIGHT_MAX: usize = 1024;

/// Counts files on their way. Sockets sent through themselves are never received: this bounds them.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Flight>);

#[derive(Debug, Default)]
struct Flight {
    count: AtomicUsize,
    lost: Mutex<Lost>,
}

/// Files that nobody will receive. Such a file may be a socket with files on their way to it, and so on: they are closed
/// one after the other, because a chain of them would be deeper than the stack is long.
#[derive(Debug, Default)]
struct Lost {
    files: Vec<Arc<OpenFile>>,
    is_being_closed: bool,
}

impl Flight {
    fn close(&self, files: Vec<Arc<OpenFile>>) {
        {
            let mut lost = self.lost.lock();
            lost.files.extend(files);
            if std::mem::replace(&mut lost.is_being_closed, true) {
                return; // Whoever closes them is further up the stack.
            }
        }
        loop {
            let next = {
                let mut lost = self.lost.lock();
                let next = lost.files.pop();
                lost.is_being_closed = next.is_some();
                next
            };
            match next {
                Some(file) => drop(file),
                None => return,
            }
        }
    }
}

/// What travels with a message: files, and who has sent it.
#[derive(Debug, Default)]
pub struct Files {
    files: Vec<Arc<OpenFile>>,
    count: Option<InFlight>,
    sender: Maker,
}

impl Files {
    /// Files to be sent. `ETOOMANYREFS` is not among our numbers; `ENOBUFS` says the same.
    pub fn new(files: Vec<Arc<OpenFile>>, count: &InFlight) -> Result<Self, Errno> {
        if files.is_empty() {
            return Ok(Self::default());
        }
        if count.0.count.load(Ordering::Relaxed) + files.len() > FILES_IN_FLIGHT_MAX {
            return Err(Errno::ENOBUFS);
        }
        count.0.count.fetch_add(files.len(), Ordering::Relaxed);
        Ok(Self { files, count: Some(count.clone()), sender: Maker::default() })
    }

    /// The same from a sender that is known.
    pub fn sent_by(mut self, sender: Maker) -> Self {
        self.sender = sender;
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files, which have arrived; also those of a message that is only looked at.
    pub fn arrived(&self) -> Vec<Arc<OpenFile>> {
        self.files.clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Some(count) = &self.count {
            count.0.count.fetch_sub(self.files.len(), Ordering::Relaxed);
            count.0.close(std::mem::take(&mut self.files));
        }
    }
}

/// A message as it is read.
#[derive(Debug)]
pub struct Message {
    /// Its bytes, at most as many as were asked for.
    pub bytes: Vec<u8>,
    /// Its length as it was sent.
    pub full_length: usize,
    /// Who sent it; nothing for streams.
    pub from: Option<Address>,
    /// Files that came with it.
    pub files: Vec<Arc<OpenFile>>,
    /// Who sent it; of a stream, who sent last.
    pub sender: Maker,
}

impl Message {
    /// The end of a connection, or what a read of no bytes gives.
    pub fn nothing() -> Self {
        Self { bytes: Vec::new(), full_length: 0, from: None, files: Vec::new(), sender: Maker::default() }
    }
}

/// Received and not read.
#[derive(Debug)]
pub enum Queue {
    /// Bytes without boundaries.
    Stream(Stream),
    /// Messages.
    Datagrams(Datagrams),
}

/// A queue of bytes. Files are at positions among them.
#[derive(Debug)]
pub struct Stream {
    buffer: Buffer,
    /// Bytes read since the beginning.
    taken: u64,
    /// Bytes received since the beginning.
    pushed: u64,
    files: VecDeque<Attached>,
    sender: Maker,
    urgent: Option<Urgent>,
}

/// The last byte of TCP that was sent as urgent and is not behind yet.
#[derive(Debug, Clone, Copy)]
struct Urgent {
    /// How many bytes come before it, since the beginning.
    at: u64,
    /// The byte, until `MSG_OOB` has fetched it.
    byte: Option<u8>,
}

/// Files that were sent with the bytes from `start` to `end`.
#[derive(Debug)]
struct Attached {
    start: u64,
    end: u64,
    files: Files,
}

/// A queue of messages.
#[derive(Debug)]
pub struct Datagrams {
    messages: VecDeque<Datagram>,
    charged: usize,
    budget: Buffers,
}

#[derive(Debug)]
struct Datagram {
    bytes: Vec<u8>,
    from: Address,
    files: Files,
    _memory: Reservation,
}

impl Queue {
    /// An empty queue.
    pub fn new(is_stream: bool, budget: &Buffers) -> Self {
        if is_stream {
            Queue::Stream(Stream::new(Buffer::new(budget, STREAM_BYTES_MAX)))
        } else {
            Queue::Datagrams(Datagrams { messages: VecDeque::new(), charged: 0, budget: budget.clone() })
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        match self {
            Queue::Stream(stream) => stream.buffer.is_empty(),
            Queue::Datagrams(datagrams) => datagrams.messages.is_empty(),
        }
    }

    /// Bytes that the next read may give.
    pub fn length(&self) -> usize {
        match self {
            Queue::Stream(stream) => stream.buffer.len(),
            Queue::Datagrams(datagrams) => datagrams.messages.front().map_or(0, |message| message.bytes.len()),
        }
    }

    /// Bytes that fit.
    pub fn room(&self) -> usize {
        match self {
            Queue::Stream(stream) => stream.buffer.room(),
            Queue::Datagrams(datagrams) => datagrams.room(),
        }
    }

    /// Bytes that the limit on all buffers still allows.
    pub fn room_of_budget(&self) -> usize {
        match self {
            Queue::Stream(stream) => stream.buffer.room_of_budget(),
            Queue::Datagrams(datagrams) => datagrams.budget.room(),
        }
    }

    /// Adds a message: of a stream as much as fits, of datagrams all or nothing. `EAGAIN` if there is no room; the files
    /// then go back to the caller's hands only by name, which is where they came from.
    pub fn push(&mut self, bytes: &[u8], from: Address, files: Files) -> Result<usize, Errno> {
        match self {
            Queue::Stream(stream) => {
                if stream.buffer.room() == 0 {
                    return Err(Errno::EAGAIN);
                }
                let count = stream.buffer.push(bytes);
                let start = stream.pushed;
                stream.pushed += count as u64;
                stream.sender = files.sender;
                if !files.is_empty() {
                    stream.files.push_back(Attached { start, end: stream.pushed, files });
                }
                Ok(count)
            }
            Queue::Datagrams(datagrams) => datagrams.push(bytes, from, files),
        }
    }

    /// Adds bytes of a service, whatever the limits say.
    pub fn push_from_service(&mut self, bytes: &[u8]) {
        if let Queue::Stream(stream) = self {
            stream.buffer.push_all(bytes);
            stream.pushed += bytes.len() as u64;
        }
    }

    /// Takes the next message, or up to `length` bytes of a stream; `None` if there is nothing. A message that is only
    /// looked at stays.
    pub fn pop(&mut self, length: usize, is_peeking: bool) -> Option<Message> {
        match self {
            Queue::Stream(stream) => stream.pop(length, is_peeking, false),
            Queue::Datagrams(datagrams) => datagrams.pop(length, is_peeking),
        }
    }

    /// The same where the urgent byte of a stream may be one among the others (`SO_OOBINLINE`): else it is passed over.
    pub fn pop_around_urgent(&mut self, length: usize, is_peeking: bool, is_inline: bool) -> Option<Message> {
        match self {
            Queue::Stream(stream) => stream.pop(length, is_peeking, is_inline),
            Queue::Datagrams(datagrams) => datagrams.pop(length, is_peeking),
        }
    }

    /// The last byte, which has just been added to a stream, is urgent.
    pub fn mark_urgent(&mut self, byte: u8, is_inline: bool) {
        let Queue::Stream(stream) = self else { return };
        if stream.is_at_mark() && !is_inline {
            stream.skip_urgent();
        }
        stream.urgent = Some(Urgent { at: stream.pushed - 1, byte: Some(byte) });
    }

    /// Whether a stream has an urgent byte that is still before the reader.
    pub fn has_mark(&self) -> bool {
        matches!(self, Queue::Stream(stream) if stream.urgent.is_some())
    }

    /// Whether the next byte of a stream is the urgent one (`SIOCATMARK`).
    pub fn is_at_mark(&self) -> bool {
        matches!(self, Queue::Stream(stream) if stream.is_at_mark())
    }

    /// The urgent byte, if it has not been fetched.
    pub fn urgent(&self) -> Option<u8> {
        match self {
            Queue::Stream(stream) => stream.urgent?.byte,
            Queue::Datagrams(_) => None,
        }
    }

    /// Fetches the urgent byte.
    pub fn take_urgent(&mut self) -> Option<u8> {
        match self {
            Queue::Stream(stream) => stream.urgent.as_mut()?.byte.take(),
            Queue::Datagrams(_) => None,
        }
    }

    /// Bytes up to the urgent one.
    pub fn length_to_mark(&self) -> usize {
        match self {
            Queue::Stream(Stream { urgent: Some(urgent), taken, .. }) => (urgent.at - taken) as usize,
            _ => self.length(),
        }
    }
}

impl Stream {
    fn new(buffer: Buffer) -> Self {
        Self { buffer, taken: 0, pushed: 0, files: VecDeque::new(), sender: Maker::default(), urgent: None }
    }

    fn is_at_mark(&self) -> bool {
        self.urgent.is_some_and(|urgent| urgent.at == self.taken)
    }

    fn skip_urgent(&mut self) {
        self.taken += self.buffer.pop(1).len() as u64;
        self.urgent = None;
    }

    fn pop(&mut self, length: usize, is_peeking: bool, is_inline: bool) -> Option<Message> {
        if self.is_at_mark() && !is_inline {
            if is_peeking {
                let bytes = self.buffer.peek(length.saturating_add(1)).split_off(1);
                let full_length = bytes.len();
                return (full_length > 0).then(|| Message { bytes, full_length, ..Message::nothing() });
            }
            self.skip_urgent();
        }
        if self.buffer.is_empty() {
            return None;
        }
        let to_mark = self.urgent.map_or(0, |urgent| (urgent.at - self.taken) as usize);
        let length = if to_mark > 0 { length.min(to_mark) } else { length };
        // A read goes up to the end of the bytes that files came with: it gives one message's files at most.
        let first = self.files.front();
        let to_end = first.map_or(usize::MAX, |first| usize::try_from(first.end - self.taken).unwrap_or(usize::MAX));
        let length = length.min(to_end);
        let bytes = if is_peeking { self.buffer.peek(length) } else { self.buffer.pop(length) };
        let end = self.taken + bytes.len() as u64;
        let arrived = self.files.front().filter(|first| first.start < end).map(|first| first.files.arrived());
        if !is_peeking {
            self.taken = end;
            self.urgent = self.urgent.filter(|urgent| urgent.at >= end);
            if arrived.is_some() {
                self.files.pop_front();
            }
        }
        let files = arrived.unwrap_or_default();
        let full_length = bytes.len();
        Some(Message { bytes, full_length, from: None, files, sender: self.sender })
    }
}

impl Datagrams {
    fn room(&self) -> usize {
        if self.messages.is_empty() {
            return self.budget.room().clamp(GUARANTEED_BYTES, DATAGRAM_BYTES_MAX);
        }
        DATAGRAMS_BYTES_MAX.saturating_sub(self.charged + DATAGRAM_OVERHEAD_BYTES).min(self.budget.room())
    }

    fn push(&mut self, bytes: &[u8], from: Address, files: Files) -> Result<usize, Errno> {
        if bytes.len() > DATAGRAM_BYTES_MAX {
            return Err(Errno::EMSGSIZE);
        }
        if self.room() < bytes.len().max(1) {
            return Err(Errno::EAGAIN);
        }
        self.add(bytes.to_vec(), from, files);
        Ok(bytes.len())
    }

    /// Adds a message whatever the limits say.
    fn add(&mut self, bytes: Vec<u8>, from: Address, files: Files) {
        let charge = bytes.len() + DATAGRAM_OVERHEAD_BYTES;
        self.charged += charge;
        let memory = self.budget.take(charge);
        self.messages.push_back(Datagram { bytes, from, files, _memory: memory });
    }

    fn pop(&mut self, length: usize, is_peeking: bool) -> Option<Message> {
        let first = self.messages.front()?;
        let message = Message {
            bytes: first.bytes[..length.min(first.bytes.len())].to_vec(),
            full_length: first.bytes.len(),
            from: Some(first.from.clone()),
            files: first.files.arrived(),
            sender: first.files.sender,
        };
        if !is_peeking {
            self.charged -= message.full_length + DATAGRAM_OVERHEAD_BYTES;
            self.messages.pop_front();
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::event::EventFd;
    use crate::file::{Body, READABLE};
    use crate::net::address::{Family, UnixName};
    use crate::net::{Kind, Maker, Socket};
    use crate::notifier::Notifier;

    fn nobody() -> Address {
        Address::Unix(UnixName::Unnamed)
    }

    #[test]
    fn datagrams_keep_their_boundaries() {
        let mut queue = Queue::new(false, &Buffers::default());
        for bytes in [&b"one"[..], b"", b"three"] {
            queue.push(bytes, nobody(), Files::default()).unwrap();
        }
        let read =
            |queue: &mut Queue, length| queue.pop(length, false).map(|message| (message.bytes, message.full_length));
        assert_eq!(queue.pop(2, true).unwrap().bytes, b"on");
        assert_eq!(read(&mut queue, 2), Some((b"on".to_vec(), 3)));
        assert_eq!(read(&mut queue, 9), Some((vec![], 0)));
        assert_eq!(read(&mut queue, 9), Some((b"three".to_vec(), 5)));
        assert_eq!(read(&mut queue, 9), None);
    }

    #[test]
    fn an_urgent_byte_is_passed_over_unless_it_is_wanted_among_the_others() {
        for is_inline in [false, true] {
            let mut queue = Queue::new(true, &Buffers::default());
            queue.push(b"abU", nobody(), Files::default()).unwrap();
            queue.mark_urgent(b'U', is_inline);
            queue.push(b"cd", nobody(), Files::default()).unwrap();
            let read = |queue: &mut Queue| queue.pop_around_urgent(9, false, is_inline).map(|message| message.bytes);
            assert_eq!(read(&mut queue), Some(b"ab".to_vec()), "up to the mark");
            assert!(queue.is_at_mark());
            assert_eq!(queue.take_urgent(), Some(b'U'));
            assert_eq!(queue.take_urgent(), None);
            assert_eq!(read(&mut queue), Some(if is_inline { b"Ucd".to_vec() } else { b"cd".to_vec() }));
            assert!(!queue.has_mark());
        }
    }

    #[test]
    fn many_empty_datagrams_fill_a_queue() {
        let mut queue = Queue::new(false, &Buffers::default());
        let sent = (0..100_000).take_while(|_| queue.push(b"", nobody(), Files::default()).is_ok()).count();
        assert!(sent <= DATAGRAMS_BYTES_MAX / DATAGRAM_OVERHEAD_BYTES);
    }

    /// Each socket waits in the queue of the one before.
    #[test]
    fn a_long_chain_of_sockets_on_their_way_is_closed() {
        let (notifier, budget, count) = (Notifier::default(), Buffers::default(), InFlight::default());
        let socket = || Socket::new(Family::Unix, Kind::Stream, Maker::default(), &notifier, &budget).unwrap();
        let first = socket();
        let mut last = first.clone();
        for _ in 0..FILES_IN_FLIGHT_MAX {
            let next = socket();
            let file = OpenFile::anonymous(Body::Socket(next.clone()), "", READABLE, 0);
            last.take_in(b"x", nobody(), Files::new(vec![file], &count).unwrap()).unwrap();
            last = next;
        }
        drop(last);
        let little_stack = std::thread::Builder::new().stack_size(64 * 1024);
        little_stack.spawn(move || drop(first)).unwrap().join().unwrap();
        assert_eq!(count.0.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn files_arrive_with_the_bytes_they_were_sent_with() {
        let count = InFlight::default();
        let event = EventFd::new(&Notifier::default(), 0, false);
        let file = OpenFile::anonymous(Body::Event(event), "", READABLE, 0);
        let mut queue = Queue::new(true, &Buffers::default());
        queue.push(b"ab", nobody(), Files::default()).unwrap();
        queue.push(b"cd", nobody(), Files::new(vec![file.clone()], &count).unwrap()).unwrap();
        assert_eq!(count.0.count.load(Ordering::Relaxed), 1);
        queue.push(b"ef", nobody(), Files::default()).unwrap();
        let read = |queue: &mut Queue, length| {
            let message = queue.pop(length, false).unwrap();
            (message.bytes, message.files.len())
        };
        assert_eq!(read(&mut queue, 1), (b"a".to_vec(), 0));
        assert_eq!(read(&mut queue, 10), (b"bcd".to_vec(), 1), "up to the end of the message with files");
        assert_eq!(read(&mut queue, 10), (b"ef".to_vec(), 0));
        assert_eq!(count.0.count.load(Ordering::Relaxed), 0);
        assert!(Files::new(vec![file; FILES_IN_FLIGHT_MAX + 1], &count).is_err());
    }
}
