//! The CUDA C++ sources of the project's own kernels, and their registry.
//!
//! A kernel takes raw pointers and sizes only: this crate knows no plan, no graph and no session. It is empty until the CUDA device is built; its place in
//! the workspace is fixed because the compiler will compile what is registered here, and the runtime will only ever see the result.
