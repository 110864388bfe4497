//! Attention: the tile and the arguments of its kernels.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::attention::{Attention, HeadsOf};
use sliderun::op::{Op, TensorType};
use sliderun::plan::manifest::{Program, Step, ValueId};

use super::builder::{Form, Generated, KernelBuilder, Other, ceil_div, element_type, float};

/// Where there are instructions for whole warpgroups.
const HOPPER: &str = "sm_90a";

/// How a block goes through the work, as `attention.cuh`, `attention_hopper.cuh` and `attention_f32.cuh` define it.
struct Tile {
    cpp: String,
    function: &'static str,
    /// Arguments that it takes beside those of all.
    extra: String,
    threads: usize,
    queries: usize,
    shared_bytes: usize,
    /// Whether its blocks go on from tile to tile, where there are such of unequal work in pairs.
    paired: bool,
}

impl Tile {
    /// Tensor cores, for few queries: blocks of one query tile, the keys parted among four warps, for latency; from 128 on, sums that one
    /// warp cannot hold beside its scores rule that out.
    fn latency(d: usize, e: usize) -> Tile {
        if d.max(e) <= 64 { Tile::tensor_cores(d, e, [1, 4, 32, 1]) } else { Tile::tensor_cores(d, e, [4, 1, 32, 2]) }
    }

    /// For many: four query tiles share what is read of the keys.
    fn bulk(d: usize, e: usize) -> Option<Tile> {
        (d.max(e) <= 64).then(|| Tile::tensor_cores(d, e, [4, 1, 64, 2]))
    }

    /// For compute capability 9.0 and depths of 64 and 128: warpgroups, as many tiles of keys and values on their way as there is room for.
    fn warpgroups(d: usize, e: usize, batches: &str) -> Tile {
        let (warpgroups, keys) = (2, 128);
        let slots = if d.max(e) == 64 { 8 } else { 6 };
        let queries = 64 * warpgroups;
        Tile {
            cpp: format!("slide::WarpgroupTile<{d}, {e}, {warpgroups}, {keys}, {slots}>"),
            function: "attention_hopper",
            extra: format!("{batches}, "),
            threads: 128 * (warpgroups + 1),
            queries,
            shared_bytes: 1024 - 16 + 2 * queries * d + slots * 2 * keys * d.max(e) + 8 * (2 + 2 * slots),
            paired: true,
        }
    }

    /// Tiles of queries that a block of its own does: an early and a late one where later ones see more, so that blocks have the same to do.
    fn tiles(&self, causal: bool) -> usize {
        if causal && self.paired { 2 } else { 1 }
    }

    fn tensor_cores(d: usize, e: usize, [query_warps, key_warps, key_tile, stages]: [usize; 4]) -> Tile {
        let (d_steps, e_steps) = (d.div_ceil(16), e.div_ceil(16));
        let row = |chunks: usize| 16 * (chunks | 1);
        let queries = 16 * query_warps;
        let staged = stages * key_tile * key_warps * (row(2 * d_steps) + row(2 * e_steps));
        // Queries that would take too many registers lie in shared memory too.
        let queried = if d_steps > 8 { queries * row(2 * d_steps) } else { 0 };
        let merged = if key_warps == 1 { 0 } else { 4 * key_warps * queries * (16 * e_steps + 8) };
        Tile {
            cpp: format!("slide::AttentionTile<{d}, {e}, {query_warps}, {key_warps}, 1, {key_tile}, {stages}>"),
            function: "attention",
            extra: String::new(),
            threads: 32 * query_warps * key_warps,
            queries,
            shared_bytes: (staged + queried).max(merged),
            paired: false,
        }
    }

    fn plain(d: usize, e: usize) -> Tile {
        let (warps, rows, key_share) = (4, 1, 4);
        let (queries, keys) = (4 * warps * rows, 8 * key_share);
        let depth_row = if d.is_multiple_of(8) { d + 4 } else { d };
        Tile {
            cpp: format!("slide::PlainAttentionTile<{d}, {e}, {warps}, {rows}, {key_share}>"),
            function: "attention_f32",
            extra: String::new(),
            threads: 32 * warps,
            queries,
            shared_bytes: 4 * ((queries + keys) * depth_row + keys * e + queries * (keys + 4)),
            paired: false,
        }
    }
}

/// Whether an Attention can read its queries, keys and values where they lie in what the Split before it takes apart.
pub fn reads_through(program: &Program, split: &Step, attention: &Step) -> bool {
    let (Op::Split(op), Op::Attention(_)) = (&split.op, &attention.op) else { return false };
    let ty = |id: ValueId| &program.values[id.0 as usize].ty;
    // Loads are of 16 bytes.
    let aligned = |width: Option<&Dim>| width.and_then(Dim::as_usize).is_some_and(|w| w.is_multiple_of(8));
    let parts = split.outputs.iter().all(|&id| ty(id).rank() == 3 && aligned(ty(id).shape.last()));
    parts && op.axis == 2 && attention.inputs[..3].iter().flatten().any(|id| split.outputs.contains(id))
}

/// The kernel of an Attention step; `split` comes right before it and is done with it when [`reads_through`] holds.
///
/// # Errors
/// What about the step has no kernel.
pub fn kernel(program: &Program, launch: usize, split: Option<&Step>, step: &Step, op: &Attention) -> Result<Generated, String> {
    let mut b = KernelBuilder::new(program, launch, "attention");
    let operand = |i: usize| step.inputs[i].expect("the type rules demand this operand");
    let of = |b: &KernelBuilder<'_>, i: usize, heads: usize| {
        HeadsOf::of(b.ty(operand(i)), heads).expect("the type rules have checked it")
    };
    let (query, key, value) = (of(&b, 0, op.heads), of(&b, 1, op.kv_heads), of(&b, 2, op.kv_heads));
    let dtype = b.ty(operand(0)).dtype;
    let depth = |of: &HeadsOf, heads: usize| {
        of.width.as_usize().map(|w| w / heads).filter(|d| (8..=256).contains(d) && d.is_multiple_of(8))
    };
    let (Some(d), Some(e)) = (depth(&query, op.heads), depth(&value, op.kv_heads)) else {
        return Err(format!(
            "{} heads of {} in all for queries and {} of {} for values, where depths of 8 to 256 in eights are supported",
            op.heads, query.width, op.kv_heads, value.width
        ));
    };
    let (tile, bulk) = match dtype {
        DType::F32 => (Tile::plain(d, e), None),
        _ => (Tile::latency(d, e), Tile::bulk(d, e)),
    };
    let whole_panels = [d, e].iter().all(|depth| [64, 128].contains(depth));
    let warpgroups = (dtype != DType::F32 && whole_panels).then(|| Tile::warpgroups(d, e, &b.extent(&query.batch)));
    let c = element_type(dtype);
    // `ty`: of what is in memory, of which the heads may be some columns.
    let heads = |b: &mut KernelBuilder<'_>, pointer: String, ty: &TensorType, depth: usize| {
        let (batch, head, row) = match ty.shape.as_slice() {
            [_, rows, width] => (rows.clone() * width.clone(), Dim::from(depth), width.clone()),
            [_, heads, rows, depth] => {
                (heads.clone() * rows.clone() * depth.clone(), rows.clone() * depth.clone(), depth.clone())
            }
            _ => unreachable!("the type rules demand rank 3 or 4"),
        };
        format!("{{{pointer}, {}, {}, {}}}", b.long_extent(&batch), b.long_extent(&head), b.long_extent(&row))
    };
    let [q, k, v] = [(0, d), (1, d), (2, e)].map(|(i, depth)| {
        let id = operand(i);
        let (whole, pointer) = match split.and_then(|split| Some((split, split.outputs.iter().position(|o| *o == id)?))) {
            Some((split, part)) => {
                let whole = split.inputs[0].expect("the type rules demand this operand");
                let start = split.outputs[..part].iter().fold(Dim::from(0), |sum, o| sum + b.ty(*o).shape[2].clone());
                (whole, format!("{} + {}", b.input(whole), b.long_extent(&start)))
            }
            None => (id, b.input(id)),
        };
        let ty = b.ty(whole);
        heads(&mut b, pointer, ty, depth)
    });
    let out = b.output(step.outputs[0]);
    let ty = b.ty(step.outputs[0]);
    let out = heads(&mut b, out, ty, e);
    let (tokens, total) = (query.rows.clone(), key.rows.clone());
    let (mask, mask_type) = match step.inputs.get(3).copied().flatten() {
        None => ("{}".to_owned(), "slide::NoMask".to_owned()),
        Some(id) => {
            let ty = b.ty(id).clone();
            let mut strides = vec!["0".to_owned(); 4 - ty.rank()];
            for (axis, extent) in ty.shape.iter().enumerate() {
                let stride = b.long_extent(&Dim::product(&ty.shape[axis + 1..]));
                strides.push(match extent.as_const() {
                    Some(1) => "0".to_owned(),
                    Some(_) => stride,
                    None => format!("({} == 1 ? 0 : {stride})", b.long_extent(extent)),
                });
            }
            (format!("{{{}, {}}}", b.input(id), strides.join(", ")), format!("slide::ScoreMask<{}>", element_type(ty.dtype)))
        }
    };
    let (tokens_text, total_text) = (b.extent(&tokens), b.extent(&total));
    let visibility = if op.causal { "CAUSAL" } else { "ALL" };
    let form = |tile: Tile| Form {
        blocks: query.batch.clone() * Dim::from(op.heads) * ceil_div(&tokens, tile.queries * tile.tiles(op.causal)),
        threads: tile.threads,
        shared_bytes: tile.shared_bytes,
        at_once: 0,
        body: format!(
            "    static_assert({0}::THREADS == {1} && {0}::SHARED_BYTES == {2}, \"as the plan launches it\");\n    \
             extern __shared__ __align__(16) unsigned char shared[];\n    \
             const slide::AttentionArguments<{c}, {mask_type}> arguments{{{q}, {k}, {v}, {out}, {mask}, {3}, {4}, {tokens_text}, {total_text}, {5}, \
             {total_text} - {tokens_text}}};\n    \
             slide::{6}<{0}, slide::Visibility::{visibility}>(arguments, {7}shared);\n",
            tile.cpp,
            tile.threads,
            tile.shared_bytes,
            op.heads,
            op.group(),
            float(op.scale),
            tile.function,
            tile.extra,
        ),
    };
    // From here on few blocks of a multiprocessor each are faster than many small ones.
    const HOPPER_BLOCKS: u32 = 48;
    let hopper = warpgroups.map(|tile| Other {
        form: form(tile),
        what: "hopper",
        least_blocks: HOPPER_BLOCKS,
        architecture: Some(HOPPER.parse().expect("an architecture that kernels are written for")),
        resident: true,
    });
    let bulk = bulk.map(|tile| Other::bulk(form(tile)));
    Ok(b.finish_forms(form(tile), hopper.into_iter().chain(bulk).collect()))
}
