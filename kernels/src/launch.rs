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
    /// For rows of `k` elements of `bytes` bytes each.
    ///
    /// As measured on compute capability 9.0: one warp for what it can hold in four vectors a thread; from there on two vectors a thread,
    /// for latency and as fast for many rows, as long as several blocks fit on a multiprocessor; then four again.
    pub fn for_row(k: usize, bytes: usize) -> RowTile {
        const ROWS_PER_BLOCK: usize = 4;
        const LARGE_BLOCK: usize = 512;
        let width = (1usize << k.trailing_zeros().min(4)).min(16 / bytes);
        let threads = |vectors: usize| k.div_ceil(width * vectors).next_multiple_of(WARP).clamp(WARP, 1024);
        match (threads(4), threads(2)) {
            (WARP, _) => RowTile { threads: WARP, rows: ROWS_PER_BLOCK },
            (_, threads @ ..=LARGE_BLOCK) => RowTile { threads, rows: 1 },
            (threads, _) => RowTile { threads, rows: 1 },
        }
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
    /// For rows of `n` elements.
    pub fn for_row(n: usize) -> DequantTile {
        const MAX_THREADS: usize = 64;
        let vectors = n / (1usize << n.trailing_zeros().min(2));
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
                let tile = RowTile::for_row(k, bytes);
                assert!(tile.threads.is_multiple_of(WARP) && (WARP..=1024).contains(&tile.block()), "{k}: {tile:?}");
                assert!(tile.rows == 1 || tile.threads == WARP, "{k}: {tile:?}");
            }
            let tile = DequantTile::for_row(k);
            let width = [4, 2, 1].into_iter().find(|w| k % w == 0).unwrap();
            let covered = tile.threads * tile.across * width;
            assert!(tile.threads.is_multiple_of(WARP) && covered >= k && covered - k < tile.threads * width, "{k}: {tile:?}");
        }
    }
}
