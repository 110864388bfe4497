//! `sliderun serve`: the service is a program of its own, so that this one carries nothing of it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// The program that serves, beside this one or on `PATH`.
const PROGRAM: &str = "sliderun-serve";

/// Hands over to the program that serves.
///
/// # Errors
/// A program that is not there or cannot be started.
pub fn serve(arguments: &[OsString]) -> Result<ExitCode, String> {
    let name = format!("{PROGRAM}{}", std::env::consts::EXE_SUFFIX);
    let beside = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.join(&name))).filter(|p| p.is_file());
    let mut command = Command::new(beside.unwrap_or_else(|| PathBuf::from(name)));
    command.args(arguments);
    let explain = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!(
                "serving needs the program {PROGRAM} beside sliderun or on PATH: cargo install --path serve, in slidec's repository"
            )
        }
        _ => format!("{PROGRAM} cannot be started: {error}"),
    };
    // Where one program can become another, signals to this one reach it.
    #[cfg(unix)]
    return Err(explain(std::os::unix::process::CommandExt::exec(&mut command)));
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(explain)?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from))
    }
}
