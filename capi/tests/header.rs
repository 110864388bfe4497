//! The header in `include/` is what cbindgen makes of the sources.
//!
//! To write it anew: `SLIDERUN_WRITE_HEADER=1 cargo test -p sliderun-c --test header`.

use std::path::Path;

#[test]
fn header_is_up_to_date() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(folder.join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::generate_with_config(folder, config).unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = folder.join("include/sliderun.h");
    if std::env::var_os("SLIDERUN_WRITE_HEADER").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "include/sliderun.h is not what the sources say: SLIDERUN_WRITE_HEADER=1 cargo test -p sliderun-c --test header"
    );
}
