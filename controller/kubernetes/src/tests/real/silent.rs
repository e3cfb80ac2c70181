//! A host that never answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use evenkeel_crds::quantity::Bytes;
use evenkeel_engine::credentials::Credentials;
use evenkeel_engine::port::{
    Access, ClaimRecord, CompletedFacts, DiskPlace, DomainFacts, Fault, FileState, Glance,
    HostFacts, Hypervisor, JobFacts, JournalEntry, LastMove, Mark, MigrateRequest, NewVolume,
    Piece, PoolFacts, PortError, PortResult, SecretFacts, SecretValue, ShutdownMark, VolumeFacts,
};
use tokio::sync::mpsc::{Receiver, Sender};
use uuid::Uuid;

#[derive(Debug)]
pub(crate) struct Silent;

fn silence<T>() -> PortResult<T> {
    Err(PortError::new(Fault::Unreachable, "no answer"))
}

#[async_trait]
impl Hypervisor for Silent {
    fn renew(&self, _: Option<Arc<Credentials>>) {}
    fn use_directories(&self, _: BTreeSet<String>) {}
    async fn observe(&self) -> PortResult<HostFacts> {
        silence()
    }
    async fn look(&self, _: Uuid) -> PortResult<Option<DomainFacts>> {
        silence()
    }
    async fn glance(&self, _: Uuid) -> PortResult<Option<Glance>> {
        silence()
    }
    async fn references(&self, _: Option<Uuid>) -> PortResult<BTreeMap<String, Vec<String>>> {
        silence()
    }
    async fn pools(&self) -> PortResult<Vec<PoolFacts>> {
        silence()
    }
    async fn claim(&self) -> PortResult<Option<ClaimRecord>> {
        silence()
    }
    async fn put_claim(&self, _: &ClaimRecord) -> PortResult<()> {
        silence()
    }
    async fn remove_claim(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn journals(&self) -> PortResult<Vec<JournalEntry>> {
        silence()
    }
    async fn create_journal(&self, _: &str, _: Uuid, _: &str) -> PortResult<()> {
        silence()
    }
    async fn rewrite_journal(&self, _: &str, _: Uuid, _: &str) -> PortResult<()> {
        silence()
    }
    async fn remove_journal(&self, _: &str, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn volume(&self, _: &str) -> PortResult<Option<VolumeFacts>> {
        silence()
    }
    async fn create_volume(&self, _: &NewVolume) -> PortResult<String> {
        silence()
    }
    async fn delete_volume(&self, _: &str) -> PortResult<()> {
        silence()
    }
    async fn file(&self, _: &str) -> PortResult<Option<FileState>> {
        silence()
    }
    async fn missing_directory(&self, _: &str) -> PortResult<Option<String>> {
        silence()
    }
    async fn remove_directories(&self, _: &str, _: &str) -> PortResult<()> {
        silence()
    }
    async fn create_file(&self, _: &str, _: Bytes, _: &Access) -> PortResult<()> {
        silence()
    }
    async fn read_file(&self, _: &str, _: Sender<Piece>) -> PortResult<()> {
        silence()
    }
    async fn write_file(&self, _: &str, _: Bytes, _: Receiver<Piece>) -> PortResult<()> {
        silence()
    }
    async fn remove_file(&self, _: &str) -> PortResult<()> {
        silence()
    }
    async fn close_pools(&self) -> PortResult<()> {
        silence()
    }
    async fn secret(&self, _: Uuid) -> PortResult<Option<SecretFacts>> {
        silence()
    }
    async fn secret_value(&self, _: Uuid) -> PortResult<Option<SecretValue>> {
        silence()
    }
    async fn create_secret(&self, _: &SecretFacts, _: SecretValue) -> PortResult<()> {
        silence()
    }
    async fn keep_secret(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn remove_secret(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn secret_users(&self, _: Uuid) -> PortResult<Vec<String>> {
        silence()
    }
    async fn set_mark(&self, _: Uuid, _: Option<&Mark>) -> PortResult<()> {
        silence()
    }
    async fn set_last_move(&self, _: Uuid, _: &LastMove) -> PortResult<()> {
        silence()
    }
    async fn set_shutdown_mark(&self, _: Uuid, _: Option<&ShutdownMark>) -> PortResult<()> {
        silence()
    }
    async fn start(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn set_autostart(&self, _: Uuid, _: bool) -> PortResult<()> {
        silence()
    }
    async fn definition(&self, _: Uuid) -> PortResult<String> {
        silence()
    }
    async fn offers_cpu(&self, _: &str) -> PortResult<Option<bool>> {
        silence()
    }
    async fn define(&self, _: &str, _: &[DiskPlace], _: Option<&Mark>) -> PortResult<()> {
        silence()
    }
    async fn migrate(&self, _: &MigrateRequest) -> PortResult<()> {
        silence()
    }
    async fn job(&self, _: Uuid) -> PortResult<Option<JobFacts>> {
        silence()
    }
    async fn completed(&self, _: Uuid) -> PortResult<Option<CompletedFacts>> {
        silence()
    }
    async fn measure_dirtying(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn dirtying(&self, _: Uuid) -> PortResult<Option<evenkeel_crds::quantity::Bytes>> {
        silence()
    }
    async fn flushes(&self, _: Uuid) -> PortResult<BTreeMap<String, u64>> {
        silence()
    }
    async fn start_post_copy(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn recover_post_copy(&self, _: &MigrateRequest) -> PortResult<()> {
        silence()
    }
    async fn abort(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn suspend(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn resume(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn shutdown(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn destroy(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
    async fn undefine(&self, _: Uuid) -> PortResult<()> {
        silence()
    }
}
