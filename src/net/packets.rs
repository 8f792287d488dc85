//! Packets with file descriptors, between two processes of this host: `SOCK_SEQPACKET` and `SCM_RIGHTS` (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net;

use rustix::io::ioctl_fionbio;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest packet in bytes: the kernel takes a packet only if its send buffer has room for it, 208 kB by default.
pub const PACKET_LENGTH_MAX: usize = 128 * 1024;

/// The most descriptors in one packet. The kernel allows 253 (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 64;

/// Room for the descriptors of one packet.
const CONTROL_LENGTH: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// One end of a connection on which packets arrive whole, in order, and with their descriptors.
#[derive(Debug)]
pub struct PacketSocket(UnixStream); // for the runtime a socket is a socket

/// A packet that has arrived.
#[derive(Debug)]
pub struct Packet {
    /// What was sent. Never empty.
    pub bytes: Vec<u8>,
    /// Descriptors of what the sender's descriptors refer to.
    pub descriptors: Vec<OwnedFd>,
}

impl PacketSocket {
    /// Two ends that are connected to each other. Programs that this process starts do not inherit them. Errors: there are
    /// no descriptors left.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        let ends = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok(ends)
    }

    /// An end, registered with the current runtime. Errors: those of the kernel.
    pub fn watch(end: OwnedFd) -> io::Result<PacketSocket> {
        ioctl_fionbio(&end, true)?;
        UnixStream::from_std(net::UnixStream::from(end)).map(PacketSocket)
    }

    /// Sends a packet of 1 to [`PACKET_LENGTH_MAX`] bytes with at most [`DESCRIPTORS_MAX`] descriptors. The sender may
    /// close its descriptors then. Cancel safe: the packet was sent or not. Errors: the other end is closed.
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let send = || {
            let mut room = [MaybeUninit::uninit(); CONTROL_LENGTH];
            let mut control = SendAncillaryBuffer::new(&mut room);
            if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
            }
            Ok(rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// Waits for the next packet; `None` if the other end is closed. Cancel safe. Errors: those of the kernel; a packet
    /// that is too long, or whose descriptors this process has no room for.
    pub async fn receive(&self) -> io::Result<Option<Packet>> {
        let mut bytes = vec![0; PACKET_LENGTH_MAX];
        let receive = || {
            let mut room = [MaybeUninit::uninit(); CONTROL_LENGTH];
            let mut control = RecvAncillaryBuffer::new(&mut room);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let message = rustix::net::recvmsg(&self.0, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(received) = message {
                    descriptors.extend(received);
                }
            }
            if message.flags.intersects(rustix::net::ReturnFlags::TRUNC | rustix::net::ReturnFlags::CTRUNC) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet was cut off"));
            }
            Ok((message.bytes, descriptors))
        };
        let (length, descriptors) = self.0.async_io(Interest::READABLE, receive).await?;
        bytes.truncate(length);
        Ok((length > 0).then_some(Packet { bytes, descriptors }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (PacketSocket, PacketSocket) {
        let (one, other) = PacketSocket::pair().expect("descriptors");
        (PacketSocket::watch(one).expect("epoll"), PacketSocket::watch(other).expect("epoll"))
    }

    #[tokio::test]
    async fn packets_arrive_whole_and_in_order_with_what_their_descriptors_refer_to() {
        let (sender, receiver) = pair();
        let (mut near, far) = UnixStream::pair().expect("descriptors");
        sender.send(b"first", &[]).await.expect("has room");
        sender.send(&vec![7; PACKET_LENGTH_MAX], &[far.as_fd()]).await.expect("has room");
        drop(far);
        let first = receiver.receive().await.expect("arrives").expect("a packet");
        assert_eq!((first.bytes.as_slice(), first.descriptors.len()), (&b"first"[..], 0));
        let mut second = receiver.receive().await.expect("arrives").expect("a packet");
        assert_eq!((second.bytes.len(), second.descriptors.len()), (PACKET_LENGTH_MAX, 1));
        near.write_all(b"hello").expect("is open");
        let mut heard = [0; 5];
        UnixStream::from(second.descriptors.remove(0)).read_exact(&mut heard).expect("is connected");
        assert_eq!(&heard, b"hello");
        drop(sender);
        assert!(receiver.receive().await.expect("is no error").is_none(), "the other end is closed");
    }

    #[tokio::test]
    async fn a_sender_waits_for_a_slow_receiver_and_hears_of_a_closed_one() {
        let (sender, receiver) = pair();
        let sending = async {
            for number in 0..200_u8 {
                sender.send(&[number; 4096], &[]).await.expect("is received in the end");
            }
        };
        let receiving = async {
            for number in 0..200_u8 {
                let packet = receiver.receive().await.expect("arrives").expect("a packet");
                assert_eq!(packet.bytes, [number; 4096]);
            }
        };
        tokio::join!(sending, receiving);
        drop(receiver);
        assert!(sender.send(b"x", &[]).await.is_err());
    }
}
