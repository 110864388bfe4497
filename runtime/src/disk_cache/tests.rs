//! Results that are kept, damaged, and written by many at once.

use std::process::{Command, Output};

use super::*;

#[test]
fn what_is_not_whole_or_of_another_key_is_absent() {
    let root = tempfile::tempdir().unwrap();
    let cache = DiskCache::new(root.path().join("a/b"));
    assert_eq!(cache.get("kind", "key"), None);
    cache.put("kind", "key", b"line\nline\n\0").unwrap();
    assert_eq!(cache.get("kind", "key").as_deref(), Some(b"line\nline\n\0".as_slice()));
    assert_eq!((cache.get("kind", "other"), cache.get("other", "key")), (None, None));
    let path = cache.path("kind", "key");
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for bad in [&whole[..whole.len() - 1], &whole[..20], &whole[1..], &[], &flipped] {
        fs::write(&path, bad).unwrap();
        assert_eq!(cache.get("kind", "key"), None);
    }
    // A file that belongs under another name.
    fs::write(cache.path("kind", "other"), &whole).unwrap();
    assert_eq!(cache.get("kind", "other"), None);
    cache.put("kind", "key", b"").unwrap();
    assert_eq!(cache.get("kind", "key").as_deref(), Some(b"".as_slice()));
    assert!(cache.put("kind", "a\nb", b"").is_err());
}

#[test]
fn the_environment_says_where() {
    let folder = |variables: &[(&str, &str)]| {
        let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| PathBuf::from(v.1));
        DiskCache::of("SLIDERUN_CACHE", "sliderun", variable).map(|c| c.folder.display().to_string())
    };
    let (own, xdg, home) = (("SLIDERUN_CACHE", "here"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h"));
    assert_eq!(folder(&[own, xdg, home]).as_deref(), Some("here"));
    assert_eq!(folder(&[xdg, home]).as_deref(), Some("/x/sliderun"));
    assert_eq!(folder(&[("XDG_CACHE_HOME", "x"), home]).as_deref(), Some("/h/.cache/sliderun"));
    assert_eq!(folder(&[("SLIDERUN_CACHE", ""), home]), None);
    assert_eq!(folder(&[]), None);
}

#[test]
fn damage_is_told_once_and_absence_is_not() {
    let root = tempfile::tempdir().unwrap();
    let cache = DiskCache::new(root.path());
    assert_eq!((cache.get("kind", "key"), cache.troubles()), (None, vec![]));
    cache.keep("kind", "key", b"kept");
    fs::write(cache.path("kind", "key"), b"other").unwrap();
    assert_eq!((cache.get("kind", "key"), cache.clone().get("kind", "key")), (None, None));
    let troubles = cache.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("is damaged or of another program"), "{troubles:?}");
    cache.keep("kind", "key", b"again");
    assert_eq!(cache.get("kind", "key").as_deref(), Some(b"again".as_slice()));
}

#[test]
fn a_folder_that_cannot_be_made_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    // A file in the way keeps even an administrator from making it.
    fs::write(root.path().join("file"), b"").unwrap();
    let cache = DiskCache::new(root.path().join("file/cache"));
    for _ in 0..2 {
        cache.keep("kind", "key", b"kept");
        assert_eq!(cache.get("kind", "key"), None);
    }
    let troubles = cache.troubles();
    assert!(troubles.iter().any(|t| t.contains("file/cache cannot be written")), "{troubles:?}");
    assert!(troubles.len() <= 2, "each is told once: {troubles:?}");
}

/// What writer number `who` keeps: of its own length, and nothing but its number.
fn of_writer(who: u8) -> Vec<u8> {
    vec![who; 1000 * usize::from(who) + 1]
}

/// Writes and reads one key for a while; whatever is read is what one writer has written.
fn write_and_read(cache: &DiskCache, who: u8) {
    for _ in 0..40 {
        cache.keep("kind", "key", &of_writer(who));
        let read = cache.get("kind", "key").expect("somebody has written it");
        assert_eq!(read, of_writer(read[0]));
    }
    assert!(cache.troubles().is_empty(), "{:?}", cache.troubles());
}

/// Runs an ignored test of this program in a process of its own.
fn child(command: &mut Command, test: &str, folder: &Path, who: u8) -> std::process::Child {
    let command = command.args(["--exact", &format!("disk_cache::tests::{test}"), "--ignored", "--nocapture"]);
    let command = command.env("SLIDERUN_TEST_CACHE", folder).env("SLIDERUN_TEST_WRITER", who.to_string());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
}

fn told(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
}

#[test]
fn threads_and_processes_share_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let cache = DiskCache::new(root.path());
    let program = std::env::current_exe().unwrap();
    let children = [1, 2, 3].map(|who| child(&mut Command::new(&program), "one_of_many_processes", root.path(), who));
    std::thread::scope(|scope| {
        for who in [4, 5] {
            let cache = cache.clone();
            scope.spawn(move || write_and_read(&cache, who));
        }
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success() && told(&output).contains("1 passed"), "{}", told(&output));
    }
    let left: Vec<_> = fs::read_dir(root.path().join("kind")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 1, "no partial file is left: {left:?}");
}

#[test]
#[ignore = "threads_and_processes_share_a_folder runs it"]
fn one_of_many_processes() {
    let folder = std::env::var_os("SLIDERUN_TEST_CACHE").unwrap();
    write_and_read(&DiskCache::new(folder), std::env::var("SLIDERUN_TEST_WRITER").unwrap().parse().unwrap());
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_no_failure() {
    let root = tempfile::tempdir().unwrap();
    // A file system of 64 KiB that ends with the process that it is mounted for.
    let mount = "mount -t tmpfs -o size=64k tmpfs \"$SLIDERUN_TEST_CACHE\" && exec \"$0\" \"$@\"";
    let unshare = |shell: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", shell]).env("SLIDERUN_TEST_CACHE", root.path());
        command
    };
    if !unshare(mount).arg("true").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let child = child(unshare(mount).arg(std::env::current_exe().unwrap()), "on_a_full_disk", root.path(), 0);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && told(&output).contains("1 passed"), "{}", told(&output));
}

#[test]
#[ignore = "a_full_disk_is_no_failure runs it"]
fn on_a_full_disk() {
    let folder = PathBuf::from(std::env::var_os("SLIDERUN_TEST_CACHE").unwrap());
    let cache = DiskCache::new(&folder);
    cache.keep("kind", "small", b"kept");
    cache.keep("kind", "large", &vec![7; 1 << 20]);
    assert_eq!((cache.get("kind", "large"), cache.get("kind", "small").as_deref()), (None, Some(b"kept".as_slice())));
    let troubles = cache.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("cannot be written"), "{troubles:?}");
    assert_eq!(fs::read_dir(folder.join("kind")).unwrap().count(), 1, "no partial file is left");
}
