//! Fuzz targets of sliderun for libFuzzer; see README.md.

pub mod targets;
