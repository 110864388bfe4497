//! What is fuzzed: functions that take bytes of a stranger's and must come back, whatever these say.
//!
//! They use the public interface of `sliderun` alone. The runtime's tests run them on mutated seeds (`driver.rs`), libFuzzer where it is installed.

use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use sliderun::dim::{Bindings, Dim};
use sliderun::plan::signature::{PrivateKey, Signers};
use sliderun::plan::{BLOB_ALIGN, FORMAT_VERSION, Plan, PlanOptions};
use sliderun::session::{Device, Port, Session, SessionOptions};
use sliderun::tool::{inspect, npy, random};

/// A target and its name, also that of its folder of seeds.
pub type Target = (&'static str, fn(&[u8]));

/// All of them; those that only load first.
pub const TARGETS: [Target; 6] =
    [("plan", plan), ("manifest", manifest), ("extent", extent), ("key", key), ("npy", npy), ("run", run)];

/// Who signs seeds.
pub const OWNER: [u8; 32] = [1; 32];

static SIGNED: LazyLock<PlanOptions> = LazyLock::new(|| {
    let owner = PrivateKey::from_seed(OWNER).expect("it is not zero");
    PlanOptions::default().with_signers(Signers::from(owner.public()))
});

/// Bytes of zeros that [`around`] puts where a manifest finds its blobs.
pub const DATA: usize = 8 * BLOB_ALIGN as usize;

/// Most bytes of working memory, and of a tensor's elements, in [`run_plan`].
const MEMORY: usize = 1 << 20;

/// The file of a plan, whole.
pub fn plan(file: &[u8]) {
    let Ok(plan) = Plan::copied(file) else { return };
    let _ = plan.check();
    if let Ok(signed) = Plan::copied_with(file, &SIGNED) {
        assert!(signed.signer().is_some() && signed.digest() == plan.digest());
    }
}

/// A manifest, in a file whose digest of it is right.
pub fn manifest(bytes: &[u8]) {
    let Ok(plan) = Plan::copied(&around(bytes)) else { return };
    let _ = plan.check();
    black_box(inspect::describe(&plan, false));
    // Writing to memory does not fail.
    inspect::text(&plan, false, true, &mut std::io::sink()).unwrap();
}

/// An extent's text: what it parses to prints as text that parses to the same, and has a value or none.
pub fn extent(text: &[u8]) {
    let Ok(dim) = String::from_utf8_lossy(text).parse::<Dim>() else { return };
    let again: Dim = dim.to_string().parse().unwrap_or_else(|e| panic!("{dim} was printed: {e}"));
    assert_eq!(dim, again);
    let mut symbols = Default::default();
    dim.symbols(&mut symbols);
    for value in [0, 1, 7, i64::MAX] {
        let bindings: Bindings = symbols.iter().map(|name| (name.clone(), value)).collect();
        let evaluated = dim.eval(&bindings);
        let (low, high) = dim.bounds(&|_| Some((value, value)));
        if let Ok(v) = evaluated {
            assert!(
                low.is_none_or(|low| low <= v) && high.is_none_or(|high| v <= high),
                "{dim} is {v}, not in {low:?}..{high:?}"
            );
        }
    }
}

/// The PEM files of keys.
pub fn key(pem: &[u8]) {
    let text = String::from_utf8_lossy(pem);
    if let Ok(signers) = Signers::from_pem(&text) {
        for key in signers.keys() {
            assert_eq!(Signers::from_pem(&key.to_pem()).unwrap().keys(), [*key]);
        }
    }
    let _ = PrivateKey::from_pem(&text);
}

/// A file of a tensor.
pub fn npy(file: &[u8]) {
    if let Ok(tensor) = npy::read(file, None) {
        let mut out = Vec::new();
        npy::write(tensor.view(), &mut out).unwrap();
    }
}

/// A manifest, whose plan is then run on the CPU.
pub fn run(bytes: &[u8]) {
    if let Ok(plan) = Plan::copied(&around(bytes)) {
        run_plan(plan, SessionOptions::default());
    }
}

/// Runs whatever a plan says on small inputs; all that counts is that nothing panics and memory stays small.
pub fn run_plan(plan: Plan, options: SessionOptions) {
    let options = options.with_threads(1).with_memory_limit(MEMORY);
    let Ok(session) = Session::new(Arc::new(plan), Device::Cpu, options) else { return };
    let symbols: Bindings = session.symbols().iter().map(|s| (s.name.clone(), 2.clamp(s.min, s.max))).collect();
    let Ok(size) = session.arena_size(&symbols) else { return };
    assert!(size.bytes <= MEMORY && size.lower_bound <= size.bytes);
    let small = |p: &Port| p.ty.elements().eval(&symbols).is_ok_and(|n| n < MEMORY as i64);
    if !session.inputs().iter().all(small) {
        return;
    }
    let Ok(tensors) = random::inputs(session.inputs(), &symbols, 1) else { return };
    let views: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    // Either way is fine.
    let _ = session.run(&views);
}

/// A plan's file with this manifest, behind [`DATA`] bytes of zeros: what digest and lengths could find is not what is looked for.
pub fn around(manifest: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(64 + DATA + manifest.len());
    let start = 64 + DATA as u64;
    file.extend(b"SLIDEPLN");
    file.extend(FORMAT_VERSION.to_le_bytes());
    file.extend((manifest.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend((start + manifest.len() as u64).to_le_bytes());
    file.extend(blake3::hash(manifest).as_bytes());
    file.resize(64 + DATA, 0);
    file.extend(manifest);
    file
}
