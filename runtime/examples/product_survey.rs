//! What matrix products take on a GPU, dense and at every pattern: the figures behind the choice between sparse and dense.
//!
//! Every way to compute a product takes its turn in each round, so that all meet the same clocks; values are normally distributed, since energy,
//! and with it speed at the power limit, depends on them. Activations are as they come from the lift.

use std::any::Any;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use sliderun::cuda::cublaslt::{CublasLt, DenseMatmul, DenseOperands, DenseProblem, MAX_WORKSPACE};
use sliderun::cuda::cusparselt::{Alpha, CusparseLt, SparseMatmul, SparseOperands, SparseProblem, SparseWeight};
use sliderun::cuda::driver::{Context, DeviceBuffer, GraphExec, Stream};
use sliderun::dtype::DType;
use sliderun::f8::F8E4M3;
use sliderun::sparse::{KLayout, Pattern};
use sliderun::splitmix::SplitMix64;

const USAGE: &str = "\
Usage: product_survey SECONDS TYPES NxK... -- M...

A line for each product: type, pattern, N, K, M, microseconds (median of turns), and how much faster than dense of that type.
SECONDS   how long all ways of one product take turns
TYPES     i8, f8e4m3 or bf16, or several with commas";

/// Rows that are drawn; longer matrices repeat them.
const ROWS: usize = 61;
/// What one turn should take.
const TURN: Duration = Duration::from_millis(10);
const SEARCH: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match Survey::parse(&arguments).ok_or_else(|| USAGE.to_owned()).and_then(|survey| survey.run().map_err(|e| e.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

struct Survey {
    duration: Duration,
    types: Vec<DType>,
    weights: Vec<[usize; 2]>,
    rows: Vec<usize>,
}

/// One way to compute a product, recorded.
struct Way {
    dtype: DType,
    pattern: Option<Pattern>,
    graph: GraphExec,
    runs: u32,
    times: Vec<Duration>,
    /// What the graph reads and writes, and the library's plan.
    _held: Option<Box<dyn Any>>,
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

impl Survey {
    fn parse(arguments: &[String]) -> Option<Survey> {
        let (sizes, rows) =
            arguments.get(2..)?.split(|a| a == "--").collect::<Vec<_>>().try_into().ok().map(|[a, b]: [_; 2]| (a, b))?;
        let size = |text: &String| {
            let (n, k) = text.split_once('x')?;
            Some([n.parse().ok()?, k.parse().ok()?])
        };
        Some(Survey {
            duration: Duration::try_from_secs_f64(arguments[0].parse().ok()?).ok()?,
            types: arguments[1]
                .split(',')
                .map(|t| [DType::I8, DType::F8e4m3, DType::Bf16].into_iter().find(|d| d.name() == t))
                .collect::<Option<_>>()?,
            weights: sizes.iter().map(size).collect::<Option<_>>()?,
            rows: rows.iter().map(|m| m.parse().ok()).collect::<Option<_>>()?,
        })
    }

    fn run(&self) -> Result<()> {
        let context = Context::new(0)?;
        let (dense, sparse) = (CublasLt::new(&context)?, CusparseLt::new(&context)?);
        let stream = Stream::new(&context)?;
        println!("{}: {}; {}", context.device().name, dense.cache_key(), sparse.cache_key());
        println!(
            "{:<7} {:<6} {:>6} {:>6} {:>6} {:>10} {:>7} {:>8}",
            "TYPE", "WEIGHT", "N", "K", "M", "TIME µs", "TFLOPS", "× DENSE"
        );
        for &[n, k] in &self.weights {
            for &m in &self.rows {
                let mut ways = Vec::new();
                for &dtype in &self.types {
                    ways.push(dense_way(&dense, dtype, [m, n, k], &stream)?);
                    for pattern in [2, 3, 4, 5].into_iter().filter_map(Pattern::from_n) {
                        // What the library does not multiply is left out.
                        match sparse_way(&sparse, dtype, pattern, [m, n, k], &stream) {
                            Ok(way) => ways.push(way),
                            Err(e) => println!("{dtype} {pattern} {n}×{k}, M = {m}: {e}"),
                        }
                    }
                }
                self.take_turns(&mut ways, &stream)?;
                for way in &ways {
                    let base = ways.iter().find(|w| w.dtype == way.dtype && w.pattern.is_none()).unwrap_or(way).median();
                    let (time, weight) = (way.median(), way.pattern.map_or("dense".to_owned(), |p| p.to_string()));
                    let tflops = 2.0 * (m * n * k) as f64 / time / 1e12;
                    println!(
                        "{:<7} {weight:<6} {n:>6} {k:>6} {m:>6} {:>10.2} {tflops:>7.0} {:>8.3}",
                        way.dtype.name(),
                        time * 1e6,
                        base / time
                    );
                }
            }
        }
        Ok(())
    }

    fn take_turns(&self, ways: &mut [Way], stream: &Stream) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < self.duration {
            for way in &mut *ways {
                let turns = (TURN.as_secs_f64() / way.times[0].as_secs_f64() / f64::from(way.runs)).ceil() as u32;
                let time = replay(&way.graph, turns, stream)?;
                way.times.push(time / (turns * way.runs));
            }
        }
        Ok(())
    }
}

impl Way {
    fn holding(mut self, what: impl Any) -> Way {
        self._held = Some(Box::new(what));
        self
    }

    /// In seconds.
    fn median(&self) -> f64 {
        let mut times = self.times[1..].to_vec();
        times.sort();
        times[times.len() / 2].as_secs_f64()
    }

    fn record(
        (dtype, pattern): (DType, Option<Pattern>),
        stream: &Stream,
        run: impl Fn(&Stream) -> std::result::Result<(), sliderun::cuda::CudaError>,
    ) -> Result<Way> {
        run(stream)?;
        stream.synchronize()?;
        let runs = 10;
        let graph = stream.capture(|stream| (0..runs).try_for_each(|_| run(stream)))?.instantiate()?;
        replay(&graph, 1, stream)?;
        let estimate = replay(&graph, 1, stream)? / runs;
        Ok(Way { dtype, pattern, graph, runs, times: vec![estimate], _held: None })
    }
}

/// How long replays of a graph take, by the host's clock: long enough for that.
fn replay(graph: &GraphExec, times: u32, stream: &Stream) -> Result<Duration> {
    let start = Instant::now();
    for _ in 0..times {
        // SAFETY: what the graph reads and writes is kept with it, and the stream is waited for.
        #[allow(unsafe_code)]
        unsafe { graph.launch(stream) }?;
    }
    stream.synchronize()?;
    Ok(start.elapsed())
}

fn dense_way(library: &CublasLt, dtype: DType, [m, n, k]: [usize; 3], stream: &Stream) -> Result<Way> {
    let output = if dtype == DType::I8 { DType::I32 } else { DType::Bf16 };
    let problem = DenseProblem::contiguous((dtype, output), 1, [m, n, k], true);
    let mut random = Normal(SplitMix64(1));
    let layout = KLayout::dense(k);
    let x = matrix(&mut random, dtype, m, &layout, false, stream)?;
    let weight = matrix(&mut random, dtype, n, &layout, false, stream)?;
    let out = DeviceBuffer::new(stream.context(), m * n * output.size())?;
    let workspace = DeviceBuffer::new(stream.context(), MAX_WORKSPACE)?;
    let operands = DenseOperands {
        lhs: x.as_slice(),
        rhs: weight.as_slice(),
        out: out.as_slice(),
        bias: None,
        alpha: 1.0,
        workspace: workspace.as_slice(),
    };
    let matmul = DenseMatmul::search(library, &problem, None, &operands, stream, usize::MAX, SEARCH)?.matmul;
    let way = Way::record((dtype, None), stream, |stream| matmul.run(stream, &operands))?;
    Ok(way.holding((x, weight, out, workspace, matmul)))
}

fn sparse_way(library: &CusparseLt, dtype: DType, pattern: Pattern, [m, n, k]: [usize; 3], stream: &Stream) -> Result<Way> {
    let layout = KLayout::sparse(k, pattern);
    let problem = SparseProblem { input: dtype, output: DType::Bf16, m, n, k: layout.lifted(), alpha_vector: false, bias: false };
    let mut random = Normal(SplitMix64(1));
    let x = matrix(&mut random, dtype, m, &layout, false, stream)?;
    let lifted = matrix(&mut random, dtype, n, &layout, true, stream)?;
    let weight = SparseWeight::compress(library, (dtype, n, layout.lifted()), lifted.as_slice(), stream)?;
    drop(lifted);
    let out = DeviceBuffer::new(stream.context(), m * n * 2)?;
    let workspace = DeviceBuffer::new(stream.context(), MAX_WORKSPACE)?;
    let operands = SparseOperands {
        weight: &weight,
        x: x.as_slice(),
        out: out.as_slice(),
        alpha: Alpha::Scalar(1.0),
        workspace: workspace.as_slice(),
    };
    let matmul = SparseMatmul::search(library, &problem, None, None, &operands, stream, SEARCH)?.matmul;
    let way = Way::record((dtype, Some(pattern)), stream, |stream| matmul.run(stream, &operands))?;
    Ok(way.holding((x, weight, out, workspace, matmul)))
}

/// Rows of a layout with normally distributed values; `weight`: the weight's side, with two non-zeros in every four.
fn matrix(
    random: &mut Normal,
    dtype: DType,
    rows: usize,
    layout: &KLayout,
    weight: bool,
    stream: &Stream,
) -> Result<DeviceBuffer> {
    let row = |random: &mut Normal| -> Vec<f32> {
        let source: Vec<f32> = (0..layout.k()).map(|_| random.next()).collect();
        if !weight || layout.is_dense() {
            return layout.sources().into_iter().map(|at| at.map_or(0.0, |at| source[at])).collect();
        }
        let mut row: Vec<f32> = (0..layout.lifted()).map(|_| random.next()).collect();
        for four in row.chunks_exact_mut(4) {
            let [zero, another] = random.two_of_four();
            (four[zero], four[another]) = (0.0, 0.0);
        }
        row
    };
    let drawn: Vec<u8> = (0..rows.min(ROWS)).flat_map(|_| row(random)).flat_map(|x| bytes(dtype, x)).collect();
    Ok(DeviceBuffer::repeating(&drawn, rows * layout.lifted() * dtype.size(), stream)?)
}

/// A value of standard deviation 1, scaled as quantizing a row to its largest would scale it.
fn bytes(dtype: DType, x: f32) -> Vec<u8> {
    match dtype {
        DType::I8 => vec![(x * 32.0).round().clamp(-127.0, 127.0) as i8 as u8],
        DType::F8e4m3 => vec![F8E4M3::from_f32(x * 112.0).0],
        _ => half::bf16::from_f32(x).to_le_bytes().to_vec(),
    }
}

/// Normally distributed numbers: sums of twelve that are uniform.
struct Normal(SplitMix64);

impl Normal {
    fn next(&mut self) -> f32 {
        (0..12).map(|_| (self.0.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    fn two_of_four(&mut self) -> [usize; 2] {
        let (first, step) = (self.0.next() % 4, 1 + self.0.next() % 3);
        [first as usize, (first + step) as usize % 4]
    }
}
