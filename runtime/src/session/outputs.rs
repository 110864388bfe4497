//! Outputs in memory that the caller owns, and the shapes that they will have.

use super::{Backend, Port, Session, SessionError, inputs};
use crate::op::TensorType;
use crate::tensor::{TensorView, TensorViewMut};

/// A caller's memory for an output: its position among the session's outputs, and where it goes.
pub(super) type Places<'o, 'd> = Vec<(usize, &'o mut TensorViewMut<'d>)>;

impl Session {
    /// The extents of all outputs, in the order of [`Session::outputs`], for inputs of these shapes: (name, extents) pairs in any order.
    ///
    /// # Errors
    /// Shapes that do not fit, and extents that follow from the inputs' data alone.
    pub fn output_shapes(&self, shapes: &[(&str, &[usize])]) -> Result<Vec<Vec<usize>>, SessionError> {
        let shapes =
            inputs::arrange_by_name(self.inputs(), shapes, |port, shape| inputs::check_type(port, port.ty.dtype, shape))?;
        let symbols = inputs::unify(self.inputs(), &shapes, self.symbols())?;
        inputs::shapes_of(self.outputs(), self.symbols(), &symbols)
    }

    /// As [`Session::run`], and writes outputs to the caller's memory: those that are given, (name, memory) pairs in any order, with the
    /// extents that [`Session::output_shapes`] says.
    ///
    /// # Errors
    /// As [`Session::run`]; outputs of unknown names, given twice, or of other types, extents or sizes than the run gives. What the given
    /// outputs hold after an error is unspecified.
    pub fn run_into(
        &self,
        given: &[(&str, TensorView<'_>)],
        outputs: &mut [(&str, TensorViewMut<'_>)],
    ) -> Result<(), SessionError> {
        let shapes: Vec<(&str, &[usize])> = given.iter().map(|(name, view)| (*name, view.shape)).collect();
        let shapes = self.output_shapes(&shapes)?;
        let places = arrange(self.outputs(), &shapes, outputs)?;
        match &self.backend {
            Backend::Cpu(cpu) => cpu.execute_into(given, places),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => {
                let found = cuda.run(given)?;
                places.into_iter().try_for_each(|(at, place)| fill(&self.outputs()[at], place, found[at].1.view()))
            }
        }
    }
}

/// Where the outputs that are given stand among all, each checked.
fn arrange<'o, 'd>(
    ports: &[Port],
    shapes: &[Vec<usize>],
    given: &'o mut [(&str, TensorViewMut<'d>)],
) -> Result<Places<'o, 'd>, SessionError> {
    let known = || ports.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut places: Places<'o, 'd> = Vec::with_capacity(given.len());
    for (name, place) in given {
        let Some(at) = ports.iter().position(|p| p.name == *name) else {
            return Err(SessionError::UnknownOutput { name: (*name).to_owned(), known: known() });
        };
        if places.iter().any(|(other, _)| *other == at) {
            return Err(SessionError::DuplicateOutput { name: (*name).to_owned(), known: known() });
        }
        let view = TensorView { dtype: place.dtype, shape: place.shape, data: place.data };
        let shape = shapes[at].iter().copied();
        inputs::check(&Port { name: (*name).to_owned(), ty: TensorType::new(ports[at].ty.dtype, shape) }, &view)?;
        places.push((at, place));
    }
    Ok(places)
}

/// Copies an output to where the caller wants it.
pub(super) fn fill(port: &Port, place: &mut TensorViewMut<'_>, found: TensorView<'_>) -> Result<(), SessionError> {
    // Types and sizes were checked before the run; extents that a hostile plan's types promise need not be those that steps give.
    if place.shape != found.shape {
        let given = TensorType::new(place.dtype, place.shape.iter().copied());
        let expected = TensorType::new(found.dtype, found.shape.iter().copied());
        return Err(SessionError::InputType { name: port.name.clone(), expected, given });
    }
    place.data.copy_from_slice(found.data);
    Ok(())
}
