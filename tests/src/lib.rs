//! What tests, demos and benchmarks stand on: real hosts, a real Kubernetes, and the program under test.

pub mod cluster;
pub mod controller;
pub mod evenkeel;
pub mod lab;
pub mod stage;
pub mod witness;
