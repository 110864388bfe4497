//! Cubins, the kernels in them, and their launch.

use std::ffi::{CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::context::Context;
use super::ffi::{
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
    CUDA_ERROR_INVALID_VALUE, CUDA_ERROR_NOT_FOUND, CUfunction, CUlaunchAttribute, CUlaunchConfig, CUmodule,
};
use super::memory::DeviceSlice;
use super::stream::Stream;
use super::{CudaError, call, cubin};

/// A loaded cubin. Clones share it; it is unloaded with the last of them and of their functions.
#[derive(Clone, Debug)]
pub struct Module(Arc<Loaded>);

#[derive(Debug)]
struct Loaded {
    context: Context,
    handle: CUmodule,
    name: String,
}

// SAFETY: modules and functions may be used by any thread; the driver locks.
unsafe impl Send for Loaded {}
// SAFETY: likewise.
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: loaded by us; no function of it is left.
            let _ = unsafe { (current.driver().api.cuModuleUnload)(self.handle) };
        }
    }
}

impl Module {
    /// Loads a cubin; `name` is for messages.
    ///
    /// # Errors
    /// [`CudaError::Cubin`]: not a whole cubin, or for another GPU.
    pub fn load(context: &Context, name: &str, image: &[u8]) -> Result<Module, CudaError> {
        let failed = |reason: String| CudaError::Cubin { name: name.to_owned(), reason };
        cubin::check(image).map_err(|reason| failed(reason.to_owned()))?;
        // ELF's tables are made of 8-byte words.
        let aligned: Vec<u64>;
        let start: *const u8 = if image.as_ptr().cast::<u64>().is_aligned() {
            image.as_ptr()
        } else {
            let word = |chunk: &[u8]| {
                let mut word = [0; 8];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from_ne_bytes(word)
            };
            aligned = image.chunks(8).map(word).collect();
            aligned.as_ptr().cast()
        };
        let current = context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: a whole ELF file, as checked; the driver copies what it needs.
        unsafe { call!(current.driver(), cuModuleLoadData(&mut handle, start.cast())) }.map_err(|e| {
            let (major, minor) = context.device().capability;
            failed(format!("{e} (this device has compute capability {major}.{minor})"))
        })?;
        Ok(Module(Arc::new(Loaded { context: context.clone(), handle, name: name.to_owned() })))
    }

    /// A kernel, by its symbol, that will be launched with up to `max_dynamic_shared` bytes of dynamic shared memory.
    ///
    /// # Errors
    /// No such kernel, or more shared memory than the device has.
    pub fn function(&self, kernel: &str, max_dynamic_shared: u32) -> Result<Function, CudaError> {
        let none = || CudaError::NoKernel { module: self.0.name.clone(), kernel: kernel.to_owned() };
        let refused = |reason: String| CudaError::Launch { kernel: kernel.to_owned(), reason };
        let symbol = CString::new(kernel).map_err(|_| none())?;
        let current = self.0.context.enter()?;
        let driver = current.driver();
        let mut handle = ptr::null_mut();
        // SAFETY: the module is loaded; a place for the result.
        match unsafe { (driver.api.cuModuleGetFunction)(&mut handle, self.0.handle, symbol.as_ptr()) } {
            CUDA_ERROR_NOT_FOUND => return Err(none()),
            code => driver.check("cuModuleGetFunction", code)?,
        }
        if max_dynamic_shared > 0 {
            let bytes = c_int::try_from(max_dynamic_shared)
                .map_err(|_| refused(format!("{max_dynamic_shared} bytes of shared memory")))?;
            // SAFETY: the function is of a loaded module.
            unsafe { call!(driver, cuFuncSetAttribute(handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, bytes)) }
                .map_err(|e| {
                    let most = self.0.context.device().max_shared_bytes;
                    refused(format!("{bytes} bytes of dynamic shared memory, of at most {most} on this device: {e}"))
                })?;
        }
        let mut parameters = Vec::new();
        loop {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the function is of a loaded module; places for the results.
            match unsafe { (driver.api.cuFuncGetParamInfo)(handle, parameters.len(), &mut offset, &mut size) } {
                CUDA_ERROR_INVALID_VALUE => break,
                code => driver.check("cuFuncGetParamInfo", code)?,
            }
            parameters.push(size);
        }
        Ok(Function { module: self.clone(), handle, name: kernel.to_owned(), parameters, max_dynamic_shared, overlapping: false })
    }
}

/// A kernel of a loaded cubin.
#[derive(Clone, Debug)]
pub struct Function {
    module: Module,
    handle: CUfunction,
    name: String,
    /// The size of each parameter in bytes, as the cubin says.
    parameters: Vec<usize>,
    max_dynamic_shared: u32,
    overlapping: bool,
}

// SAFETY: as for the module.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Sync for Function {}

/// How many threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

impl LaunchShape {
    /// Blocks and threads along x alone, without dynamic shared memory.
    pub fn linear(grid: u32, block: u32) -> Self {
        LaunchShape { grid: [grid, 1, 1], block: [block, 1, 1], shared_bytes: 0 }
    }
}

/// The arguments of a launch, in order.
#[derive(Clone, Debug, Default)]
pub struct Args {
    /// Every argument begins at a word of its own.
    words: Vec<u64>,
    /// Where each begins, and its size in bytes.
    args: Vec<(usize, usize)>,
}

impl Args {
    /// None yet.
    pub fn new() -> Self {
        Args::default()
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.words.clear();
        self.args.clear();
    }

    fn word(&mut self, value: u64, size: usize) -> &mut Self {
        self.args.push((self.words.len(), size));
        self.words.push(value);
        self
    }

    /// A pointer to device memory.
    pub fn pointer(&mut self, memory: DeviceSlice<'_>) -> &mut Self {
        self.word(memory.pointer(), 8)
    }

    /// An address in device memory, whose extent the caller of [`Function::launch`] answers for.
    pub fn address(&mut self, address: u64) -> &mut Self {
        self.word(address, 8)
    }

    /// A null pointer, for an optional one.
    pub fn null(&mut self) -> &mut Self {
        self.word(0, 8)
    }

    /// A `long long`.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.word(value as u64, 8)
    }

    /// An `int`.
    pub fn i32(&mut self, value: i32) -> &mut Self {
        self.word(u64::from(value as u32), 4)
    }

    /// A `float`.
    pub fn f32(&mut self, value: f32) -> &mut Self {
        self.word(u64::from(value.to_bits()), 4)
    }

    /// A struct passed by value, as bytes; aligned to at most 8.
    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.args.push((self.words.len(), value.len()));
        self.words.extend(value.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_ne_bytes(word)
        }));
        self
    }
}

impl Function {
    /// The symbol.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The sizes of the parameters in bytes, as the cubin says.
    pub fn parameters(&self) -> &[usize] {
        &self.parameters
    }

    /// With `overlapping`, graphs may start it before the kernel ahead of it has ended, which it waits for by itself.
    pub fn overlapping(self, overlapping: bool) -> Function {
        Function { overlapping, ..self }
    }

    /// Puts a launch into a stream. A grid without blocks launches nothing.
    ///
    /// # Errors
    /// Arguments that are not as many and as large as the parameters, more shared memory than was announced, or a failing driver.
    ///
    /// # Safety
    /// The kernel, with these arguments, stays within device memory that lasts until the stream has passed it. One that is
    /// [`overlapping`](Function::overlapping) executes `griddepcontrol.wait` before it touches that memory.
    pub unsafe fn launch(&self, stream: &Stream, shape: LaunchShape, args: &Args) -> Result<(), CudaError> {
        let refused = |reason: String| CudaError::Launch { kernel: self.name.clone(), reason };
        if !args.args.iter().map(|a| &a.1).eq(&self.parameters) {
            let given: Vec<usize> = args.args.iter().map(|a| a.1).collect();
            return Err(refused(format!("its parameters have {:?} bytes, the arguments {given:?}", self.parameters)));
        }
        if shape.shared_bytes > self.max_dynamic_shared {
            let (asked, most) = (shape.shared_bytes, self.max_dynamic_shared);
            return Err(refused(format!("{asked} bytes of dynamic shared memory where at most {most} were announced")));
        }
        if shape.grid.contains(&0) {
            return Ok(());
        }
        let current = stream.context().enter()?;
        let mut pointers: Vec<*mut c_void> =
            args.args.iter().map(|&(at, _)| args.words[at..].as_ptr().cast_mut().cast()).collect();
        let parameters = pointers.as_mut_ptr();
        let mut overlap = CUlaunchAttribute {
            id: CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: 0,
            value: std::array::from_fn(|i| c_int::from(i == 0)),
        };
        let attributes = &raw mut overlap;
        let put = |attribute_count| {
            let (LaunchShape { grid, block, shared_bytes }, stream) = (shape, stream.raw());
            let config = CUlaunchConfig { grid, block, shared_bytes, stream, attributes, attribute_count };
            // SAFETY: one pointer for each parameter, to at least as many bytes as it has, and at most the one attribute, all of which the
            // driver copies before it returns; the caller answers for the kernel.
            unsafe { call!(current.driver(), cuLaunchKernelEx(&config, self.handle, parameters, ptr::null_mut())) }
        };
        let early = self.overlapping && stream.records_behind_a_kernel()?;
        put(u32::from(early)).map_err(|e| {
            refused(format!("grid {:?}, block {:?}, {} bytes of shared memory: {e}", shape.grid, shape.block, shape.shared_bytes))
        })
    }

    /// The cubin that it is of.
    pub fn module(&self) -> &Module {
        &self.module
    }
}
