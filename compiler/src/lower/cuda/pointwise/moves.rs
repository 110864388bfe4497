//! Operators whose elements come from one of several places: what is padded, turned, joined, picked and split.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::rotary::Rotary;
use sliderun::plan::manifest::Step;

use super::Writer;

impl Writer<'_> {
    pub(super) fn pad(&mut self, step: &Step, pads: &[(i64, i64)], coordinates: &[String], dtype: DType) -> String {
        let id = step.inputs[0].expect("Pad has an operand");
        let value = match step.inputs.get(1).copied().flatten() {
            Some(value) => {
                let at = vec!["0".to_owned(); self.builder.ty(value).rank()];
                self.read(value, &at)
            }
            None => "0".to_owned(),
        };
        let own = self.builder.ty(id).shape.clone();
        let inside: Vec<String> = coordinates.iter().zip(pads).map(|(c, (before, _))| format!("({c} - ({before}))")).collect();
        let tests: Vec<String> =
            inside.iter().zip(&own).map(|(c, extent)| format!("{c} >= 0 && {c} < {}", self.builder.extent(extent))).collect();
        let to = self.variable(dtype, &value);
        self.block(&format!("if ({})", tests.join(" && ")), |w| {
            let x = w.read(id, &inside);
            w.line(&format!("{to} = {x};"));
        });
        to
    }

    pub(super) fn rotary(&mut self, step: &Step, op: Rotary, coordinates: &[String]) -> String {
        let [x, cos, sin] = [0, 1, 2].map(|i| step.inputs[i].expect("Rotary has this operand"));
        let ty = self.builder.ty(x).clone();
        let last = ty.rank() - 1;
        let (_, depth) = op.tokens_and_depth(&ty).expect("the type rules demand whole heads");
        let (depth, pairs) = (self.builder.extent(&depth), op.rotated / 2);
        let element = if last == 2 { format!("{} % {depth}", coordinates[2]) } else { coordinates[3].clone() };
        let element = self.bind("int", &element);
        let straight = self.read(x, coordinates);
        let to = self.variable(ty.dtype, &straight);
        self.block(&format!("if ({element} < {})", op.rotated), |w| {
            let (first, pair, distance) = match op.interleaved {
                true => (format!("{element} % 2 == 0"), format!("{element} / 2"), 1),
                false => (format!("{element} < {pairs}"), format!("{element} % {pairs}"), pairs),
            };
            let (first, pair) = (w.bind("bool", &first), w.bind("int", &pair));
            let mut other = coordinates.to_vec();
            other[last] = format!("({} + ({first} ? {distance} : -{distance}))", coordinates[last]);
            let other = w.read(x, &other);
            let at = [coordinates[0].clone(), coordinates[last - 1].clone(), pair];
            let mut turned = Vec::new();
            for table in [cos, sin] {
                let extents = w.builder.ty(table).shape.clone();
                let shape = [ty.shape[0].clone(), extents[1].clone(), extents[2].clone()];
                let at = w.broadcast(table, &shape, &at);
                turned.push(w.read(table, &at));
            }
            let [cos, sin] = [&turned[0], &turned[1]];
            let [straight, other] =
                [(&straight, cos), (&other, sin)].map(|(x, table)| w.bind("float", &format!("slide::times({x}, {table})")));
            w.line(&format!("{to} = {first} ? slide::minus({straight}, {other}) : slide::plus({straight}, {other});"));
        });
        to
    }

    pub(super) fn concat(&mut self, step: &Step, axis: usize, coordinates: &[String], dtype: DType) -> String {
        let to = self.variable(dtype, "0");
        let mut start = Dim::from(0);
        for id in step.inputs.iter().copied().flatten() {
            let end = start.clone() + self.builder.ty(id).shape[axis].clone();
            let (from, until) = (self.builder.extent(&start), self.builder.extent(&end));
            let c = &coordinates[axis];
            let mut moved = coordinates.to_vec();
            moved[axis] = format!("({c} - {from})");
            self.block(&format!("if ({c} >= {from} && {c} < {until})"), |w| {
                let x = w.read(id, &moved);
                w.line(&format!("{to} = {x};"));
            });
            start = end;
        }
        to
    }

    pub(super) fn gather(&mut self, step: &Step, axis: usize, coordinates: &[String]) -> String {
        let (data, indices) = (step.inputs[0].expect("Gather has data"), step.inputs[1].expect("Gather has indices"));
        let rank = self.builder.ty(indices).rank();
        let index = self.read(indices, &coordinates[axis..axis + rank]);
        let extent = self.builder.long_extent(&self.builder.ty(data).shape[axis].clone());
        let (fault, launch) = (self.builder.fault(), self.builder.launch + 1);
        let index = format!("static_cast<int>(slide::checked_index({index}, {extent}, {fault}, {launch}))");
        let index = self.bind("int", &index);
        let from: Vec<String> =
            coordinates[..axis].iter().cloned().chain([index]).chain(coordinates[axis + rank..].iter().cloned()).collect();
        self.read(data, &from)
    }

    /// Writes an element of what is split to the result that it belongs to.
    pub(super) fn split(&mut self, step: &Step, coordinates: &[String]) {
        let Op::Split(op) = &step.op else { unreachable!("only Split has several results") };
        let x = self.read(step.inputs[0].expect("Split has an operand"), coordinates);
        let mut start = Dim::from(0);
        for &id in &step.outputs {
            let shape = self.builder.ty(id).shape.clone();
            let end = start.clone() + shape[op.axis].clone();
            let (from, until) = (self.builder.extent(&start), self.builder.extent(&end));
            let c = &coordinates[op.axis];
            let mut moved = coordinates.to_vec();
            moved[op.axis] = format!("({c} - {from})");
            let (index, to) = (self.ravel(&moved, &shape), self.builder.output(id));
            self.line(&format!("if ({c} >= {from} && {c} < {until}) slide::put_element({to}, {index}, {x});"));
            start = end;
        }
    }
}
