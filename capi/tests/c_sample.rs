//! `samples/embed-c` compiled as its README says, its results beside a Rust session's, and what it says when it cannot do its work.
//!
//! Needs a C compiler and the libraries that `cargo build --workspace --lib` leaves beside the test programs; CMake and valgrind are used where
//! they are installed. What is not there is said and skipped.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::Tensor;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn plan() -> PathBuf {
    root().join("runtime/examples/perceptron.slide")
}

/// The folder of the libraries, or `None` with the reason printed.
fn libraries() -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent()?.parent()?.to_owned();
    if folder.join("libsliderun.a").exists() {
        return Some(folder);
    }
    println!("skipped: {} has no libsliderun.a; `cargo build --workspace --lib` makes it", folder.display());
    None
}

fn installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("skipped: {tool} is not installed");
    }
    found
}

#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let told = [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat();
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    output
}

/// `cc` with the README's arguments and every warning an error.
fn compile(program: &Path, link: &[String]) {
    let sources = [root().join("samples/embed-c/embed.c")];
    let warnings = ["-O1", "-g", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
    succeeds(
        Command::new("cc")
            .args(warnings)
            .arg("-I")
            .arg(root().join("capi/include"))
            .args(sources)
            .args(link)
            .arg("-o")
            .arg(program)
            .args(["-lpthread", "-ldl", "-lm"]),
    );
}

/// Where programs, inputs and outputs of one test are, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("sliderun-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs the sample on 5 rows and compares what it wrote with what a session here makes of the same inputs.
fn gives_a_sessions_bytes(program: &Path, folder: &Folder) {
    let save = format!("save={}", folder.0.display());
    let output = succeeds(Command::new(program).arg(plan()).args(["batch=5", "runs=3", &save]));
    let told = String::from_utf8(output.stdout).unwrap();
    for line in ["input   x: f32[batch, 4]", "output  hidden: f32[batch, 3]", "y [5, 2]:", "3 runs: fastest"] {
        assert!(told.contains(line), "'{line}' is not in:\n{told}");
    }
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let x: Vec<f32> = read("input0.bin").chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert!(x.iter().any(|v| *v < 0.0) && x.iter().any(|v| *v > 0.0), "made-up inputs: {x:?}");
    let session = Session::new(Plan::open(&plan()).unwrap().into(), Device::Cpu, SessionOptions::default()).unwrap();
    let input = Tensor::from_slice(&[5, 4], &x).unwrap();
    for (i, (name, tensor)) in session.run(&[("x", input.view())]).unwrap().iter().enumerate() {
        assert!(read(&format!("output{i}.bin")) == tensor.bytes(), "{name} differs");
    }
}

#[test]
fn static_library() {
    let Some(libraries) = libraries() else { return };
    if !installed("cc") {
        return;
    }
    let folder = Folder::new("c-static");
    let program = folder.join("embed");
    compile(&program, &[libraries.join("libsliderun.a").display().to_string()]);
    gives_a_sessions_bytes(&program, &folder);

    let x: Vec<u8> = [1f32, 2.0, 3.0, 4.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(folder.join("x.bin"), &x).unwrap();
    let given = format!("x={}", folder.join("x.bin").display());
    let output = succeeds(Command::new(&program).arg(plan()).arg(&given));
    // As the comment beside `Y` in the crate's own tests calculates it.
    assert!(String::from_utf8(output.stdout).unwrap().contains("y [1, 2]: -2.5 7.75\n"));

    std::fs::write(folder.join("bad.slide"), b"SLIDEPLN, but no more").unwrap();
    let (good, bad) = (plan(), folder.join("bad.slide"));
    let cases: [(&Path, &[&str], &str); 6] = [
        (&bad, &[], "bad.slide: the plan is 21 bytes long"),
        (Path::new("/nowhere.slide"), &[], "/nowhere.slide"),
        (&good, &["device=tpu"], "'tpu' is not a device"),
        (&good, &["device=cuda:0"], "session: "),
        (&good, &["batch=65"], "batch = 65 is outside 1..64"),
        (&good, &["batch=2", &given], "needs exactly 32 bytes"),
    ];
    for (plan, arguments, message) in cases {
        let output = Command::new(&program).arg(plan).args(arguments).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && told.contains(message), "{arguments:?}: {}: {told}", output.status);
    }

    if installed("valgrind") {
        let strict = ["--quiet", "--leak-check=full", "--errors-for-leak-kinds=definite", "--error-exitcode=9"];
        succeeds(Command::new("valgrind").args(strict).arg(&program).arg(plan()).args(["batch=3", "runs=2"]));
    }
}

#[test]
fn shared_library() {
    let Some(libraries) = libraries() else { return };
    if !installed("cc") {
        return;
    }
    let folder = Folder::new("c-shared");
    let program = folder.join("embed");
    let path = libraries.display();
    compile(&program, &[format!("-L{path}"), "-lsliderun".to_owned(), format!("-Wl,-rpath,{path}")]);
    gives_a_sessions_bytes(&program, &folder);
}

#[test]
fn cmake() {
    let Some(libraries) = libraries() else { return };
    if !installed("cc") || !installed("cmake") {
        return;
    }
    let folder = Folder::new("c-cmake");
    let libraries = format!("-DSLIDERUN_LIB_DIR={}", libraries.display());
    let sources = root().join("samples/embed-c");
    for shared in ["OFF", "ON"] {
        let build = folder.join(shared);
        let shared = format!("-DSLIDERUN_SHARED={shared}");
        succeeds(Command::new("cmake").arg("-S").arg(&sources).arg("-B").arg(&build).args([&libraries, &shared]));
        succeeds(Command::new("cmake").arg("--build").arg(&build));
        gives_a_sessions_bytes(&build.join("embed"), &folder);
    }
}

#[test]
fn the_header_is_c_and_cpp() {
    let header = root().join("capi/include/sliderun.h");
    for (compiler, language) in [("cc", ["-x", "c", "-std=c99"]), ("c++", ["-x", "c++", "-std=c++11"])] {
        if installed(compiler) {
            let strict = ["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"];
            succeeds(Command::new(compiler).args(language).args(strict).arg(&header));
        }
    }
}
