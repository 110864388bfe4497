//! The service from the outside: both protocols, batches, overload, reload, faults and the end.

mod batches;
mod common;
mod faults;
mod lifecycle;
mod protocols;
