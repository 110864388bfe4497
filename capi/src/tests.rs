//! The interface as a C program uses it, wrongly too.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{null, null_mut};

use crate::failure::{Failure, Status, guard, sliderun_last_error};
use crate::outputs::{Outputs, sliderun_outputs_count, sliderun_outputs_free, sliderun_outputs_get};
use crate::plan::*;
use crate::port::{Port, Symbol};
use crate::run::{sliderun_output_shape, sliderun_run, sliderun_run_into};
use crate::session::*;
use crate::tensor::{Dtype, Tensor, TensorMut, sliderun_dtype_name, sliderun_dtype_size};

/// y and hidden of x: f32[batch, 4], for 1 to 64 rows; see the runtime's example `perceptron`.
static PLAN: &[u8] = sliderun::include_plan!("../../runtime/examples/perceptron.slide");
const X: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
/// x·w1 + b = [-3.5, 6, 7]; hidden = [0, 6, 7]; y = [0·1 - 6 + 3.5, 0·2 + 6 + 1.75].
const Y: [f32; 2] = [-2.5, 7.75];
const HIDDEN: [f32; 3] = [0.0, 6.0, 7.0];

fn last_error() -> String {
    // SAFETY: never null, and no call comes between.
    unsafe { CStr::from_ptr(sliderun_last_error()) }.to_str().unwrap().to_owned()
}

/// Asserts a failure and that its message has this in it.
#[track_caller]
fn fails(status: Status, expected: Status, message: &str) {
    assert_eq!(status, expected, "{}", last_error());
    assert!(last_error().contains(message), "'{message}' is not in: {}", last_error());
}

fn text(pointer: *const c_char) -> String {
    // SAFETY: the interface gives no other strings.
    unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().to_owned()
}

/// A session on the CPU that is freed at the end.
struct Owned(*mut Session);

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: made below and used by nobody else any more.
        unsafe { sliderun_session_free(self.0) }
    }
}

fn session() -> Owned {
    let (mut plan, mut session) = (null_mut(), null_mut());
    // SAFETY: valid pointers.
    unsafe {
        assert_eq!(sliderun_plan_from_static_bytes(PLAN.as_ptr().cast(), PLAN.len(), &mut plan), Status::Ok);
        assert_eq!(sliderun_plan_check(plan), Status::Ok);
        assert_eq!(sliderun_session_new(plan, c"cpu".as_ptr(), null(), &mut session), Status::Ok, "{}", last_error());
        sliderun_plan_free(plan);
    }
    Owned(session)
}

fn x(shape: &[usize; 2], data: &[f32]) -> Tensor {
    tensor(c"x", Dtype::F32 as u32, shape, data.as_ptr().cast(), size_of_val(data))
}

fn tensor(name: &'static CStr, dtype: u32, shape: &[usize], data: *const c_void, bytes: usize) -> Tensor {
    Tensor { name: name.as_ptr(), dtype, rank: shape.len(), shape: shape.as_ptr(), data, bytes }
}

fn place(name: &'static CStr, shape: &[usize], data: &mut [f32]) -> TensorMut {
    let (dtype, bytes) = (Dtype::F32 as u32, size_of_val(data));
    TensorMut { name: name.as_ptr(), dtype, rank: shape.len(), shape: shape.as_ptr(), data: data.as_mut_ptr().cast(), bytes }
}

#[test]
fn plans_come_from_files_and_from_memory_and_bad_ones_are_refused() {
    let folder = std::env::temp_dir().join(format!("sliderun-c-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.join(name), bytes).unwrap();
        CString::new(folder.join(name).to_str().unwrap()).unwrap()
    };
    let good = path("good.slide", PLAN);
    let truncated = path("truncated.slide", &PLAN[..PLAN.len() - 1]);
    let mut damaged = PLAN.to_vec();
    damaged[256] ^= 1;
    let mut plan = null_mut();
    // SAFETY: valid pointers, or null where that is refused.
    unsafe {
        for open in [sliderun_plan_open, sliderun_plan_open_unmapped] {
            assert_eq!(open(good.as_ptr(), &mut plan), Status::Ok);
            assert!(!plan.is_null());
            sliderun_plan_free(plan);
            fails(open(truncated.as_ptr(), &mut plan), Status::BadPlan, "truncated");
            assert!(plan.is_null(), "a failure leaves no handle");
            fails(open(c"/nowhere/m.slide".as_ptr(), &mut plan), Status::Io, "/nowhere/m.slide");
            fails(open(c"\xff".as_ptr(), &mut plan), Status::InvalidArgument, "not UTF-8");
            fails(open(null(), &mut plan), Status::InvalidArgument, "path is null");
            fails(open(good.as_ptr(), null_mut()), Status::InvalidArgument, "plan is null");
        }
        for make in [sliderun_plan_from_bytes, sliderun_plan_from_static_bytes] {
            fails(make(null(), 10, &mut plan), Status::InvalidArgument, "bytes is null");
            fails(make(null(), 0, &mut plan), Status::BadPlan, "not a plan");
            fails(make(PLAN.as_ptr().cast(), usize::MAX, &mut plan), Status::InvalidArgument, "more elements than memory");
            fails(make(PLAN.as_ptr().cast(), 100, &mut plan), Status::BadPlan, "truncated");
        }
        // Found when the blob is first used.
        assert_eq!(sliderun_plan_from_bytes(damaged.as_ptr().cast(), damaged.len(), &mut plan), Status::Ok);
        fails(sliderun_plan_check(plan), Status::BadPlan, "digest");
        let mut session = null_mut();
        fails(sliderun_session_new(plan, c"cpu".as_ptr(), null(), &mut session), Status::BadPlan, "digest");
        assert!(session.is_null());
        sliderun_plan_free(plan);
        sliderun_plan_free(null_mut());
        fails(sliderun_plan_check(null()), Status::InvalidArgument, "plan is null");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_plan_that_must_be_signed_is_refused_without_the_signature() {
    use sliderun::plan::signature::PrivateKey;
    let [owner, other] = [1, 2].map(|seed| PrivateKey::from_seed([seed; 32]).unwrap());
    let read = sliderun::plan::Plan::copied(PLAN).unwrap();
    let signed_by = |key| {
        let mut out = Vec::new();
        read.write_signed(&read.sign(key).unwrap(), &mut out).unwrap();
        out
    };
    let keys = CString::new(owner.public().to_pem()).unwrap();
    let options = PlanOptions { struct_size: size_of::<PlanOptions>(), no_mmap: 0, signers: keys.as_ptr() };
    let folder = std::env::temp_dir().join(format!("sliderun-c-signed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("m.slide");
    let path = CString::new(file.to_str().unwrap()).unwrap();
    let mut plan = null_mut();
    for (bytes, said) in [
        (PLAN.to_vec(), "the plan is not signed"),
        (signed_by(&other), "which is none of those that are accepted"),
        (signed_by(&owner), ""),
    ] {
        std::fs::write(&file, &bytes).unwrap();
        // SAFETY: valid pointers.
        unsafe {
            for options in [options, PlanOptions { no_mmap: 1, ..options }] {
                let opened = sliderun_plan_open_with(path.as_ptr(), &options, &mut plan);
                if said.is_empty() {
                    assert_eq!(opened, Status::Ok, "{}", last_error());
                } else {
                    fails(opened, Status::BadPlan, said);
                    assert!(last_error().contains("m.slide: ") && plan.is_null(), "{}", last_error());
                }
                sliderun_plan_free(plan);
            }
            let opened = sliderun_plan_from_bytes_with(bytes.as_ptr().cast(), bytes.len(), &options, &mut plan);
            assert_eq!(opened, if said.is_empty() { Status::Ok } else { Status::BadPlan });
            sliderun_plan_free(plan);
            assert_eq!(sliderun_plan_open_with(path.as_ptr(), null(), &mut plan), Status::Ok, "none is required");
            sliderun_plan_free(plan);
        }
    }
    for (wrong, said) in [
        (PlanOptions { struct_size: 8, ..options }, "struct_size is 8"),
        (PlanOptions { no_mmap: 2, ..options }, "no_mmap is 2"),
        (PlanOptions { signers: c"none".as_ptr(), ..options }, "signers: no public Ed25519 key"),
    ] {
        // SAFETY: valid pointers.
        fails(unsafe { sliderun_plan_open_with(path.as_ptr(), &wrong, &mut plan) }, Status::InvalidArgument, said);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn sessions_take_devices_and_options_that_exist() {
    let (mut plan, mut session) = (null_mut(), null_mut());
    // SAFETY: valid pointers, or null where that is refused.
    unsafe {
        assert_eq!(sliderun_plan_from_bytes(PLAN.as_ptr().cast(), PLAN.len(), &mut plan), Status::Ok);
        let options = Options { struct_size: size_of::<Options>(), threads: 1, memory_limit: 1 << 20, variant: null() };
        assert_eq!(sliderun_session_new(plan, c"cpu".as_ptr(), &options, &mut session), Status::Ok);
        sliderun_session_free(session);
        let mut refuse = |plan, device: *const c_char, options: *const Options, status, message| {
            fails(sliderun_session_new(plan, device, options, &mut session), status, message);
            assert!(session.is_null());
        };
        refuse(plan, c"tpu".as_ptr(), null(), Status::InvalidArgument, "'tpu' is not a device");
        refuse(plan, null(), null(), Status::InvalidArgument, "device is null");
        refuse(null(), c"cpu".as_ptr(), null(), Status::InvalidArgument, "plan is null");
        // Whether or not this build and this machine have GPUs: the plan has nothing for them.
        refuse(plan, c"cuda:0".as_ptr(), null(), Status::Device, "");
        refuse(plan, c"cpu".as_ptr(), &Options { struct_size: 8, ..options }, Status::InvalidArgument, "struct_size is 8");
        let variant = Options { variant: c"fast".as_ptr(), ..options };
        let status = sliderun_session_new(plan, c"cpu".as_ptr(), &variant, &mut session);
        assert!(status == Status::Ok || status == Status::InvalidArgument);
        sliderun_session_free(session);
        fails(sliderun_session_new(plan, c"cpu".as_ptr(), null(), null_mut()), Status::InvalidArgument, "session is null");
        sliderun_session_free(null_mut());
        sliderun_plan_free(plan);
    }
}

#[test]
fn a_session_says_what_it_takes_and_gives() {
    let session = session();
    // SAFETY: valid pointers, or null where that is refused.
    unsafe {
        let counts = [sliderun_session_input_count, sliderun_session_output_count, sliderun_session_symbol_count];
        assert_eq!(counts.map(|count| count(session.0)), [1, 2, 1]);
        assert_eq!(counts.map(|count| count(null())), [0, 0, 0]);
        let mut port: Port = std::mem::zeroed();
        assert_eq!(sliderun_session_input(session.0, 0, &mut port), Status::Ok);
        let extents = std::slice::from_raw_parts(port.extents, port.rank);
        assert_eq!((text(port.name), port.dtype), ("x".to_owned(), Dtype::F32 as u32));
        assert_eq!(extents.iter().map(|e| text(*e)).collect::<Vec<_>>(), ["batch", "4"]);
        assert_eq!(std::slice::from_raw_parts(port.fixed, port.rank), [-1, 4]);
        for (index, name) in ["y", "hidden"].into_iter().enumerate() {
            assert_eq!(sliderun_session_output(session.0, index, &mut port), Status::Ok);
            assert_eq!(text(port.name), name);
        }
        let mut symbol: Symbol = std::mem::zeroed();
        assert_eq!(sliderun_session_symbol(session.0, 0, &mut symbol), Status::Ok);
        assert_eq!((text(symbol.name), symbol.min, symbol.max), ("batch".to_owned(), 1, 64));

        fails(sliderun_session_input(session.0, 1, &mut port), Status::InvalidArgument, "no input 1");
        fails(sliderun_session_output(session.0, 2, &mut port), Status::InvalidArgument, "no output 2");
        fails(sliderun_session_symbol(session.0, 1, &mut symbol), Status::InvalidArgument, "no symbol 1");
        fails(sliderun_session_input(null(), 0, &mut port), Status::InvalidArgument, "session is null");
        fails(sliderun_session_input(session.0, 0, null_mut()), Status::InvalidArgument, "input is null");
    }
}

#[test]
fn runs_give_outputs_of_the_library_or_fill_the_callers() {
    let session = session();
    let (mut outputs, mut shape): (*mut Outputs, [usize; 2]) = (null_mut(), [0; 2]);
    let (mut y, mut hidden) = ([f32::NAN; 2], [f32::NAN; 3]);
    // SAFETY: valid pointers.
    unsafe {
        let input = x(&[1, 4], &X);
        assert_eq!(sliderun_run(session.0, &input, 1, &mut outputs), Status::Ok, "{}", last_error());
        assert_eq!(sliderun_outputs_count(outputs), 2);
        let mut found: Tensor = std::mem::zeroed();
        for (index, (name, expected)) in [("y", &Y[..]), ("hidden", &HIDDEN)].into_iter().enumerate() {
            assert_eq!(sliderun_outputs_get(outputs, index, &mut found), Status::Ok);
            assert_eq!((text(found.name), found.dtype), (name.to_owned(), Dtype::F32 as u32));
            assert_eq!(std::slice::from_raw_parts(found.shape, found.rank), [1, expected.len()]);
            assert_eq!(std::slice::from_raw_parts(found.data.cast::<f32>(), found.bytes / 4), expected);
        }
        fails(sliderun_outputs_get(outputs, 2, &mut found), Status::InvalidArgument, "no output 2");
        fails(sliderun_outputs_get(null(), 0, &mut found), Status::InvalidArgument, "outputs is null");
        sliderun_outputs_free(outputs);
        sliderun_outputs_free(null_mut());
        assert_eq!(sliderun_outputs_count(null()), 0);

        assert_eq!(sliderun_output_shape(session.0, &input, 1, 1, shape.as_mut_ptr(), 2), Status::Ok);
        assert_eq!(shape, [1, 3]);
        let mut places = [place(c"hidden", &[1, 3], &mut hidden), place(c"y", &[1, 2], &mut y)];
        assert_eq!(sliderun_run_into(session.0, &input, 1, places.as_mut_ptr(), 2), Status::Ok, "{}", last_error());
    }
    assert_eq!((y, hidden), (Y, HIDDEN));
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let session = session();
    let f32s = Dtype::F32 as u32;
    let mut outputs: *mut Outputs = null_mut();
    let mut refuse = |inputs: &[Tensor], status, message: &str| {
        // SAFETY: valid pointers.
        fails(unsafe { sliderun_run(session.0, inputs.as_ptr(), inputs.len(), &mut outputs) }, status, message);
        assert!(outputs.is_null());
    };
    let data: *const c_void = X.as_ptr().cast();
    let (bad, argument) = (Status::BadTensor, Status::InvalidArgument);
    refuse(&[], bad, "input 'x' is missing");
    refuse(&[tensor(c"z", f32s, &[1, 4], data, 16)], bad, "no input 'z'");
    refuse(&[x(&[1, 4], &X), x(&[1, 4], &X)], bad, "given twice");
    refuse(&[tensor(c"x", Dtype::I32 as u32, &[1, 4], data, 16)], bad, "f32[batch, 4] expected, i32[1, 4] given");
    refuse(&[tensor(c"x", 99, &[1, 4], data, 16)], bad, "99 is no element type");
    refuse(&[tensor(c"x", f32s, &[4], data, 16)], bad, "f32[4] given");
    refuse(&[tensor(c"x", f32s, &[1, 4], data, 12)], bad, "needs 16 bytes");
    refuse(&[tensor(c"x", f32s, &[0, 4], null(), 0)], bad, "batch = 0 is outside 1..64");
    refuse(&[tensor(c"x", f32s, &[usize::MAX, 4], data, 16)], bad, "");
    refuse(&[tensor(c"x", f32s, &[1, 4], data.wrapping_byte_add(1), 16)], bad, "aligned");
    refuse(&[tensor(c"x", f32s, &[1, 4], null(), 16)], argument, "the data of 'x' is null");
    refuse(&[Tensor { shape: null(), ..x(&[1, 4], &X) }], argument, "the shape of 'x' is null");
    refuse(&[Tensor { name: null(), ..x(&[1, 4], &X) }], argument, "the name of a tensor is null");
    refuse(&[Tensor { rank: usize::MAX, ..x(&[1, 4], &X) }], argument, "more elements than memory");

    let input = x(&[1, 4], &X);
    let into = |status, message: &str, places: &mut [TensorMut]| {
        // SAFETY: valid pointers.
        fails(unsafe { sliderun_run_into(session.0, &input, 1, places.as_mut_ptr(), places.len()) }, status, message);
    };
    let mut memory = [0f32; 4];
    let overlapping = place(c"hidden", &[1, 3], &mut memory);
    into(bad, "overlaps", &mut [overlapping, place(c"y", &[1, 2], &mut memory[1..3])]);
    into(bad, "no output 'z'", &mut [place(c"z", &[1, 2], &mut memory[..2])]);
    into(bad, "f32[1, 2] expected, f32[2, 1] given", &mut [place(c"y", &[2, 1], &mut memory[..2])]);
    into(bad, "needs 8 bytes", &mut [place(c"y", &[1, 2], &mut memory[..3])]);
    // SAFETY: valid pointers, or null where that is refused.
    unsafe {
        fails(sliderun_run(null(), &input, 1, &mut outputs), argument, "session is null");
        fails(sliderun_run(session.0, null(), 1, &mut outputs), argument, "inputs is null");
        fails(sliderun_run(session.0, &input, 1, null_mut()), argument, "outputs is null");
        fails(sliderun_run_into(session.0, &input, 1, null_mut(), 1), argument, "outputs is null");
        let mut shape = [0; 2];
        fails(sliderun_output_shape(session.0, &input, 1, 5, shape.as_mut_ptr(), 2), argument, "no output 5");
        fails(sliderun_output_shape(session.0, &input, 1, 0, shape.as_mut_ptr(), 1), argument, "has 2 axes");
        fails(sliderun_output_shape(session.0, &input, 1, 0, null_mut(), 2), argument, "shape is null");
    }
}

#[test]
fn sessions_serve_many_threads_and_errors_stay_with_theirs() {
    let session = session();
    fails(guard(|| Err(Failure::argument("mine"))), Status::InvalidArgument, "mine");
    struct Shared(*const Session);
    // SAFETY: the header says that any thread may use a session.
    unsafe impl Sync for Shared {}
    let shared = &Shared(session.0);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            scope.spawn(move || {
                let shared: &Shared = shared;
                assert_eq!(last_error(), "");
                for run in 0..20 {
                    let rows = 1 + (thread + run) % 5;
                    let (input, mut y) = (X.repeat(rows), vec![0f32; 2 * rows]);
                    let (shape, out) = ([rows, 4], [rows, 2]);
                    let mut place = place(c"y", &out, &mut y);
                    // SAFETY: valid pointers.
                    let status = unsafe { sliderun_run_into(shared.0, &x(&shape, &input), 1, &mut place, 1) };
                    assert_eq!(status, Status::Ok, "{}", last_error());
                    assert_eq!(y, Y.repeat(rows));
                }
                fails(guard(|| Err(Failure::argument(format!("thread {thread}")))), Status::InvalidArgument, &thread.to_string());
            });
        }
    });
    assert_eq!(last_error(), "mine");
}

#[test]
fn panics_are_statuses() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    fails(guard(|| panic!("at the disco")), Status::Panicked, "at the disco");
    fails(guard(|| std::panic::panic_any(7)), Status::Panicked, "no message");
    std::panic::set_hook(quiet);
    fails(guard(|| Err(Failure::argument("with a \0 in it"))), Status::InvalidArgument, "with a  in it");
}

#[test]
fn numbers_of_the_header_name_the_runtimes_types() {
    for dtype in sliderun::dtype::DType::ALL {
        let number = Dtype::of(dtype);
        assert_eq!((text(sliderun_dtype_name(number)), sliderun_dtype_size(number)), (dtype.name().to_owned(), dtype.size()));
    }
    assert!(sliderun_dtype_name(15).is_null());
    assert_eq!((sliderun_dtype_size(15), sliderun_dtype_size(u32::MAX)), (0, 0));
    assert_eq!(text(crate::sliderun_version()), env!("CARGO_PKG_VERSION"));
    assert_eq!(crate::sliderun_abi_version(), crate::SLIDERUN_ABI_VERSION);
}
