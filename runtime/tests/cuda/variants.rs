//! The variants of a plan on a GPU: measured, remembered, and all with the same results. The plan, compiled for the GPU with
//! several variants, is the one that `SLIDERUN_TEST_PLAN` names.

use std::path::Path;
use std::sync::Arc;

use sliderun::plan::Plan;
use sliderun::session::{Because, CacheFolder, CudaOptions, Device, Session, SessionOptions, TimingsFile, Tuning, VariantChoice};
use sliderun::tensor::{Tensor, TensorView};
use sliderun::timings::{Record, Timings};
use sliderun::tool::tune::{TuneOptions, tune};
use sliderun::tool::{Target, random, symbols};

use crate::support::Gpu;

struct Case {
    plan: Arc<Plan>,
    path: std::path::PathBuf,
    names: Vec<String>,
}

impl Case {
    fn find() -> Option<Case> {
        Gpu::find()?;
        let Some(path) = std::env::var_os("SLIDERUN_TEST_PLAN") else {
            println!("skipped: SLIDERUN_TEST_PLAN is not set");
            return None;
        };
        let plan = Arc::new(Plan::open(path.as_ref()).unwrap());
        let names: Vec<String> = plan.manifest().cuda.iter().flat_map(|c| &c.variants).map(|v| v.name.clone()).collect();
        if names.len() < 2 {
            println!("skipped: the plan has no variants");
            return None;
        }
        Some(Case { plan, path: path.into(), names })
    }

    fn session(&self, variant: Option<&str>, cuda: CudaOptions) -> Session {
        let options = SessionOptions::default().with_variant(variant.map(str::to_owned)).with_cuda(cuda);
        Session::new(self.plan.clone(), Device::Cuda(0), options).unwrap()
    }
}

fn options(cache: &Path, tuning: Tuning) -> CudaOptions {
    let (cache, timings) = (CacheFolder::Folder(cache.to_owned()), TimingsFile::Nowhere);
    CudaOptions::default().with_cache(cache).with_timings(timings).with_tuning(tuning)
}

fn inputs(session: &Session) -> Vec<(String, Tensor)> {
    let shape = symbols::complete(&Default::default(), session.symbols()).unwrap();
    random::inputs(session.inputs(), &shape, 3).unwrap()
}

fn run(session: &Session) -> Vec<(String, Tensor)> {
    let tensors = inputs(session);
    session.run(&tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect::<Vec<(&str, TensorView<'_>)>>()).unwrap()
}

fn chosen(session: &Session) -> VariantChoice {
    session.cuda_report().variant_choices.first().unwrap().clone()
}

/// ‖a − b‖₂ / ‖b‖₂ over all f32 outputs.
fn distance(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let (mut off, mut norm) = (0.0, 0.0);
    for ((_, a), (_, b)) in a.iter().zip(b) {
        let (Some(a), Some(b)) = (a.as_slice::<f32>(), b.as_slice::<f32>()) else { continue };
        off += a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        norm += b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>();
    }
    (off / norm).sqrt()
}

#[test]
fn variants_are_measured_once_and_agree() {
    let Some(case) = Case::find() else { return };
    let cache = tempfile::tempdir().unwrap();
    let session = case.session(None, options(cache.path(), Tuning::default()));
    let first = run(&session);
    let choice = chosen(&session);
    assert_eq!(choice.because, Because::Measured);
    let measured: Vec<&str> = choice.times.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(measured, case.names);
    assert!(choice.times.iter().all(|(_, time)| !time.is_zero()), "{choice:?}");
    println!("{choice:?}");
    // Clearly faster than the one that runs is none.
    let of = |name: &str| choice.times.iter().find(|(n, _)| n == name).unwrap().1;
    assert!(choice.times.iter().all(|(_, time)| of(&choice.variant).as_secs_f64() <= time.as_secs_f64() * 1.011), "{choice:?}");
    // Nothing is measured again: not for the same rows, not in a session that shares, not in another process.
    let (report, shared) = (session.cuda_report(), session.share(None).unwrap());
    assert_eq!(distance(&run(&session), &first), 0.0);
    assert_eq!(distance(&run(&shared), &first), 0.0);
    assert_eq!(session.cuda_report(), report);
    let again = case.session(None, options(cache.path(), Tuning::Remembered));
    assert!(distance(&run(&again), &first) < 1e-6);
    assert_eq!((chosen(&again).because, chosen(&again).variant), (Because::Remembered, choice.variant.clone()));
    assert_eq!(again.cuda_report().variants, [choice.variant], "no other is made ready");
    // Each variant by name gives the same, but for sums that are rounded to 16 bits.
    for name in &case.names {
        let named = case.session(Some(name), options(cache.path(), Tuning::Remembered));
        let off = distance(&run(&named), &first);
        println!("{name}: {off:e}, {} bytes of constants", named.cuda_report().constant_bytes);
        assert!(off < 0.05, "{name}: {off}");
        assert_eq!(named.cuda_report().variants, std::slice::from_ref(name));
    }
}

#[test]
fn without_tuning_the_cost_model_decides() {
    let Some(case) = Case::find() else { return };
    let cache = tempfile::tempdir().unwrap();
    let session = case.session(None, options(cache.path(), Tuning::Off));
    run(&session);
    let (choice, cuda) = (chosen(&session), case.plan.manifest().cuda.as_ref().unwrap());
    assert_eq!(choice.because, Because::Estimated);
    assert_eq!(choice.variant, cuda.variants[cuda.preferred(choice.rows)].name);
    // A shape that is made ready without inputs is measured when there are some.
    let session = case.session(None, options(cache.path(), Tuning::default()));
    session.arena_size(&symbols::complete(&Default::default(), session.symbols()).unwrap()).unwrap();
    assert!(session.cuda_report().variant_choices.is_empty());
    run(&session);
    assert_eq!(chosen(&session).because, Because::Measured);
}

#[test]
fn timings_are_for_the_machine_that_gave_them() {
    let Some(case) = Case::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("timings");
    let cuda = options(&folder.path().join("cache"), Tuning::default());
    let target = Target {
        plan: case.path.clone(),
        device: Device::Cuda(0),
        options: SessionOptions::default().with_cuda(cuda),
        ..Target::default()
    };
    let mut out = Vec::new();
    tune(&TuneOptions { target, shapes: Vec::new(), timings: Some(path.clone()) }, &mut out).unwrap();
    println!("{}", String::from_utf8(out).unwrap());
    let remembered = |path: &Path| {
        let timings = TimingsFile::File(path.to_owned());
        let cuda = CudaOptions::default().with_cache(CacheFolder::Nowhere).with_timings(timings).with_tuning(Tuning::Remembered);
        let session = case.session(None, cuda);
        run(&session);
        (chosen(&session).because, session.cuda_report().warnings)
    };
    assert_eq!(remembered(&path), (Because::Remembered, Vec::new()));
    // Another driver.
    let mut foreign = Timings::default();
    for record in Timings::read(&path).unwrap().records() {
        let mut machine = record.machine.clone();
        machine.driver = "1.2.3".into();
        foreign.put(Record { machine, ..record.clone() });
    }
    foreign.write(&path).unwrap();
    let (because, warnings) = remembered(&path);
    assert!(because == Because::Estimated && warnings.len() == 1 && warnings[0].contains("driver 1.2.3"), "{warnings:?}");
    std::fs::write(&path, "damaged").unwrap();
    let (because, warnings) = remembered(&path);
    assert!(because == Because::Estimated && warnings[0].contains("line 1 is no record"), "{warnings:?}");
}
