//! Files carried through a program: what they hold travels as a few bytes, the rest as a hole, at the link's pace.

use std::time::Duration;

use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::port::{
    Access, Backing, DiskPlace, DomainEvent, Fault, FileState, Mark, Piece, PortError, PortResult,
};
use tokio::{sync::mpsc, time::sleep};
use uuid::Uuid;

use super::{
    line::Handle,
    world::{File, Kind, Tiding, World},
};

/// Set before what a disk holds, to tell it from other files.
const IMAGE: &[u8] = b"image";
/// A disk's file is so many times shorter than what it occupies: all that is read of it goes into digests. It travels for
/// as long as if it were whole.
const SHORTER: u64 = 256;
const LEAST: u64 = 4096;

pub(super) fn state(file: &File) -> FileState {
    let (length, format) = match file.kind {
        Kind::Image(_) => ((file.allocated / SHORTER).max(LEAST), "qcow2"),
        _ => (file.capacity, "raw"),
    };
    FileState {
        length: Bytes(length),
        allocated: Bytes(file.allocated),
        modified: format!("{:?}", file.kind),
        changed: None,
        access: Access {
            mode: "0644".into(),
            owner: "0".into(),
            group: "0".into(),
        },
        format: format.into(),
        virtual_size: Bytes(file.capacity),
        backing: file.backing.clone().map(|path| Backing {
            path,
            format: "raw".into(),
        }),
    }
}

pub(super) fn create(world: &mut World, host: &str, path: String, length: u64) -> PortResult<()> {
    let Some(machine) = world.machine(host) else {
        return Ok(());
    };
    if machine.files.contains_key(&path) {
        return Err(PortError::new(
            Fault::Exists,
            format!("{path} already exists"),
        ));
    }
    let file = File {
        capacity: length,
        allocated: 0,
        kind: Kind::Plain {
            content: Vec::new(),
            kept: false,
        },
        backing: None,
    };
    machine.make_directories(&path);
    machine.files.insert(path, file);
    Ok(())
}

fn content(file: &File) -> Vec<u8> {
    match &file.kind {
        Kind::Plain { content, .. } => content.clone(),
        Kind::Image(Some((guest, stamp))) => [
            IMAGE,
            guest.as_bytes().as_slice(),
            &stamp.to_le_bytes(),
            &file.capacity.to_le_bytes(),
            &file.allocated.to_le_bytes(),
        ]
        .concat(),
        Kind::Journal(_, text) => text.as_bytes().to_vec(),
        Kind::Image(None) | Kind::Foreign => Vec::new(),
    }
}

/// What a file holds by the bytes that were written, its capacity and what it occupies.
fn written(bytes: Vec<u8>, length: u64) -> (Kind, u64, u64) {
    let image = || {
        let rest = bytes.strip_prefix(IMAGE)?;
        let guest = Uuid::from_slice(rest.get(..16)?).ok()?;
        let number = |at: usize| Some(u64::from_le_bytes(rest.get(at..at + 8)?.try_into().ok()?));
        let image = Kind::Image(Some((guest, number(16)?)));
        Some((image, number(24)?, number(32)?))
    };
    image().unwrap_or((
        Kind::Plain {
            content: bytes.clone(),
            kept: false,
        },
        length,
        length,
    ))
}

impl World {
    /// Whether a journal somewhere has the guest's definition.
    pub(super) fn is_noted(&self, guest: Uuid) -> bool {
        let texts: Vec<&String> = self
            .definitions
            .iter()
            .filter(|(_, (own, _))| *own == guest)
            .map(|(text, _)| text)
            .collect();
        let mut files = self.machines.values().flat_map(|own| own.files.values());
        files.any(|file| match &file.kind {
            Kind::Journal(_, journal) => texts.iter().any(|text| journal.contains(*text)),
            _ => false,
        })
    }

    /// Defines a domain from what was read of it, stopped, or gives one that runs its definition back.
    pub(super) fn define(
        &mut self,
        host: &str,
        definition: &str,
        disks: &[DiskPlace],
        mark: Option<Mark>,
    ) -> PortResult<()> {
        let Some((guest, mut domain)) = self.definitions.get(definition).cloned() else {
            return Err(PortError::new(Fault::Invalid, "no such definition"));
        };
        self.object_if(guest, host, "defined", |elsewhere| elsewhere.defined);
        if let Some(own) = self.domain(host, guest) {
            own.persistent = true;
        } else {
            for disk in &mut domain.disks {
                if let Some(place) = disks.iter().find(|place| place.target == disk.target) {
                    disk.path = self.machines[host].file_of(disk, place)?;
                }
            }
            (domain.autostart, domain.mark) = (false, mark.or(domain.mark));
            if let Some(machine) = self.machine(host) {
                machine.domains.insert(guest, domain);
            }
        }
        self.tell(host, Tiding::Changed(guest));
        self.event(host, guest, DomainEvent::Defined);
        Ok(())
    }
}

impl Handle {
    pub(super) async fn read(&self, path: &str, pieces: mpsc::Sender<Piece>) -> PortResult<()> {
        let path = path.to_owned();
        let gone = || PortError::new(Fault::NotFound, "Storage volume not found");
        let own = path.clone();
        let (file, rate) = self
            .look_at(move |world, host| {
                let machine = &world.machines[host];
                (machine.files.get(&own).cloned(), machine.bandwidth)
            })
            .await?;
        let file = file.ok_or_else(gone)?;
        let length = state(&file).length.0;
        sleep(Duration::from_secs_f64(
            file.allocated as f64 / rate.max(1) as f64,
        ))
        .await;
        // What was written meanwhile is read, and a host that has fallen silent says nothing.
        let file = self
            .look_at(move |world, host| world.machines[host].files.get(&path).cloned())
            .await?
            .ok_or_else(gone)?;
        let mut bytes = content(&file);
        bytes.truncate(usize::try_from(length).unwrap_or(usize::MAX));
        let hole = length - bytes.len() as u64;
        for piece in [Piece::Data(bytes), Piece::Hole(hole)] {
            if piece.length() > 0 && pieces.send(piece).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) async fn write(
        &self,
        path: &str,
        length: u64,
        mut pieces: mpsc::Receiver<Piece>,
    ) -> PortResult<()> {
        let (mut bytes, mut got) = (Vec::new(), 0);
        while let Some(piece) = pieces.recv().await {
            got += piece.length();
            if let Piece::Data(data) = piece {
                bytes.extend(data);
            }
        }
        if got != length {
            return Err(PortError::new(Fault::Aborted, "the stream was aborted"));
        }
        let path = path.to_owned();
        self.change(move |world, host| {
            world.carried += 1;
            let machine = world.machine(host);
            let file = machine.and_then(|machine| machine.files.get_mut(&path));
            let file =
                file.ok_or_else(|| PortError::new(Fault::NotFound, "Storage volume not found"))?;
            (file.kind, file.capacity, file.allocated) = written(bytes, length);
            Ok(())
        })
        .await
    }
}
