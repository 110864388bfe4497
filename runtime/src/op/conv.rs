//! Convolution and pooling over [N, C, spatial…].

use serde::{Deserialize, Serialize};

/// Where windows lie on the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Extent of the window, one per spatial axis.
    pub kernel: Vec<usize>,
    /// Distance between windows.
    pub strides: Vec<usize>,
    /// Distance between elements of a window.
    pub dilations: Vec<usize>,
    /// Elements of padding before and after, one pair per spatial axis.
    pub pads: Vec<(usize, usize)>,
}

/// Inputs (x: [N, C, …], w: [O, C/groups, …], bias?: [O]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Where windows lie.
    pub windows: Windows,
    /// Groups of channels.
    pub groups: usize,
}

/// What a [`Pool`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PoolKind {
    Max,
    /// `count_pads`: divide by the whole window rather than by the elements inside the input.
    Average {
        count_pads: bool,
    },
    /// The p-norm of each window.
    Lp {
        p: u32,
    },
}

/// Pooling of each channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// Where windows lie.
    pub windows: Windows,
    /// Round the number of windows up: the last may start inside the input and reach past the padding.
    pub ceil: bool,
}

impl super::Semantics for Conv {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Pool {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
