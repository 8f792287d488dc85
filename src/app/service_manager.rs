//! What pgvane tells the service manager that started it, such as systemd: that it is ready, reloads, stops, and is alive
//! (sd_notify(3)). Written here and not taken from a crate because pgvane must never wait for the service manager.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::proxy::worker::Workers;

/// The service manager, if there is one that wants to be told.
#[derive(Debug, Default)]
pub(crate) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The service manager kills pgvane if it does not hear of it for so long.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names (`NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub(super) fn from_environment() -> ServiceManager {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return ServiceManager::default();
        };
        match ServiceManager::at(&name) {
            Ok(manager) => ServiceManager { watchdog: watchdog(), ..manager },
            Err(error) => {
                warn!(socket = %name.to_string_lossy(), %error, "cannot tell the service manager anything");
                ServiceManager::default()
            }
        }
    }

    /// `name` is a path, or a name in the abstract namespace behind an `@`.
    fn at(name: &OsStr) -> io::Result<ServiceManager> {
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(ServiceManager { socket: Some((socket, address)), watchdog: None })
    }

    /// The ports are open. `status` is for people, one line.
    pub(super) fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// A reload begins. [`ServiceManager::ready`] ends it, whether or not it was accepted.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=reloading the configuration"));
    }

    /// Another process is the main one now: it speaks to the service manager.
    pub(super) fn main_process(&self, process: u32) {
        self.tell(&format!("MAINPID={process}"));
    }

    /// pgvane stops: no connections are accepted any more.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: running sessions have drain_timeout to end");
    }

    /// Tells the service manager that pgvane is alive, as often as it wants, while every thread that serves sessions
    /// reacts, and this one, which checks the nodes. Never returns.
    pub(super) fn keep_alive(&self, workers: std::sync::Arc<Workers>) -> impl Future<Output = ()> + Send + use<> {
        let socket =
            self.socket.as_ref().and_then(|(socket, address)| Some((socket.try_clone().ok()?, address.clone())));
        let manager = ServiceManager { socket, watchdog: self.watchdog };
        async move {
            let Some(deadline) = manager.watchdog else { return std::future::pending().await };
            let mut ticks = interval(deadline / 2);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                workers.all_react().await;
                manager.tell("WATCHDOG=1");
            }
        }
    }

    fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            warn!(%error, state, "cannot tell the service manager");
        }
    }
}

/// How long the service manager waits for a sign of life of this process, if it does.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok()?.parse::<u64>().ok();
    let is_for_other = number("WATCHDOG_PID").is_some_and(|process| process != u64::from(std::process::id()));
    number("WATCHDOG_USEC").filter(|microseconds| *microseconds > 1 && !is_for_other).map(Duration::from_micros)
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    fn abstract_socket() -> (UnixDatagram, String) {
        let name = format!("pgvane-test-{}-{}", std::process::id(), fastrand::u64(..));
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        (UnixDatagram::bind_addr(&address).expect("is free"), format!("@{name}"))
    }

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1024];
        let length = socket.recv(&mut bytes).expect("a datagram");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn a_socket_in_the_abstract_namespace_is_told_too_and_a_status_is_one_line() {
        let (socket, name) = abstract_socket();
        let manager = ServiceManager::at(OsStr::new(&name)).expect("is one");
        manager.ready("not accepted:\n  line 3");
        assert_eq!(heard(&socket), "READY=1\nSTATUS=not accepted: line 3");
    }

    #[test]
    fn a_service_manager_that_does_not_read_is_not_waited_for() {
        let (_socket, name) = abstract_socket();
        let manager = ServiceManager::at(OsStr::new(&name)).expect("is one");
        (0..5_000).for_each(|_| manager.tell("WATCHDOG=1"));
    }

    #[tokio::test]
    async fn there_is_no_sign_of_life_while_a_thread_hangs() {
        let (socket, name) = abstract_socket();
        let manager = ServiceManager::at(OsStr::new(&name)).expect("is one");
        let manager = ServiceManager { watchdog: Some(Duration::from_millis(20)), ..manager };
        let workers = Arc::new(Workers::start(2).expect("threads"));
        let (release, released) = mpsc::channel::<()>();
        let (hangs, is_hanging) = mpsc::channel();
        drop(workers.runtime(1).spawn(async move {
            hangs.send(()).expect("is awaited");
            released.recv().expect("is released"); // blocks the thread
        }));
        is_hanging.recv().expect("hangs");
        let alive = tokio::spawn(manager.keep_alive(workers));
        tokio::time::sleep(Duration::from_millis(100)).await; // several times what the service manager waits
        socket.set_nonblocking(true).expect("an option");
        assert_eq!(socket.recv(&mut [0; 16]).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        release.send(()).expect("is awaited");
        socket.set_nonblocking(false).expect("an option");
        let sign = tokio::task::spawn_blocking(move || heard(&socket)).await.expect("no panic");
        assert_eq!(sign, "WATCHDOG=1");
        alive.abort();
    }
}
