//! How rows are shared out among threads.

use super::rows::Rows;
use sliderun::plan::manifest::{Program, Step};

const WARP: usize = 32;

/// The threads of rows that are held in registers.
pub struct Tile {
    /// Per row.
    pub threads: usize,
    /// Rows of a block.
    pub per_block: usize,
    /// Elements side by side.
    pub width: usize,
}

impl Tile {
    /// For the rows of steps: what differs from row to row is loaded by at most 16 bytes at a time.
    pub fn of(program: &Program, rows: &Rows, steps: &[Step]) -> Tile {
        let values = steps.iter().flat_map(|s| s.inputs.iter().flatten().chain(&s.outputs));
        let matrices = values.filter(|id| rows.is_matrix(program, **id)).map(|id| program.values[id.0 as usize].ty.dtype.size());
        Tile::new(rows, matrices.max().unwrap_or(4))
    }

    /// For elements of so many bytes.
    pub fn new(rows: &Rows, bytes: usize) -> Tile {
        let width = (1 << rows.alignment().trailing_zeros().min(3)).min(16 / bytes);
        let vectors = rows.length / width;
        // One vector a thread as long as several blocks fit on a multiprocessor: rows are short, and waiting is most of the work.
        let each = match vectors {
            0..=256 => 1,
            257..=1024 => 2,
            _ => vectors.div_ceil(512),
        };
        let threads = vectors.div_ceil(each).next_multiple_of(WARP).min(1024);
        Tile { threads, per_block: if threads == WARP { 4 } else { 1 }, width }
    }
}
