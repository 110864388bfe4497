//! Plans that nobody's compiler made and arguments that do not fit them, through the interface: a status each time, never a panic.

use std::ffi::{CStr, c_void};
use std::ptr::{null, null_mut};

use crate::failure::{Status, sliderun_last_error};
use crate::outputs::{sliderun_outputs_count, sliderun_outputs_free, sliderun_outputs_get};
use crate::plan::*;
use crate::port::Port;
use crate::run::{sliderun_output_shape, sliderun_run};
use crate::session::*;
use crate::tensor::Tensor;
use driver::drive;

#[path = "../../fuzz/src/driver.rs"]
mod driver;

const PLAN: &[u8] = include_bytes!("../../runtime/examples/perceptron.slide");
const FLOATS: [f32; 64] = [0.5; 64];

/// Whatever else, nothing panicked on the other side of the boundary.
fn ended(status: Status) -> bool {
    if status == Status::Panicked {
        // SAFETY: never null, and no call comes between.
        panic!("{:?}", unsafe { CStr::from_ptr(sliderun_last_error()) });
    }
    status == Status::Ok
}

/// The plan with this manifest in the place of its own.
fn file(manifest: &[u8]) -> Vec<u8> {
    let start = u64::from_le_bytes(PLAN[16..24].try_into().unwrap()) as usize;
    let mut file = [&PLAN[..start], manifest].concat();
    file[12..16].copy_from_slice(&(manifest.len() as u32).to_le_bytes());
    let len = file.len() as u64;
    file[24..32].copy_from_slice(&len.to_le_bytes());
    // The digest is checked by itself elsewhere.
    file[32..64].copy_from_slice(blake3::hash(manifest).as_bytes());
    file
}

/// Loads, describes and runs a plan whose manifest this is; its bytes also choose which arguments are wrong.
fn target(manifest: &[u8]) {
    let file = file(manifest);
    let odd = manifest.iter().fold(0usize, |sum, &b| sum.wrapping_mul(31).wrapping_add(b.into()));
    let (mut plan, mut session, mut outputs) = (null_mut(), null_mut(), null_mut());
    let options = Options { struct_size: size_of::<Options>(), threads: 1, memory_limit: 1 << 20, variant: null() };
    // SAFETY: pointers are valid or null, and lengths those of what they point to.
    unsafe {
        if !ended(sliderun_plan_from_bytes(file.as_ptr().cast(), file.len(), &mut plan)) {
            assert!(plan.is_null());
            return;
        }
        ended(sliderun_plan_check(plan));
        if ended(sliderun_session_new(plan, c"cpu".as_ptr(), &options, &mut session)) {
            let mut ports = Vec::new();
            // One more than there are.
            for index in 0..=sliderun_session_input_count(session) {
                let mut port = std::mem::zeroed::<Port>();
                if ended(sliderun_session_input(session, index, &mut port)) {
                    ports.push(port);
                }
            }
            let shapes: Vec<Vec<usize>> = ports
                .iter()
                .map(|p| (0..p.rank).map(|i| usize::try_from(*p.fixed.add(i)).unwrap_or(1 + odd % 3)).collect())
                .collect();
            let mut tensors: Vec<Tensor> = Vec::new();
            for (port, shape) in ports.iter().zip(&shapes) {
                let data: *const c_void = if odd.is_multiple_of(7) { null() } else { FLOATS.as_ptr().cast() };
                let elements = shape.iter().try_fold(4usize, |n, &d| n.checked_mul(d)).unwrap_or(usize::MAX);
                // Never more than there is, and at times less than the shape needs.
                let bytes = elements.min(size_of_val(&FLOATS));
                let dtype = if odd.is_multiple_of(11) { odd as u32 } else { port.dtype };
                tensors.push(Tensor { name: port.name, dtype, rank: shape.len(), shape: shape.as_ptr(), data, bytes });
            }
            let mut extents = [0usize; 4];
            ended(sliderun_output_shape(session, tensors.as_ptr(), tensors.len(), odd % 3, extents.as_mut_ptr(), odd % 5));
            if ended(sliderun_run(session, tensors.as_ptr(), tensors.len(), &mut outputs)) {
                for index in 0..=sliderun_outputs_count(outputs) {
                    let mut tensor = std::mem::zeroed::<Tensor>();
                    ended(sliderun_outputs_get(outputs, index, &mut tensor));
                }
            }
        }
        sliderun_outputs_free(outputs);
        sliderun_session_free(session);
        sliderun_plan_free(plan);
    }
}

#[test]
fn hostile_plans_and_arguments_never_panic() {
    let start = u64::from_le_bytes(PLAN[16..24].try_into().unwrap()) as usize;
    let seed = PLAN[start..].to_vec();
    assert_eq!(file(&seed), PLAN);
    let findings = drive(target, &[seed], 3_000, 0xc, 2);
    assert!(findings.is_empty(), "{findings:#?}");
}
