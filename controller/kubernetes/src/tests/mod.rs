//! Tests of the parts together; those that need a real API server are in `real`.

mod desk;
mod lease;
mod make;
mod nodes;
mod real;
mod statuses;
