//! The only file with unsafe code: what the `virt` crate lacks, leaks or does unsoundly, called on `virt::sys`.
//!
//! Every function here takes a living object of the `virt` crate, copies what libvirt returns into values of our own
//! and frees what libvirt allocated. Callbacks run on the event loop's thread; they copy and hand on, nothing else.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    mem::ManuallyDrop,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
};

use uuid::Uuid;
use virt::{connect::Connect, domain::Domain, error::Error, secret::Secret, stream::Stream, sys};
use zeroize::{Zeroize as _, Zeroizing};

use super::{directories::is_lent, farewell::Open};

/// Has libvirt keep its own log to errors, which it hands us as well: else it writes warnings to standard error. What the
/// environment says of it already stays. Does nothing where other threads run.
pub(crate) fn quieten() {
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1);
    if alone && std::env::var_os(LOG_LEVEL).is_none() {
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(LOG_LEVEL, "error") };
    }
}

/// Where libvirt looks for the level of its log.
const LOG_LEVEL: &str = "LIBVIRT_DEBUG";

/// What libvirt's event loop told, copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RawEvent {
    /// A domain's lifecycle: event and detail as libvirt numbers them.
    Lifecycle(Uuid, c_int, c_int),
    /// The guest rebooted.
    Reboot(Uuid),
    /// A block job changed its state.
    BlockJob(Uuid),
    /// An iteration over memory ended.
    Iteration(Uuid),
    /// A job ended.
    JobCompleted(Uuid),
    /// Something in the domain's description changed: metadata, devices, agent, addresses.
    Changed(Uuid),
    /// A pool or network was started, stopped, defined or removed.
    Surroundings,
    /// The connection was closed.
    Closed,
}

/// Where events go. Must neither block nor panic; if it panics all the same, the event is dropped.
pub(crate) type Sink = std::sync::Arc<dyn Fn(RawEvent) + Send + Sync>;

/// A registered callback, to be taken back before the connection is closed.
#[derive(Debug, Clone, Copy)]
enum Registration {
    Domain(c_int),
    Pool(c_int),
    Network(c_int),
    Close,
}

/// A connection that closes itself without panicking, its callbacks taken back first.
#[derive(Debug)]
pub(crate) struct Connection {
    connect: ManuallyDrop<Connect>,
    registrations: Vec<Registration>,
    /// Counts it among those that have to be closed before the process ends, once anything is registered.
    open: Option<Open>,
}

impl Connection {
    pub(crate) fn new(connect: Connect) -> Self {
        Self {
            connect: ManuallyDrop::new(connect),
            registrations: Vec::new(),
            open: None,
        }
    }
}

impl std::ops::Deref for Connection {
    type Target = Connect;
    fn deref(&self) -> &Connect {
        &self.connect
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned by `self.connect`, valid until the close below; the ids came from the
        // registrations on this very connection and each is taken back once. Each registration holds a reference of
        // its own to the connection, which libvirt releases here. `connect` is not dropped, so it is closed once.
        unsafe {
            let connect = self.connect.as_ptr();
            for registration in self.registrations.drain(..) {
                match registration {
                    Registration::Domain(id) => {
                        sys::virConnectDomainEventDeregisterAny(connect, id);
                    }
                    Registration::Pool(id) => {
                        sys::virConnectStoragePoolEventDeregisterAny(connect, id);
                    }
                    Registration::Network(id) => {
                        sys::virConnectNetworkEventDeregisterAny(connect, id);
                    }
                    Registration::Close => {
                        sys::virConnectUnregisterCloseCallback(connect, Some(on_close));
                    }
                }
            }
            sys::virConnectClose(connect);
        }
    }
}

// ---- opening ----

/// Opens a connection. Name and password are handed to a libvirtd that asks for them, and to nobody else; without them
/// such a libvirtd refuses us.
pub(crate) fn open(uri: &str, login: Option<(&str, &str)>) -> Result<Connect, Error> {
    let Some(mut login) = login else {
        return Connect::open(Some(uri));
    };
    let uri = CString::new(uri)?;
    let mut kinds = [NAME, PASSWORD].map(|kind| kind as c_int);
    let mut auth = sys::virConnectAuth {
        credtype: kinds.as_mut_ptr(),
        ncredtype: kinds.len() as c_uint,
        cb: Some(answer),
        cbdata: (&raw mut login).cast(),
    };
    // SAFETY: the URI is terminated; it, `auth` and what that points to outlive the call, after which libvirt keeps
    // none of them. What is returned is ours to close.
    unsafe {
        let connect = sys::virConnectOpenAuth(uri.as_ptr(), &mut auth, 0);
        if connect.is_null() {
            Err(Error::last_error())
        } else {
            Ok(Connect::from_ptr(connect))
        }
    }
}

const NAME: sys::virConnectCredentialType = sys::VIR_CRED_AUTHNAME;
const PASSWORD: sys::virConnectCredentialType = sys::VIR_CRED_PASSPHRASE;

/// Answers what a libvirtd asks for; anything but name and password fails.
unsafe extern "C" fn answer(
    asked: sys::virConnectCredentialPtr,
    count: c_uint,
    login: *mut c_void,
) -> c_int {
    for place in 0..count as usize {
        // SAFETY: libvirt passes `count` questions, and the pointer to the name and the password that `open` gave it.
        // An answer is copied into memory that libvirt frees.
        unsafe {
            let (name, password) = *login.cast::<(&str, &str)>();
            let question = &mut *asked.add(place);
            let value = match question.type_ as sys::virConnectCredentialType {
                NAME => name,
                PASSWORD => password,
                _ => return -1,
            };
            // No value has a NUL in it.
            let copy = libc::strndup(value.as_ptr().cast(), value.len());
            if copy.is_null() {
                return -1;
            }
            question.result = copy;
            question.resultlen = value.len() as c_uint;
        }
    }
    0
}

// ---- events ----

/// Frees a sink that a registration owned.
unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: `opaque` is the `Box<Sink>` made into a raw pointer in `hold`; libvirt calls this once, after the last
    // callback that uses it.
    drop(unsafe { Box::from_raw(opaque.cast::<Sink>()) });
}

fn hold(sink: &Sink) -> *mut c_void {
    Box::into_raw(Box::new(sink.clone())).cast()
}

/// Hands an event to the sink behind `opaque`.
///
/// # Safety
/// `opaque` must be a `Box<Sink>` of `hold` that has not been freed.
unsafe fn tell(opaque: *mut c_void, event: RawEvent) {
    // SAFETY: by this function's contract; libvirt frees the sink only after the last callback returned.
    let sink = unsafe { &*opaque.cast::<Sink>() };
    let _ = catch_unwind(AssertUnwindSafe(|| sink(event)));
}

/// The UUID of the domain an event is about.
///
/// # Safety
/// `domain` must be a domain that lives for the duration of the call.
unsafe fn uuid_of(domain: sys::virDomainPtr) -> Option<Uuid> {
    let mut bytes = [0u8; 16];
    // SAFETY: the buffer has VIR_UUID_BUFLEN (16) bytes; the domain lives by this function's contract.
    let fine = unsafe { sys::virDomainGetUUID(domain, bytes.as_mut_ptr()) } == 0;
    fine.then(|| Uuid::from_bytes(bytes))
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    // SAFETY: libvirt passes a living domain and the opaque pointer given at registration.
    unsafe {
        if let Some(uuid) = uuid_of(domain) {
            tell(opaque, RawEvent::Lifecycle(uuid, event, detail));
        }
    }
    0
}

/// Callbacks that say no more than which domain. Their further arguments differ; each has libvirt's exact signature.
macro_rules! domain_callback {
    ($name:ident, $event:ident $(, $argument:ty)*) => {
        unsafe extern "C" fn $name(
            _: sys::virConnectPtr,
            domain: sys::virDomainPtr,
            $(_: $argument,)*
            opaque: *mut c_void,
        ) {
            // SAFETY: libvirt passes a living domain and the opaque pointer given at registration.
            unsafe {
                if let Some(uuid) = uuid_of(domain) {
                    tell(opaque, RawEvent::$event(uuid));
                }
            }
        }
    };
}

domain_callback!(on_reboot, Reboot);
domain_callback!(on_block_job, BlockJob, *const c_char, c_int, c_int);
domain_callback!(on_iteration, Iteration, c_int);
domain_callback!(
    on_job_completed,
    JobCompleted,
    sys::virTypedParameterPtr,
    c_int
);
domain_callback!(on_metadata, Changed, c_int, *const c_char);
domain_callback!(on_device, Changed, *const c_char);
domain_callback!(on_agent, Changed, c_int, c_int);
domain_callback!(
    on_disk_change,
    Changed,
    *const c_char,
    *const c_char,
    *const c_char,
    c_int
);
domain_callback!(on_tray_change, Changed, *const c_char, c_int);

unsafe extern "C" fn on_pool(
    _: sys::virConnectPtr,
    pool: sys::virStoragePoolPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt passes a living pool, whose name is terminated and lives as long, and the opaque pointer given
    // at registration.
    unsafe {
        let name = sys::virStoragePoolGetName(pool);
        // One that we open for a while changes nothing for anybody.
        if name.is_null() || !is_lent(&CStr::from_ptr(name).to_string_lossy()) {
            tell(opaque, RawEvent::Surroundings);
        }
    }
}

unsafe extern "C" fn on_network(
    _: sys::virConnectPtr,
    _: sys::virNetworkPtr,
    _: c_int,
    _: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt passes the opaque pointer given at registration.
    unsafe { tell(opaque, RawEvent::Surroundings) }
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _: c_int, opaque: *mut c_void) {
    // SAFETY: libvirt passes the opaque pointer given at registration.
    unsafe { tell(opaque, RawEvent::Closed) }
}

/// Erases a domain callback's signature, as libvirt's registration wants it.
macro_rules! generic {
    ($callback:expr) => {{
        let pointer = $callback as *const c_void;
        // SAFETY: libvirt calls the function back with the signature that belongs to the event id it is registered
        // for; the pairs are in `subscribe` and follow libvirt-domain.h.
        unsafe { std::mem::transmute::<*const c_void, sys::virConnectDomainEventGenericCallback>(pointer) }
    }};
}

/// Registers for everything the port tells about. What the host does not have is left out; an error only where
/// not even domains' lifecycle can be watched.
pub(crate) fn subscribe(connection: &mut Connection, sink: &Sink) -> Result<(), Error> {
    let domain_events: [(
        sys::virDomainEventID,
        sys::virConnectDomainEventGenericCallback,
    ); 11] = [
        (sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE, generic!(on_lifecycle)),
        (sys::VIR_DOMAIN_EVENT_ID_REBOOT, generic!(on_reboot)),
        (sys::VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, generic!(on_block_job)),
        (
            sys::VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
            generic!(on_iteration),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
            generic!(on_job_completed),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
            generic!(on_metadata),
        ),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, generic!(on_device)),
        (sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, generic!(on_device)),
        (sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE, generic!(on_agent)),
        (
            sys::VIR_DOMAIN_EVENT_ID_DISK_CHANGE,
            generic!(on_disk_change),
        ),
        (
            sys::VIR_DOMAIN_EVENT_ID_TRAY_CHANGE,
            generic!(on_tray_change),
        ),
    ];
    // SAFETY (here and in the blocks below): the connection lives; `opaque` is a fresh `Box<Sink>` which libvirt owns
    // from a successful registration on and frees with `free_sink`; after a failed one it is still ours and freed here.
    let register = |call: &dyn Fn(sys::virConnectPtr, *mut c_void) -> c_int| {
        let opaque = hold(sink);
        // SAFETY: see above.
        let id = call(unsafe { connection.connect.as_ptr() }, opaque);
        if id < 0 {
            let error = Error::last_error();
            // SAFETY: see above; registration failed, so nobody else has the pointer.
            unsafe { free_sink(opaque) };
            return Err(error);
        }
        Ok(id)
    };
    let open = Open::one();
    let mut registrations = Vec::new();
    let close = register(&|connect, opaque| {
        // SAFETY: see above.
        unsafe {
            sys::virConnectRegisterCloseCallback(connect, Some(on_close), opaque, Some(free_sink))
        }
    });
    if close.is_ok() {
        registrations.push(Registration::Close);
    }
    let mut lifecycle = Ok(());
    for (id, callback) in domain_events {
        let outcome = register(&|connect, opaque| {
            // SAFETY: see above; no domain means all domains.
            unsafe {
                sys::virConnectDomainEventRegisterAny(
                    connect,
                    ptr::null_mut(),
                    id as c_int,
                    callback,
                    opaque,
                    Some(free_sink),
                )
            }
        });
        match outcome {
            Ok(id) => registrations.push(Registration::Domain(id)),
            Err(error) if id == sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE => lifecycle = Err(error),
            Err(_) => {}
        }
    }
    let pool = register(&|connect, opaque| {
        let callback = on_pool as *const c_void;
        // SAFETY: see above; the signature belongs to the lifecycle event.
        unsafe {
            sys::virConnectStoragePoolEventRegisterAny(
                connect,
                ptr::null_mut(),
                sys::VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE as c_int,
                std::mem::transmute::<*const c_void, sys::virConnectStoragePoolEventGenericCallback>(
                    callback,
                ),
                opaque,
                Some(free_sink),
            )
        }
    });
    registrations.extend(pool.ok().map(Registration::Pool));
    let network = register(&|connect, opaque| {
        let callback = on_network as *const c_void;
        // SAFETY: see above; the signature belongs to the lifecycle event.
        unsafe {
            sys::virConnectNetworkEventRegisterAny(
                connect,
                ptr::null_mut(),
                sys::VIR_NETWORK_EVENT_ID_LIFECYCLE as c_int,
                std::mem::transmute::<*const c_void, sys::virConnectNetworkEventGenericCallback>(
                    callback,
                ),
                opaque,
                Some(free_sink),
            )
        }
    });
    registrations.extend(network.ok().map(Registration::Network));
    connection.registrations.extend(registrations);
    connection.open = Some(open);
    lifecycle
}

// ---- typed parameters ----

/// A list of libvirt's typed parameters, owned and freed by us.
struct Parameters {
    list: sys::virTypedParameterPtr,
    length: c_int,
    room: c_int,
}

impl Parameters {
    fn new() -> Self {
        Self {
            list: ptr::null_mut(),
            length: 0,
            room: 0,
        }
    }

    fn text(&mut self, name: &CStr, value: &str) -> Result<(), Error> {
        let value = CString::new(value)?;
        // SAFETY: the list, its length and its room are libvirt's own between calls; name and value are terminated
        // and copied by libvirt.
        let done = unsafe {
            sys::virTypedParamsAddString(
                &mut self.list,
                &mut self.length,
                &mut self.room,
                name.as_ptr(),
                value.as_ptr(),
            )
        };
        if done < 0 {
            Err(Error::last_error())
        } else {
            Ok(())
        }
    }

    fn number(&mut self, name: &CStr, value: u64) -> Result<(), Error> {
        // SAFETY: as in `text`.
        let done = unsafe {
            sys::virTypedParamsAddULLong(
                &mut self.list,
                &mut self.length,
                &mut self.room,
                name.as_ptr(),
                value,
            )
        };
        if done < 0 {
            Err(Error::last_error())
        } else {
            Ok(())
        }
    }

    /// For what libvirt wants as a plain integer.
    fn integer(&mut self, name: &CStr, value: c_int) -> Result<(), Error> {
        // SAFETY: as in `text`.
        let done = unsafe {
            sys::virTypedParamsAddInt(
                &mut self.list,
                &mut self.length,
                &mut self.room,
                name.as_ptr(),
                value,
            )
        };
        if done < 0 {
            Err(Error::last_error())
        } else {
            Ok(())
        }
    }

    /// All texts in the list by name.
    fn texts(&self) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for index in 0..usize::try_from(self.length).unwrap_or(0) {
            // SAFETY: as in `numbers`; a text is terminated, and libvirt's own as long as the list.
            unsafe {
                let parameter = &*self.list.add(index);
                if parameter.type_ as sys::virTypedParameterType == sys::VIR_TYPED_PARAM_STRING {
                    let read = |text| CStr::from_ptr(text).to_string_lossy().into_owned();
                    texts.insert(read(parameter.field.as_ptr()), read(parameter.value.s));
                }
            }
        }
        texts
    }

    /// All whole numbers in the list by name.
    fn numbers(&self) -> BTreeMap<String, u64> {
        let mut numbers = BTreeMap::new();
        for index in 0..usize::try_from(self.length).unwrap_or(0) {
            // SAFETY: libvirt gave a list of `length` parameters; a field is a terminated text in its array, and the
            // union's member is chosen by the type beside it.
            unsafe {
                let parameter = &*self.list.add(index);
                let name = CStr::from_ptr(parameter.field.as_ptr())
                    .to_string_lossy()
                    .into_owned();
                let value = match parameter.type_ as sys::virTypedParameterType {
                    sys::VIR_TYPED_PARAM_INT => u64::try_from(parameter.value.i).ok(),
                    sys::VIR_TYPED_PARAM_UINT => Some(u64::from(parameter.value.ui)),
                    sys::VIR_TYPED_PARAM_LLONG => u64::try_from(parameter.value.l).ok(),
                    sys::VIR_TYPED_PARAM_ULLONG => Some(parameter.value.ul),
                    sys::VIR_TYPED_PARAM_BOOLEAN => Some(u64::from(parameter.value.b != 0)),
                    _ => None,
                };
                if let Some(value) = value {
                    numbers.insert(name, value);
                }
            }
        }
        numbers
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        // SAFETY: the list is libvirt's own with `length` entries, or null, which is allowed.
        unsafe { sys::virTypedParamsFree(self.list, self.length) };
    }
}

// ---- domains ----

/// A domain's state and the reason for it, as libvirt numbers them.
pub(crate) fn state(domain: &Domain) -> Result<(c_int, c_int), Error> {
    let (mut state, mut reason) = (0, 0);
    // SAFETY: the domain lives; both pointers are to our own integers.
    let done = unsafe { sys::virDomainGetState(domain.as_ptr(), &mut state, &mut reason, 0) };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok((state, reason))
    }
}

/// A disk's virtual size and what it occupies, as QEMU or the file tells.
pub(crate) fn block_info(domain: &Domain, disk: &str) -> Result<(u64, u64), Error> {
    let disk = CString::new(disk)?;
    let mut info = sys::virDomainBlockInfo {
        capacity: 0,
        allocation: 0,
        physical: 0,
    };
    // SAFETY: the domain lives, the name is terminated, `info` is ours.
    let done = unsafe { sys::virDomainGetBlockInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok((info.capacity, info.allocation))
    }
}

/// Whether a block job runs on a disk.
pub(crate) fn has_block_job(domain: &Domain, disk: &str) -> Result<bool, Error> {
    let disk = CString::new(disk)?;
    let mut info = sys::virDomainBlockJobInfo {
        type_: 0,
        bandwidth: 0,
        cur: 0,
        end: 0,
    };
    // SAFETY: the domain lives, the name is terminated, `info` is ours.
    let found =
        unsafe { sys::virDomainGetBlockJobInfo(domain.as_ptr(), disk.as_ptr(), &mut info, 0) };
    if found < 0 {
        Err(Error::last_error())
    } else {
        Ok(found == 1)
    }
}

/// How many checkpoints a domain has.
pub(crate) fn checkpoints(domain: &Domain) -> Result<u32, Error> {
    // SAFETY: the domain lives; without a place for them libvirt only counts.
    let count = unsafe { sys::virDomainListAllCheckpoints(domain.as_ptr(), ptr::null_mut(), 0) };
    u32::try_from(count).map_err(|_| Error::last_error())
}

/// Begins to sample how fast a domain writes to its memory, for so many seconds.
pub(crate) fn start_dirty_rate(domain: &Domain, seconds: c_int) -> Result<(), Error> {
    // SAFETY: the domain lives.
    let done = unsafe {
        sys::virDomainStartDirtyRateCalc(
            domain.as_ptr(),
            seconds,
            sys::VIR_DOMAIN_DIRTYRATE_MODE_PAGE_SAMPLING,
        )
    };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

/// What is known of how fast a domain writes to its memory, by libvirt's names. Waits for no job.
pub(crate) fn dirty_rate(domain: &Domain) -> Result<BTreeMap<String, u64>, Error> {
    let mut records = ptr::null_mut();
    // SAFETY: the list holds a living domain and ends with a null; libvirt fills `records`.
    let found = unsafe {
        let mut domains = [domain.as_ptr(), ptr::null_mut()];
        sys::virDomainListGetStats(
            domains.as_mut_ptr(),
            sys::VIR_DOMAIN_STATS_DIRTYRATE,
            &mut records,
            sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
    };
    // SAFETY: libvirt filled `records`, or failed.
    let figures = unsafe { statistics(found, records, Parameters::numbers) }?;
    Ok(figures
        .into_iter()
        .flat_map(|(_, figures)| figures)
        .collect())
}

/// Statistics of a domain's disks, by libvirt's names: numbers and texts. Waits for no job: what can't be had without is
/// left out.
pub(crate) fn block_figures(domain: &Domain) -> Result<(Figures, BTreeMap<String, String>), Error> {
    let mut records = ptr::null_mut();
    // SAFETY: the list holds a living domain and ends with a null; libvirt fills `records`.
    let found = unsafe {
        let mut domains = [domain.as_ptr(), ptr::null_mut()];
        sys::virDomainListGetStats(
            domains.as_mut_ptr(),
            sys::VIR_DOMAIN_STATS_BLOCK,
            &mut records,
            sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
    };
    let read = |list: &Parameters| (list.numbers(), list.texts());
    // SAFETY: libvirt filled `records`, or failed.
    let mut all = unsafe { statistics(found, records, read) }?;
    Ok(all.pop().map(|(_, figures)| figures).unwrap_or_default())
}

/// Statistics by libvirt's names.
pub(crate) type Figures = BTreeMap<String, u64>;

/// CPU time and memory of every domain that runs, by its UUID and libvirt's names. Waits for no job: what can't be had
/// without is left out.
pub(crate) fn usage(connection: &Connection) -> Result<Vec<(Uuid, Figures)>, Error> {
    let mut records = ptr::null_mut();
    // SAFETY: the connection lives; libvirt fills `records`.
    let found = unsafe {
        sys::virConnectGetAllDomainStats(
            connection.connect.as_ptr(),
            sys::VIR_DOMAIN_STATS_CPU_TOTAL | sys::VIR_DOMAIN_STATS_BALLOON,
            &mut records,
            sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
                | sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT,
        )
    };
    // SAFETY: libvirt filled `records`, or failed.
    unsafe { statistics(found, records, Parameters::numbers) }
}

/// Reads `found` records of statistics and frees them. Those of a domain that is gone are left out.
///
/// # Safety
/// libvirt has filled `records` with so many, or has failed and `found` is negative.
unsafe fn statistics<T>(
    found: c_int,
    records: *mut sys::virDomainStatsRecordPtr,
    read: impl Fn(&Parameters) -> T,
) -> Result<Vec<(Uuid, T)>, Error> {
    let Ok(found) = usize::try_from(found) else {
        return Err(Error::last_error());
    };
    let mut all = Vec::with_capacity(found);
    for index in 0..found {
        // SAFETY: libvirt gave so many records, each with its domain and its list of parameters. They are read before
        // the list is freed below; what reads them is not dropped, so they are freed once. A UUID has 16 bytes.
        unsafe {
            let record = &**records.add(index);
            let parameters = ManuallyDrop::new(Parameters {
                list: record.params,
                length: record.nparams,
                room: record.nparams,
            });
            let mut uuid = [0; 16];
            if sys::virDomainGetUUID(record.dom, uuid.as_mut_ptr()) == 0 {
                all.push((Uuid::from_bytes(uuid), read(&parameters)));
            }
        }
    }
    // SAFETY: the list is libvirt's own, freed once.
    unsafe { sys::virDomainStatsRecordListFree(records) };
    Ok(all)
}

/// A domain's job: its type as libvirt numbers it, and its figures by libvirt's names.
pub(crate) fn job(domain: &Domain, flags: u32) -> Result<(c_int, BTreeMap<String, u64>), Error> {
    let mut kind = 0;
    let mut parameters = Parameters::new();
    // SAFETY: the domain lives; libvirt fills the list, which `parameters` frees.
    let done = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &mut kind,
            &mut parameters.list,
            &mut parameters.length,
            flags as c_uint,
        )
    };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok((kind, parameters.numbers()))
    }
}

/// Asks for the domain's job to be aborted.
pub(crate) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain lives.
    let done = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

/// Switches the domain's migration to post-copy.
pub(crate) fn start_post_copy(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain lives.
    let done = unsafe { sys::virDomainMigrateStartPostCopy(domain.as_ptr(), 0) };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

/// What `migrate` is called with.
#[derive(Debug)]
pub(crate) struct Migration<'a> {
    pub(crate) target_uri: &'a str,
    /// The target, where we drive.
    pub(crate) direct: Option<&'a Connect>,
    pub(crate) flags: u32,
    pub(crate) address: &'a str,
    /// The name that the target's certificate has to bear; nothing where the move is not encrypted.
    pub(crate) tls_destination: Option<&'a str>,
    /// The definitions that the target gets; nothing where it has them.
    pub(crate) live_xml: Option<&'a str>,
    pub(crate) persistent_xml: Option<&'a str>,
    pub(crate) disks: Vec<&'a str>,
    /// In MiB per second.
    pub(crate) bandwidth: Option<u64>,
    /// The same for memory that follows by post-copy.
    pub(crate) post_copy_bandwidth: Option<u64>,
    /// libvirt's word for how memory is compressed.
    pub(crate) compression: Option<&'a str>,
    /// Connections for memory, where they are several.
    pub(crate) connections: Option<u32>,
}

/// Migrates; returns when libvirt's call does.
pub(crate) fn migrate(domain: &Domain, migration: &Migration<'_>) -> Result<(), Error> {
    let target = CString::new(migration.target_uri)?;
    let mut parameters = Parameters::new();
    if let Some(xml) = migration.live_xml {
        parameters.text(sys::VIR_MIGRATE_PARAM_DEST_XML, xml)?;
    }
    if let Some(xml) = migration.persistent_xml {
        parameters.text(sys::VIR_MIGRATE_PARAM_PERSIST_XML, xml)?;
    }
    parameters.text(sys::VIR_MIGRATE_PARAM_URI, migration.address)?;
    if let Some(name) = migration.tls_destination {
        parameters.text(sys::VIR_MIGRATE_PARAM_TLS_DESTINATION, name)?;
    }
    for disk in &migration.disks {
        parameters.text(sys::VIR_MIGRATE_PARAM_MIGRATE_DISKS, disk)?;
    }
    if let Some(bandwidth) = migration.bandwidth {
        parameters.number(sys::VIR_MIGRATE_PARAM_BANDWIDTH, bandwidth)?;
    }
    if let Some(bandwidth) = migration.post_copy_bandwidth {
        parameters.number(sys::VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY, bandwidth)?;
    }
    if let Some(method) = migration.compression {
        parameters.text(sys::VIR_MIGRATE_PARAM_COMPRESSION, method)?;
    }
    if let Some(connections) = migration.connections {
        let connections = c_int::try_from(connections).unwrap_or(c_int::MAX);
        parameters.integer(sys::VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS, connections)?;
    }
    if let Some(there) = migration.direct {
        // SAFETY: the domain and both connections live and are used by this thread alone; parameters outlive the call.
        // What it returns is ours to free.
        unsafe {
            let arrived = sys::virDomainMigrate3(
                domain.as_ptr(),
                there.as_ptr(),
                parameters.list,
                parameters.length as c_uint,
                migration.flags as c_uint,
            );
            if arrived.is_null() {
                return Err(Error::last_error());
            }
            sys::virDomainFree(arrived);
        }
        return Ok(());
    }
    // SAFETY: the domain lives; target and parameters outlive the call, which only reads them.
    let done = unsafe {
        sys::virDomainMigrateToURI3(
            domain.as_ptr(),
            target.as_ptr(),
            parameters.list,
            parameters.length as c_uint,
            migration.flags as c_uint,
        )
    };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

/// Addresses of a domain's interfaces by MAC address, from the source given.
pub(crate) fn addresses(
    domain: &Domain,
    source: u32,
) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut list: *mut sys::virDomainInterfacePtr = ptr::null_mut();
    // SAFETY: the domain lives; libvirt fills the list.
    let count = unsafe {
        sys::virDomainInterfaceAddresses(domain.as_ptr(), &mut list, source as c_uint, 0)
    };
    if count < 0 {
        return Err(Error::last_error());
    }
    let mut found = BTreeMap::<String, Vec<String>>::new();
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: libvirt gave `count` interfaces, each with `naddrs` addresses; texts are terminated, and may be
        // null where noted. Each interface is freed once, and the list after them.
        unsafe {
            let interface = *list.add(index);
            if !(*interface).hwaddr.is_null() {
                let mac = CStr::from_ptr((*interface).hwaddr)
                    .to_string_lossy()
                    .to_ascii_lowercase();
                let addresses = found.entry(mac).or_default();
                for at in 0..(*interface).naddrs as usize {
                    let address = &*(*interface).addrs.add(at);
                    if !address.addr.is_null() {
                        addresses.push(CStr::from_ptr(address.addr).to_string_lossy().into_owned());
                    }
                }
            }
            sys::virDomainInterfaceFree(interface);
        }
    }
    // SAFETY: the list itself was allocated by libvirt with malloc.
    unsafe { libc::free(list.cast()) };
    Ok(found)
}

// ---- streams ----

/// What a stream gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// So many bytes, at the buffer's beginning.
    Data(usize),
    /// A hole of so many bytes.
    Hole(u64),
    /// Nothing more.
    End,
}

/// Takes what comes next from a sparse stream.
pub(crate) fn receive(stream: &Stream, buffer: &mut [u8]) -> Result<Received, Error> {
    /// Returned where a hole is next.
    const AT_HOLE: c_int = -3;
    // SAFETY: the stream lives; the buffer is ours and as long as we say.
    let received = unsafe {
        sys::virStreamRecvFlags(
            stream.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            sys::VIR_STREAM_RECV_STOP_AT_HOLE,
        )
    };
    if received == AT_HOLE {
        let mut length = 0;
        // SAFETY: the stream lives; the number is ours.
        let done = unsafe { sys::virStreamRecvHole(stream.as_ptr(), &mut length, 0) };
        if done < 0 {
            return Err(Error::last_error());
        }
        return Ok(Received::Hole(u64::try_from(length).unwrap_or(0)));
    }
    match usize::try_from(received) {
        Ok(0) => Ok(Received::End),
        Ok(received) => Ok(Received::Data(received.min(buffer.len()))),
        Err(_) => Err(Error::last_error()),
    }
}

/// Sends a hole of so many bytes into a sparse stream.
pub(crate) fn send_hole(stream: &Stream, length: u64) -> Result<(), Error> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    // SAFETY: the stream lives.
    let done = unsafe { sys::virStreamSendHole(stream.as_ptr(), length, 0) };
    if done < 0 {
        Err(Error::last_error())
    } else {
        Ok(())
    }
}

// ---- secrets ----

/// A secret's value. Besides what is returned, nothing of it stays in memory here.
pub(crate) fn secret_value(secret: &Secret) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut length = 0;
    // SAFETY: the secret lives; the number is ours.
    let value = unsafe { sys::virSecretGetValue(secret.as_ptr(), &mut length, 0) };
    if value.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: libvirt gave us that many bytes, and nobody else has them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(value, length) };
    let copy = Zeroizing::new(bytes.to_vec());
    bytes.zeroize();
    // SAFETY: it was allocated by libvirt, for us to free, and is not used any more.
    unsafe { libc::free(value.cast()) };
    Ok(copy)
}

// ---- the host ----

/// A guest's CPU, and what is to give it.
#[derive(Debug)]
pub(crate) struct CpuAsked<'a> {
    pub(crate) emulator: &'a str,
    pub(crate) arch: &'a str,
    pub(crate) machine: &'a str,
    /// The domain's type: `kvm`, `qemu`.
    pub(crate) kind: &'a str,
    /// The CPU element.
    pub(crate) cpu: &'a str,
}

/// Whether the host's hypervisor has that CPU, all features that are asked for included.
pub(crate) fn compare_cpu(connect: &Connect, asked: &CpuAsked<'_>) -> Result<bool, Error> {
    let emulator = CString::new(asked.emulator)?;
    let arch = CString::new(asked.arch)?;
    let machine = CString::new(asked.machine)?;
    let kind = CString::new(asked.kind)?;
    let cpu = CString::new(asked.cpu)?;
    // SAFETY: the connection lives, and so do all texts during the call.
    let fits = unsafe {
        sys::virConnectCompareHypervisorCPU(
            connect.as_ptr(),
            emulator.as_ptr(),
            arch.as_ptr(),
            machine.as_ptr(),
            kind.as_ptr(),
            cpu.as_ptr(),
            0,
        )
    };
    match fits {
        sys::VIR_CPU_COMPARE_INCOMPATIBLE => Ok(false),
        sys::VIR_CPU_COMPARE_IDENTICAL | sys::VIR_CPU_COMPARE_SUPERSET => Ok(true),
        _ => Err(Error::last_error()),
    }
}

/// The host's CPU times since its boot, by name, in nanoseconds, all CPUs summed.
pub(crate) fn cpu_times(connect: &Connect) -> Result<BTreeMap<String, u64>, Error> {
    let empty = sys::virNodeCPUStats {
        field: [0; 80],
        value: 0,
    };
    let all = sys::VIR_NODE_CPU_STATS_ALL_CPUS;
    // SAFETY: the connection lives; `counted` gives no list, or one with as many entries as it says.
    let list = counted(empty, |list, count| unsafe {
        sys::virNodeGetCPUStats(connect.as_ptr(), all, list, count, 0)
    })?;
    let figures = list.iter();
    Ok(figures
        .map(|entry| (field(&entry.field), entry.value))
        .collect())
}

/// The host's memory by name, in KiB.
pub(crate) fn memory_figures(connect: &Connect) -> Result<BTreeMap<String, u64>, Error> {
    let empty = sys::virNodeMemoryStats {
        field: [0; 80],
        value: 0,
    };
    let all = sys::VIR_NODE_MEMORY_STATS_ALL_CELLS;
    // SAFETY: the connection lives; `counted` gives no list, or one with as many entries as it says.
    let list = counted(empty, |list, count| unsafe {
        sys::virNodeGetMemoryStats(connect.as_ptr(), all, list, count, 0)
    })?;
    let figures = list.iter();
    Ok(figures
        .map(|entry| (field(&entry.field), entry.value))
        .collect())
}

/// A list that libvirt fills: asked without one it tells how many entries there are, asked again it writes them.
fn counted<T: Clone>(
    empty: T,
    mut ask: impl FnMut(*mut T, &mut i32) -> i32,
) -> Result<Vec<T>, Error> {
    let mut count = 0;
    if ask(ptr::null_mut(), &mut count) < 0 {
        return Err(Error::last_error());
    }
    let mut list = vec![empty; usize::try_from(count).unwrap_or(0)];
    if ask(list.as_mut_ptr(), &mut count) < 0 {
        return Err(Error::last_error());
    }
    list.truncate(usize::try_from(count).unwrap_or(0));
    Ok(list)
}

/// A name in one of libvirt's fixed arrays, up to its end or its first NUL.
fn field(name: &[c_char]) -> String {
    let bytes: Vec<u8> = name
        .iter()
        .take_while(|c| **c != 0)
        .map(|c| *c as u8)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
