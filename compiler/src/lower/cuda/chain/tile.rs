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

    /// For when there are rows enough for a whole GPU: fewer threads with more each, so that joining what they have gathered, and finding
    /// their places, is a smaller part of the work. `None` where threads have as much already.
    pub fn bulk(&self, rows: &Rows) -> Option<Tile> {
        const ELEMENTS: usize = 32;
        let vectors = rows.length / self.width;
        let threads = vectors.div_ceil(ELEMENTS / self.width).next_multiple_of(WARP);
        (threads < self.threads).then(|| Tile::of_threads(vectors, threads, self.width))
    }

    fn of_width(length: usize, width: usize) -> Tile {
        // One vector a thread as long as several blocks fit on a multiprocessor: rows are short, and waiting is most of the work.
        const LARGE_BLOCK: usize = 512;
        let vectors = length / width;
        let each = vectors.div_ceil(LARGE_BLOCK);
        Tile::of_threads(vectors, vectors.div_ceil(each).next_multiple_of(WARP), width)
    }

    fn of_threads(vectors: usize, threads: usize, width: usize) -> Tile {
        Tile { threads, per_block: if threads == WARP { 4 } else { 1 }, width, each: vectors.div_ceil(threads) }
    }
}
