//! How a command ends when it does not end well: what the user sees and the exit code.

use miette::{Diagnostic, MietteHandlerOpts};
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// What commands return.
pub type Result<T = ()> = std::result::Result<T, Failure>;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Failure {
    /// What was asked for failed: exit code 1.
    Failed(Complaint),
    /// What was asked for makes no sense: exit code 2.
    Usage(Complaint),
    /// The results, already printed, say no: exit code 1.
    Negative,
    /// Whoever read the results has seen enough: a success.
    ClosedPipe,
}

impl Failure {
    /// What failed, and the error behind it.
    pub fn because(what: impl Into<String>, error: impl Into<Complaint>) -> Self {
        Failure::Failed(error.into().while_doing(what))
    }

    /// An argument that makes no sense, and what would.
    pub fn usage(what: impl Into<String>, help: impl Into<String>) -> Self {
        Failure::Usage(Complaint { message: what.into(), cause: None, help: Some(help.into()) })
    }

    /// Says it on stderr and gives the exit code.
    pub fn report(self) -> ExitCode {
        let (complaint, code) = match self {
            Failure::Failed(complaint) => (complaint, 1),
            Failure::Usage(complaint) => (complaint, 2),
            Failure::Negative => return ExitCode::from(1),
            Failure::ClosedPipe => return ExitCode::SUCCESS,
        };
        let terminal = io::stderr().is_terminal();
        // Logs get whole lines and plain characters; the hook can only be set once, and nobody else sets it.
        let _ = miette::set_hook(Box::new(move |_| {
            let options = MietteHandlerOpts::new();
            Box::new(if terminal { options } else { options.unicode(false).wrap_lines(false).color(false) }.build())
        }));
        // With stderr closed there is nobody left to tell.
        let _ = write!(io::stderr(), "{:?}", miette::Report::new(complaint));
        ExitCode::from(code)
    }
}

impl From<Complaint> for Failure {
    fn from(complaint: Complaint) -> Self {
        Failure::Failed(complaint)
    }
}

/// Errors of writing results.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::because("the results cannot be written", Complaint::of(&error)),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Failure::from(io::Error::from(error))
    }
}

/// An error as it is shown: what, why, way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    message: String,
    cause: Option<Box<Complaint>>,
    help: Option<String>,
}

impl Complaint {
    /// A complaint in so many words.
    pub fn new(message: impl Into<String>) -> Self {
        Complaint { message: message.into(), cause: None, help: None }
    }

    /// An error and its causes; a cause that its parent's text already ends with is not said twice.
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let message = error.to_string();
        let mut cause = error.source();
        while let Some(c) = cause {
            if !message.ends_with(&c.to_string()) {
                break;
            }
            cause = c.source();
        }
        Complaint { message, cause: cause.map(|c| Box::new(Complaint::of(c))), help: None }
    }

    /// As [`Complaint::of`], with the help of the diagnostic or, failing that, of the diagnostic behind it.
    pub fn of_diagnostic<E: Diagnostic + 'static>(error: &E) -> Self {
        let mut help = error.help().map(|h| h.to_string());
        let mut behind = error.diagnostic_source();
        while let (None, Some(diagnostic)) = (&help, behind) {
            help = diagnostic.help().map(|h| h.to_string());
            behind = diagnostic.diagnostic_source();
        }
        Complaint { help, ..Complaint::of(error) }
    }

    /// The complaint as the cause of another.
    pub fn while_doing(self, what: impl Into<String>) -> Self {
        let help = self.help.clone();
        Complaint { message: what.into(), cause: Some(Box::new(self)), help }
    }

    /// With a way out, where it has none yet.
    pub fn or_help(mut self, help: impl Into<String>) -> Self {
        self.help.get_or_insert_with(|| help.into());
        self
    }
}

impl<E: Error + 'static> From<&E> for Complaint {
    fn from(error: &E) -> Self {
        Complaint::of(error)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Complaint {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_deref().map(|c| c as _)
    }
}

impl Diagnostic for Complaint {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(String, #[source] Option<Box<Step>>);

    fn chain(texts: &[&str]) -> Step {
        let (first, rest) = texts.split_first().expect("no test has an empty chain");
        Step((*first).to_owned(), (!rest.is_empty()).then(|| Box::new(chain(rest))))
    }

    #[test]
    fn what_a_parent_already_says_is_not_said_twice() {
        let complaint = Complaint::of(&chain(&["a.slide: no such file", "no such file", "why"]));
        assert_eq!(complaint.source().map(ToString::to_string), Some("why".to_owned()));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(failure, Failure::ClosedPipe));
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)), Failure::Failed(_)));
    }
}
