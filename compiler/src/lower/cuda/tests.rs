//! Programs into launches: which steps share one, and that NVRTC takes what is generated.

use std::collections::BTreeSet;

use sliderun::plan::PlanWriter;
use sliderun::plan::cuda::Work;

use super::*;
use crate::ir::parse::{no_constants, parse};

pub(super) fn program(text: &str) -> Program {
    let graph = parse("test.ir", text, &no_constants).unwrap();
    super::super::program(&graph, &mut PlanWriter::new()).unwrap()
}

/// A program's launches, and the source of their kernels.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) launches: Vec<Launch>,
    pub(super) source: String,
}

pub(super) fn schedule(program: &Program) -> Result<Scheduled, Vec<Refusal>> {
    let mut schedule = Schedule::default();
    let launches = schedule.add(program)?;
    Ok(Scheduled { launches, source: schedule.source() })
}

fn launches(text: &str) -> Vec<String> {
    launches_of(&program(text))
}

/// The launches as text: what is launched, and the operators of the steps that it does.
pub(super) fn launches_of(program: &Program) -> Vec<String> {
    let scheduled = schedule(program).unwrap_or_else(|refusals| panic!("{refusals:?}"));
    let mut steps = program.steps.iter();
    let describe = |launch: &Launch| {
        let names: Vec<&str> = steps.by_ref().take(launch.steps as usize).map(|s| s.op.name()).collect();
        format!("{} {}", if launch.work == Work::Product { "product" } else { "kernel" }, names.join("+"))
    };
    let out = scheduled.launches.iter().map(describe).collect();
    compiles(&scheduled.source);
    out
}

pub(super) fn compiles(source: &str) {
    match slidec_kernels::Compiler::new(slidec_kernels::Cache::from_env()) {
        Ok(compiler) => {
            compiler.compile(source, "sm_90a".parse().unwrap()).unwrap_or_else(|e| panic!("{e}\n{source}"));
        }
        Err(e) => println!("skipped: {e}"),
    }
}

/// A layer of an encoder.
const ENCODER: &str = r#"
        symbols { b: 1..8, s: 1..512 }
        input %x: f32[b, s, 64]
        input %mask: f32[b, 1, 1, s]
        const %values: i8[96, 64] = random(seed: 1)
        const %w: f32[32, 64] = random(seed: 2)
        const %bias: f32[64] = random(seed: 3)
        const %scales: f32[96] = random(seed: 4)
        const %gain: f32[64] = random(seed: 5)
        %q, %token = QuantLift(%x) {to: i8, layout: [(k: 64, pattern: None)]}
        %acc = DenseGemm(%q, %values)
        %qkv = Dequant(%acc, %token, %scales) {to: f32, activation: Gelu}
        %a, %k, %v = Split(%qkv) {axis: 2, sizes: ["32", "32", "32"]}
        %h = Attention(%a, %k, %v, %mask) {heads: 2, scale: 0.25}
        %y = MatMul(%h, %w)
        %z = Add(%y, %bias)
        %r = Add(%z, %x)
        %n = LayerNorm(%r, %gain, %bias) {axis: 2, epsilon: 1e-5, stats: false}
        %p = Softmax(%n) {axis: 2, log: false}
        %m = Reduce(%p) {kind: Mean, axes: [1], keep_dims: false}
        output "m" = %m"#;

#[test]
fn a_layer_of_an_encoder() {
    assert_eq!(
        launches(ENCODER),
        [
            "kernel QuantLift",
            "product DenseGemm",
            "kernel Dequant",
            "kernel Split+Attention",
            "product MatMul",
            "kernel Add+Add+LayerNorm",
            "kernel Softmax",
            "kernel Reduce",
        ]
        .map(|s| s.replace("Add", "Binary"))
    );
}

#[test]
fn rows_that_stay_in_registers() {
    // Scaling back, a residual, an operand of each kind, two normalisations and both ways to lift; rows of one warp and of a block.
    let text = |k: usize, pattern: &str, to: &str| {
        let outputs = if to == "bf16" { "%q" } else { "%q, %scale" };
        format!(
            r#"
        symbols {{ b: 1..8, s: 1..512 }}
        input %acc: i32[b, s, {k}]
        input %token: f32[b, s, 1]
        input %residual: bf16[b, s, {k}]
        input %position: bf16[1, s, {k}]
        const %channel: f32[{k}] = random(seed: 1)
        const %gain: bf16[{k}] = random(seed: 2)
        const %one: bf16[] = [1.5]
        %y = Dequant(%acc, %token, %channel, %channel) {{to: bf16, activation: Gelu}}
        %r = Add(%y, %residual)
        %n = LayerNorm(%r, %gain, %gain) {{axis: 2, epsilon: 1e-5, stats: false}}
        %p = Add(%n, %position)
        %m = Mul(%p, %one)
        %z = RmsNorm(%m, %gain) {{axis: 2, epsilon: 1e-5}}
        {outputs} = QuantLift(%z) {{to: {to}, layout: [(k: {k}, pattern: {pattern})]}}
        %w = Cast(%r) {{to: f32}}
        output "q" = %q
        output "w" = %w"#
        )
    };
    for (k, pattern, to) in [(384, "\"6:8\"", "i8"), (24, "\"6:8\"", "bf16"), (385, "None", "i8"), (3584, "\"4:6\"", "f8e4m3")] {
        let launches = launches(&text(k, pattern, to));
        assert_eq!(launches[0], "kernel Dequant+Binary+LayerNorm+Binary+Binary+RmsNorm+QuantLift", "{launches:?}");
        assert_eq!(launches.len(), 2, "{launches:?}");
    }
}

#[test]
fn an_order_of_k_is_a_pointer_of_the_lift() {
    let text = r#"
        symbols { n: 1..512 }
        input %x: bf16[n, 64]
        const %gain: bf16[64] = random(seed: 1)
        const %order: i32[64] = random(seed: 2, low: 0, high: 63)
        %z = RmsNorm(%x, %gain) {axis: 1, epsilon: 1e-5}
        %q, %scale = QuantLift(%z, %order) {to: i8, layout: [(k: 64, pattern: "6:8")]}
        output "q" = %q
        output "scale" = %scale"#;
    assert_eq!(launches(text), ["kernel RmsNorm", "kernel QuantLift"]);
    let source = schedule(&program(text)).unwrap().source;
    assert!(source.contains(", true>(p") && source.contains("const int* p"), "{source}");
}

/// What follows a product of two matrices side by side, to the next product's operand: the sums are read once.
#[test]
fn a_gate_and_what_it_lets_through() {
    let text = |k: usize, acc: &str, to: &str, parts: &str, gate: &str| {
        let (n, token) = (2 * k, if to == "bf16" { "" } else { ", %scale" });
        format!(
            r#"
        symbols {{ b: 1..8, s: 1..512 }}
        input %acc: {acc}[b, s, {n}]
        input %token: f32[b, s, 1]
        const %channel: f32[{n}] = random(seed: 1)
        const %gain: bf16[{k}] = random(seed: 2)
        %y = Dequant(%acc, %token, %channel) {{to: bf16}}
        {parts}
        {gate}
        %q{token} = QuantLift(%m) {{to: {to}, layout: [(k: {k}, pattern: "6:8")]}}
        output "q" = %q"#
        )
    };
    let split = |k: usize| format!("%g, %u = Split(%y) {{axis: 2, sizes: [\"{k}\", \"{k}\"]}}");
    // As exporters leave it that merge the weights themselves.
    let slices = |k: usize| {
        let slice = |to: &str, start: usize| {
            format!("%{to} = Slice(%y) {{axes: [(axis: 2, start: \"{start}\", len: \"{k}\", step: 1)]}}\n")
        };
        slice("g", 0) + &slice("u", k)
    };
    let silu = "%a = Swish(%g) {alpha: 1.0}\n%m = Mul(%a, %u)";
    let squared = "%r = Relu(%g)\n%s = Mul(%r, %r)\n%h = Mul(%s, %u)\n%m = RmsNorm(%h, %gain) {axis: 2, epsilon: 1e-5}";
    for (text, expected) in [
        (text(96, "bf16", "i8", &split(96), silu), "Dequant+Split+Unary+Binary+QuantLift"),
        (text(18944, "bf16", "i8", &split(18944), silu), "Dequant+Split+Unary+Binary+QuantLift"),
        (text(18944, "i32", "f8e4m3", &split(18944), silu), "Dequant+Split+Unary+Binary+QuantLift"),
        (text(320, "i32", "bf16", &slices(320), "%a = Gelu(%u)\n%m = Mul(%g, %a)"), "Dequant+Slice+Slice+Unary+Binary+QuantLift"),
        (text(6912, "bf16", "i8", &split(6912), squared), "Dequant+Split+Unary+Binary+Binary+RmsNorm+QuantLift"),
    ] {
        assert_eq!(launches(&text), [format!("kernel {expected}")]);
    }
    // Where others read the sums too, they are written as they are.
    let read_elsewhere = text(320, "bf16", "i8", &split(320), silu) + "\noutput \"y\" = %y";
    assert_eq!(launches(&read_elsewhere), ["kernel Dequant", "kernel Split+Unary+Binary+QuantLift"]);
}

#[test]
fn elements_by_their_coordinates() {
    let text = r#"
        symbols { n: 1..64 }
        input %x: f32[n, 3, 4]
        input %ids: i64[2, n]
        const %table: f16[10, 8] = random(seed: 1)
        const %two: f32[] = [2.0]
        %t = Transpose(%x) {perm: [2, 0, 1]}
        %r = Reshape(%t) {shape: ["4*n", "3"]}
        %e = Exp(%r)
        %s = Slice(%e) {axes: [(axis: 1, start: "2", len: "2", step: -1)]}
        %c = Concat(%s, %r) {axis: 1}
        %p = Pad(%c, %two) {mode: Constant, pads: [(1, 0), (-1, 2)]}
        %l = Less(%p, %two)
        %w = Where(%l, %p, %two)
        %k = Clip(%w, _, %two)
        %i = Cast(%k) {to: i32}
        %f = Cast(%i) {to: bf16}
        %u = Tile(%f) {repeats: ["2", "1"]}
        %g = Gather(%table, %ids) {axis: 0}
        %b = Cast(%g) {to: bool}
        %o = Not(%b)
        %d = Range() {start: "1", step: "2", len: "n", dtype: i64}
        %x1 = Expand(%d) {shape: ["5", "n"]}
        %tr = Trilu(%x1) {upper: true, k: 1}
        %m = Max(%tr, %x1)
        output "u" = %u
        output "o" = %o
        output "m" = %m"#;
    let launches = launches(text);
    assert!(launches.iter().all(|l| l.starts_with("kernel")), "{launches:?}");
    assert!(launches.contains(&"kernel Slice+Concat+Pad+Binary+Where+Clip+Cast+Cast".to_owned()), "{launches:?}");
    assert!(launches.contains(&"kernel Gather+Cast+Unary".to_owned()), "{launches:?}");
}

/// The windows of a convolution that became a product are gathered at once; what is calculated is not calculated again for each of them.
#[test]
fn elements_that_only_move_are_gathered_at_once() {
    let text = r#"
        symbols { n: 1..64 }
        input %x: f32[n, 4, 8]
        %e = Exp(%x)
        %p = Pad(%e) {mode: Constant, pads: [(0, 0), (0, 0), (1, 1)]}
        %a = Slice(%p) {axes: [(axis: 2, start: "0", len: "9", step: 1)]}
        %b = Slice(%p) {axes: [(axis: 2, start: "1", len: "9", step: 1)]}
        %c = Concat(%a, %b) {axis: 1}
        %t = Transpose(%c) {perm: [0, 2, 1]}
        %r = Relu(%t)
        output "r" = %r"#;
    assert_eq!(launches(text), ["kernel Unary", "kernel Pad+Slice+Slice+Concat+Transpose+Unary"]);
}

#[test]
fn convolutions_and_what_surrounds_them() {
    let text = r#"
        symbols { n: 1..64, w: 8..64 }
        input %x: f32[n, 8, 16, w]
        const %w: f32[32, 4, 3, 3] = random(seed: 1)
        const %few: f32[3, 32, 1, 1] = random(seed: 2)
        const %bias: f32[32] = random(seed: 3)
        %c = Conv(%x, %w, %bias) {windows: (kernel: [3, 3], strides: [1, 2], dilations: [1, 1], pads: [(1, 1), (1, 1)]), groups: 2}
        %norm = BatchNorm(%c, %bias, %bias, %bias, %bias) {epsilon: 1e-5}
        %r = Relu(%norm)
        %f = Conv(%r, %few) {windows: (kernel: [1, 1], strides: [1, 1], dilations: [1, 1], pads: [(0, 0), (0, 0)]), groups: 1}
        %linear = Resize(%f) {shape: ["n", "3", "40", "w"], scales: None, coordinates: HalfPixel, interpolation: Linear, antialias: false}
        %s = Sigmoid(%linear)
        %h = Cast(%f) {to: f16}
        %cubic = Resize(%h) {shape: ["n", "3", "8", "w"], scales: None, coordinates: AlignCorners, interpolation: Cubic(a: -0.75, exclude_outside: true), antialias: true}
        %i = Cast(%f) {to: i64}
        %nearest = Resize(%i) {shape: ["n", "3", "32", "60"], scales: None, coordinates: Asymmetric, interpolation: Nearest(RoundPreferFloor), antialias: false}
        output "s" = %s
        output "cubic" = %cubic
        output "nearest" = %nearest"#;
    let mut launches = launches(text);
    launches.sort();
    let expected = ["Conv", "Conv", "BatchNorm+Unary", "Resize+Unary", "Cast+Resize", "Cast+Resize"];
    let mut expected = expected.map(|s| format!("kernel {s}"));
    expected.sort();
    assert_eq!(launches, expected);
}

#[test]
fn what_has_no_kernel_is_refused_at_once() {
    let text = r#"
        input %x: f64[4, 4]
        input %y: bf16[4, 64]
        const %kept: bf16[32, 32] = random(seed: 1)
        const %positions: u8[32, 8] = random(seed: 1)
        %a = Exp(%x)
        %b = Softmax(%a) {axis: 0, log: false}
        %c = SparseGemm(%y, %kept, %positions) {layout: [(k: 42, pattern: "2:4")]}
        output "b" = %b
        output "c" = %c"#;
    let program = match parse("test.ir", text, &no_constants) {
        Ok(graph) => super::super::program(&graph, &mut PlanWriter::new()).unwrap(),
        Err(e) => panic!("{e:?}"),
    };
    let refusals: Vec<String> = schedule(&program).unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(refusals.len(), 3, "{refusals:?}");
    for (refusal, expected) in refusals.iter().zip(["f64 elements", "Softmax of f64", "sparse products of bf16"]) {
        assert!(refusal.contains(expected) && refusal.contains("leave --target away"), "{refusal}");
    }
}

/// A kernel that may be started early waits before it touches memory, and loads nothing in a way that the compiler may move ahead of that.
#[test]
fn kernels_wait_before_they_touch_memory() {
    let Ok(compiler) = slidec_kernels::Compiler::new(None) else { return println!("skipped: no NVRTC") };
    let others = r#"
        symbols { n: 1..64 }
        input %ids: i64[2, n]
        input %x: f32[n, 8, 16, 16]
        input %qkv: bf16[n, 32, 384]
        const %table: f16[10, 8] = random(seed: 1)
        const %w: f32[32, 8, 3, 3] = random(seed: 2)
        const %rs: f32[384] = random(seed: 3)
        %g = Gather(%table, %ids) {axis: 0}
        %c = Conv(%x, %w) {windows: (kernel: [3, 3], strides: [1, 1], dilations: [1, 1], pads: [(1, 1), (1, 1)]), groups: 1}
        %q, %k, %v = Split(%qkv) {axis: 2, sizes: ["128", "128", "128"]}
        %h = Attention(%q, %k, %v) {heads: 2, scale: 0.125}
        %f = Cast(%qkv) {to: f32}
        %hf = Attention(%f, %f, %f) {heads: 12, scale: 0.125}
        %r = RmsNorm(%f, %rs) {axis: 2, epsilon: 1e-5}
        %l = QuantLift(%qkv) {to: f16, layout: [(k: 384, pattern: "4:6")]}
        output "g" = %g
        output "c" = %c
        output "h" = %h
        output "hf" = %hf
        output "r" = %r
        output "l" = %l"#;
    for text in [ENCODER, others] {
        let scheduled = schedule(&program(text)).unwrap_or_else(|refusals| panic!("{refusals:?}"));
        let entries = |architecture: &str| -> Vec<String> {
            let ptx = compiler.ptx(&scheduled.source, architecture.parse().unwrap()).unwrap_or_else(|e| panic!("{e}"));
            ptx.split(".visible .entry ").skip(1).map(str::to_owned).collect()
        };
        let kernels = scheduled.launches.iter().filter_map(|l| if let Work::Kernel(k) = &l.work { Some(k) } else { None });
        assert!(kernels.clone().all(|k| k.waits));
        let symbols = kernels.flat_map(|k| k.forms.iter().map(|f| &f.symbol).chain([&k.symbol])).collect::<BTreeSet<_>>().len();
        let early = entries("sm_90a");
        assert_eq!(early.len(), symbols);
        for kernel in early {
            let name = kernel.split('(').next().unwrap();
            let (before, after) = kernel.split_once("griddepcontrol.wait;").unwrap_or_else(|| panic!("{name} does not wait"));
            // Nor does it get around the wait.
            for instruction in before.split_once('{').unwrap().1.lines().map(str::trim) {
                let forbidden = ["ld.", "st.", "cp.", "atom", "red.", "bra", "ret", "call", "@"];
                let harmless = instruction.starts_with("ld.param");
                assert!(harmless || !forbidden.iter().any(|f| instruction.starts_with(f)), "{name}: {instruction}");
            }
            assert!(after.contains("griddepcontrol.launch_dependents;"), "{name} calls nobody");
            assert!(!after.contains(".nc."), "{name} has loads that may be moved");
        }
        assert!(entries("sm_80").iter().all(|kernel| !kernel.contains("griddepcontrol")));
    }
}

/// The kernels' own checks hold: threads and shared memory are what each tile wants, below and above the depths where they change.
#[test]
fn attention_is_launched_as_its_tiles_want() {
    let Ok(compiler) = slidec_kernels::Compiler::new(None) else { return println!("skipped: no NVRTC") };
    for dtype in ["bf16", "f32"] {
        let graph: String = [8, 40, 64, 72, 128, 136, 192, 256].iter().map(|d| {
            format!("input %x{d}: {dtype}[n, 9, {d}]\n%a{d} = Attention(%x{d}, %x{d}, %x{d}) {{heads: 1, scale: 0.1}}\noutput \"a{d}\" = %a{d}\n")
        }).collect();
        let scheduled = schedule(&program(&format!("symbols {{ n: 1..64 }}\n{graph}"))).unwrap_or_else(|r| panic!("{r:?}"));
        // PTX is enough: assertions are checked before there is machine code.
        compiler.ptx(&scheduled.source, "sm_90a".parse().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// Heads side by side and apart, more of queries than of keys, every kind of mask, causality: all of it compiles, and says so.
#[test]
fn attention_of_every_kind() {
    for (dtype, forms) in [("bf16", 3), ("f32", 1)] {
        let text = format!(
            r#"
            symbols {{ b: 1..8, s: 1..64, t: 64..128 }}
            input %q: {dtype}[b, s, 384]
            input %q4: {dtype}[b, 6, s, 64]
            input %k: {dtype}[b, 2, t, 64]
            input %v: {dtype}[b, t, 128]
            input %m: bool[b, 1, s, t]
            input %n: {dtype}[t]
            %a = Attention(%q, %k, %v) {{heads: 6, kv_heads: 2, scale: 0.125, causal: true}}
            %b = Attention(%q4, %k, %v, %m) {{heads: 6, kv_heads: 2, scale: 0.125, causal: true}}
            %c = Attention(%q4, %k, %v, %n) {{heads: 6, kv_heads: 2, scale: 0.125, causal: false}}
            output "a" = %a
            output "b" = %b
            output "c" = %c"#
        );
        let scheduled = schedule(&program(&text)).unwrap_or_else(|refusals| panic!("{refusals:?}"));
        compiles(&scheduled.source);
        assert_eq!(scheduled.source.matches("Visibility::CAUSAL").count(), 2 * forms);
        assert_eq!(scheduled.source.matches("ScoreMask<slide::Truth>").count(), forms);
        let Work::Kernel(a) = &scheduled.launches[0].work else { panic!("{:?}", scheduled.launches) };
        assert_eq!(a.forms.len() + 1, forms);
        for form in &a.forms {
            // Where later queries see more, a block of warpgroups takes two tiles.
            let queries = if form.resident { 256 } else { 64 };
            assert_eq!(form.blocks.to_string(), format!("6*b*div(s+{},{queries})", queries - 1));
        }
    }
}

/// What layers do alike is defined and compiled once.
#[test]
fn equal_launches_share_a_kernel() {
    let text = r#"
        symbols { n: 1..64 }
        input %x: bf16[n, 32, 128]
        %a = Attention(%x, %x, %x) {heads: 2, scale: 0.125}
        %b = Attention(%a, %a, %a) {heads: 2, scale: 0.125}
        %c = Attention(%b, %b, %b) {heads: 2, scale: 0.25}
        output "c" = %c"#;
    let scheduled = schedule(&program(text)).unwrap_or_else(|refusals| panic!("{refusals:?}"));
    let names = |launch: &Launch| match &launch.work {
        Work::Kernel(k) => [&k.symbol].into_iter().chain(k.forms.iter().map(|f| &f.symbol)).cloned().collect::<Vec<_>>(),
        Work::Product => Vec::new(),
    };
    let [a, b, c] = scheduled.launches.iter().map(names).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(a, ["slide_0_attention", "slide_0_attention_hopper", "slide_0_attention_bulk"]);
    assert_eq!(b, a);
    assert_eq!(c, ["slide_2_attention", "slide_2_attention_hopper", "slide_2_attention_bulk"]);
    assert_eq!(scheduled.source.matches("__global__").count(), 6);
}

/// Warpgroups multiply where there are instructions for that, and only there is such a form looked for.
#[test]
fn one_architecture_has_attention_by_warpgroups() {
    let Ok(compiler) = slidec_kernels::Compiler::new(slidec_kernels::Cache::from_env()) else {
        return println!("skipped: no NVRTC");
    };
    let text = r#"
        symbols { n: 1..64 }
        input %x: bf16[n, 32, 128]
        %a = Attention(%x, %x, %x) {heads: 1, scale: 0.125}
        output "a" = %a"#;
    let scheduled = schedule(&program(text)).unwrap_or_else(|refusals| panic!("{refusals:?}"));
    let Work::Kernel(kernel) = &scheduled.launches[0].work else { panic!("{:?}", scheduled.launches) };
    let [form] = &kernel.forms[..] else { panic!("{:?}", kernel.forms) };
    assert_eq!(form.architecture.map(|a| a.to_string()).as_deref(), Some("sm_90a"));
    assert!(form.resident && form.threads == 384 && form.shared_bytes <= 227 << 10, "{form:?}");
    let ptx =
        |architecture: &str| compiler.ptx(&scheduled.source, architecture.parse().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    let hopper = ptx("sm_90a");
    let body = hopper.split(".visible .entry ").find(|entry| entry.starts_with(&form.symbol)).expect("it has the form");
    assert!(body.contains("wgmma.mma_async"));
    for other in ["sm_80", "sm_120"] {
        assert!(!ptx(other).contains(&form.symbol), "{other}");
    }
}
