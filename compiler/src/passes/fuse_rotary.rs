//! `fuse-rotary`: rotary position embedding spelled out becomes one operator.
//!
//! `x·cos + turned(x)·sin`, where the pairs that are turned are the halves of a head's elements or neighbours, whatever slices, joins and
//! reshapes spell that, and with it the cosines and sines that both elements of a pair have in common: those are computed once for each
//! pair, and once for all that are turned by them. Where only the first elements of a head are turned, the rest is taken in. At last the
//! operator moves in front of a transposition that splits heads, so that what follows sees heads split as ever.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::layout::{Reshape, Transpose};
use sliderun::op::rotary::Rotary;

use super::rewrite::{Replacement, emit, rewrite};
use super::row_elements::{Built, Element, Expression, RowElements};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass {
    name: "fuse-rotary",
    summary: "rotary position embedding spelled out becomes one operator, its cosines and sines one for each pair",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let (mut rows, mut built) = (RowElements::default(), Built::default());
    rewrite(graph, context, |graph, id, context| {
        if !is_candidate(graph, id) {
            return Ok(None);
        }
        rows.forget();
        match recognise(graph, &mut rows, &mut built, id, context)? {
            None => take_rest(graph, &mut rows, &mut built, id),
            found => Ok(found),
        }
    })?;
    rewrite(graph, context, |graph, id, _| match take_casts(graph, id)? {
        None => move_in_front(graph, id),
        found => Ok(found),
    })
}

/// Whether a node may be where a rotary embedding ends: a sum of products, or what is joined of such and of parts that were turned.
fn is_candidate(graph: &Graph, id: NodeId) -> bool {
    let operand = |id: NodeId| graph.operand(id, 0).map(|v| v.node);
    match graph.node(id).op() {
        Some(Op::Binary(Binary::Add | Binary::Sub)) => {
            let product = |v: &ValueRef| matches!(graph.producer(*v), Some(Op::Binary(Binary::Mul)));
            graph.operands(id).iter().flatten().all(product)
        }
        Some(Op::Concat(_)) => graph.operands(id).into_iter().flatten().any(|v| {
            let mut node = v.node;
            while matches!(graph.node(node).op(), Some(Op::Reshape(_))) {
                let Some(before) = operand(node) else { break };
                node = before;
            }
            matches!(graph.node(node).op(), Some(Op::Rotary(_))) || is_sum(graph, node)
        }),
        Some(Op::Reshape(_)) => {
            operand(id).is_some_and(|node| matches!(graph.node(node).op(), Some(Op::Concat(_))) && is_candidate(graph, node))
        }
        _ => false,
    }
}

fn is_sum(graph: &Graph, id: NodeId) -> bool {
    matches!(graph.node(id).op(), Some(Op::Binary(Binary::Add | Binary::Sub))) && is_candidate(graph, id)
}

/// A row whose pairs are turned.
struct Turned {
    interleaved: bool,
    x: Vec<Element>,
    /// Of all elements; those of a pair may still differ.
    cos: Vec<Element>,
    sin: Vec<Element>,
    /// Whether the first of a pair gets the second subtracted, as it ought to.
    forward: bool,
}

impl Turned {
    /// The other element of a pair, and whether this one is its first.
    fn partner(i: usize, count: usize, interleaved: bool) -> (usize, bool) {
        match interleaved {
            true => (i ^ 1, i.is_multiple_of(2)),
            false if i < count / 2 => (i + count / 2, true),
            false => (i - count / 2, false),
        }
    }

    /// Reads a row as sums of two products.
    fn of(rows: &RowElements, row: &[Element]) -> Option<Turned> {
        if row.len() < 2 || !row.len().is_multiple_of(2) {
            return None;
        }
        let sums: Vec<[Term; 2]> = row.iter().map(|e| terms(rows, *e)).collect::<Option<_>>()?;
        // The order of terms and factors may be another one in the second elements of pairs.
        let orders: Vec<[bool; 3]> = (0..8u8).map(|bits| [0, 1, 2].map(|bit| bits >> bit & 1 == 1)).collect();
        for interleaved in [false, true] {
            for first in &orders {
                for second in &orders {
                    if let Some(found) = Turned::ordered(&sums, interleaved, [first, second]) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }

    fn ordered(sums: &[[Term; 2]], interleaved: bool, orders: [&[bool; 3]; 2]) -> Option<Turned> {
        let count = sums.len();
        // Straight and turned element of x, cosine and sine, and whether the latter's product is subtracted.
        let read = |i: usize| {
            let (_, is_first) = Turned::partner(i, count, interleaved);
            let [swapped, cos_first, sin_first] = *orders[usize::from(!is_first)];
            let [straight, turned] = if swapped { [&sums[i][1], &sums[i][0]] } else { [&sums[i][0], &sums[i][1]] };
            let pick = |term: &Term, table_first: bool| {
                if table_first { (term.factors[1], term.factors[0]) } else { (term.factors[0], term.factors[1]) }
            };
            let ((x, cos), (y, sin)) = (pick(straight, cos_first), pick(turned, sin_first));
            (x, y, cos, sin, straight.negative, turned.negative)
        };
        let forward = read(0).5;
        let mut found = Turned { interleaved, x: Vec::new(), cos: Vec::new(), sin: Vec::new(), forward };
        for i in 0..count {
            let (partner, is_first) = Turned::partner(i, count, interleaved);
            let (x, y, cos, sin, negative, subtracted) = read(i);
            if negative || subtracted != (is_first == forward) || x == y || y != read(partner).0 {
                return None;
            }
            found.x.push(x);
            found.cos.push(cos);
            found.sin.push(sin);
        }
        Some(found)
    }

    /// Of each pair's first element, when the second has the same.
    fn halved(&self, table: &[Element]) -> Option<Vec<Element>> {
        let of_pair = |i| {
            let (partner, is_first) = Turned::partner(i, table.len(), self.interleaved);
            (is_first, table[i] == table[partner])
        };
        let places: Vec<(bool, bool)> = (0..table.len()).map(of_pair).collect();
        let firsts = table.iter().zip(&places).filter(|(_, (is_first, _))| *is_first).map(|(e, _)| *e);
        places.iter().all(|(_, same)| *same).then(|| firsts.collect())
    }
}

/// A product of two elements, added or subtracted.
struct Term {
    negative: bool,
    factors: [Element; 2],
}

fn terms(rows: &RowElements, element: Element) -> Option<[Term; 2]> {
    let Expression::Apply { op, of, .. } = rows.expression(element) else { return None };
    let minus = match rows.operator(*op) {
        Op::Binary(Binary::Add) => false,
        Op::Binary(Binary::Sub) => true,
        _ => return None,
    };
    Some([term(rows, of[0], false)?, term(rows, of[1], minus)?])
}

fn term(rows: &RowElements, element: Element, negative: bool) -> Option<Term> {
    use sliderun::op::elementwise::Unary::Neg;
    let Expression::Apply { op, of, .. } = rows.expression(element) else { return None };
    let Op::Binary(Binary::Mul) = rows.operator(*op) else { return None };
    let mut term = Term { negative, factors: [of[0], of[1]] };
    for factor in &mut term.factors {
        while let Expression::Apply { op, of, .. } = rows.expression(*factor)
            && let Op::Unary(Neg) = rows.operator(*op)
        {
            *factor = of[0];
            term.negative = !term.negative;
        }
    }
    Some(term)
}

/// How heads and tokens lie in what is turned.
enum Layout {
    /// [batch, heads, tokens, D].
    HeadsFirst,
    /// [batch, tokens, heads, D].
    TokensFirst,
    /// [batch, tokens, D]: one head.
    OneHead,
}

impl Layout {
    /// From the extents in front of rows of x and of a table.
    fn of(x: &[Dim], table: &[Dim]) -> Option<Layout> {
        match (x, table) {
            ([b, _, t], [batch, heads, tokens]) if heads.is_one() && tokens == t && (batch == b || batch.is_one()) => {
                Some(Layout::HeadsFirst)
            }
            ([b, t, _], [batch, tokens, heads]) if heads.is_one() && tokens == t && (batch == b || batch.is_one()) => {
                Some(Layout::TokensFirst)
            }
            ([b, t], [batch, tokens]) if tokens == t && (batch == b || batch.is_one()) => Some(Layout::OneHead),
            _ => None,
        }
    }
}

/// The rotary embedding of all elements of a head that ends in a node.
fn recognise(
    graph: &mut Graph,
    rows: &mut RowElements,
    built: &mut Built,
    id: NodeId,
    context: &mut PassContext<'_>,
) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let ty = graph.ty(root).clone();
    if !ty.dtype.computes_in_f32() || !matches!(ty.rank(), 3 | 4) {
        return Ok(None);
    }
    let lead = ty.rank() - 1;
    let Some(row) = rows.of(graph, root, lead) else { return Ok(None) };
    let Some(turned) = Turned::of(rows, &row) else { return Ok(None) };
    let name = graph.node(id).name.clone();
    let mut declined = |why: &str| {
        context.report.declined(name.clone(), format!("turns pairs of elements as rotary embedding does, but {why}"));
        Ok(None)
    };
    if !turned.forward {
        return declined("the other way round");
    }
    let (Some(cos), Some(sin)) = (turned.halved(&turned.cos), turned.halved(&turned.sin)) else {
        return declined("the two of a pair by different angles");
    };
    let front = &ty.shape[..lead];
    let spread = |table: Vec<Element>| rows.unspread(&table).unwrap_or_else(|| (front.to_vec(), table));
    let ((cos_front, cos), (sin_front, sin)) = (spread(cos), spread(sin));
    let Some(layout) = Layout::of(front, &cos_front).filter(|_| sin_front == cos_front) else {
        return declined(&format!("by angles of which there are {cos_front:?}, where one for each token is expected"));
    };
    let (heads, tokens) = match layout {
        Layout::HeadsFirst => (front[1].as_usize(), front[2].clone()),
        Layout::TokensFirst => (front[2].as_usize(), front[1].clone()),
        Layout::OneHead => (Some(1), front[1].clone()),
    };
    let Some(heads) = heads else { return declined("of a number of heads that is not known") };
    let table_front = [cos_front[0].clone(), tokens.clone()];
    let (cos, sin) =
        (rows.build(graph, built, "rotary", &cos, &table_front)?, rows.build(graph, built, "rotary", &sin, &table_front)?);
    let (Some(cos), Some(sin)) = (cos, sin) else { return declined("by angles that are not seen to be computed for each pair") };
    let Some(mut x) = rows.build(graph, built, &name, &turned.x, front)? else {
        return declined("what is turned is taken from several values");
    };
    if let Layout::TokensFirst = layout {
        let width = Dim::from(heads) * Dim::from(row.len());
        x = built.reshaped(graph, &name, x, vec![front[0].clone(), tokens, width])?;
    }
    let op = Rotary { heads, rotated: row.len(), interleaved: turned.interleaved };
    let mut value = emit(graph, &name, op, &[x, cos, sin])?;
    if graph.ty(value).shape != ty.shape {
        value = emit(graph, &name, Reshape { shape: ty.shape }, &[value])?;
    }
    Ok(Some(Replacement::new(value, format!("recognised rotary embedding of {heads} heads"))))
}

/// A Rotary and its operands, of which the first has the shape of the value, which it may be reshaped for and back.
fn turned_value(graph: &Graph, value: ValueRef) -> Option<(Rotary, ValueRef, [ValueRef; 2])> {
    let rotary = |v: ValueRef| match graph.producer(v)? {
        Op::Rotary(op) => Some((*op, graph.operand(v.node, 0)?, [graph.operand(v.node, 1)?, graph.operand(v.node, 2)?])),
        _ => None,
    };
    if let Some(found) = rotary(value) {
        return Some(found);
    }
    let Op::Reshape(_) = graph.producer(value)? else { return None };
    let (op, x, tables) = rotary(graph.operand(value.node, 0)?)?;
    let Op::Reshape(_) = graph.producer(x)? else { return None };
    let before = graph.operand(x.node, 0)?;
    (graph.ty(before) == graph.ty(value)).then_some((op, before, tables))
}

/// Takes in the rest of heads whose first elements are turned: both are parts of the same, in order.
fn take_rest(graph: &mut Graph, rows: &mut RowElements, built: &mut Built, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let root = ValueRef { node: id, slot: 0 };
    let ty = graph.ty(root).clone();
    let Some(lead) = ty.rank().checked_sub(1) else { return Ok(None) };
    let Some(row) = rows.of(graph, root, lead) else { return Ok(None) };
    let Some(&Expression::Of { value, lead: own, index: 0 }) = row.first().map(|e| rows.expression(*e)) else { return Ok(None) };
    let Some((op, x, tables)) = turned_value(graph, value) else { return Ok(None) };
    let count = op.rotated;
    let whole = |i: usize| *rows.expression(row[i]) == Expression::Of { value, lead: own, index: i };
    if own != lead || count >= row.len() || !(0..count).all(whole) || graph.ty(x).shape.last() != Some(&count.into()) {
        return Ok(None);
    }
    let Some(mut head) = rows.of(graph, x, lead) else { return Ok(None) };
    head.extend_from_slice(&row[count..]);
    let name = graph.node(id).name.clone();
    let front = &ty.shape[..lead];
    let Some(mut x) = rows.build(graph, built, &name, &head, front)? else { return Ok(None) };
    if graph.node(value.node).op().is_some_and(|op| matches!(op, Op::Reshape(_))) {
        let width = Dim::from(op.heads) * Dim::from(row.len());
        x = built.reshaped(graph, &name, x, vec![front[0].clone(), front[1].clone(), width])?;
    }
    let mut value = emit(graph, &name, op, &[x, tables[0], tables[1]])?;
    if graph.ty(value).shape != ty.shape {
        value = emit(graph, &name, Reshape { shape: ty.shape }, &[value])?;
    }
    Ok(Some(Replacement::new(value, format!("took in the {} elements of a head that are not turned", row.len() - count))))
}

/// What is turned in f32 between conversions from and to 16 bits: the operator converts itself.
fn take_casts(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(Op::Cast(outer)) = graph.node(id).op() else { return Ok(None) };
    let Some(turned) = graph.operand(id, 0) else { return Ok(None) };
    let Some(&Op::Rotary(op)) = graph.producer(turned) else { return Ok(None) };
    let [Some(wide), Some(cos), Some(sin)] = graph.operands(turned.node)[..] else { return Ok(None) };
    let narrow = match graph.producer(wide) {
        Some(Op::Cast(_)) => graph.operand(wide.node, 0),
        _ => None,
    };
    let Some(x) = narrow.filter(|x| graph.ty(*x).dtype == outer.to && graph.ty(wide).dtype == DType::F32 && outer.to.size() == 2)
    else {
        return Ok(None);
    };
    let name = graph.node(id).name.clone();
    Ok(Some(Replacement::new(emit(graph, &name, op, &[x, cos, sin])?, "took the conversions in")))
}

/// Moves a rotary embedding in front of the transposition that puts heads before tokens.
fn move_in_front(graph: &mut Graph, id: NodeId) -> Result<Option<Replacement>, PassError> {
    let Some(&Op::Rotary(op)) = graph.node(id).op() else { return Ok(None) };
    let [Some(x), Some(cos), Some(sin)] = graph.operands(id)[..] else { return Ok(None) };
    let Some(Op::Transpose(transpose)) =
        graph.producer(x).filter(|t| matches!(t, Op::Transpose(t) if t.perm == [0, 2, 1, 3])).cloned()
    else {
        return Ok(None);
    };
    let Some(parted) = graph.operand(x.node, 0) else { return Ok(None) };
    let shape = graph.ty(parted).shape.clone();
    let [batch, tokens, heads, depth] = &shape[..] else { return Ok(None) };
    let joined = vec![batch.clone(), tokens.clone(), heads.clone() * depth.clone()];
    let name = graph.node(id).name.clone();
    let before = graph.operand(parted.node, 0).filter(|_| matches!(graph.producer(parted), Some(Op::Reshape(_))));
    let whole = match before.filter(|v| graph.ty(*v).shape == joined) {
        Some(whole) => whole,
        None => emit(graph, &format!("{name}.joined"), Reshape { shape: joined }, &[parted])?,
    };
    let value = emit(graph, &format!("{name}.turned"), op, &[whole, cos, sin])?;
    let value = emit(graph, &format!("{name}.parted"), Reshape { shape: shape.clone() }, &[value])?;
    let value = emit(graph, &name, Transpose { perm: transpose.perm }, &[value])?;
    Ok(Some(Replacement::new(value, "moved in front of the transposition")))
}
