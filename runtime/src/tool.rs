//! What `sliderun` and the compiler's command line share: reading and writing tensors, random inputs, the run, inspect and bench commands.
//!
//! Commands take their options as plain values, write results to the given writer, and leave parsing of arguments and exit codes to
//! the program.

pub mod npy;
