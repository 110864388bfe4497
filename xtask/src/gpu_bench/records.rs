//! The records of a log, sorted by model, shape and engine.
//!
//! Must not know how they are shown.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::shell::Result;

/// A line of the log that begins with `{`.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Record {
    Machine(Machine),
    Plan {
        model: String,
        engine: String,
        #[serde(flatten)]
        plan: Plan,
    },
    Ready {
        #[serde(flatten)]
        of: Of,
        distance: Option<f64>,
        variant: Option<String>,
        sparse: Option<f64>,
    },
    Turn {
        #[serde(flatten)]
        of: Of,
        mode: Mode,
        round: u32,
        #[serde(flatten)]
        turn: Turn,
    },
    Launches {
        #[serde(flatten)]
        of: Of,
        #[serde(flatten)]
        breakdown: Breakdown,
    },
    Failed {
        model: String,
        tokens: Option<u64>,
        engine: String,
        stage: String,
        reason: String,
    },
    LeftOut {
        model: String,
        tokens: Option<u64>,
        reason: String,
    },
    #[serde(other)]
    Other,
}

/// What a record is of.
#[derive(Deserialize)]
struct Of {
    model: String,
    tokens: u64,
    shape: String,
    engine: String,
}

/// Where a log was made.
#[derive(Clone, Debug, Deserialize)]
pub struct Machine {
    pub date: String,
    pub commit: String,
    /// What `sliderun devices` said.
    pub devices: Option<String>,
    pub torch: Option<String>,
    /// W.
    pub power_limit: Option<f64>,
}

/// Of what a plan was compiled.
#[derive(Clone, Debug, Deserialize)]
pub struct Plan {
    /// That its weights were pruned to; none of a dense plan.
    pub pattern: Option<String>,
}

/// Which of a plan's variants ran.
#[derive(Clone, Debug, Deserialize)]
pub struct Chosen {
    pub variant: String,
    /// Share of the products' work that sparse ones do.
    pub sparse: Option<f64>,
}

/// How an engine ran.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Runs that are waited for, after a rest.
    Burst,
    /// Runs without a wait between.
    Steady,
}

/// What one turn gave.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Turn {
    /// Of a run.
    pub us: f64,
    pub watts: Option<f64>,
    pub sm_mhz: Option<f64>,
}

/// One launch of a plan.
#[derive(Clone, Debug, Deserialize)]
pub struct Launch {
    pub operators: Vec<String>,
    pub library: Option<String>,
    /// Type of its first operand.
    pub input: Option<String>,
    pub microseconds: f64,
    /// That it must move.
    pub bytes: f64,
    /// Of a product, as if it were dense.
    pub operations: Option<f64>,
}

/// What the device can do, measured in the same run.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Ceilings {
    pub copy_gb_per_s: Option<f64>,
    /// Type and 10¹² operations per second.
    pub products: Vec<(String, f64)>,
}

/// A plan launch by launch.
#[derive(Clone, Debug, Deserialize)]
pub struct Breakdown {
    pub launches: Vec<Launch>,
    pub ceilings: Ceilings,
}

/// Turns by the log and the round that they were in.
pub type Series = BTreeMap<(usize, u32), Turn>;

/// One shape of a model.
#[derive(Default)]
pub struct Shape {
    /// As plans name it.
    pub symbols: String,
    /// Engines, in the order of the log.
    pub engines: Vec<String>,
    pub turns: BTreeMap<(String, Mode), Series>,
    /// By plan.
    pub chosen: BTreeMap<String, Chosen>,
    /// From f32, by engine.
    pub distances: BTreeMap<String, f64>,
    pub breakdowns: BTreeMap<String, Breakdown>,
}

/// One model.
#[derive(Default)]
pub struct Model {
    pub name: String,
    pub plans: BTreeMap<String, Plan>,
    /// By the number of tokens.
    pub shapes: BTreeMap<u64, Shape>,
    /// What was not measured, and why.
    pub missing: Vec<String>,
}

/// Everything that logs hold.
#[derive(Default)]
pub struct Results {
    pub machines: Vec<Machine>,
    pub models: Vec<Model>,
}

impl Results {
    /// Reads logs. What a later one says of an engine replaces an earlier one's, but turns add up.
    ///
    /// # Errors
    /// A line that begins like a record and is none.
    pub fn read<'a>(logs: impl IntoIterator<Item = &'a str>) -> Result<Results> {
        let mut results = Results::default();
        for (log, text) in logs.into_iter().enumerate() {
            // Of a run that was ended the last line may be cut off.
            let text = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with('{')) {
                let record = serde_json::from_str(line).map_err(|e| format!("log {}, line {}: {e}", log + 1, number + 1))?;
                results.take(log, record);
            }
        }
        if results.models.is_empty() {
            return Err("the logs hold no records of models".to_owned());
        }
        Ok(results)
    }

    fn take(&mut self, log: usize, record: Record) {
        let at = |tokens: Option<u64>| tokens.map_or(String::new(), |tokens| format!(", {tokens} tokens"));
        match record {
            Record::Machine(machine) => self.machines.push(machine),
            Record::Plan { model, engine, plan } => drop(self.model(&model).plans.insert(engine, plan)),
            Record::Ready { of, distance, variant, sparse } => {
                let shape = self.shape(&of);
                if !shape.engines.contains(&of.engine) {
                    shape.engines.push(of.engine.clone());
                }
                shape.chosen.extend(variant.map(|variant| (of.engine.clone(), Chosen { variant, sparse })));
                shape.distances.extend(distance.map(|distance| (of.engine, distance)));
            }
            Record::Turn { of, mode, round, turn } => {
                let shape = self.shape(&of);
                shape.turns.entry((of.engine, mode)).or_default().insert((log, round), turn);
            }
            Record::Launches { of, breakdown } => drop(self.shape(&of).breakdowns.insert(of.engine.clone(), breakdown)),
            Record::Failed { model, tokens, engine, stage, reason } => {
                self.model(&model).missing.push(format!("{engine}{}, {stage}: {reason}", at(tokens)));
            }
            Record::LeftOut { model, tokens, reason } => {
                self.model(&model).missing.push(format!("left out{}: {reason}", at(tokens)));
            }
            Record::Other => {}
        }
    }

    fn model(&mut self, name: &str) -> &mut Model {
        let at = self.models.iter().position(|m| m.name == name).unwrap_or_else(|| {
            self.models.push(Model { name: name.to_owned(), ..Model::default() });
            self.models.len() - 1
        });
        &mut self.models[at]
    }

    fn shape(&mut self, of: &Of) -> &mut Shape {
        let shape = self.model(&of.model).shapes.entry(of.tokens).or_default();
        shape.symbols.clone_from(&of.shape);
        shape
    }
}

impl Shape {
    /// The median over an engine's turns of something.
    pub fn median(&self, engine: &str, mode: Mode, get: impl Fn(&Turn) -> Option<f64>) -> Option<f64> {
        median(self.turns.get(&(engine.to_owned(), mode))?.values().filter_map(get).collect())
    }

    /// Microseconds of a run.
    pub fn us(&self, engine: &str, mode: Mode) -> Option<f64> {
        self.median(engine, mode, |turn| Some(turn.us))
    }

    /// How many times as fast as another engine: the median over rounds that both took part in of the ratio within the round.
    pub fn speedup(&self, engine: &str, over: &str, mode: Mode) -> Option<f64> {
        let of = |engine: &str| self.turns.get(&(engine.to_owned(), mode));
        let (own, other) = (of(engine)?, of(over)?);
        median(own.iter().filter_map(|(round, turn)| Some(other.get(round)?.us / turn.us)).collect())
    }
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some(if values.len().is_multiple_of(2) { (values[values.len() / 2 - 1] + upper) / 2.0 } else { upper })
}
