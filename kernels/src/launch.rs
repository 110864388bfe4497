//! How the kernels are launched: what their headers say, for whoever writes launches.

/// Threads of a warp.
const WARP: usize = 32;

/// `RowTile` and launch of `quant_lift.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowTile {
    /// Threads that share a row.
    pub threads: usize,
    /// Rows that share a block; the grid has ⌈rows / this⌉ blocks of [`RowTile::block`] threads.
    pub rows: usize,
}

impl RowTile {
    /// For few rows of `k` elements of `bytes` bytes each: two vectors a thread, for latency, as long as several blocks fit on a
    /// multiprocessor.
    pub fn for_row(k: usize, bytes: usize) -> RowTile {
        const LARGE_BLOCK: usize = 512;
        match (RowTile::bulk(k, bytes), RowTile::of(k, bytes, 2)) {
            (bulk @ RowTile { threads: WARP, .. }, _) => bulk,
            (_, tile @ RowTile { threads: ..=LARGE_BLOCK, .. }) => tile,
            (bulk, _) => bulk,
        }
    }

    /// For so many rows that memory is what they wait for: four vectors a thread. On compute capability 9.0, int8 from bf16 at 6:8, this is
    /// 3 640 GB/s at K = 3584, where two vectors a thread give 3 220; more threads or several rows one after the other give less.
    pub fn bulk(k: usize, bytes: usize) -> RowTile {
        RowTile::of(k, bytes, 4)
    }

    fn of(k: usize, bytes: usize, vectors: usize) -> RowTile {
        const ROWS_PER_BLOCK: usize = 4;
        let width = (1usize << k.trailing_zeros().min(4)).min(16 / bytes);
        let threads = k.div_ceil(width * vectors).next_multiple_of(WARP).clamp(WARP, 1024);
        RowTile { threads, rows: if threads == WARP { ROWS_PER_BLOCK } else { 1 } }
    }

    /// Threads of a block.
    pub fn block(self) -> usize {
        self.threads * self.rows
    }
}

/// Rows of a block of `dequant.cuh`.
pub const DEQUANT_ROWS: usize = 8;

/// The launch of `dequant.cuh`: blocks of `threads` threads, `across · ⌈rows / DEQUANT_ROWS⌉` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DequantTile {
    /// Threads of a block.
    pub threads: usize,
    /// Blocks side by side in a row.
    pub across: usize,
}

impl DequantTile {
    /// For rows of `n` accumulators of `bytes` bytes each.
    pub fn for_row(n: usize, bytes: usize) -> DequantTile {
        const MAX_THREADS: usize = 64;
        let vectors = n / (1usize << n.trailing_zeros().min((16 / bytes).ilog2()));
        let threads = vectors.next_multiple_of(WARP).clamp(WARP, MAX_THREADS);
        DequantTile { threads, across: vectors.div_ceil(threads) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_what_the_headers_take() {
        for k in (1..3000).chain([3584, 18944, 18945, 28672, 65536, 1 << 24]) {
            for bytes in [2, 4] {
                for tile in [RowTile::for_row(k, bytes), RowTile::bulk(k, bytes)] {
                    assert!(tile.threads.is_multiple_of(WARP) && (WARP..=1024).contains(&tile.block()), "{k}: {tile:?}");
                    assert!(tile.rows == 1 || tile.threads == WARP, "{k}: {tile:?}");
                }
            }
            for bytes in [2, 4] {
                let tile = DequantTile::for_row(k, bytes);
                let width = [8, 4, 2, 1].into_iter().find(|w| w * bytes <= 16 && k % w == 0).unwrap();
                let covered = tile.threads * tile.across * width;
                assert!(tile.threads.is_multiple_of(WARP) && covered >= k && covered - k < tile.threads * width, "{k}: {tile:?}");
            }
        }
    }
}
