//! Resize: each element of the result gathers those that it is made of.

use sliderun::dim::Dim;
use sliderun::op::resize::{Interpolation, Resize};
use sliderun::plan::manifest::{Step, ValueId};

use super::pointwise::Writer;

impl Writer<'_> {
    /// The element of a Resize at coordinates.
    pub(super) fn resize(&mut self, step: &Step, op: &Resize, coordinates: &[String]) -> String {
        let id = step.inputs[0].expect("Resize has an operand");
        let ty = self.builder.ty(id).clone();
        let result = self.builder.ty(step.outputs[0]).shape.clone();
        let scale = |axis: usize| op.scales.as_ref().map(|s| s[axis]);
        let changes = |axis: &usize| result[*axis] != ty.shape[*axis] || scale(*axis).is_some_and(|s| s != 1.0);
        let axes: Vec<usize> = (0..ty.rank()).filter(changes).collect();
        let mut from = coordinates.to_vec();
        let position = format!("slide::Coordinates::{:?}", op.coordinates);
        let filter = match op.interpolation {
            Interpolation::Nearest(rounding) => {
                for axis in axes {
                    let (resized, o) = (self.resized(&ty.shape[axis], &result[axis], scale(axis)), &coordinates[axis]);
                    let call = format!("slide::resize_nearest<{position}, slide::NearestRounding::{rounding:?}>({resized}, {o})");
                    from[axis] = self.bind("int", &call);
                }
                return self.read(id, &from);
            }
            Interpolation::Linear => "slide::LinearFilter{}".to_owned(),
            Interpolation::Cubic { a, exclude_outside } => format!("slide::CubicFilter<{exclude_outside}>{{{:?}}}", f64::from(a)),
        };
        let sum = self.variable(ty.dtype, "0");
        let mut taps = Vec::new();
        for &axis in &axes {
            let resized = self.resized(&ty.shape[axis], &result[axis], scale(axis));
            let call = format!("slide::resize_taps<{position}, {}>({filter}, {resized}, {})", op.antialias, coordinates[axis]);
            taps.push(self.bind("auto", &call));
        }
        self.gather_taps(id, &axes, &taps, from, String::new(), &sum);
        sum
    }

    /// Loops over the taps of the axes left, and adds what they read to `sum`.
    fn gather_taps(&mut self, id: ValueId, axes: &[usize], taps: &[String], mut from: Vec<String>, weight: String, sum: &str) {
        let ([axis, axes @ ..], [of, taps @ ..]) = (axes, taps) else {
            let x = self.read(id, &from);
            let term = if weight.is_empty() { x } else { format!("{weight} * {x}") };
            self.line(&format!("{sum} += {term};"));
            return;
        };
        let tap = format!("k{axis}");
        self.block(&format!("for (int {tap} = 0; {tap} < {of}.count; ++{tap})"), |w| {
            let own = format!("{of}.weight({tap})");
            let weight = w.bind("float", &if weight.is_empty() { own } else { format!("{weight} * {own}") });
            from[*axis] = w.bind("int", &format!("{of}.at({tap})"));
            w.gather_taps(id, axes, taps, from, weight, sum);
        });
    }

    /// What the kernels' header calls a resized axis.
    fn resized(&mut self, input: &Dim, output: &Dim, scale: Option<f32>) -> String {
        let (input, output) = (self.builder.extent(input), self.builder.extent(output));
        let scale = scale.map_or(format!("static_cast<double>({output}) / {input}"), |s| format!("{:?}", f64::from(s)));
        format!("slide::ResizedAxis{{{input}, {output}, {scale}}}")
    }
}
