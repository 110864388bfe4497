//! What a GPU can do and what it does meanwhile: the figures that a plan's are compared with.
//!
//! Must not know: plans, sessions.

pub mod ceilings;
pub mod clocks;
