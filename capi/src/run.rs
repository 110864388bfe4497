//! Runs.

use crate::failure::{Failure, Status, guard};
use crate::outputs::Outputs;
use crate::pointer;
use crate::session::Session;
use crate::tensor::{Tensor, TensorMut};

/// Runs a session on `input_count` inputs, all of the plan's in any order. `outputs`: where what it gives goes, null after a failure; free it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_run(
    session: *const Session,
    inputs: *const Tensor,
    input_count: usize,
    outputs: *mut *mut Outputs,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            pointer::make(outputs, "outputs", || {
                let session = &pointer::shared(session, "session")?.session;
                let inputs = pointer::many(inputs, input_count, "inputs")?;
                let inputs = inputs.iter().map(|t| t.view()).collect::<Result<Vec<_>, _>>()?;
                Outputs::new(session.run(&inputs)?)
            })
        }
    })
}

/// Runs a session and writes `output_count` of its outputs, in any order, to the caller's memory, whose shapes must be those that
/// sliderun_output_shape says. On the CPU nothing is allocated for outputs. After a failure what they hold is unspecified.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_run_into(
    session: *const Session,
    inputs: *const Tensor,
    input_count: usize,
    outputs: *mut TensorMut,
    output_count: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let session = &pointer::shared(session, "session")?.session;
            let inputs_given = pointer::many(inputs, input_count, "inputs")?;
            let inputs = inputs_given.iter().map(|t| t.view()).collect::<Result<Vec<_>, _>>()?;
            let outputs = pointer::many_mut(outputs, output_count, "outputs")?;
            check_apart(inputs_given, outputs)?;
            let mut outputs = outputs.iter_mut().map(|t| t.view()).collect::<Result<Vec<_>, _>>()?;
            Ok(session.run_into(&inputs, &mut outputs)?)
        }
    })
}

/// The extents that the output at `output` has for inputs of these shapes; element types and data of the inputs are not looked at. `rank`: how
/// many extents `shape` has room for, which must be the output's rank.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_output_shape(
    session: *const Session,
    inputs: *const Tensor,
    input_count: usize,
    output: usize,
    shape: *mut usize,
    rank: usize,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let session = &pointer::shared(session, "session")?.session;
            let inputs = pointer::many(inputs, input_count, "inputs")?;
            let inputs = inputs.iter().map(|t| t.named_shape()).collect::<Result<Vec<_>, _>>()?;
            let shapes = session.output_shapes(&inputs)?;
            let none = || Failure::argument(format!("there is no output {output}: there are {}", shapes.len()));
            let found = shapes.get(output).ok_or_else(none)?;
            if found.len() != rank {
                return Err(Failure::argument(format!("output {output} has {} axes, shape has room for {rank}", found.len())));
            }
            pointer::many_mut(shape, rank, "shape")?.copy_from_slice(found);
            Ok(())
        }
    })
}

/// What is written must be nowhere else: Rust may not have two names for it.
fn check_apart(inputs: &[Tensor], outputs: &[TensorMut]) -> Result<(), Failure> {
    let mut written: Vec<(usize, usize)> = outputs.iter().map(|t| (t.data.addr(), t.bytes)).collect();
    written.retain(|(_, bytes)| *bytes > 0);
    written.sort_unstable();
    let meet = |a: (usize, usize), b: (usize, usize)| a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1);
    let among = written.windows(2).any(|pair| meet(pair[0], pair[1]));
    let with_inputs =
        || inputs.iter().filter(|t| t.bytes > 0).any(|t| written.iter().any(|&w| meet(w, (t.data.addr(), t.bytes))));
    if among || with_inputs() {
        return Err(Failure::new(Status::BadTensor, "an output overlaps an input or another output"));
    }
    Ok(())
}
