//! `slidec sign`: a plan that its owner vouches for.

use clap::Args;
use sliderun::atomic_file::write_atomically;
use sliderun::plan::signature::{PrivateKey, Signature};
use sliderun::plan::{Plan, PlanOptions};
use std::io::Write;
use std::path::PathBuf;

use super::failure::{Complaint, Failure, Result};

const EXAMPLES: &str = "\
Examples:
  slidec sign model.slide --key owner.key
  slidec sign model.slide --key owner.key --detached
  sliderun run model.slide --random --require-signature owner.key.pub --no-mmap";

/// Sign a plan, so that a runtime can refuse what you have not compiled
///
/// Checks all of the plan first. The signature goes into the plan's file, in the place of one that is there, or with --detached beside it, with
/// .sig behind the plan's name, where the runtime looks for it too. Plans that are signed run wherever others do.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Sign {
    /// The plan
    #[arg(value_name = "MODEL.slide")]
    plan: PathBuf,
    /// The private key: a PEM file, as keygen writes
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
    /// Leaves the plan as it is and writes the signature into a file of its own, MODEL.slide.sig
    #[arg(long)]
    detached: bool,
    /// Writes there: the signed plan, or with --detached the signature
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Sign {
    /// Runs the command.
    ///
    /// # Errors
    /// A key or plan that cannot be read, a plan that is damaged, a file that cannot be written.
    pub fn run(self, out: &mut dyn Write) -> Result {
        let what = format!("'{}' was not signed", self.plan.display());
        let key = PrivateKey::read(&self.key).map_err(|e| Failure::because(&what, &e))?;
        // Read, so that what is checked is what is signed.
        let plan = Plan::open_with(&self.plan, &PlanOptions::default().with_no_mmap(true));
        let plan = plan.map_err(|e| Failure::because(&what, &e))?;
        let signature = plan.sign(&key).map_err(|e| Failure::because(&what, &e))?;
        let (file, written) = if self.detached {
            let file = self.output.unwrap_or_else(|| Signature::beside(&self.plan));
            let written = write_atomically(&file, |out| out.write_all(&signature.to_bytes()));
            (file, written)
        } else {
            let file = self.output.unwrap_or(self.plan);
            let written = write_atomically(&file, |out| plan.write_signed(&signature, out));
            (file, written)
        };
        written.map_err(|e| Complaint::new(format!("{}: {e}", file.display())).while_doing(&what))?;
        writeln!(out, "{}: signed by {}", file.display(), signature.signer())?;
        Ok(())
    }
}
