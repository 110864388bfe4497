//! `slidec keygen`: a key pair to sign plans with.

use clap::Args;
use sliderun::plan::signature::PrivateKey;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::failure::{Complaint, Failure, Result};

const EXAMPLES: &str = "\
Examples:
  slidec keygen owner.key
  slidec sign model.slide --key owner.key
  sliderun run model.slide --random --require-signature owner.key.pub";

/// Make a key pair to sign plans with
///
/// Writes the private key, which only you may read, and beside it the public key, with .pub behind the name. Both are PEM files of Ed25519 keys,
/// as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them. Files that exist are left alone.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Keygen {
    /// The file of the private key
    #[arg(value_name = "KEY")]
    key: PathBuf,
}

impl Keygen {
    /// Runs the command.
    ///
    /// # Errors
    /// Files that exist or cannot be written.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = "the key was not made";
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| Failure::because(what, &e))?;
        let key = PrivateKey::from_seed(seed).map_err(|e| Failure::because(what, &e))?;
        let public = {
            let mut name = self.key.clone().into_os_string();
            name.push(".pub");
            PathBuf::from(name)
        };
        for (path, text, private) in [(&self.key, key.to_pem(), true), (&public, key.public().to_pem(), false)] {
            create(path, &text, private).map_err(|e| {
                let because = Complaint::new(format!("{}: {e}", path.display())).while_doing(what);
                match e.kind() {
                    io::ErrorKind::AlreadyExists => {
                        because.or_help("give another name, or remove the file if nothing is signed with it")
                    }
                    _ => because,
                }
            })?;
        }
        writeln!(out, "{}: private, keep it to yourself", self.key.display())?;
        writeln!(out, "{}: public key {}", public.display(), key.public())?;
        Ok(())
    }
}

fn create(path: &Path, text: &str, private: bool) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _ = private;
    options.open(path)?.write_all(text.as_bytes())
}
