//! Listens on a Unix socket: creates its file with the right permissions, and removes it when pgvane stops.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use socket2::{Domain, SockAddr, Socket, Type};
use tracing::warn;

use super::UnixBind;

/// The file of a socket that pgvane listens on. The drop removes it, unless another process has replaced it or
/// has the socket now.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
    /// Whether this process accepts there. If not, another one does, and needs the file.
    is_ours: AtomicBool,
}

/// Listens on a file. A stale socket, which a killed process has left, is removed first.
///
/// Errors: another program listens on it, the file is not a socket, the directory is missing or not writable, or pgvane
/// may not change the file's owner or group.
pub fn listen(unix: &UnixBind, backlog: i32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale_socket(&unix.path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(&unix.path)?)?;
    let file = SocketFile::of(&unix.path, true)?;
    // no client can connect before `listen`, so the permissions until then do not matter
    set_permissions(unix)?;
    socket.listen(backlog)?;
    Ok((socket.into(), file))
}

impl SocketFile {
    /// The file of a socket that is open already, here or in the process that has handed it over. Errors: it does not exist.
    pub fn of(path: &Path, is_ours: bool) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        let device_and_inode = (found.dev(), found.ino());
        Ok(SocketFile { path: path.to_owned(), device_and_inode, is_ours: is_ours.into() })
    }

    /// Whether this process accepts there from now on, or another one.
    pub fn set_ours(&self, is_ours: bool) {
        self.is_ours.store(is_ours, Relaxed);
    }
}

/// Gives the file of a socket its owner, its group and its mode. Errors: those of the kernel.
pub fn set_permissions(unix: &UnixBind) -> io::Result<()> {
    if unix.owner.is_some() || unix.group.is_some() {
        chown(&unix.path, unix.owner, unix.group)?;
    }
    fs::set_permissions(&unix.path, fs::Permissions::from_mode(unix.mode))
}

fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
        }
        Ok(_) => {}
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?; // WouldBlock: the accept queue is full, so a program listens
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another program is listening on it")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_same =
            fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode);
        if *self.is_ours.get_mut()
            && is_same
            && let Err(error) = fs::remove_file(&self.path)
        {
            warn!(path = %self.path.display(), %error, "cannot remove the socket file");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn unix(path: PathBuf, mode: u32) -> UnixBind {
        UnixBind { path, mode, owner: None, group: None }
    }

    #[test]
    fn the_file_is_created_with_its_permissions_and_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(".s.PGSQL.6432");
        let (listener, file) = listen(&unix(path.clone(), 0o640), 5).expect("listens");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        UnixStream::connect(&path).expect("somebody listens");
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        drop(UnixListener::bind(&path).expect("listens")); // std leaves the file there
        let (_listener, _file) = listen(&unix(path.clone(), 0o777), 5).expect("listens");

        let error = listen(&unix(path.clone(), 0o777), 5).expect_err("is taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
        UnixStream::connect(&path).expect("the first one still listens");
    }

    #[test]
    fn a_socket_with_a_full_accept_queue_is_live() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let (_listener, _file) = listen(&unix(path.clone(), 0o777), 0).expect("listens");
        let _waiting = UnixStream::connect(&path).expect("there is room for one");
        assert_eq!(listen(&unix(path, 0o777), 5).expect_err("is taken").kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn other_files_are_not_touched() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("precious");
        fs::write(&path, "data").expect("a writable directory");
        let error = listen(&unix(path.clone(), 0o777), 5).expect_err("is no socket");
        assert!(error.to_string().contains("is not a socket"), "{error}");
        assert_eq!(fs::read(&path).expect("is there"), b"data");
    }

    #[test]
    fn a_file_that_is_no_longer_ours_is_not_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        let (_listener, file) = listen(&unix(path.clone(), 0o777), 5).expect("listens");
        fs::rename(&path, directory.path().join("elsewhere")).expect("may be moved");
        let (_other, _others_file) = listen(&unix(path.clone(), 0o777), 5).expect("the place is free");
        drop(file);
        assert!(path.exists());
    }
}
