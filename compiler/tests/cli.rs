//! The `slidec` program from outside: exit codes, what it says, what it leaves behind.

use prost::Message as _;
use serde_json::Value as Json;
use slidec::onnx::build::{ModelBuilder, node};
use slidec::onnx::proto::{EXTERNAL, StringStringEntryProto};
use slidec::verify::write_npz;
use sliderun::dtype::DType;
use sliderun::plan::signature::Signers;
use sliderun::plan::{Plan, PlanOptions};
use sliderun::tensor::Tensor;
use sliderun::tool::npy;
use std::fs;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// A folder of its own with [`two_products`] in it, `model.onnx`.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        two_products().model().save(&folder.path().join("model.onnx")).unwrap();
        Bench { folder }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slidec"));
        command.args(arguments).current_dir(self.folder.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        Ended::from(self.command(arguments).output().unwrap())
    }

    fn compile(&self, arguments: &[&str]) -> Ended {
        self.run(&[&["compile", "model.onnx", "-o", "model.slide"], arguments].concat())
    }

    fn save(&self, name: &str, tensor: &Tensor) {
        npy::write(tensor.view(), &mut fs::File::create(self.path(name)).unwrap()).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// `y = relu(x · w) · v`, x: f32[batch, 16], w: [16, 8], v: [8, 16].
fn two_products() -> ModelBuilder {
    let values: Vec<f32> = (0..128).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0 + 0.001).collect();
    ModelBuilder::new(17)
        .input("x", DType::F32, &["batch", "16"])
        .initializer("w", &Tensor::from_slice(&[16, 8], &values).unwrap())
        .initializer("v", &Tensor::from_slice(&[8, 16], &values).unwrap())
        .node(node("MatMul", &["x", "w"], &["h"]).name("first"))
        .node(node("Relu", &["h"], &["r"]).name("act"))
        .node(node("MatMul", &["r", "v"], &["y"]).name("second"))
        .output("y", DType::F32, &["batch", "16"])
}

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// What it said when it ended with this code, having printed no result.
    #[track_caller]
    fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert_eq!(self.stdout, "");
        self.stderr
    }

    #[track_caller]
    fn json(self) -> Json {
        let ended = self.ok();
        serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {}", ended.stdout))
    }
}

#[test]
fn help_has_examples_and_wrong_usage_is_code_2() {
    let bench = Bench::new();
    for command in ["compile", "run", "verify", "prune", "inspect", "bench", "opt", "passes", "keygen", "sign"] {
        let help = bench.run(&[command, "--help"]).ok().stdout;
        assert!(help.contains("Examples:"), "{command}: {help}");
    }
    for arguments in [
        &[][..],
        &["compress"],
        &["compile", "model.onnx"],
        &["compile", "model.onnx", "-o", "m.slide", "--sparsity", "3:8"],
        &["compile", "model.onnx", "-o", "m.slide", "--shape", "batch=4..2"],
        &["compile", "model.onnx", "-o", "m.slide", "--emit-after", "luck"],
        &["--threads", "0", "passes"],
        &["opt", "graph.ir"],
        &["opt", "graph.ir", "--pass", "luck"],
        &["opt", "graph.ir", "--pass", "normalise", "--prune", "luck"],
        &["inspect", "model.onnx", "--steps"],
        &["prune", "model.onnx", "-o", "pruned.onnx", "--pattern", "5:8"],
        &["run", "m.slide", "--device", "tpu"],
    ] {
        bench.run(arguments).refused(2);
    }
    assert_eq!(bench.files(), ["model.onnx"]);
}

#[test]
fn compile_ends_with_a_line_per_product_and_a_summary() {
    let bench = Bench::new();
    let out = bench.compile(&["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"]).ok();
    assert_eq!(out.stderr, "", "no progress where stderr is no terminal");
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert!(lines[0].starts_with("MATMUL"), "{}", out.stdout);
    for (line, start) in lines[1..].iter().zip(["first ", "second "]) {
        assert!(line.starts_with(start) && line.contains("6:8") && line.contains("i8 6:8"), "{}", out.stdout);
    }
    let last = lines.last().unwrap();
    assert!(last.starts_with("model.slide: ") && last.contains("2 of 2 matrix products sparse; compiled in"), "{last}");
    assert_eq!(bench.files(), ["model.onnx", "model.slide"]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    bench.run(&["compile", "model.onnx", "-o", "again.slide", "--threads", "1"]).ok();
    assert_eq!(fs::read(bench.path("model.slide")).unwrap(), fs::read(bench.path("again.slide")).unwrap());
}

#[test]
fn plans_are_signed_with_keys_of_ones_own() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let plain = fs::read(bench.path("model.slide")).unwrap();
    let said = bench.run(&["keygen", "owner.key"]).ok().stdout;
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(bench.path("owner.key")).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "nobody else may read the private key");
    }
    let keys = ["owner.key", "owner.key.pub"].map(|name| fs::read(bench.path(name)).unwrap());
    assert!(bench.run(&["keygen", "owner.key"]).refused(1).contains("give another name"));
    assert_eq!(["owner.key", "owner.key.pub"].map(|name| fs::read(bench.path(name)).unwrap()), keys);

    let signers = Signers::read(&bench.path("owner.key.pub")).unwrap();
    assert!(said.contains(&signers.keys()[0].to_string()), "{said}");
    let options = PlanOptions::default().with_signers(signers);
    let open = |name: &str| Plan::open_with(&bench.path(name), &options).map(|plan| plan.signer().unwrap().to_string());
    assert!(open("model.slide").is_err());
    bench.run(&["sign", "model.slide", "--key", "owner.key", "--detached"]).ok();
    assert_eq!(fs::read(bench.path("model.slide")).unwrap(), plain);
    let signer = open("model.slide").unwrap();
    fs::remove_file(bench.path("model.slide.sig")).unwrap();
    bench.run(&["sign", "model.slide", "--key", "owner.key", "-o", "signed.slide"]).ok();
    assert_eq!((open("signed.slide").unwrap(), open("model.slide").is_err()), (signer.clone(), true));
    bench.run(&["sign", "model.slide", "--key", "owner.key"]).ok();
    bench.run(&["sign", "model.slide", "--key", "owner.key"]).ok();
    assert_eq!(open("model.slide").unwrap(), signer);
    assert_eq!(fs::read(bench.path("model.slide")).unwrap().len(), plain.len() + 104, "signed once");
    bench.run(&["run", "model.slide", "--random"]).ok();

    let no_key = bench.run(&["sign", "model.slide", "--key", "owner.key.pub"]).refused(1);
    assert!(no_key.contains("owner.key.pub: no private Ed25519 key"), "{no_key}");
    fs::write(bench.path("damaged.slide"), [&plain[..300], &[plain[300] ^ 1], &plain[301..]].concat()).unwrap();
    assert!(bench.run(&["sign", "damaged.slide", "--key", "owner.key"]).refused(1).contains("does not match its digest"));
}

#[test]
fn a_recipe_that_is_given_back_gives_the_same_bytes() {
    let bench = Bench::new();
    for (i, asked) in [
        &["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"][..],
        &["--sparsity", "4:6", "--prune", "magnitude"],
        &["--precision", "bf16"],
        &[],
    ]
    .iter()
    .enumerate()
    {
        bench.compile(&[asked, &["--write-recipe", "recipe.toml"][..]].concat()).ok();
        let plan = fs::read(bench.path("model.slide")).unwrap();
        bench.compile(&["--recipe", "recipe.toml"]).ok();
        assert!(plan == fs::read(bench.path("model.slide")).unwrap(), "case {i}");
    }
    // Fewer words for the same choices.
    bench.compile(&["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"]).ok();
    let plan = fs::read(bench.path("model.slide")).unwrap();
    let recipe = "[default]\npattern = \"6:8\"\nprecision = \"int8\"\nprune = \"magnitude\"\n";
    fs::write(bench.path("recipe.toml"), recipe).unwrap();
    bench.compile(&["--recipe", "recipe.toml"]).ok();
    assert!(plan == fs::read(bench.path("model.slide")).unwrap());
}

#[test]
fn a_recipe_is_followed_product_by_product_or_refused_by_name() {
    let bench = Bench::new();
    let recipe = "[default]\nprecision = \"int8\"\n[[product]]\nnode = \"f*\"\npattern = \"6:8\"\nprune = \"magnitude\"\n";
    fs::write(bench.path("recipe.toml"), recipe).unwrap();
    let report = bench.compile(&["--recipe", "recipe.toml", "--json"]).json();
    let chosen = |at: usize| report["verdicts"][at]["chosen"].as_str().unwrap();
    assert_eq!((chosen(0), chosen(1)), ("i8 6:8", "i8 dense"));
    let digest = report["provenance"]["recipe"].as_str().unwrap();
    assert!(bench.run(&["inspect", "model.slide"]).ok().stdout.contains(&format!("recipe {digest}")));
    for (recipe, said) in [
        ("[[product]]\nnode = \"secnd\"", "the nearest is 'second'"),
        ("[[product]]\nnode = \"act\"", "'act', which is no matrix product"),
        ("[[product]]\nnode = \"first\"\npattern = \"6:9\"", "'6:9' is no pattern; the nearest is '6:8'"),
        ("[[products]]\nnode = \"first\"", "line 1"),
    ] {
        fs::write(bench.path("recipe.toml"), recipe).unwrap();
        let error = bench.run(&["compile", "model.onnx", "-o", "other.slide", "--recipe", "recipe.toml"]).refused(1);
        assert!(error.contains(said) && error.contains("--write-recipe"), "{error}");
    }
    let error = bench.run(&["compile", "model.onnx", "-o", "other.slide", "--recipe", "none.toml"]).refused(1);
    assert!(error.contains("none.toml") && !bench.files().contains(&"other.slide".to_owned()), "{error}");
}

#[test]
fn a_budget_gives_a_plan_within_it_and_a_recipe_of_it() {
    let bench = Bench::new();
    let values: Vec<f32> = (0..256 * 64).map(|i| ((i * 7919 % 10007) as f32 - 5003.0) / 5003.0).collect();
    let model = ModelBuilder::new(17)
        .input("x", DType::F32, &["batch", "256"])
        .initializer("w", &Tensor::from_slice(&[256, 64], &values).unwrap())
        .initializer("v", &Tensor::from_slice(&[64, 256], &values).unwrap())
        .node(node("MatMul", &["x", "w"], &["h"]).name("first"))
        .node(node("Tanh", &["h"], &["r"]).name("act"))
        .node(node("MatMul", &["r", "v"], &["y"]).name("second"))
        .output("y", DType::F32, &["batch", "256"]);
    model.model().save(&bench.path("model.onnx")).unwrap();
    for method in ["magnitude", "sparsegpt"] {
        let asked =
            ["--budget", "cos=0.97", "--prune", method, "--write-recipe", "recipe.toml", "--pareto", "plans.svg", "--json"];
        let report = bench.compile(&asked).json();
        let budget = &report["budget"];
        let chosen = &budget["points"][budget["chosen"].as_u64().unwrap() as usize];
        assert!(chosen["cosine"].as_f64().unwrap() >= 0.97 && chosen["deployed"] == true, "{chosen}");
        assert!(chosen["macs"].as_f64().unwrap() < 1.0 && budget["prune"] == method, "{chosen}");
        assert_eq!(budget["groups"].as_array().unwrap().len(), 2);
        assert!(fs::read_to_string(bench.path("plans.svg")).unwrap().starts_with("<svg"));
        let plan = fs::read(bench.path("model.slide")).unwrap();
        bench.compile(&["--recipe", "recipe.toml"]).ok();
        assert!(plan == fs::read(bench.path("model.slide")).unwrap(), "{method}");
    }
    let table = bench.compile(&["--budget", "rel-err=0.2", "--prune", "magnitude"]).ok();
    assert!(table.stdout.contains("chosen") && table.stderr.contains("synthetic"), "{}", table.stdout);
    let error = bench.compile(&["--budget", "cos=0.9", "--budget-output", "z"]).refused(1);
    assert!(error.contains("no output 'z'") && error.contains("there are y"), "{error}");
    for refused in [&["--budget", "cos=2"][..], &["--budget", "cos=0.9", "--sparsity", "6:8"], &["--pareto", "plans.svg"]] {
        bench.compile(refused).refused(2);
    }
}

#[test]
fn calibration_data_decides_how_products_are_quantized() {
    let bench = Bench::new();
    // The first channel stands out.
    let x: Vec<f32> = (0..160).map(|i| ((i * 29 % 83) as f32 - 41.0) * if i % 16 == 0 { 2.0 } else { 0.02 }).collect();
    let samples = [("x".to_owned(), Tensor::from_slice(&[10, 16], &x).unwrap())].into();
    write_npz(&bench.path("x.npz"), &samples).unwrap();
    let int8 = ["--precision", "int8", "--json"];
    let compile = |extra: &[&str]| bench.compile(&[&int8, extra].concat()).json();
    let reasons = |report: &Json| -> Vec<String> {
        report["verdicts"].as_array().unwrap().iter().map(|v| format!("{}: {}", v["chosen"], v["reason"])).collect()
    };
    assert!(reasons(&compile(&[])).iter().all(|r| !r.contains("loses")));

    let report = compile(&["--calib", "x.npz"]);
    assert!(reasons(&report).iter().all(|r| r.starts_with("\"i8 dense") && r.contains("i8 loses")), "{report}");
    let smooth = report["passes"].as_array().unwrap().iter().find(|p| p["pass"] == "smooth").unwrap().to_string();
    assert!(smooth.contains("'x', which it reads, is not computed") && smooth.contains("quantized"), "{smooth}");

    let limited = compile(&["--calib", "x.npz", "--max-layer-error", "0", "--smooth", "none", "--weight-scales", "absmax"]);
    assert!(reasons(&limited).iter().all(|r| r.starts_with("\"f32 dense") && r.ends_with("f32 in its place\"")), "{limited}");
    let options = limited["provenance"]["options"].to_string();
    assert!(["--calib=", "--max-layer-error=0", "--smooth=none", "--weight-scales=absmax"].iter().all(|o| options.contains(o)));
    assert!(!report["provenance"]["options"].to_string().contains("--smooth"));

    for bad in [&["--max-layer-error", "0.1"][..], &["--calib", "x.npz", "--max-layer-error", "-1"], &["--smooth", "much"]] {
        bench.compile(bad).refused(2);
    }
}

#[test]
fn json_parses_everywhere_a_table_is_printed() {
    let bench = Bench::new();
    let report = bench.compile(&["--json", "--report", "r.html", "--report", "r.json"]).json();
    assert_eq!(report["verdicts"].as_array().unwrap().len(), 2);
    let written: Json = serde_json::from_str(&fs::read_to_string(bench.path("r.json")).unwrap()).unwrap();
    assert_eq!(written["plan"], report["plan"]);
    assert!(fs::read_to_string(bench.path("r.html")).unwrap().starts_with("<!doctype html>"));

    let run = bench.run(&["run", "model.slide", "--random", "--json"]).json();
    assert_eq!(run["outputs"][0]["name"], "y");
    let verified = bench.run(&["verify", "model.onnx", "model.slide", "--json"]).json();
    assert_eq!((&verified["passed"], &verified["outputs"][0]["name"]), (&Json::Bool(true), &"y".into()));
    let inspected = bench.run(&["inspect", "model.slide", "--json", "--shape", "batch=3"]).json();
    assert!(inspected["memory"]["bytes"].as_u64().unwrap() >= inspected["memory"]["lower_bound"].as_u64().unwrap());
    assert_eq!(bench.run(&["inspect", "model.onnx", "--json"]).json()["parameters"], 256);
    let measured = bench.run(&["bench", "model.slide", "--iterations", "2", "--json"]).json();
    assert_eq!(measured["latency"]["runs"], 2);
}

#[test]
fn outputs_are_files_that_inputs_can_be() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    bench.save("x.npy", &Tensor::zeros(DType::F32, &[3, 16]).unwrap());
    bench.run(&["run", "model.slide", "--input", "x=x.npy", "--output", "results"]).ok();
    let y = npy::read(&fs::read(bench.path("results/y.npy")).unwrap(), None).unwrap();
    assert_eq!((y.shape(), y.as_slice::<f32>().unwrap()), (&[3, 16][..], &[0.0; 48][..]));
}

#[test]
fn inputs_that_do_not_fit_say_what_would() {
    let bench = Bench::new();
    bench.compile(&["--shape", "batch=1..4"]).ok();
    bench.save("ids.npy", &Tensor::zeros(DType::I64, &[3, 16]).unwrap());
    bench.save("narrow.npy", &Tensor::zeros(DType::F32, &[3, 15]).unwrap());
    bench.save("many.npy", &Tensor::zeros(DType::F32, &[5, 16]).unwrap());
    let cases = [
        ("z=ids.npy", 2, "the plan has no input 'z'"),
        ("x=ids.npy", 1, "f32[batch, 16] expected"),
        ("x=narrow.npy", 1, "16"),
        ("x=many.npy", 1, "recompile with --shape batch=1..5"),
        ("x=missing.npy", 1, "missing.npy"),
    ];
    for (input, code, expected) in cases {
        let said = bench.run(&["run", "model.slide", "--random", "--input", input]).refused(code);
        assert!(said.contains(expected), "{input}: {said}");
    }
    let said = bench.run(&["run", "model.slide"]).refused(2);
    assert!(said.contains("x: f32[batch, 16]") && said.contains("--random"), "{said}");
}

#[test]
fn devices_that_are_not_there_are_refused() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let said = bench.run(&["run", "model.slide", "--random", "--device", "cuda"]).refused(1);
    assert!(said.contains("compiled for the CPU alone") && said.contains("--target"), "{said}");
    let said = bench.compile(&["--target", "sm_12"]).refused(2);
    assert!(said.contains("sm_12"), "{said}");
}

#[test]
fn plans_for_gpus_need_nvrtc_and_run_on_the_cpu_too() {
    let bench = Bench::new();
    // NVRTC may be installed where it is found without being named.
    let target = ["compile", "model.onnx", "-o", "m.slide", "--target", "cpu,sm_90a"];
    let ended = Ended::from(bench.command(&target).env("SLIDERUN_CUDA_PATH", bench.path("nowhere")).output().unwrap());
    if ended.code != Some(0) {
        let said = ended.refused(1);
        assert!(said.contains("NVRTC") && said.contains("pip install") && said.contains("--target cpu"), "{said}");
        assert!(!bench.path("m.slide").exists());
    }
    if slidec_kernels::Compiler::new(None).is_err() {
        println!("skipped: NVRTC is not there");
        return;
    }
    let said = bench.compile(&["--target", "cpu,sm_90a", "--precision", "int8"]).ok().stdout;
    assert!(
        said.contains("on GPUs bf16 dense") && said.contains("on GPUs: i8 wants multiples of 16, and K is 16, N 8"),
        "{said}"
    );
    bench.compile(&["--target", "cpu,sm_80,sm_90a"]).ok();
    bench.run(&["run", "model.slide", "--random"]).ok();
    bench.run(&["verify", "model.onnx", "model.slide", "--shape", "batch=3"]).ok();
    let cuda = &bench.run(&["inspect", "model.slide", "--json"]).json()["cuda"];
    let targets: Vec<_> = cuda["targets"].as_array().unwrap().iter().map(|t| t["architecture"].as_str().unwrap()).collect();
    assert_eq!(targets, ["sm_80", "sm_90a"]);
    let variant = &cuda["variants"][0];
    let launches = variant["launches"].as_array().unwrap();
    assert!(launches.iter().any(|l| l["library"] == "cuBLASLt") && launches.iter().any(|l| l["threads"].is_u64()), "{cuda}");
    let steps: usize = launches.iter().map(|l| l["steps"].as_array().unwrap().len()).sum();
    assert_eq!(steps as u64, variant["steps"].as_u64().unwrap());
    let listed = bench.run(&["inspect", "model.slide", "--steps"]).ok().stdout;
    assert!(launches.iter().filter_map(|l| l["kernel"].as_str()).all(|kernel| listed.contains(kernel)), "{listed}");
    assert!(listed.contains("the model's nodes and what they went into\n"), "{listed}");
    // No machine has so many GPUs; most that run this have no driver.
    for command in [&["run", "model.slide", "--random"][..], &["verify", "model.onnx", "model.slide"], &["bench", "model.slide"]]
    {
        let said = bench.run(&[command, &["--device", "cuda:999"]].concat()).refused(1);
        assert!(
            ["libcuda.so.1", "no CUDA device", "no device cuda:999", "driver 580"].iter().any(|s| said.contains(s)),
            "{said}"
        );
    }

    let first = fs::read(bench.path("model.slide")).unwrap();
    bench.compile(&["--target", "cpu,sm_80,sm_90a"]).ok();
    assert_eq!(first, fs::read(bench.path("model.slide")).unwrap(), "the same input gives the same bytes");
}

#[test]
fn what_is_no_model_or_plan_is_refused() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let plan = fs::read(bench.path("model.slide")).unwrap();
    fs::write(bench.path("truncated.slide"), &plan[..plan.len() - 7]).unwrap();
    let mut newer = plan.clone();
    newer[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    fs::write(bench.path("newer.slide"), newer).unwrap();
    fs::write(bench.path("text.onnx"), "no model").unwrap();
    fs::write(bench.path("empty.onnx"), "").unwrap();
    let model = fs::read(bench.path("model.onnx")).unwrap();
    fs::write(bench.path("truncated.onnx"), &model[..model.len() / 2]).unwrap();
    for (name, expected) in [
        ("truncated.slide", "truncated"),
        ("newer.slide", "newer"),
        ("text.onnx", "not an ONNX model"),
        ("empty.onnx", "empty"),
        ("truncated.onnx", "truncated"),
        ("missing.onnx", "missing.onnx"),
    ] {
        let command =
            if name.ends_with(".slide") { &["run", name, "--random"][..] } else { &["compile", name, "-o", "out.slide"] };
        let said = bench.run(command).refused(1);
        assert!(said.contains(expected), "{name}: {said}");
    }
    assert!(!bench.path("out.slide").exists());
}

#[test]
fn everything_unsupported_is_named_at_once_and_nothing_is_left_behind() {
    let bench = Bench::new();
    let model = ModelBuilder::new(17)
        .opset("com.example", 1)
        .input("x", DType::F32, &["batch", "16"])
        .node(node("Frobnicate", &["x"], &["a"]).domain("com.example").name("one"))
        .node(node("Transmogrify", &["x"], &["b"]).domain("com.example").name("two"))
        .node(node("Add", &["a", "b"], &["y"]).name("three"))
        .output("y", DType::F32, &["batch", "16"])
        .model();
    model.save(&bench.path("foreign.onnx")).unwrap();
    let said = bench.run(&["compile", "foreign.onnx", "-o", "out.slide"]).refused(1);
    for expected in ["'one'", "'two'", "Frobnicate", "Transmogrify", "com.example", "f32[batch, 16]"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(bench.files(), ["foreign.onnx", "model.onnx"]);
    let said = bench.run(&["compile", "model.onnx", "-o", "no/such/folder/out.slide"]).refused(1);
    assert!(said.contains("no/such/folder/out.slide"), "{said}");
}

#[test]
fn verify_measures_and_limits() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let out = bench.run(&["verify", "model.onnx", "model.slide", "--shape", "batch=3", "--max-rel-err", "1e-5"]).ok().stdout;
    for expected in ["LAYER", "r ", "OUTPUT", "y ", "passed"] {
        assert!(out.contains(expected), "{expected}: {out}");
    }
    bench.compile(&["--sparsity", "2:4", "--prune", "magnitude"]).ok();
    let ended = bench.run(&["verify", "model.onnx", "model.slide", "--max-rel-err", "1e-5"]);
    assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.contains("FAILED") && ended.stderr.is_empty(), "{}{}", ended.stdout, ended.stderr);
}

#[test]
fn pruning_and_quantization_are_told_apart() {
    let bench = Bench::new();
    bench.run(&["prune", "model.onnx", "-o", "pruned.onnx", "--pattern", "6:8"]).ok();
    bench.compile(&["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"]).ok();
    let results = bench.run(&["verify", "model.onnx", "model.slide", "--pruned", "pruned.onnx", "--json"]).json();
    let output = &results["outputs"][0];
    let rel = |of: &str| output[of]["rel"].as_f64().unwrap();
    assert!(rel("quantization") < 0.05 && rel("quantization") > 0.0, "{output}");
    assert!(rel("pruning") > rel("quantization"), "{output}");
    let patterns = &bench.run(&["inspect", "pruned.onnx", "--json"]).json()["weights"][0]["patterns"];
    assert!(patterns.as_array().unwrap().contains(&"6:8".into()), "{patterns}");
}

#[test]
fn another_model_than_the_plan_was_made_from_is_told() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    bench.run(&["prune", "model.onnx", "-o", "other.onnx", "--pattern", "2:4"]).ok();
    let ended = bench.run(&["verify", "other.onnx", "model.slide"]).ok();
    assert!(ended.stderr.contains("was not compiled from 'other.onnx'"), "{}", ended.stderr);
}

#[test]
fn frozen_inputs_are_constants() {
    let bench = Bench::new();
    bench.save("x.npy", &Tensor::zeros(DType::F32, &[2, 16]).unwrap());
    bench.compile(&["--freeze", "x=x.npy"]).ok();
    assert_eq!(bench.run(&["inspect", "model.slide", "--json"]).json()["inputs"], Json::Array(Vec::new()));
    bench.run(&["verify", "model.onnx", "model.slide", "--input", "x=x.npy"]).ok();
    let said = bench.compile(&["--freeze", "q=x.npy"]).refused(1);
    assert!(said.contains("frozen input 'q'"), "{said}");
    assert!(said.contains("it has x"), "{said}");
}

#[test]
fn a_graph_can_be_dumped_between_passes_and_taken_up_again() {
    let bench = Bench::new();
    let passes = bench.run(&["passes", "--json"]).json();
    let names: Vec<&str> = passes.as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    let (first, last) = (names[0], names[names.len() - 1]);
    let wishes = ["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"];
    let dumps = [format!("{first}=first.ir"), format!("{last}=last.ir")];
    bench.compile(&[&["--emit-after", &dumps[0], "--emit-after", &dumps[1]], &wishes[..]].concat()).ok();
    let text = |name: &str| fs::read_to_string(bench.path(name)).unwrap();
    assert!(text("first.ir").contains("MatMul") && text("last.ir").contains("SparseGemm"), "{}", text("last.ir"));

    let rest = names[1..].join(",");
    let ended = bench.run(&[&["opt", "first.ir", "--pass", &rest, "-o", "again.ir"], &wishes[..]].concat()).ok();
    assert_eq!((text("again.ir"), ended.stdout), (text("last.ir"), String::new()));
    assert!(ended.stderr.contains("did: "), "{}", ended.stderr);
    // Nothing is left to be removed, so the graph is printed as it was read.
    let ended = bench.run(&["opt", "again.ir", "--pass", "deduplicate"]).ok();
    assert_eq!(ended.stdout, text("last.ir"));

    fs::rename(bench.path("last.ir.d"), bench.path("damaged.ir.d")).unwrap();
    fs::write(bench.path("damaged.ir"), text("last.ir").replace("SparseGemm", "SparseGum")).unwrap();
    let said = bench.run(&["opt", "damaged.ir", "--pass", "deduplicate", "-o", "out.ir"]).refused(1);
    assert!(said.contains("SparseGum") && !bench.path("out.ir").exists(), "{said}");
}

#[test]
fn graphs_for_graphviz() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    for file in ["model.onnx", "model.slide"] {
        let dot = bench.run(&["inspect", file, "--dot"]).ok().stdout;
        assert!(dot.starts_with("digraph ") && dot.ends_with("}\n") && dot.contains("MatMul"), "{dot}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    for arguments in [
        &["passes"][..],
        &["--help"],
        &["inspect", "model.onnx"],
        &["inspect", "model.slide", "--json"],
        &["run", "model.slide", "--random"],
    ] {
        let mut child = bench.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn every_change_of_a_plan_is_noticed_or_without_effect() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let outputs = |ended: Ended| ended.json()["outputs"].clone();
    let run = |name: &str| bench.run(&["run", name, "--random", "--threads", "1", "--json"]);
    let (plan, expected) = (fs::read(bench.path("model.slide")).unwrap(), outputs(run("model.slide")));
    for at in (0..plan.len()).step_by(plan.len() / 40) {
        let mut changed = plan.clone();
        changed[at] ^= 0x10;
        fs::write(bench.path("changed.slide"), changed).unwrap();
        let ended = run("changed.slide");
        // Padding between the parts may have any value.
        match ended.code {
            Some(0) => assert_eq!(outputs(ended), expected, "byte {at}"),
            _ => assert!(ended.refused(1).contains("'changed.slide' was not run"), "byte {at}"),
        }
    }
    for length in [0, 1, 8, 63, plan.len() / 2, plan.len() - 1] {
        fs::write(bench.path("short.slide"), &plan[..length]).unwrap();
        run("short.slide").refused(1);
    }
}

#[test]
fn constants_in_other_files_are_beside_the_model_or_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.path("models")).unwrap();
    fs::write(bench.path("outside.bin"), [0; 512]).unwrap();
    fs::write(bench.path("models/short.bin"), [0; 511]).unwrap();
    let absolute = bench.path("outside.bin").display().to_string();
    for (location, expected) in [
        ("missing.bin", "put it beside the model"),
        ("../outside.bin", "outside the model's folder"),
        (&absolute, "outside the model's folder"),
        ("short.bin", "bytes 0..512 of its data file 'short.bin' are asked for, which has 511"),
    ] {
        let mut model = two_products().proto();
        let tensor = &mut model.graph.as_mut().unwrap().initializer[0];
        tensor.raw_data = None;
        tensor.data_location = Some(EXTERNAL);
        let (key, value) = (Some("location".to_owned()), Some(location.to_owned()));
        tensor.external_data = vec![StringStringEntryProto { key, value }];
        fs::write(bench.path("models/model.onnx"), model.encode_to_vec()).unwrap();
        let said = bench.run(&["compile", "models/model.onnx", "-o", "out.slide"]).refused(1);
        assert!(said.contains("'w'") && said.contains(expected), "{location}: {said}");
        let said = bench.run(&["prune", "models/model.onnx", "-o", "out.onnx", "--pattern", "2:4"]).refused(1);
        assert!(said.contains("'w'"), "{location}: {said}");
    }
    assert_eq!(bench.files(), ["model.onnx", "models", "outside.bin"]);
}

#[test]
fn strict_fails_where_a_product_cannot_take_the_pattern() {
    let bench = Bench::new();
    let out = bench.compile(&["--sparsity", "6:8"]).ok().stdout;
    assert!(out.contains("0 of 2 matrix products sparse"), "{out}");
    fs::remove_file(bench.path("model.slide")).unwrap();
    let said = bench.compile(&["--sparsity", "6:8", "--strict"]).refused(1);
    assert!(said.contains("first") && said.contains("second") && said.contains("6:8"), "{said}");
    assert_eq!(bench.files(), ["model.onnx"]);
}

#[test]
fn outputs_have_digests_and_blobs_have_users() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let digest = |seed: &str| {
        let run = bench.run(&["run", "model.slide", "--random", "--seed", seed, "--json"]).json();
        run["outputs"][0]["digest"].as_str().unwrap().to_owned()
    };
    assert_eq!((digest("1"), digest("1").len()), (digest("1"), 64));
    assert_ne!(digest("1"), digest("2"));
    let text = bench.run(&["run", "model.slide", "--random", "--seed", "1"]).ok().stdout;
    assert!(text.contains(&format!("digest {}", &digest("1")[..16])), "{text}");

    let blobs = &bench.run(&["inspect", "model.slide", "--json"]).json()["blobs"];
    assert!(blobs.as_array().unwrap().iter().all(|b| b["used_by"] == serde_json::json!(["MatMul"])), "{blobs}");
    let text = bench.run(&["inspect", "model.slide"]).ok().stdout;
    assert!(text.contains("blobs of constants: 1, used by\n  MatMul "), "{text}");
}

#[test]
fn errors_say_what_why_and_the_way_out() {
    let bench = Bench::new();
    bench.compile(&[]).ok();
    let said = |arguments: &[&str]| bench.run(arguments).stderr;
    insta::assert_snapshot!(said(&["compile", "missing.onnx", "-o", "out.slide"]), @r"
    x 'missing.onnx' was not compiled
    |-> cannot read 'missing.onnx'
    `-> No such file or directory (os error 2)
    help: check the path, and that you may read the file
    ");
    let sparse_f32 = ["--target", "sm_90a", "--precision", "f32", "--sparsity", "2:4", "--prune", "magnitude"];
    insta::assert_snapshot!(said(&[&["compile", "model.onnx", "-o", "out.slide"], sparse_f32.as_slice()].concat()), @r"
    x 'model.onnx' was not compiled
    `-> a node cannot be lowered: second/sparse_gemm (SparseGemm of f32[batch, 64], f32[16, 32], u8[16, 8]): CUDA devices cannot run it yet (sparse products of f32 to f32; --precision int8, fp8, bf16 or fp16 is possible); leave --target away to compile for the CPU alone
    help: every node is listed; a model without them compiles
    ");
    fs::write(bench.path("empty.onnx"), "").unwrap();
    insta::assert_snapshot!(said(&["compile", "empty.onnx", "-o", "out.slide"]), @r"
    x 'empty.onnx' was not compiled
    `-> 'empty.onnx' is empty
    help: the download or the export may have failed; fetch or export the model again
    ");
    insta::assert_snapshot!(said(&["run", "model.slide", "--random", "--device", "cuda"]), @r"
    x 'model.slide' was not run
    `-> the plan was compiled for the CPU alone: compile it with --target sm_90a or whatever the GPU is (slidec compile --help)
    ");
    insta::assert_snapshot!(said(&["run", "model.slide"]), @r"
    x 'model.slide' was not run
    `-> inputs are missing: x: f32[batch, 16]; give each as --input NAME=FILE.npy, or ask for --random ones
    ");
    insta::assert_snapshot!(said(&["run", "model.onnx", "--random"]), @r"
    x 'model.onnx' was not run
    `-> model.onnx: not a plan: it does not begin with the plan signature (a plan is what `slidec compile` writes)
    ");
    insta::assert_snapshot!(said(&["compile", "model.onnx", "-o", "out.slide", "--sparsity", "6:8", "--strict"]), @r"
    x 'model.onnx' was not compiled
    `-> pass 'choose' failed: what was asked for cannot be done for 2 of the model's nodes:
          first: 6:8 does not hold: 16 of 16 blocks have more than 6 non-zeros
          second: 6:8 does not hold: 16 of 16 blocks have more than 6 non-zeros
    help: --prune magnitude, or better sparsegpt with --calib, makes the pattern hold; without --strict such layers stay dense
    ");
    insta::assert_snapshot!(said(&["opt", "missing.ir", "--pass", "normalise"]), @r"
    x 'missing.ir' was not read
    `-> cannot read 'missing.ir': No such file or directory (os error 2)
    ");
    insta::assert_snapshot!(said(&["run", "model.slide", "--random", "--shape", "seq=3"]), @r"
    x 'model.slide' was not run
    `-> the plan has no symbol 'seq': it has batch
    ");
    insta::assert_snapshot!(said(&["inspect", "empty.onnx"]), @r"
    x 'empty.onnx' cannot be inspected
    `-> 'empty.onnx' is empty
    help: the download or the export may have failed; fetch or export the model again
    ");
}

/// Writes one batch of one input.
fn save_npz(path: &std::path::Path, name: &str, rows: usize, columns: usize, value: impl Fn(usize, usize) -> f32) {
    let mut writer = ndarray_npy::NpzWriter::new(fs::File::create(path).unwrap());
    writer.add_array(name, &ndarray::Array2::from_shape_fn((rows, columns), |(i, j)| value(i, j))).unwrap();
    writer.finish().unwrap();
}

#[test]
fn calibration_data_decides_what_is_pruned() {
    let bench = Bench::new();
    // Inputs that follow three sources.
    let x = |i: usize, j: usize| ((i * 5 + j % 3 * 7) % 13) as f32 - 6.0 + ((i * j) % 5) as f32 / 10.0;
    fs::create_dir(bench.path("calib")).unwrap();
    save_npz(&bench.path("calib/0.npz"), "x", 40, 16, x);
    save_npz(&bench.path("calib/1.npz"), "x", 9, 16, |i, j| x(i + 40, j));
    let prune = |method: &str| {
        let out = format!("{method}.onnx");
        let arguments = ["prune", "model.onnx", "-o", &out, "--pattern", "2:4", "--method", method, "--calib", "calib", "--json"];
        let ended = bench.run(&[&arguments[..], &["--calib-device", "cpu"]].concat()).ok();
        assert_eq!(ended.stderr, "");
        ended.json()
    };
    let first = |report: &Json| report[0]["output_error"].as_f64().unwrap();
    let [magnitude, wanda, sparsegpt] = ["magnitude", "wanda", "sparsegpt"].map(|method| {
        let report = prune(method);
        assert!(report.as_array().unwrap().iter().all(|w| w["method"] == method && w["removed"] == 64), "{report}");
        first(&report)
    });
    assert!(sparsegpt < wanda && sparsegpt < magnitude, "{magnitude} {wanda} {sparsegpt}");

    // Compiled in one go, it is what compiling the pruned model gives.
    bench.compile(&["--sparsity", "2:4", "--prune", "sparsegpt", "--calib", "calib", "--calib-device", "cpu"]).ok();
    bench.run(&["compile", "sparsegpt.onnx", "-o", "pruned.slide", "--sparsity", "2:4"]).ok();
    let digest =
        |plan: &str| bench.run(&["run", plan, "--random", "--seed", "1", "--json"]).json()["outputs"][0]["digest"].clone();
    assert_eq!(digest("model.slide"), digest("pruned.slide"));

    let table = bench.run(&["prune", "model.onnx", "-o", "p.onnx", "--pattern", "2:4", "--method", "sparsegpt"]).ok();
    assert!(table.stdout.contains("OUTPUT ERROR") && table.stdout.contains("sparsegpt"), "{}", table.stdout);
    assert!(table.stderr.starts_with("warning: sparsegpt goes by what the model's inputs are like, and none are given"));
    assert_eq!(table.stderr.matches("note: samples run on ").count(), 1, "{}", table.stderr);
    assert!(bench.compile(&["--sparsity", "2:4", "--prune", "wanda"]).ok().stderr.starts_with("warning: wanda goes by"));
    let absent = ["--sparsity", "2:4", "--prune", "wanda", "--calib", "calib", "--calib-device", "cuda:99"];
    let said = bench.compile(&absent).refused(1);
    assert!(said.contains("samples cannot run on cuda:99") && said.contains("--calib-device cpu"), "{said}");
}

#[test]
fn calibration_data_that_does_not_fit_is_refused() {
    let bench = Bench::new();
    save_npz(&bench.path("name.npz"), "input", 2, 16, |_, _| 1.0);
    save_npz(&bench.path("shape.npz"), "x", 2, 15, |_, _| 1.0);
    save_npz(&bench.path("nan.npz"), "x", 2, 16, |_, _| f32::NAN);
    fs::write(bench.path("text.npz"), "no archive").unwrap();
    fs::create_dir(bench.path("empty")).unwrap();
    let before = bench.files();
    for (data, expected) in [
        ("missing.npz", "cannot open 'missing.npz'"),
        ("text.npz", "'text.npz' is not a readable .npz archive"),
        ("empty", "the folder 'empty' has no .npz file"),
        ("name.npz", "'input', which is no input of the model"),
        ("name.npz", "the model's inputs are x: f32[batch, 16]"),
        ("shape.npz", "input 'x' is f32[2, 15], f32[2, 16] was expected"),
        ("nan.npz", "'x' contains NaN or an infinity (element 0)"),
    ] {
        let prune = ["prune", "model.onnx", "-o", "out.onnx", "--pattern", "2:4", "--method", "wanda", "--calib", data];
        let compile = ["compile", "model.onnx", "-o", "out.slide", "--sparsity", "2:4", "--prune", "wanda", "--calib", data];
        for arguments in [&prune[..], &compile] {
            let said = bench.run(arguments).refused(1).replace("\n  |", "").replace('\n', " ");
            assert!(said.contains(expected), "{data}: {said}");
        }
    }
    bench.run(&["prune", "model.onnx", "-o", "out.onnx", "--pattern", "2:4", "--method", "none"]).refused(2);
    assert_eq!(bench.files(), before);
}
