//! The fuzz targets on seeds of every operator: briefly in every run of the tests, and as long as asked.

use std::path::Path;

use super::*;
use crate::plan::signature::PrivateKey;
use driver::drive;
use targets::{DATA, OWNER, TARGETS};

#[path = "../../../../fuzz/src/driver.rs"]
mod driver;
#[path = "../../../../fuzz/src/targets.rs"]
pub mod targets;

/// Seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "plan" => {
            let key = PrivateKey::from_seed(OWNER).unwrap();
            let mut files = plans(true);
            // Few are signed: to check a signature takes as long as to load several plans.
            for file in files.iter_mut().step_by(8) {
                let plan = Plan::copied(file).unwrap();
                let signature = plan.sign(&key).unwrap();
                file.clear();
                plan.write_signed(&signature, file).unwrap();
            }
            files
        }
        // Zeros are where the blobs of a made up manifest lie; those with other data are of use to the loader alone.
        "manifest" | "run" => plans(target == "manifest").iter().map(|file| manifest_of(file).to_vec()).collect(),
        "extent" => {
            let texts = [
                "3",
                "batch",
                "2*h+1",
                "div(seq+15,16)",
                "4*batch*seq^2-1",
                "bcast(n,max(m,1))",
                "mod(min(n,m),-3)",
                "-(n-m)*(n+m)",
            ];
            texts.map(|text| text.as_bytes().to_vec()).into()
        }
        "key" => {
            let key = PrivateKey::from_seed(OWNER).unwrap();
            vec![key.to_pem().into(), key.public().to_pem().into(), (key.public().to_pem() + &key.public().to_pem()).into()]
        }
        _ => [DType::F32, DType::Bool, DType::Bf16]
            .map(|dtype| {
                let mut file = Vec::new();
                crate::tool::npy::write(Tensor::zeros(dtype, &[2, 3]).unwrap().view(), &mut file).unwrap();
                file
            })
            .into(),
    }
}

/// A plan of each operator on constants, and where asked some with data, sparse products and programs for GPUs.
fn plans(with_data: bool) -> Vec<Vec<u8>> {
    let mut plans: Vec<_> = operators().iter().map(|(op, operands)| plan_of(op, operands, true)).collect();
    if with_data {
        plans.extend([two_products(), sparse_product(), two_variants()]);
    }
    plans.into_iter().map(|(writer, manifest)| writer.to_bytes(manifest).unwrap()).collect()
}

fn manifest_of(file: &[u8]) -> &[u8] {
    let start = u64::from_le_bytes(file[16..24].try_into().unwrap());
    &file[start as usize..]
}

/// `executions` of each target, by its weight.
fn run_all(executions: impl Fn(&str) -> u64, start: u64, threads: u64) {
    for (name, target) in TARGETS {
        let (executions, begun) = (executions(name), std::time::Instant::now());
        let findings = drive(target, &seeds(name), executions, start, threads);
        assert!(findings.is_empty(), "{name}: {findings:#?}");
        println!("{name}: {executions} executions without a finding in {:.0} s", begun.elapsed().as_secs_f64());
    }
}

#[test]
fn seeds_are_loaded_as_they_are() {
    for (name, target) in TARGETS {
        seeds(name).iter().for_each(|seed| target(seed));
    }
    for (target, least) in [("manifest", operators().len()), ("run", operators().len())] {
        let loaded = seeds(target).iter().filter(|seed| Plan::copied(&targets::around(seed)).is_ok()).count();
        assert!(loaded >= least, "{target}: {loaded} of {} manifests are loaded, with {DATA} bytes of data", seeds(target).len());
    }
}

#[test]
fn mutated_seeds_make_no_target_panic() {
    run_all(|name| if name == "run" { 500 } else { 5_000 }, 0x51de, 2);
}

/// `cargo xtask fuzz` runs this with its number of executions and where to start.
#[test]
#[ignore = "takes as long as asked: SLIDERUN_FUZZ=EXECUTIONS,SEED,THREADS"]
fn for_long() {
    let asked = std::env::var("SLIDERUN_FUZZ").unwrap_or_else(|_| "1000000,1,2".to_owned());
    let numbers: Vec<u64> = asked.split(',').map(|n| n.parse().unwrap()).collect();
    let [executions, start, threads] = numbers[..] else { panic!("SLIDERUN_FUZZ is '{asked}', not three numbers") };
    // By what an execution costs.
    let per_mille = |name: &str| match name {
        "plan" => 150,
        "manifest" => 60,
        "extent" => 600,
        "key" => 38,
        "npy" => 150,
        _ => 2,
    };
    run_all(|name| executions * per_mille(name) / 1000, start, threads);
}

/// `cargo xtask fuzz --corpus` runs this: a folder of seeds for each target, for libFuzzer.
#[test]
#[ignore = "writes the folders of seeds: SLIDERUN_CORPUS=FOLDER"]
fn write_corpora() {
    let folder = std::env::var("SLIDERUN_CORPUS").unwrap();
    for (name, _) in TARGETS {
        let folder = Path::new(&folder).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for (i, seed) in seeds(name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{i}")), seed).unwrap();
        }
    }
}
