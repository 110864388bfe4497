//! The search for the cheapest recipe that is measured to be within a budget: sensitivities, predictions, and whole recipes that correct
//! them.
//!
//! Must not know: how a recipe is compiled and run.

use sliderun::sparse::Pattern;

use super::bench::Bench;
use super::fidelity::{Budget, Fidelity, Metric};
use super::groups::Form;
use super::solve::{Candidate, MOST, Solution, front};
use super::store::Store;
use super::{BudgetError, Choices, Point};
use crate::options::Precision;
use crate::pruning::Progress;

/// Multiples of the budget's loss at which the curve is measured.
const CURVE: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// Recipes that are measured between the cheapest known to be within the budget and the next that is not.
const ROUNDS: usize = 6;

/// Single changes of the cheapest that are tried at the end.
const CHANGES: usize = 8;

/// Drafts that are measured as they are deployed, at most, to find the cheapest within the budget.
const CONFIRMED: usize = 6;

/// By how many times what is deployed may lose more or less than its draft, before that is taken for chance.
const MOST_DRIFT: f64 = 4.0;

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

/// Something that gives fidelities: a [`Bench`], or a test's stand-in.
pub trait Measure {
    /// That of one group in each form, in their order, with the others in the one that loses least. Comes before drafts with the group.
    fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError>;

    /// That of one form for each group, with weights pruned by what the unpruned model computes, and quantized without samples.
    fn draft(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError>;

    /// That of the plan that the compiler makes, each weight pruned by what comes of pruning those before it.
    fn deployed(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError>;

    /// Whether a draft is what is deployed.
    fn is_final(&self, picks: &[usize]) -> bool;
}

struct OnBench<'a> {
    bench: &'a Bench<'a>,
    choices: &'a Choices<'a>,
    pruned: Store,
}

impl Measure for OnBench<'_> {
    fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError> {
        let Choices { groups, forms, prune, .. } = self.choices;
        let patterns: Vec<Pattern> = forms.iter().filter_map(|form| form.pattern).collect();
        for (pattern, weights) in patterns.iter().zip(self.bench.pruned(&groups[group], &patterns, *prune)?) {
            self.pruned.put(group, *pattern, weights)?;
        }
        let dense = vec![Choices::DENSE; groups.len()];
        let with = |form| dense.iter().enumerate().map(|(at, dense)| if at == group { form } else { *dense }).collect();
        (0..forms.len()).map(with).map(|picks: Vec<usize>| self.draft(&picks)).collect()
    }

    fn draft(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
        let mut weights = Vec::new();
        for (group, pick) in picks.iter().enumerate() {
            if let Some(pattern) = self.choices.forms[*pick].pattern {
                let products = self.choices.groups[group].products.iter().copied();
                weights.extend(products.zip(self.pruned.get(group, pattern)?));
            }
        }
        self.bench.fidelity_with(weights, self.choices.recipe(picks))
    }

    fn deployed(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
        self.bench.fidelity(self.choices.recipe(picks))
    }

    fn is_final(&self, picks: &[usize]) -> bool {
        let forms = || picks.iter().map(|pick| self.choices.forms[*pick]);
        let pruned = self.choices.prune.needs_calibration() && forms().any(|f| f.pattern.is_some());
        let narrow = |f: Form| matches!(f.precision, Precision::Int8 | Precision::Fp8);
        let by_samples = self.bench.quantizes_by_samples() && forms().any(narrow);
        !(pruned || by_samples)
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
    let mut measure = OnBench { bench, choices, pruned: Store::default() };
    Search { measure: &mut measure, choices, budget, points: Vec::new(), drift: 1.0, progress }.run()
}

struct Search<'a> {
    measure: &'a mut dyn Measure,
    choices: &'a Choices<'a>,
    budget: &'a Budget,
    points: Vec<Point>,
    /// What plans lose as they are deployed, for what their drafts lose.
    drift: f64,
    progress: &'a dyn Progress,
}

impl Search<'_> {
    fn run(mut self) -> Result<Measured, BudgetError> {
        let (groups, forms) = (self.choices.groups.len(), self.choices.forms.len());
        let losses = self.sensitivities()?;
        for form in 0..forms {
            self.point(vec![form; groups])?;
        }
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
        // What drafts miss is known once one is measured as it is deployed.
        if let Some(at) = self.cheapest(|p| !p.deployed) {
            self.deploy(at)?;
            self.along(&front)?;
            self.single_changes(&candidates)?;
        }
        self.confirm()?;
        self.points.sort_by(|a, b| a.cost.total_cmp(&b.cost).then(b.fidelity.cosine.total_cmp(&a.fidelity.cosine)));
        match self.points.iter().position(|p| p.within && p.deployed) {
            Some(chosen) => Ok(Measured { points: self.points, chosen, losses }),
            None => {
                let loss = |p: &&Point| self.budget.loss(&p.fidelity);
                let deployed = self.points.iter().filter(|p| p.deployed);
                let best = deployed.min_by(|a, b| loss(a).total_cmp(&loss(b))).expect("nothing is drafted of dense plans");
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
        let fidelity = self.measure.draft(&picks)?;
        let (cost, macs) = (self.choices.cost(&picks), self.choices.macs(&picks));
        let uniform = picks.iter().all(|pick| *pick == picks[0]);
        let deployed = self.measure.is_final(&picks);
        // Where libraries lack a form, its recipe is not what it says.
        let within = self.budget.holds(&fidelity) && cost.is_finite();
        self.points.push(Point { what, uniform, cost, macs, fidelity, within, deployed, picks });
        Ok(self.points.len() - 1)
    }

    /// Measures a draft as it is deployed.
    fn deploy(&mut self, at: usize) -> Result<(), BudgetError> {
        let point = &mut self.points[at];
        self.progress.say(&format!("pruning and measuring {}", point.what));
        let drafted = self.budget.loss(&point.fidelity);
        point.fidelity = self.measure.deployed(&point.picks)?;
        point.within = self.budget.holds(&point.fidelity) && point.cost.is_finite();
        point.deployed = true;
        let drift = self.budget.loss(&point.fidelity) / drafted;
        if drift.is_finite() && drift > 0.0 {
            self.drift = drift.clamp(1.0 / MOST_DRIFT, MOST_DRIFT);
        }
        Ok(())
    }

    /// Whether a point is within the budget, or its draft seems to be.
    fn seems_within(&self, p: &Point) -> bool {
        match p.deployed {
            true => p.within,
            false => self.budget.loss(&p.fidelity) * self.drift <= self.budget.allowance() && p.cost.is_finite(),
        }
    }

    /// The cheapest point that is, or seems, within the budget, of those that are `wanted`.
    fn cheapest(&self, wanted: impl Fn(&Point) -> bool) -> Option<usize> {
        let fits = (0..self.points.len()).filter(|at| wanted(&self.points[*at]) && self.seems_within(&self.points[*at]));
        fits.min_by(|a, b| self.points[*a].cost.total_cmp(&self.points[*b].cost))
    }

    /// Measures drafts as they are deployed, the cheapest that seem within the budget first, until one is; then plans with one form for all,
    /// until what is chosen can be compared with the best of these.
    fn confirm(&mut self) -> Result<(), BudgetError> {
        for wanted in [|_: &Point| true, |p: &Point| p.uniform] {
            for _ in 0..CONFIRMED {
                let Some(at) = self.cheapest(wanted).filter(|at| !self.points[*at].deployed) else { break };
                self.deploy(at)?;
            }
        }
        Ok(())
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
        // What is measured for what is predicted.
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
        let point = &self.points[at];
        let drift = if point.deployed { 1.0 } else { self.drift };
        Ok((self.seems_within(point), self.budget.loss(&point.fidelity) * drift))
    }

    /// Tries to make single groups of the cheapest recipe that is within the budget cheaper still, those first that save most for what they
    /// lose.
    fn single_changes(&mut self, candidates: &[Vec<Candidate>]) -> Result<(), BudgetError> {
        let Some(mut best) = self.cheapest(|_| true).map(|at| self.points[at].picks.clone()) else { return Ok(()) };
        for _ in 0..CHANGES {
            let mut changes: Vec<(f64, Vec<usize>)> = Vec::new();
            for (group, forms) in candidates.iter().enumerate() {
                let now = forms[best[group]];
                for (form, c) in forms.iter().enumerate().filter(|(_, c)| c.cost < now.cost && c.loss.is_finite()) {
                    let mut picks = best.clone();
                    picks[group] = form;
                    changes.push(((c.loss - now.loss).max(f64::MIN_POSITIVE) / (now.cost - c.cost), picks));
                }
            }
            changes.retain(|(_, picks)| self.points.iter().all(|p| p.picks != *picks));
            let Some((_, picks)) = changes.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)) else { break };
            let at = self.point(picks)?;
            if self.seems_within(&self.points[at]) {
                best = self.points[at].picks.clone();
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
        /// What is deployed loses so many times what drafts do.
        drift: f64,
        runs: usize,
        deployed: usize,
    }

    impl Model {
        fn loss(&self, picks: &[usize]) -> f64 {
            let losses = || self.losses.iter().zip(picks).map(|(of, pick)| of[*pick]);
            let sum: f64 = losses().sum();
            sum + self.together * (sum - losses().fold(0.0, f64::max))
        }
    }

    impl Measure for Model {
        fn draft(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
            self.runs += 1;
            let loss = self.loss(picks);
            Ok(Fidelity { cosine: 1.0 - loss, worst_cosine: 0.0, relative_error: loss.sqrt(), kept_top1: 1.0 - 3.0 * loss })
        }

        fn deployed(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
            self.deployed += 1;
            let loss = self.loss(picks) * self.drift;
            Ok(Fidelity { cosine: 1.0 - loss, worst_cosine: 0.0, relative_error: loss.sqrt(), kept_top1: 1.0 - 3.0 * loss })
        }

        fn is_final(&self, _: &[usize]) -> bool {
            self.drift == 1.0
        }

        fn alone(&mut self, group: usize) -> Result<Vec<Fidelity>, BudgetError> {
            (0..self.losses[group].len())
                .map(|form| {
                    let mut picks = vec![Choices::DENSE; self.losses.len()];
                    picks[group] = form;
                    self.draft(&picks)
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

    fn found(budget: &str, together: f64, drift: f64) -> (Result<Measured, BudgetError>, Model) {
        let options = CompileOptions { precision: Precision::Int8, ..CompileOptions::default() };
        let (groups, forms) = (groups(), forms(&options));
        let costs = Costs::new(&options, &groups);
        let mut model = Model { losses: losses(&forms), together, drift, runs: 0, deployed: 0 };
        let choices = Choices { groups: &groups, forms, costs: &costs, prune: PruneMethod::Magnitude };
        let budget = budget.parse().unwrap();
        let search =
            Search { measure: &mut model, choices: &choices, budget: &budget, points: Vec::new(), drift: 1.0, progress: &() };
        (search.run(), model)
    }

    #[test]
    fn what_is_found_is_within_the_budget_and_beats_one_form_for_all() {
        let budgets = [("cos=0.98", 0.02), ("cos=0.95", 0.05), ("rel-err=0.2", 0.04), ("keep-top1=0.9", 0.1 / 3.0)];
        for (together, drift) in [(-0.5, 1.0), (0.0, 1.0), (1.0, 1.0), (0.5, 0.6), (0.5, 1.7)] {
            for (budget, allowed) in budgets {
                let (measured, model) = found(budget, together, drift);
                let Measured { points, chosen, .. } = measured.unwrap();
                let (best, case) = (&points[chosen], format!("{budget} {together} {drift}"));
                assert!(best.deployed && model.loss(&best.picks) * drift <= allowed + 1e-12, "{case}");
                let uniform = points.iter().find(|p| p.uniform && p.within && p.deployed).unwrap();
                // Where drafts lose much less than what is deployed, a budget may end just behind a plan with one form for all.
                let beaten = best.cost < uniform.cost || drift > 1.0 && best.cost == uniform.cost;
                assert!(beaten, "{case}: {} for {}", best.cost, uniform.cost);
                assert!(points.iter().all(|p| p.cost >= best.cost || !p.within || !p.deployed), "{case}");
                // Nine groups of nine forms, and no more whole recipes than a few.
                assert!(model.runs <= 9 * 9 + 9 + 2 * (CURVE.len() + ROUNDS + CHANGES + 1), "{}", model.runs);
                assert!(model.deployed <= 1 + 2 * CONFIRMED, "{}", model.deployed);
            }
        }
    }

    #[test]
    fn additive_losses_are_solved_as_well_as_can_be() {
        let (measured, model) = found("cos=0.97", 0.0, 1.0);
        let Measured { points, chosen, losses } = measured.unwrap();
        for (found, known) in losses.iter().flatten().zip(model.losses.iter().flatten()) {
            assert!((found - known).abs() < 1e-12);
        }
        let options = CompileOptions { precision: Precision::Int8, ..CompileOptions::default() };
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
            fn draft(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
                let cosine = if picks.iter().all(|p| *p == 0) { 0.75 } else { f64::NAN };
                Ok(Fidelity { cosine, worst_cosine: cosine, relative_error: cosine, kept_top1: cosine })
            }

            fn deployed(&mut self, picks: &[usize]) -> Result<Fidelity, BudgetError> {
                self.draft(picks)
            }

            fn is_final(&self, _: &[usize]) -> bool {
                true
            }

            fn alone(&mut self, _: usize) -> Result<Vec<Fidelity>, BudgetError> {
                (0..9).map(|form| self.draft(&[form])).collect()
            }
        }
        let (groups, options) = (groups(), CompileOptions::default());
        let costs = Costs::new(&options, &groups);
        let choices = Choices { groups: &groups, forms: forms(&options), costs: &costs, prune: PruneMethod::Magnitude };
        let budget = "cos=0.98".parse().unwrap();
        let search =
            Search { measure: &mut Never, choices: &choices, budget: &budget, points: Vec::new(), drift: 1.0, progress: &() };
        let error = search.run().err().unwrap();
        assert_eq!(error.to_string(), "no plan is within cos=0.98: the best, as it was, reaches 0.750000");
    }
}
