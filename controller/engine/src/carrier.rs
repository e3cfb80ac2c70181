//! Carries files from host to host, byte for byte, and compares them by a digest of their content.
//!
//! One for all moves of a process: a file that several of them want on a host is brought there once, and one whose
//! length and time have not changed since is not read again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use evenkeel_crds::quantity::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::{OwnedMutexGuard, mpsc},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    life::Place,
    port::{Fault, FileState, Hypervisor, Piece, PortError, PortResult},
};

/// SHA-256 of a file's content, holes as zeroes.
pub(crate) type Digest = [u8; 32];

/// Pieces under way between two hosts.
const UNDER_WAY: usize = 16;
/// Holes are hashed by so many zeroes at a time.
const ZEROES: &[u8] = &[0; 64 * 1024];

/// Where a file is: the hypervisor's UUID, and its path there.
type Spot = (Uuid, String);

/// What all moves of a process know of files.
#[derive(Debug, Default)]
pub(crate) struct Carrier {
    digests: Mutex<HashMap<Spot, (Bytes, String, Digest)>>,
    turns: Mutex<HashMap<Spot, Arc<tokio::sync::Mutex<()>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Carrier {
    /// Waits until no other move of this process brings or removes that file at that host.
    pub(crate) async fn turn(&self, host: Uuid, path: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = lock(&self.turns);
            // Those that nobody waits for.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry((host, path.to_owned())).or_default().clone()
        };
        turn.lock_owned().await
    }

    /// The digest of a file that is in that state.
    pub(crate) async fn digest(
        &self,
        place: &Place,
        path: &str,
        state: &FileState,
        pace: &mut Pace<'_>,
    ) -> PortResult<Digest> {
        let spot = (place.uuid, path.to_owned());
        if let Some((length, modified, digest)) = lock(&self.digests).get(&spot)
            && (*length, modified) == (state.length, &state.modified)
        {
            return Ok(*digest);
        }
        let digest = digest(place.hypervisor.as_ref(), path, pace).await?;
        if place.hypervisor.file(path).await?.as_ref() != Some(state) {
            // Still in use: true of what was read, and remembered for nobody.
            return Ok(digest);
        }
        self.remember(place.uuid, path, state, digest);
        Ok(digest)
    }

    /// Remembers the digest of a file that is in that state.
    pub(crate) fn remember(&self, host: Uuid, path: &str, state: &FileState, digest: Digest) {
        let known = (state.length, state.modified.clone(), digest);
        lock(&self.digests).insert((host, path.to_owned()), known);
    }
}

/// Reads a file to its end.
async fn digest(
    hypervisor: &dyn Hypervisor,
    path: &str,
    pace: &mut Pace<'_>,
) -> PortResult<Digest> {
    let (sender, mut pieces) = mpsc::channel(UNDER_WAY);
    let hash = async {
        let mut hasher = Sha256::new();
        while let Some(piece) = pieces.recv().await {
            take_in(&mut hasher, &piece);
            pace.keep(&piece, false).await;
        }
        hasher
    };
    let (read, hasher) = tokio::join!(hypervisor.read_file(path, sender), hash);
    read?;
    Ok(hasher.finalize().into())
}

/// Copies a file's content into one of the same path that is there already, and returns the digest of what was read.
/// Whoever drops this stops it.
pub(crate) async fn copy(
    from: &dyn Hypervisor,
    source: &str,
    to: &dyn Hypervisor,
    target: &str,
    length: Bytes,
    pace: &mut Pace<'_>,
) -> PortResult<Digest> {
    let (sender, mut read) = mpsc::channel(UNDER_WAY);
    let (onward, written) = mpsc::channel(UNDER_WAY);
    let pass_on = async {
        let mut hasher = Sha256::new();
        while let Some(piece) = read.recv().await {
            take_in(&mut hasher, &piece);
            pace.keep(&piece, true).await;
            if onward.send(piece).await.is_err() {
                break;
            }
        }
        drop(onward);
        hasher
    };
    let (read, hasher, written) = tokio::join!(
        from.read_file(source, sender),
        pass_on,
        to.write_file(target, length, written)
    );
    // Where the reading broke off, the writing did so only because of that.
    match (read, written) {
        (Err(error), _) => Err(error),
        (Ok(()), Err(error)) if error.fault == Fault::Aborted => Err(PortError::new(
            Fault::Other,
            format!("`{source}` changed while it was copied: {error}"),
        )),
        (Ok(()), written) => written.map(|()| hasher.finalize().into()),
    }
}

fn take_in(hasher: &mut Sha256, piece: &Piece) {
    match piece {
        Piece::Data(bytes) => hasher.update(bytes),
        Piece::Hole(length) => {
            let mut left = *length;
            while left > 0 {
                let part = left.min(ZEROES.len() as u64);
                hasher.update(&ZEROES[..part as usize]);
                left -= part;
            }
        }
    }
}

/// Keeps a move's copies under its bandwidth, and counts them.
pub(crate) struct Pace<'p> {
    bandwidth: Option<Bytes>,
    since: Instant,
    passed: u64,
    tell: &'p mut (dyn FnMut(u64) + Send),
}

impl<'p> Pace<'p> {
    /// `tell` hears of each piece that was copied, how many bytes it had: holes have none.
    pub(crate) fn new(bandwidth: Option<Bytes>, tell: &'p mut (dyn FnMut(u64) + Send)) -> Self {
        Self {
            bandwidth,
            since: Instant::now(),
            passed: 0,
            tell,
        }
    }

    async fn keep(&mut self, piece: &Piece, copied: bool) {
        let Piece::Data(bytes) = piece else {
            // Hashing zeroes takes its time too, and others want to run.
            return tokio::task::yield_now().await;
        };
        self.passed += bytes.len() as u64;
        if copied {
            (self.tell)(bytes.len() as u64);
        }
        if let Some(bandwidth) = self.bandwidth.filter(|bandwidth| bandwidth.0 > 0) {
            let due = Duration::from_secs_f64(self.passed as f64 / bandwidth.0 as f64);
            tokio::time::sleep_until(self.since + due).await;
        }
    }
}
