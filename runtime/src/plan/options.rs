//! How plans are opened.

#[cfg(feature = "signatures")]
use super::signature::Signers;

/// How a plan is opened: `PlanOptions::default()`, and what is to be otherwise.
///
/// ```
/// # use sliderun::plan::PlanOptions;
/// let options = PlanOptions::default().with_no_mmap(true);
/// assert!(options.no_mmap);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Reads a file into memory instead of mapping it. A mapped file that another process shortens while it is used ends this process
    /// (SIGBUS), and one that it rewrites in place changes under us, after the signature was checked too.
    pub no_mmap: bool,
    /// Refuses a plan that none of these has signed. The signature is checked before anything that the plan says is looked at, and then all of
    /// its data before the plan is handed out.
    #[cfg(feature = "signatures")]
    pub signers: Option<Signers>,
}

impl PlanOptions {
    /// Reads a file into memory instead of mapping it.
    #[must_use]
    pub fn with_no_mmap(self, no_mmap: bool) -> Self {
        PlanOptions { no_mmap, ..self }
    }

    /// Refuses a plan that none of these has signed.
    #[cfg(feature = "signatures")]
    #[must_use]
    pub fn with_signers(self, signers: impl Into<Option<Signers>>) -> Self {
        PlanOptions { signers: signers.into(), ..self }
    }
}
