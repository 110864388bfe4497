//! The search for the cheapest recipe that is measured to be within a budget: sensitivities, predictions, and whole recipes that correct
//! them.
//!
//! Must not know: how a recipe is compiled and run.

use super::bench::Bench;
use super::fidelity::{Budget, Fidelity, Metric};
use super::groups::Form;
use super::solve::{Candidate, MOST, Solution, front};
use super::{BudgetError, Choices, Point};
use crate::pruning::Progress;
use sliderun::sparse::Pattern;

/// Multiples of the budget's loss at which the curve is measured.
const CURVE: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// Recipes that are measured between the cheapest known to be within the budget and the next that is not.
const ROUNDS: usize = 6;

/// Single changes of the cheapest that are tried at the end.
const CHANGES: usize = 8;

/// Where this much of the budget is used, no recipe is sought between the best known and the next.
const NEAR: f64 = 0.98;

/// What measuring gives.
pub struct Measured {
    /// Every recipe measured, cheapest first.
    pub points: Vec<Point>,
    /// The cheapest within the budget.
    pub chosen: usize,
    /// By group and form.
    pub losses: Vec<Vec<f64>>,
}

/// Something that gives fidelities: [`Bench`], or a test's stand-in.
pub trait Measure {
    /// That of one form for each group.
    fn measure(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError>;

    /// That of one group in each form, in their order, with the others in the one that loses least.
    fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError>;
}

struct OnBench<'a> {
    bench: &'a Bench<'a>,
    choices: &'a Choices<'a>,
}

impl Measure for OnBench<'_> {
    fn measure(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
        self.bench.fidelity(self.choices.recipe(picks))
    }

    fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError> {
        let Choices { groups, forms, prune, .. } = self.choices;
        let patterns: Vec<Pattern> = forms.iter().filter_map(|form| form.pattern).collect();
        let pruned = self.bench.pruned(&groups[group], &patterns, *prune)?;
        let weights = |pattern: Pattern| patterns.iter().position(|p| *p == pattern).map_or(&[][..], |at| &pruned[at]);
        let measure = |(form, of): (usize, &Form)| {
            let mut picks = vec![Choices::DENSE; groups.len()];
            picks[group] = form;
            let recipe = self.choices.recipe(&picks).without_pruning();
            self.bench.fidelity_with(&groups[group], of.pattern.map_or(&[], weights), recipe)
        };
        forms.iter().enumerate().map(measure).collect()
    }
}

/// Searches on a bench.
///
/// # Errors
/// Those of measuring; no recipe within the budget.
pub fn search(
    bench: &Bench<'_>,
    choices: &Choices<'_>,
    budget: &Budget,
    progress: &dyn Progress,
) -> Result<Measured, BudgetError> {
    let mut measure = OnBench { bench, choices };
    Search { measure: &mut measure, choices, budget, points: Vec::new(), progress }.run()
}

struct Search<'a> {
    measure: &'a mut dyn Measure,
    choices: &'a Choices<'a>,
    budget: &'a Budget,
    points: Vec<Point>,
    progress: &'a dyn Progress,
}

impl Search<'_> {
    fn run(mut self) -> Result<Measured, BudgetError> {
        let (groups, forms) = (self.choices.groups.len(), self.choices.forms.len());
        for form in 0..forms {
            self.point(vec![form; groups])?;
        }
        let losses = self.sensitivities()?;
        let candidates: Vec<Vec<Candidate>> = self
            .choices
            .groups
            .iter()
            .zip(&losses)
            .map(|(group, losses)| {
                let cost = |form: usize| self.choices.costs.of(group, self.choices.forms[form]).unwrap_or(f64::INFINITY);
                losses.iter().enumerate().map(|(form, loss)| Candidate { loss: *loss, cost: cost(form) }).collect()
            })
            .collect();
        let reach = match self.budget.metric {
            // Sensitivities are in cosines, of which it is not known how many ranks they cost.
            Metric::KeptTop1 => 1.0,
            _ => 2.0 * CURVE[CURVE.len() - 1] * self.budget.allowance(),
        };
        let front = front(&candidates, reach, MOST);
        self.along(&front)?;
        self.single_changes(&candidates)?;
        self.points.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.fidelity.cosine.total_cmp(&a.fidelity.cosine)));
        match self.points.iter().position(|p| p.within) {
            Some(chosen) => Ok(Measured { points: self.points, chosen, losses }),
            None => {
                let loss = |p: &&Point| self.budget.loss(&p.fidelity);
                let best = self.points.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("uniform recipes were measured");
                let figure = self.budget.figure(&best.fidelity);
                Err(BudgetError::OutOfReach { budget: *self.budget, what: best.what.clone(), best: figure })
            }
        }
    }

    /// Measures a recipe, unless it was; says where it is among the points.
    fn point(&mut self, picks: Vec<usize>) -> Result<usize, BudgetError> {
        if let Some(known) = self.points.iter().position(|p| p.picks == picks) {
            return Ok(known);
        }
        let what = self.choices.name(&picks);
        self.progress.say(&format!("measuring {what}"));
        let fidelity = self.measure.measure(&picks)?;
        let (cost, macs) = (self.choices.cost(&picks), self.choices.macs(&picks));
        // Where libraries lack a form, its recipe is not what it says.
        let within = self.budget.holds(&fidelity) && cost.is_finite();
        let uniform = picks.iter().all(|pick| *pick == picks[0]);
        self.points.push(Point { what, uniform, cost, macs, fidelity, within, picks });
        Ok(self.points.len() - 1)
    }

    /// What outputs lose when one group alone has a form and the others the one that loses least, by group and form.
    fn sensitivities(&mut self) -> Result<Vec<Vec<f64>>, BudgetError> {
        let (groups, forms) = (self.choices.groups.len(), self.choices.forms.len());
        // Ranks change in leaps; cosines say as well what matters more.
        let metric = if self.budget.metric == Metric::KeptTop1 { Metric::Cosine } else { self.budget.metric };
        let by = Budget { metric, ..*self.budget };
        let mut losses = vec![vec![0.0; forms]; groups];
        for (group, losses) in losses.iter_mut().enumerate() {
            let names = self.choices.groups[group].nodes.join(" + ");
            self.progress.say(&format!("group {} of {groups}: {names}", group + 1));
            let lost: Vec<f64> = self.measure.alone(group)?.iter().map(|fidelity| by.loss(fidelity)).collect();
            let least = lost[Choices::DENSE].max(0.0);
            for (loss, lost) in losses.iter_mut().zip(&lost) {
                // What is lost anyway is not this form's.
                let more = lost - least;
                *loss = if more.is_nan() { f64::INFINITY } else { more.max(0.0) };
            }
        }
        Ok(losses)
    }

    /// Measures solutions along the front: at some losses, and closer and closer to where the budget ends.
    fn along(&mut self, front: &[Solution]) -> Result<(), BudgetError> {
        let allowance = self.budget.allowance();
        // By how much what is measured differs from what was predicted, to begin with as the best known uniform recipe does.
        let mut ratio = 1.0;
        let (mut good, mut bad): (Option<usize>, usize) = (None, front.len());
        let at = |loss: f64| front.partition_point(|s| s.loss <= loss).saturating_sub(1);
        for multiple in CURVE {
            let index = at(multiple * allowance / ratio);
            let (within, measured) = self.solution(&front[index])?;
            if within {
                good = good.max(Some(index))
            } else {
                bad = bad.min(index)
            }
            ratio = corrected(ratio, measured, front[index].loss);
        }
        for _ in 0..ROUNDS {
            let low = good.map_or(0, |g| g + 1);
            // What is measured may not fall steadily along the front.
            if low >= bad {
                break;
            }
            let guess = at(allowance * NEAR.midpoint(1.0) / ratio);
            let index = if (low..bad).contains(&guess) { guess } else { low.midpoint(bad - 1) };
            let (within, measured) = self.solution(&front[index])?;
            ratio = corrected(ratio, measured, front[index].loss);
            if within {
                good = good.max(Some(index))
            } else {
                bad = bad.min(index)
            }
            if within && measured >= NEAR * allowance {
                break;
            }
        }
        if good.is_none() {
            self.solution(&front[0])?;
        }
        Ok(())
    }

    /// Whether a solution is within the budget, and what it loses.
    fn solution(&mut self, solution: &Solution) -> Result<(bool, f64), BudgetError> {
        let at = self.point(solution.picks.clone())?;
        Ok((self.points[at].within, self.budget.loss(&self.points[at].fidelity)))
    }

    /// Tries to make single groups of the cheapest recipe that is within the budget cheaper still, those first that save most for what they
    /// lose.
    fn single_changes(&mut self, candidates: &[Vec<Candidate>]) -> Result<(), BudgetError> {
        let cheapest = |points: &[Point]| {
            let within = points.iter().filter(|p| p.within);
            within.min_by(|a, b| a.cost.total_cmp(&b.cost)).cloned()
        };
        let Some(mut best) = cheapest(&self.points) else { return Ok(()) };
        let mut tried: Vec<Vec<usize>> = Vec::new();
        for _ in 0..CHANGES {
            let mut changes: Vec<(f64, Vec<usize>)> = Vec::new();
            for (group, forms) in candidates.iter().enumerate() {
                let now = forms[best.picks[group]];
                for (form, c) in forms.iter().enumerate().filter(|(_, c)| c.cost < now.cost && c.loss.is_finite()) {
                    let mut picks = best.picks.clone();
                    picks[group] = form;
                    changes.push(((c.loss - now.loss).max(f64::MIN_POSITIVE) / (now.cost - c.cost), picks));
                }
            }
            let known = |picks: &Vec<usize>| tried.contains(picks) || self.points.iter().any(|p| p.picks == *picks);
            changes.retain(|(_, picks)| !known(picks));
            let Some((_, picks)) = changes.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            tried.push(picks.clone());
            let at = self.point(picks)?;
            if self.points[at].within {
                best = self.points[at].clone();
            }
        }
        Ok(())
    }
}

/// What was measured for what was predicted, halfway from what was believed before.
fn corrected(before: f64, measured: f64, predicted: f64) -> f64 {
    let now = measured / predicted;
    if now.is_finite() && now > 0.0 { (before * now).sqrt() } else { before }
}

#[cfg(test)]
mod tests {
    use super::super::groups::{Costs, Group, forms};
    use super::*;
    use crate::options::{CompileOptions, PruneMethod};
    use sliderun::dtype::DType;

    /// Losses that add up, but for a part that is there only where several groups lose.
    struct Model {
        losses: Vec<Vec<f64>>,
        together: f64,
        runs: usize,
    }

    impl Model {
        fn loss(&self, picks: &[usize]) -> f64 {
            let losses = || self.losses.iter().zip(picks).map(|(of, pick)| of[*pick]);
            let sum: f64 = losses().sum();
            sum + self.together * (sum - losses().fold(0.0, f64::max))
        }
    }

    impl Measure for Model {
        fn measure(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
            self.runs += 1;
            let loss = self.loss(picks);
            Ok(Fidelity { cosine: 1.0 - loss, worst_cosine: 0.0, relative_error: loss.sqrt(), kept_top1: 1.0 - 3.0 * loss })
        }

        fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError> {
            (0..self.losses[group].len())
                .map(|form| {
                    let mut picks = vec![Choices::DENSE; self.losses.len()];
                    picks[group] = form;
                    self.measure(&picks)
                })
                .collect()
        }
    }

    /// Groups of different sizes, whose sensitivity is not in their order.
    fn groups() -> Vec<Group> {
        let group = |i: usize| Group {
            products: Vec::new(),
            nodes: vec![format!("p{i}")],
            n: vec![64 * (1 + i % 4)],
            k: 1536,
            dtype: DType::F32,
            rows: 10.0,
            open: true,
        };
        (0..9).map(group).collect()
    }

    /// Dense loses nothing in the model's precision and little in int8; patterns lose more the sparser they are.
    fn losses(forms: &[Form]) -> Vec<Vec<f64>> {
        let of = |group: usize, form: usize| match form {
            0 => 0.0,
            form => 1e-4 + 4e-4 * (1.0 + (group * 5 % 7) as f64) * 1.9f64.powi(form as i32 - 1) / 1.9,
        };
        (0..9).map(|group| (0..forms.len()).map(|form| of(group, form)).collect()).collect()
    }

    fn found(budget: &str, together: f64, precision: &str) -> (Result<Measured, BudgetError>, Model) {
        let options = CompileOptions { precision: precision.parse().unwrap(), ..CompileOptions::default() };
        let (groups, forms) = (groups(), forms(&options));
        let costs = Costs::new(&options, &groups);
        let mut model = Model { losses: losses(&forms), together, runs: 0 };
        let choices = Choices { groups: &groups, forms, costs: &costs, prune: PruneMethod::Magnitude };
        let budget = budget.parse().unwrap();
        let search = Search { measure: &mut model, choices: &choices, budget: &budget, points: Vec::new(), progress: &() };
        (search.run(), model)
    }

    #[test]
    fn what_is_found_is_within_the_budget_and_beats_one_form_for_all() {
        for together in [-0.5, 0.0, 1.0] {
            for (budget, allowed) in [("cos=0.98", 0.02), ("cos=0.95", 0.05), ("rel-err=0.2", 0.04), ("keep-top1=0.9", 0.1 / 3.0)]
            {
                let (measured, model) = found(budget, together, "int8");
                let Measured { points, chosen, .. } = measured.unwrap();
                let best = &points[chosen];
                assert!(model.loss(&best.picks) <= allowed + 1e-12, "{budget} {together}");
                let uniform = points.iter().find(|p| p.uniform && p.within).unwrap();
                assert!(best.cost < uniform.cost, "{budget} {together}: {} for {}", best.cost, uniform.cost);
                assert!(points.iter().all(|p| p.cost >= best.cost || !p.within));
                // Nine groups of nine forms, and no more whole recipes than a few.
                assert!(model.runs <= 9 * 9 + 9 + CURVE.len() + ROUNDS + CHANGES + 1, "{}", model.runs);
            }
        }
    }

    #[test]
    fn additive_losses_are_solved_as_well_as_can_be() {
        let (measured, model) = found("cos=0.97", 0.0, "int8");
        let Measured { points, chosen, losses } = measured.unwrap();
        for (found, known) in losses.iter().flatten().zip(model.losses.iter().flatten()) {
            assert!((found - known).abs() < 1e-12);
        }
        let options = CompileOptions { precision: crate::options::Precision::Int8, ..CompileOptions::default() };
        let (groups, forms) = (groups(), forms(&options));
        let costs = Costs::new(&options, &groups);
        let candidate = |at: usize, form: usize| Candidate {
            loss: model.losses[at][form],
            cost: costs.of(&groups[at], forms[form]).unwrap(),
        };
        let all: Vec<Vec<Candidate>> = (0..groups.len()).map(|at| (0..forms.len()).map(|f| candidate(at, f)).collect()).collect();
        let least = super::super::solve::best(&front(&all, 1.0, MOST), 0.03).unwrap().cost;
        assert!(points[chosen].cost <= 1.02 * least, "{} for {least}", points[chosen].cost);
    }

    #[test]
    fn a_budget_out_of_reach_names_the_best() {
        struct Never;
        impl Measure for Never {
            fn measure(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
                let cosine = if picks.iter().all(|p| *p == 0) { 0.75 } else { f64::NAN };
                Ok(Fidelity { cosine, worst_cosine: cosine, relative_error: cosine, kept_top1: cosine })
            }

            fn alone(&mut self, _: usize) -> Result<Vec<Fidelity>, BudgetError> {
                (0..9).map(|form| self.measure(&[form])).collect()
            }
        }
        let (groups, options) = (groups(), CompileOptions::default());
        let costs = Costs::new(&options, &groups);
        let choices = Choices { groups: &groups, forms: forms(&options), costs: &costs, prune: PruneMethod::Magnitude };
        let budget = "cos=0.98".parse().unwrap();
        let search = Search { measure: &mut Never, choices: &choices, budget: &budget, points: Vec::new(), progress: &() };
        let error = search.run().err().unwrap();
        assert_eq!(error.to_string(), "no plan is within cos=0.98: the best, as it was, reaches 0.750000");
    }
}
