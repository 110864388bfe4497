//! The `sliderun` program from the outside: results, exit codes, a closed pipe.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::op::gemm::MatMul;
use sliderun::plan::cuda::{CudaPlan, Launch, Module, Variant, Work};
use sliderun::plan::manifest::{
    BlobId, Manifest, Output as PlanOutput, Program, Provenance, Step, Storage, SymbolRange, Value, ValueId,
};
use sliderun::plan::signature::PrivateKey;
use sliderun::plan::{Plan, PlanWriter};
use sliderun::tensor::Tensor;
use sliderun::tool::npy;

/// y = x·w for x: f32[batch, 2] and w = [[1, 2], [3, 4]].
fn write_plan(folder: &Path) -> PathBuf {
    let path = folder.join("product.slide");
    let mut writer = PlanWriter::new();
    let w = writer.add_blob(bytemuck::cast_slice::<f32, u8>(&[1.0, 2.0, 3.0, 4.0]));
    let value = |name: &str, rows: &str, storage| Value {
        name: name.into(),
        ty: TensorType::new(DType::F32, [rows.parse::<Dim>().unwrap(), 2.into()]),
        storage,
        from_model: true,
    };
    let manifest = Manifest {
        provenance: Provenance { producer: "slidec test".into(), ..Provenance::default() },
        symbols: vec![SymbolRange { name: "batch".into(), min: 1, max: 8 }],
        program: Program {
            values: vec![
                value("x", "batch", Storage::Input),
                value("w", "2", Storage::Constant(w)),
                value("a/y", "batch", Storage::Computed),
            ],
            inputs: vec![ValueId(0)],
            outputs: vec![PlanOutput { name: "a/y".into(), value: ValueId(2) }],
            steps: vec![Step {
                name: "product".into(),
                op: MatMul::default().into(),
                inputs: vec![Some(ValueId(0)), Some(ValueId(1))],
                outputs: vec![ValueId(2)],
                origin: vec!["product".into()],
            }],
        },
        blobs: Vec::new(),
        verdicts: Vec::new(),
        cuda: None,
    };
    writer.finish(manifest, &path).unwrap();
    path
}

/// The same, also for GPUs, with a cubin that is none.
fn write_plan_for_gpus(folder: &Path) {
    let cpu = Plan::open(&write_plan(folder)).unwrap();
    let mut manifest = cpu.manifest().clone();
    let mut writer = PlanWriter::new();
    for i in 0..manifest.blobs.len() as u32 {
        writer.add_blob(cpu.blob(BlobId(i)).unwrap());
    }
    let modules = vec![Module { architecture: "sm_90a".parse().unwrap(), cubin: writer.add_blob([7; 2048]) }];
    let launches = vec![Launch { steps: 1, work: Work::Product }];
    let variant = Variant { name: "dense".into(), from: Some(0), program: manifest.program.clone(), launches };
    manifest.cuda = Some(CudaPlan { variants: vec![variant], rows: Dim::symbol("batch"), modules });
    writer.finish(manifest, &folder.join("gpu.slide")).unwrap();
}

fn sliderun(folder: &Path, line: &str) -> Output {
    let args = line.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_sliderun")).current_dir(folder).args(args).output().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn run_reads_and_writes_npy_files() {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path());
    let x = Tensor::from_slice(&[3, 2], &[1f32, 0.0, 0.0, 1.0, 1.0, -1.0]).unwrap();
    let mut file = Vec::new();
    npy::write(x.view(), &mut file).unwrap();
    std::fs::write(folder.path().join("x.npy"), file).unwrap();

    let report = json(&sliderun(folder.path(), "run product.slide --input x=x.npy --output out --threads 1 --json"));
    let y = npy::read(&std::fs::read(folder.path().join("out/a_y.npy")).unwrap(), None).unwrap();
    assert_eq!((y.shape(), y.as_slice::<f32>().unwrap()), (&[3, 2][..], &[1.0, 2.0, 3.0, 4.0, -2.0, -2.0][..]));
    let line = &report["outputs"][0];
    assert_eq!(
        (&line["name"], &line["min"], &line["max"], &line["mean"]),
        (&"a/y".into(), &(-2.0).into(), &4.0.into(), &1.0.into())
    );

    let text = sliderun(folder.path(), "run product.slide --random --shape batch=5");
    assert!(String::from_utf8_lossy(&text.stdout).starts_with("a/y: f32[5, 2]  min "), "{text:?}");
}

#[test]
fn a_signature_that_is_required_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan::open_unmapped(&write_plan(folder.path())).unwrap();
    let [owner, other] = [1, 2].map(|seed| PrivateKey::from_seed([seed; 32]).unwrap());
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("owner.pub", owner.public().to_pem().as_bytes());
    write("both.pub", (other.public().to_pem() + &owner.public().to_pem()).as_bytes());
    let commands =
        ["run product.slide --random --json", "bench product.slide --iterations 1 --json", "inspect product.slide --json"];
    let refused = |why: &str| {
        for command in commands {
            let output = sliderun(folder.path(), &format!("{command} --require-signature owner.pub"));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{command}: {stderr}");
            assert!(stderr.starts_with("sliderun: product.slide: the plan is ") && stderr.contains(why), "{command}: {stderr}");
        }
    };
    refused("not signed, and a signature is required: sign it with `slidec sign`");
    write("product.slide.sig", &plan.sign(&other).unwrap().to_bytes());
    refused(&format!("signed by key {}, which is none of those", other.public()));
    write("product.slide.sig", &plan.sign(&owner).unwrap().to_bytes());
    for command in commands {
        for how in ["", "--require-signature owner.pub", "--no-mmap --require-signature both.pub"] {
            let report = json(&sliderun(folder.path(), &format!("{command} {how}")));
            if command.starts_with("inspect") && !how.is_empty() {
                assert_eq!(report["signer"], owner.public().to_string());
            }
        }
    }
    let mut damaged = std::fs::read(folder.path().join("product.slide")).unwrap();
    damaged[256] ^= 1;
    write("product.slide", &damaged);
    let output = sliderun(folder.path(), "inspect product.slide --require-signature owner.pub");
    assert!(String::from_utf8_lossy(&output.stderr).contains("blob 0 does not match its digest"), "{output:?}");
}

#[test]
fn inspect_and_bench_report() {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path());
    let report = json(&sliderun(folder.path(), "inspect product.slide --check --json"));
    assert_eq!((&report["checked"], &report["constant_bytes"]), (&true.into(), &16.into()));
    assert_eq!(report["steps"][0]["inputs"], serde_json::json!(["x", "w"]));
    assert_eq!(report["values"][2]["type"], "f32[batch, 2]");
    let text = sliderun(folder.path(), "inspect product.slide");
    assert!(String::from_utf8_lossy(&text.stdout).contains("symbol batch = 1..8\n"), "{text:?}");

    let report =
        json(&sliderun(folder.path(), "bench product.slide --shape batch=4 --iterations 5 --operators --threads 1 --json"));
    assert_eq!((&report["latency"]["runs"], &report["shape"]["batch"], &report["threads"]), (&5.into(), &4.into(), &1.into()));
    assert_eq!(report["operators"][0]["operator"], "MatMul");
}

#[test]
fn turns_answer_each_command_and_outlive_wrong_ones() {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path());
    let x = Tensor::from_slice(&[2, 2], &[1f32, 0.0, 0.0, 1.0]).unwrap();
    let mut file = Vec::new();
    npy::write(x.view(), &mut file).unwrap();
    std::fs::write(folder.path().join("x.npy"), file).unwrap();

    let mut command = Command::new(env!("CARGO_BIN_EXE_sliderun"));
    command.current_dir(folder.path()).args(["turns", "product.slide", "--threads", "1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let commands = "outputs early\ninputs nowhere\ninputs .\nburst 0.001\nburst long\nsteady 0\n\nlaunches\noutputs out\nrest\n";
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), commands.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [loaded, early, missing, ready, burst, long, steady, launches, written, rest] = answers.as_slice() else {
        panic!("{answers:#?}");
    };
    assert_eq!(loaded["inputs"][0], "x: f32[batch, 2]");
    let error = |answer: &serde_json::Value, part: &str| assert!(answer["error"].as_str().unwrap().contains(part), "{answer}");
    error(early, "x");
    error(missing, "nowhere/x.npy");
    error(long, "'long' is no number of seconds");
    error(rest, "'rest' is no command");
    assert!(ready["run_us"].as_f64().unwrap() > 0.0 && steady["run_us"].as_f64().unwrap() > 0.0);
    assert!(burst["latency"]["runs"].as_u64().unwrap() >= 5 && steady["runs"] == 5);
    assert_eq!(launches["launches"], serde_json::json!([]));
    assert_eq!(written["files"], serde_json::json!(["out/a_y.npy"]));
    let y = npy::read(&std::fs::read(folder.path().join("out/a_y.npy")).unwrap(), None).unwrap();
    assert_eq!(y.as_slice::<f32>().unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn exit_codes_and_messages() {
    let folder = tempfile::tempdir().unwrap();
    let plan = write_plan(folder.path());
    let mut damaged = std::fs::read(&plan).unwrap();
    damaged[256] ^= 1;
    std::fs::write(folder.path().join("damaged.slide"), &damaged).unwrap();
    std::fs::write(folder.path().join("x.npy"), "no tensor").unwrap();
    for (line, code, message) in [
        ("", 2, "a command is missing"),
        ("run product.slide --frobnicate", 2, "--frobnicate"),
        ("run missing.slide --random", 1, "missing.slide: "),
        ("run x.npy --random", 1, "x.npy: not a plan"),
        ("run damaged.slide --random", 1, "blob 0 does not match its digest"),
        ("inspect damaged.slide --check", 1, "damaged.slide: blob 0 does not match its digest"),
        ("run product.slide", 1, "inputs are missing: x: f32[batch, 2]"),
        ("run product.slide --input x=x.npy", 1, "x.npy: not a .npy file"),
        ("run product.slide --random --shape batch=9", 1, "batch = 9 is outside 1..8"),
        ("run product.slide --random --shape seq=9", 1, "the plan has no symbol 'seq': it has batch"),
        ("bench product.slide --device cuda", 1, "compiled for the CPU alone"),
    ] {
        let output = sliderun(folder.path(), line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line}: {stderr}");
        assert!(stderr.contains(message), "{line}: {stderr}");
        assert!(output.stdout.is_empty(), "{line}");
    }
}

#[test]
fn plans_for_gpus_tell_their_launches_and_why_they_do_not_run() {
    let folder = tempfile::tempdir().unwrap();
    write_plan_for_gpus(folder.path());
    let report = json(&sliderun(folder.path(), "inspect gpu.slide --json"));
    assert_eq!(report["cuda"]["targets"], serde_json::json!([{ "architecture": "sm_90a", "cubin_bytes": 2048 }]));
    let launch = &report["cuda"]["variants"][0]["launches"][0];
    assert_eq!((&launch["library"], &launch["steps"]), (&"cuBLASLt".into(), &serde_json::json!(["product"])));
    assert_eq!(report["blobs"][1]["used_by"], serde_json::json!(["cubin"]));
    for (line, expected) in [("inspect gpu.slide", "     1 MatMul, cuBLASLt"), ("inspect gpu.slide --steps", "cuBLASLt")] {
        let text = String::from_utf8(sliderun(folder.path(), line).stdout).unwrap();
        assert!(text.contains("CUDA for sm_90a (cubin of 2 KiB)\n  1 launches for 1 steps, 0 of 1 products sparse"), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let devices = String::from_utf8(sliderun(folder.path(), "devices").stdout).unwrap();
    for what in ["driver: ", "cuSPARSELt: ", "cuBLASLt: ", "NVML: "] {
        assert_eq!(devices.matches(what).count(), 1, "{devices}");
    }
    // No machine has so many GPUs; most that run this have no driver.
    for command in ["run gpu.slide --random", "bench gpu.slide", "check gpu.slide", "check gpu.slide --kernels"] {
        let output = sliderun(folder.path(), &format!("{command} --device cuda:999"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{command}: {stderr}");
        let no_driver = stderr.contains("libcuda.so.1") && stderr.contains("Looked in") && stderr.contains("To get it");
        let no_device = stderr.contains("there is no CUDA device") || stderr.contains("there is no device cuda:999");
        assert!(no_driver || no_device || stderr.contains("driver 580"), "{command}: {stderr}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    write_plan(folder.path());
    for line in ["inspect product.slide --json", "run product.slide --random", "--help"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_sliderun"));
        let command = command.current_dir(folder.path()).args(line.split_whitespace()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{line}: {output:?}");
    }
}

/// A program that stands in for the service, on `PATH`.
#[cfg(unix)]
#[test]
fn serve_hands_over_to_the_program_that_serves() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let serve = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sliderun"));
        command.args(["serve", "a b", "--http", "1"]).env("PATH", folder.path()).output().unwrap()
    };
    let missing = serve();
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("needs the program sliderun-serve"));

    let program = folder.path().join("sliderun-serve");
    std::fs::write(&program, "#!/bin/sh\nprintf '%s,' \"$@\"\nexit 7\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = serve();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(7), "a b,--http,1,"));
}
