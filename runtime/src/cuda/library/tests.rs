use std::fs;
use std::path::Path;

use super::*;

const WANTED: LibrarySpec = LibrarySpec {
    what: "a library of the tests",
    files: &["libsliderun-test.so.2", "libsliderun-test.so.1"],
    companions: &["libsliderun-companion.so."],
    install: "pip install nothing",
    system_only: false,
};

fn touch(root: &Path, file: &str) -> PathBuf {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, b"not a library").unwrap();
    path
}

fn missing(search: &Search) -> (Vec<String>, String) {
    match Library::load_from(WANTED, search) {
        Err(e @ LibraryError::Missing { .. }) => {
            let text = e.to_string();
            let LibraryError::Missing { looked, .. } = e else { unreachable!() };
            (looked, text)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_library_says_what_where_and_how_to_get_it() {
    let root = tempfile::tempdir().unwrap();
    let (empty, gone) = (root.path().join("empty"), root.path().join("gone"));
    fs::create_dir(&empty).unwrap();
    let search = Search {
        cuda_path: Some(std::env::join_paths([&empty, &gone]).unwrap()),
        toolkits: Some(root.path().join("usr")),
        loader: true,
        ..Search::default()
    };
    let (looked, text) = missing(&search);
    let (empty, gone) = (empty.display(), gone.display());
    assert_eq!(
        looked,
        [
            format!("{empty}, from SLIDERUN_CUDA_PATH"),
            format!("{gone} (no such folder), from SLIDERUN_CUDA_PATH"),
            "the loader's path (LD_LIBRARY_PATH, /etc/ld.so.conf)".to_owned(),
            format!("{}/usr/cuda/lib64 (no such folder)", root.path().display()),
        ]
    );
    assert!(text.starts_with("a library of the tests (libsliderun-test.so.2 or libsliderun-test.so.1) was not found."), "{text}");
    assert!(text.contains("To get it: pip install nothing\nOr set SLIDERUN_CUDA_PATH"), "{text}");
}

#[test]
fn every_place_is_searched_in_order() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let files = [
        "named/a/b/nvidia/lib/libsliderun-test.so.1",
        "named/z/libsliderun-test.so.2",
        "venv/lib/python3.12/site-packages/nvidia/cu13/lib/libsliderun-test.so.2",
        "prefix/lib/python3.11/dist-packages/nvidia/other/lib/libsliderun-test.so.2",
        "pyenv/versions/3.12.1/lib/python3.12/site-packages/nvidia/cu13/lib/libsliderun-test.so.2",
        "home/.local/lib/python3.9/site-packages/nvidia/x/lib/libsliderun-test.so.1",
        "usr/cuda/lib64/libsliderun-test.so.1",
        "usr/cuda-13.1/lib64/libsliderun-test.so.1",
        "usr/cuda-13.0/lib64/libsliderun-test.so.1",
    ];
    for file in files {
        touch(root, file);
    }
    // Found nowhere: too deep, a stub, another's folder, another version.
    touch(root, "named/1/2/3/4/5/libsliderun-test.so.2");
    touch(root, "named/stubs/libsliderun-test.so.2");
    touch(root, "usr/other/lib64/libsliderun-test.so.2");
    touch(root, "usr/cuda/lib64/libsliderun-test.so.3");
    touch(root, "prefix/bin/python3");
    touch(root, "pyenv/shims/python3");
    let search = Search {
        cuda_path: Some(root.join("named").into()),
        virtual_env: Some(root.join("venv").into()),
        path: Some(std::env::join_paths([root.join("prefix/bin"), root.join("pyenv/shims")]).unwrap()),
        home: Some(root.join("home").into()),
        toolkits: Some(root.join("usr")),
        loader: false,
    };
    let found: Vec<PathBuf> = search.places(&WANTED).iter().flat_map(|p| p.candidates(WANTED.files)).collect();
    let mut expected = files.map(|f| root.join(f)).to_vec();
    // Nearer the top first.
    expected.swap(0, 1);
    assert_eq!(found, expected);
    // None of them is a library, and the message says so of each.
    let (looked, _) = missing(&search);
    assert_eq!(looked.iter().filter(|l| l.contains("cannot be loaded")).count(), files.len(), "{looked:#?}");
}

#[test]
fn system_libraries_come_from_the_loader_alone() {
    let root = tempfile::tempdir().unwrap();
    touch(root.path(), "libcuda.so.1");
    let search = Search { cuda_path: Some(root.path().into()), loader: false, ..Search::default() };
    assert_eq!(search.places(&DRIVER).len(), 0);
    assert_eq!(search.places(&CUBLASLT).len(), 1);
}

#[test]
fn companions_and_headers_are_found() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let library = touch(root, "nvidia/cu13/lib/libsliderun-test.so.2");
    let companion = touch(root, "nvidia/cu13/lib/libsliderun-companion.so.13.0");
    touch(root, "nvidia/cu13/lib/libother.so.13");
    let header = touch(root, "nvidia/cu13/include/cuda_test.h");
    assert_eq!(search::beside(&library, WANTED.companions), [companion]);
    assert!(search::beside(Path::new("libsliderun-test.so.2"), WANTED.companions).is_empty());
    let search = Search { cuda_path: Some(root.into()), ..Search::default() };
    assert_eq!(search.header("cuda_test.h", "").unwrap(), header.parent().unwrap());
    let error = search.header("cuda_none.h", "pip install headers").unwrap_err().to_string();
    assert!(error.contains("cuda_none.h") && error.contains("pip install headers"), "{error}");
}

#[test]
fn a_function_that_is_not_there_is_named() {
    // The C library is everywhere that CUDA is.
    let spec = LibrarySpec { what: "the C library", files: &["libc.so.6"], ..WANTED };
    let Ok(library) = Library::load(spec) else {
        println!("skipped: no libc.so.6");
        return;
    };
    crate::foreign_functions! {
        struct Present {
            fn abs(value: i32) -> i32;
        }
    }
    crate::foreign_functions! {
        #[derive(Debug)]
        #[allow(dead_code)]
        struct Absent {
            fn abs(value: i32) -> i32;
            fn cuNothing();
        }
    }
    let present = Present::load(library).unwrap();
    assert_eq!(present.library.path(), Path::new("libc.so.6"));
    // SAFETY: C's abs.
    assert_eq!(unsafe { (present.abs)(-3) }, 3);
    let error = Absent::load(present.library).unwrap_err().to_string();
    assert!(error.starts_with("the C library at libc.so.6 has no function cuNothing"), "{error}");
}
