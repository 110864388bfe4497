//! Which steps become one launch, what it stores, and that NVRTC takes it.

use sliderun::plan::cuda::{Argument, Kernel, Work};

use super::super::order;
use super::super::tests::{compiles, launches_of, program, schedule};

/// The launches as text, of the steps in the order that suits them.
fn launches(text: &str) -> Vec<String> {
    let mut program = program(text);
    order(&mut program);
    launches_of(&program)
}

/// The kernel that turns heads, and the names of the values among its arguments.
fn heads_kernel(text: &str) -> (Kernel, Vec<String>) {
    let mut program = program(text);
    order(&mut program);
    let scheduled = schedule(&program).unwrap_or_else(|refusals| panic!("{refusals:?}"));
    compiles(&scheduled.source);
    let kernel = |launch: sliderun::plan::cuda::Launch| match launch.work {
        Work::Kernel(kernel) if kernel.symbol.contains("heads") => Some(kernel),
        _ => None,
    };
    let kernel = scheduled.launches.into_iter().find_map(kernel).expect("there is such a launch");
    let value = |argument: &Argument| match argument {
        Argument::Value(id) => Some(program.values[id.0 as usize].name.clone()),
        _ => None,
    };
    let names = kernel.arguments.iter().filter_map(value).collect();
    (kernel, names)
}

/// Behind the product of a decoder's queries, keys and values, present keys and values being outputs; `sums` computes %y [b, s, 128].
fn decoder(sums: &str, ty: &str, rotary: &str, out: &str) -> String {
    format!(
        r#"
        symbols {{ b: 1..8, s: 1..512 }}
        input %positions: i64[b, s]
        const %frequencies: f32[1, 8, 1] = random(seed: 1)
        {sums}
        %q, %k, %v = Split(%y) {{axis: 2, sizes: [64, 32, 32]}}
        %v4 = Reshape(%v) {{shape: ["b", "s", 2, 16]}}
        %vt = Transpose(%v4) {{perm: [0, 2, 1, 3]}}
        %position = Cast(%positions) {{to: f32}}
        %row = Reshape(%position) {{shape: ["b", 1, "s"]}}
        %angles = Mul(%frequencies, %row)
        %at = Transpose(%angles) {{perm: [0, 2, 1]}}
        %cos = Cos(%at)
        %sin = Sin(%at)
        %kr = Rotary(%k, %cos, %sin) {{heads: 2, {rotary}}}
        %k4 = Reshape(%kr) {{shape: ["b", "s", 2, 16]}}
        %kt = Transpose(%k4) {{perm: [0, 2, 1, 3]}}
        %key = Cast(%kt) {{to: {out}}}
        %value = Cast(%vt) {{to: {out}}}
        %qr = Rotary(%q, %cos, %sin) {{heads: 4, {rotary}}}
        %attended = Attention(%qr, %kr, %v) {{heads: 4, kv_heads: 2, scale: 0.25, causal: true}}
        %z = Cast(%attended) {{to: {ty}}}
        output "attended" = %z
        output "key" = %key
        output "value" = %value"#
    )
}

const SCALED: &str = r#"
        input %x: i8[b, s, 64]
        input %token: f32[b, s, 1]
        const %w: i8[128, 64] = random(seed: 2)
        const %channel: f32[128] = random(seed: 3)
        %acc = DenseGemm(%x, %w) {to: bf16}
        %y = Dequant(%acc, %token, %channel, %channel) {to: bf16}"#;

const HALVES: &str = "rotated: 16, interleaved: false";

#[test]
fn a_decoder_has_one_launch_between_product_and_attention() {
    let text = decoder(SCALED, "bf16", HALVES, "f32");
    assert_eq!(
        launches(&text),
        [
            "product DenseGemm",
            "kernel Cast+Binary+Transpose+Unary+Unary",
            "kernel Dequant+Split+Rotary+Transpose+Cast+Transpose+Cast+Rotary",
            "kernel Attention",
            "kernel Cast",
        ]
    );
    let (kernel, mut values) = heads_kernel(&text);
    values.sort();
    // Each thread does 8 elements side by side of 4 rows: 4·1 and 2·1 pairs of vectors, and 4 vectors.
    assert_eq!((kernel.blocks.to_string().as_str(), kernel.threads), ("div(b*s+3,4)", 128));
    // The transposed values in bf16, and what is turned before it is, are nowhere in memory.
    assert_eq!(values, ["acc", "channel", "cos", "key", "kr", "qr", "sin", "token", "v", "value"]);
}

#[test]
fn whatever_is_split() {
    let plain = "        input %y: f16[b, s, 128]";
    let added = r#"
        input %x: bf16[b, s, 128]
        const %bias: f16[128] = random(seed: 3)
        %wide = Cast(%x) {to: f32}
        %half = Cast(%wide) {to: f16}
        %sum = Add(%bias, %half)
        %y = Cast(%sum) {to: bf16}"#;
    let integers = "        input %acc: i32[b, s, 128]\n        input %token: f32[b, s, 1]\n        const %channel: f32[128] = random(seed: 3)
        %y = Dequant(%acc, %token, %channel) {to: f32}";
    for (sums, ty, lead) in [(plain, "f16", ""), (added, "bf16", "Cast+Cast+Binary+Cast+"), (integers, "f32", "Dequant+")] {
        for rotary in
            [HALVES, "rotated: 8, interleaved: false", "rotated: 16, interleaved: true", "rotated: 4, interleaved: true"]
        {
            let text = decoder(sums, ty, rotary, "f32");
            let pairs = if rotary.contains("16") {
                8
            } else if rotary.contains('8') {
                4
            } else {
                2
            };
            let text = text.replace("f32[1, 8, 1]", &format!("f32[1, {pairs}, 1]"));
            let launches = launches(&text);
            let whole = launches.iter().find(|l| l.contains("Split")).unwrap();
            assert!(whole.starts_with(&format!("kernel {lead}Split+")) && whole.matches("Rotary").count() == 2, "{launches:?}");
            assert_eq!(whole.matches("Transpose").count(), 2, "{launches:?}");
        }
    }
}

#[test]
fn a_rotary_embedding_by_itself() {
    let text = r#"
        symbols { b: 1..8, s: 1..512 }
        input %x: bf16[b, s, 64]
        input %h: bf16[b, 4, s, 16]
        input %cos: f32[1, s, 8]
        input %sin: f32[b, s, 8]
        const %bias: bf16[64] = random(seed: 1)
        %y = Add(%x, %bias)
        %r = Rotary(%y, %cos, %sin) {heads: 4, rotated: 16, interleaved: false}
        %r4 = Reshape(%r) {shape: ["b", "s", 4, 16]}
        %t = Transpose(%r4) {perm: [0, 2, 1, 3]}
        %u = Rotary(%h, %cos, %sin) {heads: 4, rotated: 16, interleaved: true}
        output "t" = %t
        output "u" = %u"#;
    assert_eq!(launches(text), ["kernel Binary+Rotary+Transpose", "kernel Rotary"]);
}

/// What others read is left where it is.
#[test]
fn what_cannot_be_taken_in() {
    // The scaled sums are an output; keys are read before they are turned too.
    let text = decoder(SCALED, "bf16", HALVES, "f32") + "\n        output \"y\" = %y\n        output \"k\" = %k";
    let launches = launches(&text);
    assert!(launches.contains(&"kernel Dequant".to_owned()), "{launches:?}");
    let whole = launches.iter().find(|l| l.contains("Split")).unwrap();
    assert!(whole.starts_with("kernel Split+") && whole.matches("Rotary").count() == 1, "{launches:?}");
    // Nothing is gained for what only splits and converts.
    let text = r#"
        symbols { b: 1..8, s: 1..512 }
        input %y: bf16[b, s, 128]
        %q, %k = Split(%y) {axis: 2, sizes: [64, 64]}
        %w = Cast(%q) {to: f32}
        output "q" = %w
        output "k" = %k"#;
    assert_eq!(self::launches(text), ["kernel Split", "kernel Cast"]);
}
