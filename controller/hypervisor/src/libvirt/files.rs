//! Files carried byte for byte, through libvirt's streams. A file in no pool's directory is reached through a pool that
//! is opened over that directory for a while (`directories.rs`).
//!
//! libvirt's client takes in whatever a stream sends, used or not, so a file is read in spans, each a stream of its own:
//! no more than one span is ever in memory.

use std::{sync::Arc, time::Duration};

use evenkeel_crds::{quantity::Bytes, shared::Timestamp};
use evenkeel_engine::port::{Access, Backing, Fault, FileState, Piece, PortError, PortResult};
use tokio::sync::mpsc;
use virt::{connect::Connect, storage_vol::StorageVol, stream::Stream, sys};

use super::{
    fault::OrFault,
    link,
    raw::{self, Connection, Received},
    refreshes::Freshness,
    session::Session,
    storage::Pool,
    xml,
};

/// Most that is read by one stream.
const SPAN: u64 = 16 << 20;
/// What one message of a stream carries at most.
const MESSAGE: usize = 262_120;
const KNOCK: Duration = Duration::from_secs(5);

/// Does something in the pool that holds a file, or that is opened for it. Nothing where its directory is a missing one
/// below a pool's.
fn within<T>(
    session: &Session,
    connection: &Connection,
    path: &str,
    act: impl FnOnce(&Pool, &str) -> PortResult<T>,
) -> PortResult<Option<T>> {
    let path = xml::tidy_path(path);
    match session.storage(connection).open(&path)? {
        Some((pool, name)) => act(&pool, name).map(Some),
        None => Ok(None),
    }
}

fn gone(path: &str) -> PortError {
    PortError::new(
        Fault::NotFound,
        format!("there is no directory for the file `{path}`"),
    )
}

/// A volume whose file is there now.
fn find(pool: &Pool, name: &str) -> PortResult<Option<StorageVol>> {
    if let Some(volume) = pool.lookup(name)?
        && volume.info().is_ok()
    {
        return Ok(Some(volume));
    }
    pool.refresh(Freshness::Now)?;
    pool.lookup(name)
}

fn present(pool: &Pool, name: &str) -> PortResult<StorageVol> {
    find(pool, name)?.ok_or_else(|| {
        PortError::new(
            Fault::NotFound,
            format!("there is no file `{name}` in `{}`", pool.facts.path),
        )
    })
}

/// A file as it is now.
pub(crate) fn state(
    session: &Arc<Session>,
    connection: &Connection,
    path: &str,
) -> PortResult<Option<FileState>> {
    within(session, connection, path, |pool, name| {
        // What libvirt says of a file's time and length it read when it last refreshed.
        pool.refresh(Freshness::Now)?;
        let Some(volume) = pool.lookup(name)? else {
            return Ok(None);
        };
        match volume.xml_desc(0).or_absent()? {
            Some(description) => described(&description).map(Some),
            None => Ok(None),
        }
    })
    .map(Option::flatten)
}

fn described(description: &str) -> PortResult<FileState> {
    let document = xml::parse(description)?;
    let root = document.root_element();
    let amount = |name| xml::child(root, name).and_then(xml::size);
    let said = |path: &[&'static str]| xml::text(root, path).unwrap_or_default().to_owned();
    let virtual_size = amount("capacity").unwrap_or_default();
    let format = |of: &str| {
        let node = xml::at(
            root,
            if of == "target" {
                &["target", "format"]
            } else {
                &["backingStore", "format"]
            },
        );
        node.and_then(|node| node.attribute("type"))
            .unwrap_or("raw")
            .to_owned()
    };
    Ok(FileState {
        length: amount("physical").unwrap_or(virtual_size),
        allocated: amount("allocation").unwrap_or_default(),
        changed: said(&["target", "timestamps", "mtime"])
            .split('.')
            .next()
            .and_then(|seconds| Timestamp::from_second(seconds.parse().ok()?).ok()),
        modified: said(&["target", "timestamps", "mtime"]),
        access: Access {
            mode: said(&["target", "permissions", "mode"]),
            owner: said(&["target", "permissions", "owner"]),
            group: said(&["target", "permissions", "group"]),
        },
        format: format("target"),
        virtual_size,
        backing: xml::text(root, &["backingStore", "path"]).map(|path| Backing {
            path: xml::tidy_path(path),
            format: format("backing"),
        }),
    })
}

/// Makes a file, all hole, exclusively.
pub(crate) fn create(
    session: &Arc<Session>,
    connection: &Connection,
    path: &str,
    length: Bytes,
    access: &Access,
) -> PortResult<()> {
    let path = xml::tidy_path(path);
    let (pool, name) = session.storage(connection).open_new(&path)?;
    let number = |text: &str| text.parse::<u32>().is_ok();
    let mut permissions = String::new();
    if number(&access.mode) && number(&access.owner) && number(&access.group) {
        permissions = format!(
            "<permissions><mode>{}</mode><owner>{}</owner><group>{}</group></permissions>",
            access.mode, access.owner, access.group
        );
    }
    let description = format!(
        "<volume type='file'><name>{}</name><capacity unit='bytes'>{}</capacity>\
         <allocation unit='bytes'>0</allocation><target><format type='raw'/>{permissions}</target></volume>",
        xml::escape(name),
        length.0
    );
    pool.create(name, &description).map(drop)
}

/// Removes a file; no error where it is gone.
pub(crate) fn remove(
    session: &Arc<Session>,
    connection: &Connection,
    path: &str,
) -> PortResult<()> {
    within(session, connection, path, Pool::delete).map(Option::unwrap_or_default)
}

/// Reads a file from its first byte to its last, over a connection of its own.
pub(crate) fn read(
    session: &Arc<Session>,
    path: &str,
    pieces: &mpsc::Sender<Piece>,
) -> PortResult<()> {
    let reach = session.reach();
    link::knock(&reach, KNOCK)?;
    let connection = link::open(&reach)?;
    within(session, &connection, path, |pool, name| {
        pool.refresh(Freshness::Lately)?;
        let volume = present(pool, name)?;
        let length = described(&volume.xml_desc(0).or_fault()?)?.length.0;
        let mut offset = 0;
        while offset < length {
            let span = SPAN.min(length - offset);
            if !read_span(&connection, &volume, offset, span, pieces)? {
                return Ok(());
            }
            offset += span;
        }
        Ok(())
    })?
    .ok_or_else(|| gone(path))
}

/// Reads a part of a file. Whether anybody still takes it.
fn read_span(
    connection: &Connect,
    volume: &StorageVol,
    offset: u64,
    span: u64,
    pieces: &mpsc::Sender<Piece>,
) -> PortResult<bool> {
    let stream = Stream::new(connection, 0).or_fault()?;
    let sparse = sys::VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM;
    volume.download(&stream, offset, span, sparse).or_fault()?;
    let mut buffer = vec![0; MESSAGE];
    let mut got = 0;
    loop {
        let piece = match raw::receive(&stream, &mut buffer).or_fault() {
            Ok(Received::End) => break,
            Ok(Received::Hole(0)) => continue,
            Ok(Received::Hole(length)) => Piece::Hole(length),
            Ok(Received::Data(length)) => Piece::Data(buffer[..length].to_vec()),
            Err(error) => {
                let _ = stream.abort();
                return Err(error);
            }
        };
        got += piece.length();
        if pieces.blocking_send(piece).is_err() {
            let _ = stream.abort();
            return Ok(false);
        }
    }
    stream.finish().or_fault()?;
    if got == span {
        return Ok(true);
    }
    Err(PortError::new(
        Fault::Other,
        format!(
            "the file gave {got} bytes instead of {span} at {offset}: it changed while it was read"
        ),
    ))
}

/// Writes a file that is there, from its first byte to its last, over a connection of its own.
pub(crate) fn write(
    session: &Arc<Session>,
    path: &str,
    length: Bytes,
    mut pieces: mpsc::Receiver<Piece>,
) -> PortResult<()> {
    let reach = session.reach();
    link::knock(&reach, KNOCK)?;
    let connection = link::open(&reach)?;
    within(session, &connection, path, |pool, name| {
        let volume = present(pool, name)?;
        let stream = Stream::new(&connection, 0).or_fault()?;
        let sparse = sys::VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM;
        volume.upload(&stream, 0, length.0, sparse).or_fault()?;
        let mut written = 0;
        while let Some(piece) = pieces.blocking_recv() {
            written += piece.length();
            if let Err(error) = send(&stream, &piece) {
                let _ = stream.abort();
                return Err(error);
            }
        }
        if written != length.0 {
            let _ = stream.abort();
            return Err(PortError::new(
                Fault::Aborted,
                format!("{written} of {} bytes were written", length.0),
            ));
        }
        stream.finish().or_fault()
    })?
    .ok_or_else(|| gone(path))
}

fn send(stream: &Stream, piece: &Piece) -> PortResult<()> {
    let mut rest = match piece {
        Piece::Hole(length) => return raw::send_hole(stream, *length).or_fault(),
        Piece::Data(bytes) => bytes.as_slice(),
    };
    while !rest.is_empty() {
        let sent = stream.send(&rest[..rest.len().min(MESSAGE)]).or_fault()?;
        rest = &rest[usize::try_from(sent).unwrap_or(0).min(rest.len())..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_volume_says_of_its_file() {
        let state = described(
            "<volume type='file'><name>o.qcow2</name><capacity unit='bytes'>1000</capacity>\
             <allocation unit='bytes'>400</allocation><physical unit='bytes'>393216</physical>\
             <target><path>/p/o.qcow2</path><format type='qcow2'/><permissions><mode>0600</mode>\
             <owner>0</owner><group>7</group></permissions><timestamps><mtime>5.25</mtime></timestamps></target>\
             <backingStore><path>/p//base.qcow2</path><format type='qcow2'/></backingStore></volume>",
        )
        .unwrap();
        assert_eq!(
            (state.length, state.virtual_size),
            (Bytes(393_216), Bytes(1000))
        );
        assert_eq!(
            (state.modified.as_str(), state.access.mode.as_str()),
            ("5.25", "0600")
        );
        let below = state.backing.unwrap();
        assert_eq!(
            (below.path.as_str(), below.format.as_str()),
            ("/p/base.qcow2", "qcow2")
        );
    }
}
