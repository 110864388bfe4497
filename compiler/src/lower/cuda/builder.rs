//! The parts that every generated kernel is put together from: its name, its parameters and their arguments, types as C++ spells them.
//!
//! Must not know: what kernels calculate.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::plan::Architecture;
use sliderun::plan::cuda::{self, Argument, Kernel};
use sliderun::plan::manifest::{Program, Value, ValueId};

/// A kernel that is being written.
pub struct KernelBuilder<'p> {
    program: &'p Program,
    symbol: String,
    /// Position of the launch.
    pub launch: usize,
    arguments: Vec<Argument>,
    /// C++ declarations of the parameters.
    parameters: Vec<String>,
    /// Statements before the body.
    prologue: String,
}

/// How a kernel's work is shared out.
pub struct Form {
    pub blocks: Dim,
    pub threads: usize,
    pub shared_bytes: usize,
    /// So many blocks shall find room on a multiprocessor; 0 where the compiler decides.
    pub at_once: usize,
    /// Statements.
    pub body: String,
}

/// A form that takes a kernel's place where it has enough blocks.
pub struct Other {
    /// Of `blocks` there are as many as share out the work evenly.
    pub form: Form,
    /// Becomes part of its name.
    pub what: &'static str,
    /// Enough blocks.
    pub least_blocks: u32,
    /// The one architecture with the suffix `a` that it is written for, if it is.
    pub architecture: Option<Architecture>,
    /// Whether a block fills a multiprocessor and goes on through the work: no more are launched than there are multiprocessors.
    pub resident: bool,
}

impl Other {
    /// One that is better when there is enough to do for a whole GPU.
    pub fn bulk(form: Form) -> Other {
        // Four for each multiprocessor of a large GPU.
        const BULK_BLOCKS: u32 = 512;
        Other { form, what: "bulk", least_blocks: BULK_BLOCKS, architecture: None, resident: false }
    }
}

/// A kernel and its C++ definition.
pub struct Generated {
    pub kernel: Kernel,
    pub source: String,
}

impl<'p> KernelBuilder<'p> {
    /// A kernel for the launch at a position; `what` becomes part of its name.
    pub fn new(program: &'p Program, launch: usize, what: &str) -> Self {
        let what: String = what.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect();
        KernelBuilder {
            program,
            symbol: format!("slide_{launch}_{what}"),
            launch,
            arguments: Vec::new(),
            parameters: Vec::new(),
            prologue: String::new(),
        }
    }

    /// The program that it does steps of.
    pub fn program(&self) -> &'p Program {
        self.program
    }

    /// A value of the program.
    pub fn value(&self, id: ValueId) -> &'p Value {
        &self.program.values[id.0 as usize]
    }

    /// A value's type.
    pub fn ty(&self, id: ValueId) -> &'p TensorType {
        &self.value(id).ty
    }

    /// The value that holds the elements of `id`.
    pub fn root(&self, id: ValueId) -> ValueId {
        super::root(self.program, id)
    }

    fn argument(&mut self, argument: Argument, declare: impl FnOnce(usize) -> String) -> usize {
        if let Some(at) = self.arguments.iter().position(|a| *a == argument) {
            return at;
        }
        self.parameters.push(declare(self.arguments.len()));
        self.arguments.push(argument);
        self.arguments.len() - 1
    }

    /// The name of the pointer to a value's elements, to read them.
    pub fn input(&mut self, id: ValueId) -> String {
        let root = self.root(id);
        let ty = element_type(self.ty(root).dtype);
        let at = self.argument(Argument::Value(root), |at| format!("const {ty}* p{at}"));
        format!("p{at}")
    }

    /// The name of the pointer to a value's elements, to write them. A kernel reads no value that it writes.
    pub fn output(&mut self, id: ValueId) -> String {
        let ty = element_type(self.ty(id).dtype);
        let at = self.argument(Argument::Value(id), |at| format!("{ty}* p{at}"));
        format!("p{at}")
    }

    /// An extent as an expression of type `long long`.
    pub fn long_extent(&mut self, extent: &Dim) -> String {
        match extent.as_const() {
            Some(v) => format!("{v}LL"),
            None => {
                let at = self.argument(Argument::Integer(extent.clone()), |at| format!("long long p{at}"));
                format!("p{at}")
            }
        }
    }

    /// An extent as an expression of type `int`: for values that the runtime has checked to have fewer than 2³¹ elements.
    pub fn extent(&mut self, extent: &Dim) -> String {
        match extent.as_const() {
            Some(v) => v.to_string(),
            None => {
                let wide = self.long_extent(extent);
                let name = wide.replace('p', "n");
                let definition = format!("    const int {name} = static_cast<int>({wide});\n");
                if !self.prologue.contains(&definition) {
                    self.prologue.push_str(&definition);
                }
                name
            }
        }
    }

    /// The name of the pointer to where faults in data are noted.
    pub fn fault(&mut self) -> String {
        let at = self.argument(Argument::Fault, |at| format!("int* p{at}"));
        format!("p{at}")
    }

    /// The finished kernel.
    pub fn finish(self, blocks: Dim, threads: usize, shared_bytes: usize, body: &str) -> Generated {
        self.finish_forms(Form { blocks, threads, shared_bytes, at_once: 0, body: body.to_owned() }, Vec::new())
    }

    /// The finished kernel, and the forms of which the first that suits takes its place.
    pub fn finish_forms(self, form: Form, others: Vec<Other>) -> Generated {
        let narrow = |n: usize| u32::try_from(n).expect("launches have few threads and little shared memory");
        // The whole multiprocessor is a resident block's: registers, and the room of all threads.
        let define = |symbol: &str, form: &Form, resident: bool| {
            let (at_once, room) = if resident { (1, "2048") } else { (form.at_once, "blockDim.x") };
            let bounds = if at_once > 0 { format!(", {at_once}") } else { String::new() };
            format!(
                "extern \"C\" __global__ void __launch_bounds__({}{bounds}) {symbol}({}) {{\n    slide::await_predecessors({room});\n{}{}}}\n",
                form.threads,
                self.parameters.join(", "),
                self.prologue,
                form.body
            )
        };
        let mut source = define(&self.symbol, &form, false);
        let other = |Other { form, what, least_blocks, architecture, resident }: Other| {
            let symbol = format!("{}_{what}", self.symbol);
            let definition = define(&symbol, &form, resident);
            match architecture {
                None => source.push_str(&definition),
                Some(a) => {
                    let number: String = a.to_string().chars().filter(char::is_ascii_digit).collect();
                    source.push_str(&format!("#ifdef __CUDA_ARCH_FEAT_SM{number}_ALL\n{definition}#endif\n"));
                }
            }
            let (threads, shared_bytes) = (narrow(form.threads), narrow(form.shared_bytes));
            cuda::Form { symbol, blocks: form.blocks, threads, shared_bytes, least_blocks, architecture, resident }
        };
        let forms = others.into_iter().map(other).collect();
        Generated {
            kernel: Kernel {
                symbol: self.symbol,
                blocks: form.blocks,
                threads: narrow(form.threads),
                shared_bytes: narrow(form.shared_bytes),
                arguments: self.arguments,
                waits: true,
                forms,
                over: Vec::new(),
            },
            source,
        }
    }
}

/// How memory holds elements, in C++.
pub fn element_type(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::F16 => "__half",
        DType::Bf16 => "__nv_bfloat16",
        DType::F8e4m3 => "__nv_fp8_e4m3",
        DType::F8e5m2 => "__nv_fp8_e5m2",
        DType::Bool => "slide::Truth",
        DType::I8 => "signed char",
        DType::I16 => "short",
        DType::I32 => "int",
        DType::I64 => "long long",
        DType::U8 => "unsigned char",
        DType::U16 => "unsigned short",
        DType::U32 => "unsigned",
        DType::U64 => "unsigned long long",
    }
}

/// `⌈a / b⌉`.
pub fn ceil_div(a: &Dim, b: usize) -> Dim {
    (a.clone() + Dim::from(b - 1)).floor_div(&b.into())
}

/// All but the last extent, multiplied.
pub fn rows_of(shape: &[Dim]) -> Dim {
    Dim::product(&shape[..shape.len().saturating_sub(1)])
}

/// A float as C++ reads it back exactly.
pub fn float(v: f32) -> String {
    if v.is_nan() { "__int_as_float(0x7fc00000)".into() } else { format!("__int_as_float({:#x})", v.to_bits()) }
}
