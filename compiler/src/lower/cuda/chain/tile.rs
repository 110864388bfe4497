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
    /// Such vectors of a thread.
    each: usize,
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
        let widest = (1 << rows.alignment().trailing_zeros().min(3)).min(16 / bytes);
        let tile = Tile::of_width(rows.length, widest);
        // Vectors half as long where those would leave many threads idle.
        let idle = |tile: &Tile| rows.length * 10 < tile.threads * tile.each * tile.width * 9;
        if widest > 1 && idle(&tile) { Tile::of_width(rows.length, widest / 2) } else { tile }
    }

    fn of_width(length: usize, width: usize) -> Tile {
        // One vector a thread as long as several blocks fit on a multiprocessor: rows are short, and waiting is most of the work.
        const LARGE_BLOCK: usize = 512;
        let vectors = length / width;
        let each = vectors.div_ceil(LARGE_BLOCK);
        let threads = vectors.div_ceil(each).next_multiple_of(WARP);
        Tile { threads, per_block: if threads == WARP { 4 } else { 1 }, width, each }
    }
}
