//! Tables of Markdown, one overview of each model and one of each of its shapes.

use std::fmt::Write;

use super::records::{Breakdown, Launch, Mode, Model, Results, Shape};

/// The peers.
const BF16: &str = "torch bf16";
const FP8: &str = "torch fp8";

/// Everything.
pub fn markdown(results: &Results) -> String {
    let mut out = String::new();
    for machine in &results.machines {
        let devices = machine.devices.as_deref().unwrap_or("no GPU");
        let parts = [
            Some(machine.date.clone()),
            Some(format!("commit {}", machine.commit)),
            Some(devices.lines().filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")),
            machine.torch.as_ref().map(|version| format!("PyTorch {version}")),
            machine.power_limit.map(|watts| format!("at most {watts:.0} W")),
        ];
        line(&mut out, &format!("{}.", parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    for model in &results.models {
        line(&mut out, &format!("\n### {}\n", model.name));
        if !model.shapes.is_empty() {
            overview(&mut out, model);
        }
        for (tokens, shape) in &model.shapes {
            line(&mut out, &format!("\n#### {}, {tokens} tokens ({})\n", model.name, shape.symbols));
            details(&mut out, model, *tokens, shape);
        }
        if !model.missing.is_empty() {
            line(&mut out, "\nNot measured:");
            model.missing.iter().for_each(|missing| line(&mut out, &format!("- {}", missing.replace('\n', " "))));
        }
    }
    out
}

/// Microseconds of every engine at every number of tokens.
fn overview(out: &mut String, model: &Model) {
    let mut engines: Vec<&String> = Vec::new();
    for engine in model.shapes.values().flat_map(|shape| &shape.engines) {
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    let heads = model.shapes.keys().map(|tokens| format!("M = {tokens}"));
    row(out, std::iter::once("µs, burst / steady".to_owned()).chain(heads));
    rule(out, 1 + model.shapes.len());
    for engine in engines {
        let cells = model.shapes.values().map(|shape| {
            let times = [Mode::Burst, Mode::Steady].map(|mode| shape.us(engine, mode).map(micros));
            times.into_iter().flatten().collect::<Vec<_>>().join(" / ")
        });
        row(out, std::iter::once(engine.clone()).chain(cells));
    }
}

/// What is a column of a shape's table, without its head.
type Cell<'a> = Box<dyn Fn(&str) -> Option<String> + 'a>;

fn details(out: &mut String, model: &Model, tokens: u64, shape: &Shape) {
    let mut columns: Vec<(String, Cell<'_>)> = Vec::new();
    for mode in [Mode::Burst, Mode::Steady] {
        let name = if mode == Mode::Burst { "burst" } else { "steady" };
        if !shape.turns.keys().any(|(_, of)| *of == mode) {
            continue;
        }
        columns.push((format!("{name} µs"), Box::new(move |engine| shape.us(engine, mode).map(micros))));
        let dense = best_dense(model, shape, mode);
        for (head, base) in [(BF16, Some(BF16)), (FP8, Some(FP8)), ("best dense", dense)] {
            let Some(base) = base else { continue };
            let cell = move |engine: &str| shape.speedup(engine, base, mode).map(|ratio| format!("{ratio:.2}"));
            columns.push((format!("× {head}"), Box::new(cell)));
        }
    }
    let steady = |engine: &str, get: fn(&super::records::Turn) -> Option<f64>| shape.median(engine, Mode::Steady, get);
    columns.push(("W".into(), Box::new(move |engine| steady(engine, |turn| turn.watts).map(|watts| format!("{watts:.0}")))));
    columns.push(("MHz".into(), Box::new(move |engine| steady(engine, |turn| turn.sm_mhz).map(|mhz| format!("{mhz:.0}")))));
    let energy = move |engine: &str| {
        let joules = steady(engine, |turn| turn.watts.map(|watts| watts * turn.us * 1e-6))?;
        Some(format!("{:.3}", joules / tokens as f64 * 1e3))
    };
    columns.push(("mJ a token".into(), Box::new(energy)));
    columns.push(("variant".into(), Box::new(|engine| shape.chosen.get(engine).map(|chosen| chosen.variant.clone()))));
    let sparse = |engine: &str| shape.chosen.get(engine)?.sparse.map(|share| format!("{:.0} %", share * 100.0));
    columns.push(("sparse".into(), Box::new(sparse)));
    columns.push(("launches".into(), Box::new(|engine| shape.breakdowns.get(engine).map(|b| b.launches.len().to_string()))));
    let of_floor = |engine: &str| {
        let floor = floor(shape.breakdowns.get(engine)?)?;
        Some(format!("{:.2}", shape.us(engine, Mode::Burst)? / floor))
    };
    columns.push(("× floor".into(), Box::new(of_floor)));
    columns.push(("from f32".into(), Box::new(|engine| shape.distances.get(engine).map(|d| format!("{d:.1e}")))));
    // Columns in which nobody has anything are not there.
    columns.retain(|(_, cell)| shape.engines.iter().any(|engine| cell(engine).is_some()));

    row(out, std::iter::once(String::new()).chain(columns.iter().map(|(head, _)| head.clone())));
    rule(out, 1 + columns.len());
    for engine in &shape.engines {
        row(out, std::iter::once(engine.clone()).chain(columns.iter().map(|(_, cell)| cell(engine).unwrap_or_default())));
    }
    let is_sparse = |engine: &str| shape.chosen.get(engine).is_some_and(|chosen| chosen.sparse.is_some_and(|share| share > 0.0));
    let shown = shape.engines.iter().filter(|engine| is_sparse(engine) && shape.breakdowns.contains_key(*engine));
    let fastest = shown.filter_map(|engine| Some((engine, shape.us(engine, Mode::Burst)?))).min_by(|a, b| a.1.total_cmp(&b.1));
    if let Some((engine, _)) = fastest {
        line(out, &format!("\nWhere the time of {engine} goes, each launch by itself:\n"));
        launches(out, &shape.breakdowns[engine]);
    }
}

/// Our fastest plan of weights that are not pruned.
fn best_dense<'a>(model: &Model, shape: &'a Shape, mode: Mode) -> Option<&'a str> {
    let dense = shape.engines.iter().filter(|engine| model.plans.get(*engine).is_some_and(|plan| plan.pattern.is_none()));
    let timed = dense.filter_map(|engine| Some((engine.as_str(), shape.us(engine, mode)?)));
    timed.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(engine, _)| engine)
}

fn is_attention(launch: &Launch) -> bool {
    launch.operators.iter().any(|operator| operator == "Attention")
}

/// Products and attention as fast as they are by themselves, and everything else as fast as a copy of what it must move, in µs.
fn floor(breakdown: &Breakdown) -> Option<f64> {
    let rate = breakdown.ceilings.copy_gb_per_s?;
    let least = |launch: &Launch| {
        let itself = launch.operations.is_some() || is_attention(launch);
        if itself { launch.microseconds } else { launch.bytes / rate / 1e3 }
    };
    Some(breakdown.launches.iter().map(least).sum())
}

/// Launches that do the same added up, those that take longest first.
fn launches(out: &mut String, breakdown: &Breakdown) {
    let mut groups: Vec<(String, usize, f64, f64, Option<f64>)> = Vec::new();
    for launch in &breakdown.launches {
        let mut operators = launch.operators.clone();
        operators.dedup();
        let by = launch.library.as_ref().map(|library| format!(" {}, {library}", launch.input.as_deref().unwrap_or_default()));
        let what = format!("{}{}", operators.join(" "), by.unwrap_or_default());
        match groups.iter_mut().find(|group| group.0 == what) {
            Some((_, count, time, bytes, operations)) => {
                *count += 1;
                *time += launch.microseconds;
                *bytes += launch.bytes;
                *operations = operations.zip(launch.operations).map(|(a, b)| a + b);
            }
            None => groups.push((what, 1, launch.microseconds, launch.bytes, launch.operations)),
        }
    }
    groups.sort_by(|a, b| b.2.total_cmp(&a.2));
    row(out, ["", "launches", "µs", "TFLOPS", "GB/s", "of a copy"].map(str::to_owned));
    rule(out, 6);
    for (what, count, time, bytes, operations) in groups {
        let rate = bytes / time.max(1e-9) / 1e3;
        let share = breakdown.ceilings.copy_gb_per_s.map(|copy| format!("{:.0} %", rate / copy * 100.0));
        let tflops = operations.map(|operations| format!("{:.0}", operations / time.max(1e-9) / 1e6));
        let cells = [what, count.to_string(), micros(time), tflops.unwrap_or_default(), micros(rate), share.unwrap_or_default()];
        row(out, cells);
    }
}

/// Three digits at least, thousands apart.
fn micros(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    out
}

fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('|', "\\|")).collect();
    line(out, &format!("| {} |", cells.join(" | ")));
}

fn rule(out: &mut String, columns: usize) {
    line(out, &format!("|{}", "---|".repeat(columns)));
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("writing to a String does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not measured: made up in the form of a log, with numbers that are easy to check.
    const SAMPLE: &str = include_str!("sample.log");

    #[test]
    fn tables_of_a_log() {
        insta::assert_snapshot!(markdown(&Results::read([SAMPLE]).unwrap()));
    }

    #[test]
    fn ratios_are_within_rounds_of_the_same_log() {
        let turn = |round: u32, engine: &str, us: f64| {
            format!(
                r#"{{"event":"turn","model":"m","tokens":1,"shape":"s","engine":"{engine}","mode":"burst","round":{round},"us":{us}}}"#
            )
        };
        let first =
            [turn(0, "a", 1.0), turn(0, "b", 2.0), turn(1, "a", 10.0), turn(1, "b", 30.0), turn(2, "a", 5.0)].join("\n") + "\n";
        // By itself: b took no turn in this log.
        let second = turn(0, "a", 100.0) + "\n{\"event\": \"tu";
        let results = Results::read([first.as_str(), second.as_str()]).unwrap();
        let shape = &results.models[0].shapes[&1];
        assert_eq!(shape.speedup("a", "b", Mode::Burst), Some(2.5));
        assert_eq!(shape.us("a", Mode::Burst), Some(7.5));
        assert_eq!(shape.us("a", Mode::Steady), None);
        assert!(Results::read(["{\"event\": \"turn\"}\n"]).is_err_and(|e| e.contains("line 1")));
        assert!(Results::read(["nothing"]).is_err());
    }
}
