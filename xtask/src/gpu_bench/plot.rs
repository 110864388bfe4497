//! A roofline plot as SVG: of each plan, at each number of tokens, the rate of its matrix products over the operations for each byte that they
//! move, under what copies and dense products reach on the same device. Sparse products count as the dense ones that they replace: above the
//! roof of their type is where they pay.

use std::fmt::Write;

use super::records::{Breakdown, Model, median};

/// Of the whole picture, and of the space around the axes: left, top, right, bottom.
const SIZE: [f64; 2] = [860.0, 520.0];
const MARGIN: [f64; 4] = [64.0, 36.0, 150.0, 52.0];

/// Colours by pattern; what has none is dense.
const COLOURS: [(&str, &str); 4] = [("2:4", "#c0392b"), ("4:6", "#d68910"), ("6:8", "#1e8449"), ("8:10", "#2471a3")];
const DENSE: &str = "#333333";

/// Operations for each byte, 10¹² operations per second.
type Point = [f64; 2];

/// Axes with logarithms, and the picture so far.
struct Plot {
    low: Point,
    high: Point,
    svg: String,
}

/// The plot of a model; nothing where its plans were not measured launch by launch.
pub fn roofline(model: &Model) -> Option<String> {
    let mut lines: Vec<(&str, Vec<(u64, Point)>)> = Vec::new();
    for (tokens, shape) in &model.shapes {
        // What is chosen automatically is one of the others.
        let named = shape.engines.iter().filter(|engine| !engine.ends_with("auto"));
        for (engine, breakdown) in named.filter_map(|engine| Some((engine, shape.breakdowns.get(engine)?))) {
            let Some(point) = products(breakdown) else { continue };
            match lines.iter_mut().find(|(of, _)| of == engine) {
                Some((_, points)) => points.push((*tokens, point)),
                None => lines.push((engine, vec![(*tokens, point)])),
            }
        }
    }
    let breakdowns: Vec<&Breakdown> = model.shapes.values().flat_map(|shape| shape.breakdowns.values()).collect();
    let copy = median(breakdowns.iter().filter_map(|b| b.ceilings.copy_gb_per_s).collect())?;
    let mut roofs: Vec<(&str, f64)> = Vec::new();
    for (dtype, _) in breakdowns.iter().flat_map(|b| &b.ceilings.products) {
        if roofs.iter().all(|(of, _)| of != dtype) {
            let rates = breakdowns.iter().flat_map(|b| &b.ceilings.products).filter(|(of, _)| of == dtype).map(|(_, rate)| *rate);
            roofs.push((dtype, median(rates.collect())?));
        }
    }
    let points: Vec<Point> = lines.iter().flat_map(|(_, points)| points.iter().map(|(_, point)| *point)).collect();
    let rates: Vec<f64> = points.iter().map(|p| p[1]).chain(roofs.iter().map(|(_, rate)| *rate)).collect();
    let intensities: Vec<f64> = points.iter().map(|p| p[0]).collect();
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
    let mut plot = Plot {
        low: [least(&intensities) / 1.5, least(&rates) / 1.3],
        high: [most(&intensities) * 1.5, most(&rates) * 1.3],
        svg: String::new(),
    };
    if points.is_empty() {
        return None;
    }
    plot.axes(&format!("{}: matrix products of plans under a copy's {copy:.0} GB/s", model.name));
    for (dtype, rate) in &roofs {
        plot.roof(dtype, *rate, copy / 1e3);
    }
    for (at, (engine, points)) in lines.iter().enumerate() {
        let legend = SIZE[1] - MARGIN[3] + 5.0 - 17.0 * (lines.len() - at) as f64;
        plot.line(legend, engine, points);
    }
    Some(plot.finish())
}

/// All products of a plan together.
fn products(breakdown: &Breakdown) -> Option<Point> {
    let products = || breakdown.launches.iter().filter_map(|launch| Some((launch, launch.operations?)));
    let operations: f64 = products().map(|(_, operations)| operations).sum();
    let bytes: f64 = products().map(|(launch, _)| launch.bytes).sum();
    let time: f64 = products().map(|(launch, _)| launch.microseconds).sum();
    (operations > 0.0 && bytes > 0.0 && time > 0.0).then(|| [operations / bytes, operations / time / 1e6])
}

impl Plot {
    /// Where a point lies in the picture.
    fn place(&self, point: Point) -> Point {
        let [left, top, right, bottom] = MARGIN;
        let share = |axis: usize| (point[axis] / self.low[axis]).ln() / (self.high[axis] / self.low[axis]).ln();
        [left + share(0) * (SIZE[0] - left - right), SIZE[1] - bottom - share(1) * (SIZE[1] - top - bottom)]
    }

    fn add(&mut self, element: &str) {
        writeln!(self.svg, "{element}").expect("writing to a String does not fail");
    }

    fn text(&mut self, [x, y]: Point, anchor: &str, colour: &str, text: &str) {
        self.add(&format!(r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" fill="{colour}">{text}</text>"#));
    }

    fn stroke(&mut self, from: Point, to: Point, style: &str) {
        let ([x1, y1], [x2, y2]) = (self.place(from), self.place(to));
        self.add(&format!(r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" {style}/>"#));
    }

    fn axes(&mut self, title: &str) {
        let (low, high) = (self.low, self.high);
        for axis in [0, 1] {
            for exponent in -3..8 {
                for digit in [1.0, 2.0, 5.0] {
                    let value = digit * 10f64.powi(exponent);
                    if value < low[axis] || value > high[axis] {
                        continue;
                    }
                    let (mut from, mut to) = (low, high);
                    (from[axis], to[axis]) = (value, value);
                    self.stroke(from, to, r##"stroke="#dddddd""##);
                    let [x, y] = self.place(from);
                    let (at, anchor) = if axis == 0 { ([x, y + 16.0], "middle") } else { ([x - 6.0, y + 4.0], "end") };
                    self.text(at, anchor, DENSE, &format!("{value}"));
                }
            }
        }
        self.text([MARGIN[0], 20.0], "start", DENSE, title);
        self.text([(SIZE[0] - MARGIN[2] + MARGIN[0]) / 2.0, SIZE[1] - 12.0], "middle", DENSE, "operations for each byte moved");
        let middle = SIZE[1] / 2.0;
        self.add(&format!(
            r#"<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle" fill="{DENSE}">10¹² operations per second, as if dense</text>"#
        ));
    }

    /// What dense products of a type reach, and the part of it that a copy's rate allows.
    fn roof(&mut self, dtype: &str, rate: f64, copy: f64) {
        let knee = (rate / copy).clamp(self.low[0], self.high[0]);
        let style = r##"stroke="#888888" stroke-width="1.5""##;
        let start = (self.low[1] / copy).clamp(self.low[0], knee);
        self.stroke([start, start * copy], [knee, knee * copy], style);
        if knee * copy >= rate {
            self.stroke([knee, rate], [self.high[0], rate], style);
            let [x, y] = self.place([self.high[0], rate]);
            self.text([x + 4.0, y + 4.0], "start", "#888888", &format!("dense {dtype} {rate:.0}"));
        }
    }

    /// A plan at all numbers of tokens, dashed in fp8 and dotted in bf16, and its name at a height.
    fn line(&mut self, legend: f64, engine: &str, points: &[(u64, Point)]) {
        let colour = COLOURS.iter().find(|(pattern, _)| engine.ends_with(pattern)).map_or(DENSE, |(_, colour)| colour);
        let dash = match engine.split(' ').next() {
            Some("fp8") => r#" stroke-dasharray="6 3""#,
            Some("bf16") => r#" stroke-dasharray="2 3""#,
            _ => "",
        };
        let places: Vec<Point> = points.iter().map(|(_, point)| self.place(*point)).collect();
        let path: Vec<String> = places.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        self.add(&format!(r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="1.5"{dash}/>"#, path.join(" ")));
        for ([x, y], (tokens, [intensity, rate])) in places.iter().zip(points) {
            let title = format!("{engine}, M = {tokens}: {rate:.0} at {intensity:.0} operations a byte");
            self.add(&format!(r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5" fill="{colour}"><title>{title}</title></circle>"#));
        }
        let (x, y) = (SIZE[0] - MARGIN[2] - 110.0, legend);
        self.add(&format!(r#"<line x1="{x}" y1="{y}" x2="{}" y2="{y}" stroke="{colour}"{dash}/>"#, x + 26.0));
        self.text([x + 32.0, y + 4.0], "start", colour, engine);
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

#[cfg(test)]
mod tests {
    use super::super::records::Results;
    use super::*;

    #[test]
    fn a_plot_of_a_log() {
        let results = Results::read([include_str!("sample.log")]).unwrap();
        insta::assert_snapshot!(roofline(&results.models[0]).unwrap());
        assert_eq!(roofline(&Model::default()), None);
    }
}
