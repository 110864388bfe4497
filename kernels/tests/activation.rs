//! The functions of activation.cuh that are said to give the CPU's numbers to the bit do: what NVRTC makes of them is interpreted here, without
//! a GPU. Only instructions that leave no choice of rounding are known, so that one which might be fused with another is an error. Estimates of
//! reciprocals are within one unit in the last place: all that may be made of them is what is the same for each number in reach.

use std::cmp::Ordering;
use std::collections::HashMap;

use slidec_kernels::{CompileError, Compiler, functor};
use sliderun::cpu::eval;
use sliderun::cuda::library::LibraryError;
use sliderun::plan::Architecture;
use sliderun::tensor::Tensor;
use sliderun::tool::check::{EXACT, has_fused_multiply_add};

/// Bits of each float: some of every sign, exponent and leading bits of the mantissa, and many where the functions bend.
fn inputs() -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 32) as u32
    };
    let everywhere: Vec<u32> = (0..1 << 15).map(|high| high << 17 | random() >> 15).collect();
    let mut all: Vec<f32> = everywhere.into_iter().map(f32::from_bits).collect();
    all.extend((-10_000..10_000).map(|i| (i as f32 + random() as f32 * 2f32.powi(-32)) * 2e-3));
    for edge in
        [0.0004, 0.55, 9.02, 0.9277344, 0.9277344 * std::f32::consts::SQRT_2, 4.0, 104.0, 88.72, 87.33, 87.0, 9.6, 10.0, 1.0, 0.5]
    {
        let bits = f32::to_bits(edge);
        all.extend((bits - 50..bits + 50).flat_map(|b| [f32::from_bits(b), -f32::from_bits(b)]));
    }
    for special in [0.0, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN, f32::from_bits(1)] {
        all.extend([special, -special]);
    }
    all
}

enum Operand {
    Register(usize),
    Bits(u32),
}

/// An instruction: what to do with the operands' bits, and the register that takes the result.
struct Instruction {
    /// A register and what it must be.
    guard: Option<(usize, bool)>,
    action: Action,
}

enum Action {
    Set(usize, fn(&[u32; 3]) -> u32, Vec<Operand>),
    Jump(usize),
    /// The function's result.
    Store(Operand),
    Return,
}

/// A kernel that reads one float and writes one.
struct Kernel {
    instructions: Vec<Instruction>,
    registers: usize,
    /// Where the argument goes.
    argument: usize,
}

fn f(bits: u32) -> f32 {
    f32::from_bits(bits)
}

/// None where one is NaN.
fn compare(x: &[u32; 3]) -> Option<Ordering> {
    f(x[0]).partial_cmp(&f(x[1]))
}

/// Of two numbers, of which −0 is less than 0; else the number.
fn min(x: &[u32; 3]) -> u32 {
    if f(x[0]) == f(x[1]) { x[0] | x[1] } else { f(x[0]).min(f(x[1])).to_bits() }
}

fn max(x: &[u32; 3]) -> u32 {
    if f(x[0]) == f(x[1]) { x[0] & x[1] } else { f(x[0]).max(f(x[1])).to_bits() }
}

/// Estimates of a reciprocal that a GPU may give: the numbers on both sides.
const ESTIMATES: [fn(&[u32; 3]) -> u32; 2] = [below, |x| above(f(x[0])).to_bits()];

fn above(x: f32) -> f32 {
    let nearest = x.recip();
    if f64::from(nearest) * f64::from(x) >= 1.0 { nearest } else { nearest.next_up() }
}

/// Not of the largest mantissa, from whose reciprocal's neighbour below a step leads astray: CUDA's own `__frcp_rn` takes this one step, so
/// that no device gives such an estimate.
fn below(x: &[u32; 3]) -> u32 {
    let exact = above(f(x[0]));
    if x[0] & 0x7f_ffff == 0x7f_ffff { exact.to_bits() } else { exact.next_down().to_bits() }
}

fn operation(name: &str, estimate: fn(&[u32; 3]) -> u32) -> fn(&[u32; 3]) -> u32 {
    match name {
        "rcp.approx.ftz.f32" => estimate,
        "mov.f32" | "mov.b32" | "mov.u32" => |x| x[0],
        "add.rn.f32" => |x| (f(x[0]) + f(x[1])).to_bits(),
        "sub.rn.f32" => |x| (f(x[0]) - f(x[1])).to_bits(),
        "mul.rn.f32" => |x| (f(x[0]) * f(x[1])).to_bits(),
        "div.rn.f32" => |x| (f(x[0]) / f(x[1])).to_bits(),
        "rcp.rn.f32" => |x| f(x[0]).recip().to_bits(),
        "fma.rn.f32" => |x| f(x[0]).mul_add(f(x[1]), f(x[2])).to_bits(),
        "sqrt.rn.f32" => |x| f(x[0]).sqrt().to_bits(),
        "abs.f32" => |x| x[0] & 0x7fff_ffff,
        "neg.f32" => |x| x[0] ^ 0x8000_0000,
        "min.f32" => min,
        "max.f32" => max,
        "min.NaN.f32" => |x| compare(x).map_or(f32::NAN.to_bits(), |_| min(x)),
        "max.NaN.f32" => |x| compare(x).map_or(f32::NAN.to_bits(), |_| max(x)),
        "cvt.rni.f32.f32" => |x| f(x[0]).round_ties_even().to_bits(),
        "cvt.rmi.f32.f32" => |x| f(x[0]).floor().to_bits(),
        "cvt.rpi.f32.f32" => |x| f(x[0]).ceil().to_bits(),
        "cvt.rzi.s32.f32" => |x| f(x[0]) as i32 as u32,
        "add.s32" => |x| x[0].wrapping_add(x[1]),
        "sub.s32" => |x| x[0].wrapping_sub(x[1]),
        "shl.b32" => |x| x[0].checked_shl(x[1]).unwrap_or(0),
        "selp.f32" | "selp.b32" => |x| if x[2] != 0 { x[0] } else { x[1] },
        "setp.eq.f32" => |x| compare(x).is_some_and(Ordering::is_eq).into(),
        "setp.neu.f32" => |x| compare(x).is_none_or(Ordering::is_ne).into(),
        "setp.lt.f32" => |x| compare(x).is_some_and(Ordering::is_lt).into(),
        "setp.le.f32" => |x| compare(x).is_some_and(Ordering::is_le).into(),
        "setp.gt.f32" => |x| compare(x).is_some_and(Ordering::is_gt).into(),
        "setp.ge.f32" => |x| compare(x).is_some_and(Ordering::is_ge).into(),
        "setp.ltu.f32" => |x| compare(x).is_none_or(Ordering::is_lt).into(),
        "setp.leu.f32" => |x| compare(x).is_none_or(Ordering::is_le).into(),
        "setp.gtu.f32" => |x| compare(x).is_none_or(Ordering::is_gt).into(),
        "setp.geu.f32" => |x| compare(x).is_none_or(Ordering::is_ge).into(),
        "setp.nan.f32" => |x| compare(x).is_none().into(),
        "setp.num.f32" => |x| compare(x).is_some().into(),
        "setp.gt.s32" => |x| (x[0] as i32 > x[1] as i32).into(),
        "setp.lt.s32" => |x| ((x[0] as i32) < x[1] as i32).into(),
        other => panic!("an instruction whose result is not certain, or that this test does not know: {other}"),
    }
}

impl Kernel {
    /// The kernel of this name in a PTX text, on a device with these estimates of reciprocals.
    fn parse(ptx: &str, name: &str, estimate: fn(&[u32; 3]) -> u32) -> Kernel {
        let body =
            ptx.split_once(&format!(".entry {name}(")).unwrap().1.split_once("\n{").unwrap().1.split_once("\n}").unwrap().0;
        let mut registers: HashMap<String, usize> = HashMap::new();
        let mut register = |text: &str| {
            let next = registers.len();
            *registers.entry(text.to_owned()).or_insert(next)
        };
        let (mut instructions, mut labels, mut jumps, mut argument) = (Vec::new(), HashMap::new(), Vec::new(), None);
        for line in body.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['.', '/'])) {
            if let Some(label) = line.strip_suffix(':') {
                labels.insert(label.to_owned(), instructions.len());
                continue;
            }
            let mut line = line.strip_suffix(';').unwrap();
            let mut guard = None;
            if let Some(rest) = line.strip_prefix('@') {
                let (predicate, rest) = rest.split_once(char::is_whitespace).unwrap();
                let wanted = !predicate.starts_with('!');
                guard = Some((register(predicate.trim_start_matches('!')), wanted));
                line = rest.trim();
            }
            let (name, operands) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
            let mut operand = |text: &str| match text.strip_prefix("0f") {
                Some(hex) => Operand::Bits(u32::from_str_radix(hex, 16).unwrap()),
                None if text.starts_with('%') => Operand::Register(register(text)),
                None => Operand::Bits(text.parse::<i64>().unwrap() as u32),
            };
            let action = match name {
                // Addresses: there is one float to read and one to write.
                "ld.param.u64" | "cvta.to.global.u64" => continue,
                "ld.global.f32" => {
                    assert!(argument.is_none(), "the argument is read once");
                    argument = Some(register(operands[0]));
                    continue;
                }
                "st.global.f32" => Action::Store(operand(operands[1])),
                "bra" | "bra.uni" => {
                    jumps.push((instructions.len(), operands[0].to_owned()));
                    Action::Jump(0)
                }
                "ret" => Action::Return,
                name => {
                    let from = operands[1..].iter().map(|o| operand(o)).collect();
                    Action::Set(register(operands[0]), operation(name, estimate), from)
                }
            };
            instructions.push(Instruction { guard, action });
        }
        for (at, label) in jumps {
            instructions[at].action = Action::Jump(labels[&label]);
        }
        Kernel { instructions, argument: argument.unwrap(), registers: registers.len() }
    }

    fn run(&self, x: f32, registers: &mut Vec<u32>) -> f32 {
        registers.clear();
        registers.resize(self.registers, 0);
        registers[self.argument] = x.to_bits();
        let value = |registers: &[u32], o: &Operand| match o {
            Operand::Register(r) => registers[*r],
            Operand::Bits(bits) => *bits,
        };
        let (mut at, mut result) = (0, None);
        loop {
            let Instruction { guard, action } = &self.instructions[at];
            at += 1;
            if guard.is_some_and(|(register, wanted)| (registers[register] != 0) != wanted) {
                continue;
            }
            match action {
                Action::Set(to, operation, from) => {
                    let mut operands = [0; 3];
                    for (operand, from) in operands.iter_mut().zip(from) {
                        *operand = value(registers, from);
                    }
                    registers[*to] = operation(&operands);
                }
                Action::Jump(to) => at = *to,
                Action::Store(from) => result = Some(value(registers, from)),
                Action::Return => return f(result.expect("a result is written")),
            }
        }
    }
}

#[test]
fn functions_give_the_numbers_of_the_cpu() {
    if !has_fused_multiply_add() {
        println!("skipped: this CPU has no fused multiply-add");
        return;
    }
    let compiler = match Compiler::new(None) {
        Ok(compiler) => compiler,
        Err(CompileError::Library(e @ (LibraryError::Missing { .. } | LibraryError::Header { .. }))) => {
            println!("skipped: {e}");
            return;
        }
        Err(e) => panic!("{e}"),
    };
    let mut source = "#include \"activation.cuh\"\n".to_owned();
    for (i, function) in EXACT.iter().enumerate() {
        let functor = functor(*function);
        source += &format!("extern \"C\" __global__ void f{i}(const float* x, float* y) {{ *y = {functor}(*x); }}\n");
    }
    let ptx = compiler.ptx(&source, Architecture::SUPPORTED[0]).unwrap();
    let inputs = inputs();
    let x = Tensor::from_slice(&[inputs.len()], &inputs).unwrap();
    let check = |i: usize| {
        let function = EXACT[i];
        let kernels = ESTIMATES.map(|estimate| Kernel::parse(&ptx, &format!("f{i}"), estimate));
        let cpu = eval(&function.into(), &[Some(x.view())]).unwrap();
        let mut registers = Vec::new();
        for (&x, &want) in inputs.iter().zip(cpu[0].as_slice::<f32>().unwrap()) {
            for kernel in &kernels {
                let got = kernel.run(x, &mut registers);
                let equal = got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan();
                assert!(equal, "{function:?} of {x:e} ({:#010x}): {got:e} on a GPU, {want:e} on the CPU", x.to_bits());
            }
        }
    };
    std::thread::scope(|scope| {
        (0..EXACT.len()).for_each(|i| {
            drop(scope.spawn({
                let check = &check;
                move || check(i)
            }))
        })
    });
}
