//! What was measured, as an SVG: what plans lose over what they cost, mixed ones beside those with one pattern for all.

use std::fmt::Write;

use super::fidelity::{Budget, Metric};
use super::{Found, Point};
use crate::report::Escaped;

/// Of the whole picture, and of the space around the axes: left, top, right, bottom.
const SIZE: [f64; 2] = [860.0, 480.0];
const MARGIN: [f64; 4] = [76.0, 36.0, 24.0, 52.0];

const INK: &str = "#333333";
const MIXED: &str = "#1e8449";
const UNIFORM: &str = "#2471a3";
const CHOSEN: &str = "#c0392b";

/// Losses are drawn by their logarithms, from here on.
const LEAST: f64 = 1e-6;

/// A position in the picture.
type Place = [f64; 2];

struct Plot<'a> {
    budget: &'a Budget,
    /// Costs at the left and right end.
    costs: [f64; 2],
    /// Losses at the bottom and top.
    losses: [f64; 2],
    svg: String,
}

/// The picture: costs to the right, the figure that is bounded upwards, better being higher, and a line where the budget is.
pub fn svg(found: &Found) -> String {
    let loss = |p: &Point| found.budget.loss(&p.fidelity).max(LEAST);
    let drawn: Vec<&Point> = found.points.iter().filter(|p| p.cost.is_finite() && loss(p).is_finite()).collect();
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold([f64::INFINITY, 0.0f64], |[least, most], v| [least.min(v), most.max(v)])
    };
    let costs = range(&mut drawn.iter().map(|p| p.cost));
    let losses = range(&mut drawn.iter().map(|p| loss(p)).chain([found.budget.allowance()]));
    let mut plot = Plot {
        budget: &found.budget,
        costs: [costs[0] * 0.96, costs[1] * 1.04],
        losses: [losses[1] * 1.5, losses[0] / 1.5],
        svg: String::new(),
    };
    plot.axes(found);
    let mut best = f64::INFINITY;
    // From the dearest on, what loses least so far is kept apart from what something cheaper beats.
    let mut edge: Vec<&Point> = drawn.clone();
    edge.sort_by(|a, b| loss(a).total_cmp(&loss(b)));
    edge.retain(|p| {
        let better = p.cost < best;
        best = best.min(p.cost);
        better
    });
    let path: Vec<String> = edge.iter().map(|p| plot.place(p.cost, loss(p))).map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
    plot.add(&format!(r#"<polyline points="{}" fill="none" stroke="{MIXED}" stroke-width="1.2"/>"#, path.join(" ")));
    for point in &drawn {
        let chosen = std::ptr::eq(*point, found.point());
        plot.point(point, loss(point), chosen);
    }
    plot.legend();
    plot.finish()
}

impl Plot<'_> {
    fn place(&self, cost: f64, loss: f64) -> Place {
        let [left, top, right, bottom] = MARGIN;
        let x = (cost - self.costs[0]) / (self.costs[1] - self.costs[0]);
        let y = (loss / self.losses[0]).ln() / (self.losses[1] / self.losses[0]).ln();
        [left + x * (SIZE[0] - left - right), SIZE[1] - bottom - y * (SIZE[1] - top - bottom)]
    }

    fn add(&mut self, element: &str) {
        writeln!(self.svg, "{element}").expect("writing to a String does not fail");
    }

    fn text(&mut self, [x, y]: Place, anchor: &str, colour: &str, text: &str) {
        let text = Escaped(text);
        self.add(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#));
    }

    fn line(&mut self, [x1, y1]: Place, [x2, y2]: Place, style: &str) {
        self.add(&format!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {style}/>"#));
    }

    fn axes(&mut self, found: &Found) {
        let light = r##"stroke="#dddddd""##;
        for exponent in -6..1 {
            for digit in [1.0, 2.0, 5.0] {
                let loss = digit * 10f64.powi(exponent);
                if loss > self.losses[0] || loss < self.losses[1] {
                    continue;
                }
                let [from, to] = [self.place(self.costs[0], loss), self.place(self.costs[1], loss)];
                self.line(from, to, light);
                let label = figure(self.budget, loss);
                self.text([from[0] - 6.0, from[1] + 4.0], "end", INK, &label);
            }
        }
        // Costs are told for those of the dense plan, the dearest.
        let dearest = self.costs[1] / 1.04;
        for tenth in 1..=10 {
            let cost = dearest * f64::from(tenth) / 10.0;
            if cost < self.costs[0] {
                continue;
            }
            let [from, to] = [self.place(cost, self.losses[0]), self.place(cost, self.losses[1])];
            self.line(from, to, light);
            self.text([from[0], from[1] + 16.0], "middle", INK, &format!("{} %", tenth * 10));
        }
        let allowance = self.budget.allowance();
        let [from, to] = [self.place(self.costs[0], allowance), self.place(self.costs[1], allowance)];
        self.line(from, to, &format!(r#"stroke="{CHOSEN}" stroke-dasharray="6 3""#));
        self.text([to[0] - 4.0, to[1] - 5.0], "end", CHOSEN, &self.budget.to_string());
        self.text([MARGIN[0], 20.0], "start", INK, &format!("Plans that were measured, weights pruned by {}", found.prune));
        let middle = (SIZE[0] - MARGIN[2] + MARGIN[0]) / 2.0;
        self.text([middle, SIZE[1] - 12.0], "middle", INK, &format!("cost for the dearest: {}", found.unit));
    }

    fn point(&mut self, point: &Point, loss: f64, chosen: bool) {
        let [x, y] = self.place(point.cost, loss);
        let (colour, fill) = match (chosen, point.uniform) {
            (true, _) => (CHOSEN, CHOSEN),
            (false, true) => (UNIFORM, "white"),
            (false, false) => (MIXED, MIXED),
        };
        let title = format!(
            "{}: {}, {:.1} % of the dense multiply-accumulates{}",
            Escaped(&point.what),
            figure(self.budget, loss),
            100.0 * point.macs,
            if point.deployed { "" } else { ", a draft" }
        );
        self.add(&format!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{fill}" stroke="{colour}"><title>{title}</title></circle>"#
        ));
        if point.uniform {
            self.text([x + 7.0, y + 4.0], "start", UNIFORM, &point.what);
        }
    }

    fn legend(&mut self) {
        for (at, (colour, fill, text)) in
            [(CHOSEN, CHOSEN, "chosen"), (MIXED, MIXED, "mixed"), (UNIFORM, "white", "one form for all")].into_iter().enumerate()
        {
            let (x, y) = (MARGIN[0] + 14.0, MARGIN[1] + 16.0 + 17.0 * at as f64);
            self.add(&format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{fill}" stroke="{colour}"/>"#));
            self.text([x + 10.0, y + 4.0], "start", INK, text);
        }
    }

    fn finish(self) -> String {
        let [width, height] = SIZE;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{}</svg>\n",
            self.svg
        )
    }
}

/// A loss as the figure that is bounded.
fn figure(budget: &Budget, loss: f64) -> String {
    let (name, value) = match budget.metric {
        Metric::Cosine => ("cos", 1.0 - loss),
        Metric::RelativeError => ("rel", loss.sqrt()),
        Metric::KeptTop1 => ("top-1", 1.0 - loss),
    };
    let text = format!("{value:.6}");
    format!("{name} {}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::super::fidelity::Fidelity;
    use super::*;
    use crate::recipe::Recipe;

    fn point(what: &str, uniform: bool, cost: f64, cosine: f64) -> Point {
        let fidelity = Fidelity { cosine, worst_cosine: cosine, relative_error: 0.1, kept_top1: 1.0 };
        Point {
            what: what.into(),
            uniform,
            cost,
            macs: cost / 8.0,
            fidelity,
            within: cosine >= 0.98,
            deployed: true,
            picks: Vec::new(),
        }
    }

    #[test]
    fn every_point_is_inside_and_names_are_no_markup() {
        let found = Found {
            budget: "cos=0.98".parse().unwrap(),
            unit: "<units>".into(),
            prune: "magnitude".into(),
            samples: 1,
            measured_on: 1,
            points: vec![
                point("int8 2:4", true, 4.0, 0.9),
                point("a & b", false, 5.0, 0.981),
                point("int8 6:8", true, 6.0, 0.985),
                point("f32 dense", true, 8.0, 1.0),
                point("impossible", true, f64::INFINITY, f64::NAN),
            ],
            chosen: 1,
            groups: Vec::new(),
            recipe: Recipe::default(),
        };
        let svg = svg(&found);
        assert_eq!((svg.matches("<title>").count(), svg.matches("<polyline").count()), (4, 1));
        assert!(svg.contains("a &amp; b: cos 0.981") && svg.contains("&lt;units&gt;") && svg.contains("cos=0.98"), "{svg}");
        let coordinates = svg.split(['"', ' ', ',']).filter_map(|w| w.parse::<f64>().ok());
        assert!(coordinates.into_iter().all(|c| (0.0..=SIZE[0]).contains(&c)), "{svg}");
    }
}
