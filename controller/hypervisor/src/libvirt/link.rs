//! Opening connections, and libvirt's one event loop.

use std::{
    net::{TcpStream, ToSocketAddrs},
    sync::OnceLock,
    thread,
    time::Duration,
};

use evenkeel_engine::port::{Fault, PortError, PortResult};

use super::{
    fault::{Doing, port_error},
    keys::Reach,
    raw::{self, Connection, Sink},
    uri::Transport,
};

/// Seconds between keepalive messages, and how many may stay unanswered: a silent host is given up after 8 s.
const KEEPALIVE: (i32, u32) = (2, 3);

/// Starts libvirt's event loop on a thread of its own, once; has to be done before the first connection.
///
/// # Errors
/// Where the event loop can't be registered or its thread not be started; every later call returns the same.
pub(crate) fn start_event_loop() -> PortResult<()> {
    static STARTED: OnceLock<PortResult<()>> = OnceLock::new();
    STARTED
        .get_or_init(|| {
            virt::error::clear_error_callback();
            virt::event::event_register_default_impl()
                .map_err(|error| port_error(Doing::Call, &error))?;
            thread::Builder::new()
                .name("libvirt-events".to_owned())
                .spawn(|| {
                    loop {
                        if let Err(error) = virt::event::event_run_default_impl() {
                            tracing::error!(%error, "libvirt's event loop stumbled");
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                })
                .map(drop)
                .map_err(|error| {
                    PortError::new(Fault::Other, format!("no thread for events: {error}"))
                })
        })
        .clone()
}

/// Opens a connection with keepalive. May block as long as the host lets it.
pub(crate) fn open(reach: &Reach) -> PortResult<Connection> {
    start_event_loop()?;
    let opening = reach.prepare()?;
    let mut tries = 0;
    let connect = loop {
        tries += 1;
        match raw::open(&opening.uri, reach.login()) {
            // A process that was made meanwhile had our file still open for writing.
            Err(error) if tries < 5 && error.message().contains("Text file busy") => {
                thread::sleep(Duration::from_millis(20));
            }
            outcome => break outcome,
        }
    };
    let connect = connect.map_err(|error| {
        let error = port_error(Doing::Connect, &error);
        PortError::new(error.fault, opening.in_our_words(&error.message))
    })?;
    drop(opening);
    let connection = Connection::new(connect);
    connection
        .set_keep_alive(KEEPALIVE.0, KEEPALIVE.1)
        .map_err(|error| port_error(Doing::Connect, &error))?;
    Ok(connection)
}

/// The same, with events going to the sink from before anything else is asked.
pub(crate) fn open_watched(reach: &Reach, sink: &Sink) -> PortResult<Connection> {
    let mut connection = open(reach)?;
    raw::subscribe(&mut connection, sink).map_err(|error| port_error(Doing::Connect, &error))?;
    Ok(connection)
}

/// Whether anything listens there, in at most about `limit`. Not where the user's own ssh knows the way.
///
/// libvirt itself waits two minutes for a host that is switched off.
pub(crate) fn knock(reach: &Reach, limit: Duration) -> PortResult<()> {
    let uri = &reach.uri;
    if uri.transport() == Transport::Ssh && reach.credentials.is_none() {
        return Ok(());
    }
    let place = format!("'{}:{}'", uri.host(), uri.port());
    let unreachable = |error: std::io::Error| {
        // In libvirt's words, so that the same trouble is told once.
        let said = error.to_string();
        let said = said.split(" (os error").next().unwrap_or_default();
        PortError::new(
            Fault::Unreachable,
            format!("unable to connect to server at {place}: {said}"),
        )
    };
    let mut last = PortError::new(Fault::Unreachable, format!("no address for {place}"));
    for address in (uri.host(), uri.port())
        .to_socket_addrs()
        .map_err(unreachable)?
    {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(_) => return Ok(()),
            Err(error) => last = unreachable(error),
        }
    }
    Err(last)
}
