//! Arguments of the `sliderun` program, and its exit codes.

mod help;
mod serve;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;
use sliderun::plan::signature::Signers;
use sliderun::tool::bench::{BenchOptions, bench};
#[cfg(feature = "cuda")]
use sliderun::tool::check::{CheckOptions, check};
#[cfg(feature = "cuda")]
use sliderun::tool::churn::{ChurnOptions, churn};
use sliderun::tool::inspect::{InspectOptions, inspect};
use sliderun::tool::run::{RunOptions, run};
#[cfg(feature = "cuda")]
use sliderun::tool::tune::{TuneOptions, tune};
use sliderun::tool::turns::turns;
use sliderun::tool::{Target, ToolError, symbols};

const FAILED: u8 = 1;
const USAGE: u8 = 2;

#[derive(Debug)]
enum Command {
    Run(RunOptions),
    Inspect(InspectOptions),
    Bench(BenchOptions),
    #[cfg(feature = "cuda")]
    Check(CheckOptions),
    #[cfg(feature = "cuda")]
    Churn(ChurnOptions),
    #[cfg(feature = "cuda")]
    Tune(TuneOptions),
    #[cfg(feature = "cuda")]
    Devices,
    Turns(Target),
    Serve(Vec<OsString>),
    Print(&'static str),
}

/// Parses the arguments, runs the command, reports what went wrong.
pub fn main() -> ExitCode {
    let command = match parse(lexopt::Parser::from_env()) {
        Ok(command) => command,
        Err(e) => {
            report(&format!("{e}\nSee sliderun --help."));
            return ExitCode::from(USAGE);
        }
    };
    let mut out = std::io::stdout().lock();
    let result = match &command {
        Command::Run(options) => run(options, &mut out),
        Command::Inspect(options) => inspect(options, &mut out),
        Command::Bench(options) => bench(options, &mut out),
        #[cfg(feature = "cuda")]
        Command::Check(options) => check(options, &mut out),
        #[cfg(feature = "cuda")]
        Command::Churn(options) => churn(options, &mut out),
        #[cfg(feature = "cuda")]
        Command::Tune(options) => tune(options, &mut out),
        #[cfg(feature = "cuda")]
        Command::Devices => sliderun::tool::devices::devices(&mut out),
        Command::Serve(arguments) => {
            return serve::serve(arguments).unwrap_or_else(|message| {
                report(&message);
                ExitCode::from(FAILED)
            });
        }
        Command::Turns(target) => turns(target, &mut std::io::stdin().lock(), &mut out),
        Command::Print(text) => out.write_all(text.as_bytes()).map_err(ToolError::Write),
    };
    match result.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_closed_pipe() => ExitCode::SUCCESS,
        Err(e) => {
            report(&e.to_string());
            ExitCode::from(FAILED)
        }
    }
}

fn report(message: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "sliderun: {message}");
}

fn parse(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let Some(first) = args.next()? else { return Err("a command is missing: run, inspect or bench".into()) };
    match first {
        Short('h') | Long("help") => Ok(Command::Print(help::TOP)),
        Short('V') | Long("version") => Ok(Command::Print(concat!("sliderun ", env!("CARGO_PKG_VERSION"), "\n"))),
        Value(name) => match name.to_str() {
            Some("run") => parse_run(args),
            Some("inspect") => parse_inspect(args),
            Some("bench") => parse_bench(args),
            Some("turns") => parse_turns(args),
            Some("serve") => Ok(Command::Serve(args.raw_args()?.collect())),
            #[cfg(feature = "cuda")]
            Some("check") => parse_check(args),
            #[cfg(feature = "cuda")]
            Some("churn") => parse_churn(args),
            #[cfg(feature = "cuda")]
            Some("tune") => parse_tune(args),
            #[cfg(feature = "cuda")]
            Some("devices") => match args.next()? {
                None => Ok(Command::Devices),
                Some(Short('h') | Long("help")) => Ok(Command::Print(help::DEVICES)),
                Some(other) => Err(other.unexpected()),
            },
            _ => Err(format!("unknown command '{}': run, inspect or bench was expected", name.to_string_lossy()).into()),
        },
        other => Err(other.unexpected()),
    }
}

/// The one positional argument of every command.
#[derive(Default)]
struct PlanFile(Option<PathBuf>);

impl PlanFile {
    fn set(&mut self, value: OsString) -> Result<(), lexopt::Error> {
        match self.0.replace(value.into()) {
            None => Ok(()),
            Some(first) => Err(format!("one plan is expected, '{}' is the first", first.display()).into()),
        }
    }

    fn get(self) -> Result<PathBuf, lexopt::Error> {
        self.0.ok_or_else(|| "the plan's file is missing".into())
    }
}

fn parse_run(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (RunOptions::default(), PlanFile::default());
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::RUN)),
            Long("input") => options.inputs.push(args.value()?.parse_with(parse_input)?),
            Long("random") => options.random = true,
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("shape") => options.symbols.extend(args.value()?.parse_with(symbols::parse)?),
            Short('o') | Long("output") => options.output = Some(args.value()?.into()),
            #[cfg(feature = "cuda")]
            Long("variant") => options.target.options.variant = Some(args.value()?.parse()?),
            Long("device") => options.target.device = args.value()?.parse()?,
            Long("threads") => options.target.options.threads = Some(args.value()?.parse_with(parse_threads)?),
            Long("json") => options.json = true,
            Long("no-mmap") => options.target.opening.no_mmap = true,
            Long("require-signature") => options.target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.target.plan = plan.get()?;
    Ok(Command::Run(options))
}

fn parse_inspect(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (InspectOptions::default(), PlanFile::default());
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::INSPECT)),
            Long("check") => options.check = true,
            Long("steps") => options.steps = true,
            Long("json") => options.json = true,
            Long("no-mmap") => options.opening.no_mmap = true,
            Long("require-signature") => options.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.plan = plan.get()?;
    Ok(Command::Inspect(options))
}

#[cfg(feature = "cuda")]
fn parse_check(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (CheckOptions { rounds: 1, limit: 1e-5, ..CheckOptions::default() }, PlanFile::default());
    options.target.device = sliderun::session::Device::Cuda(0);
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::CHECK)),
            Long("shape") => options.symbols.extend(args.value()?.parse_with(symbols::parse)?),
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("rounds") => options.rounds = args.value()?.parse()?,
            Long("limit") => options.limit = args.value()?.parse()?,
            Long("kernels") => options.kernels_only = true,
            #[cfg(feature = "cuda")]
            Long("variant") => options.target.options.variant = Some(args.value()?.parse()?),
            Long("device") => options.target.device = args.value()?.parse()?,
            Long("threads") => options.target.options.threads = Some(args.value()?.parse_with(parse_threads)?),
            Long("no-mmap") => options.target.opening.no_mmap = true,
            Long("require-signature") => options.target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.target.plan = plan.get()?;
    Ok(Command::Check(options))
}

#[cfg(feature = "cuda")]
fn parse_churn(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (ChurnOptions { runs: 10_000, shapes: 200, ..ChurnOptions::default() }, PlanFile::default());
    options.target.device = sliderun::session::Device::Cuda(0);
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::CHURN)),
            Long("largest") => options.largest.extend(args.value()?.parse_with(symbols::parse)?),
            Long("runs") => options.runs = args.value()?.parse()?,
            Long("shapes") => options.shapes = args.value()?.parse()?,
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("device") => options.target.device = args.value()?.parse()?,
            Long("no-mmap") => options.target.opening.no_mmap = true,
            Long("require-signature") => options.target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.target.plan = plan.get()?;
    Ok(Command::Churn(options))
}

#[cfg(feature = "cuda")]
fn parse_tune(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (TuneOptions::default(), PlanFile::default());
    options.target.device = sliderun::session::Device::Cuda(0);
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::TUNE)),
            Long("shape") => options.shapes.push(args.value()?.parse_with(symbols::parse)?),
            Long("timings") => options.timings = Some(args.value()?.into()),
            Long("variant") => options.target.options.variant = Some(args.value()?.parse()?),
            Long("device") => options.target.device = args.value()?.parse()?,
            Long("no-mmap") => options.target.opening.no_mmap = true,
            Long("require-signature") => options.target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.target.plan = plan.get()?;
    Ok(Command::Tune(options))
}

fn parse_bench(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut options, mut plan) = (BenchOptions::default(), PlanFile::default());
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::BENCH)),
            Long("shape") => options.symbols.extend(args.value()?.parse_with(symbols::parse)?),
            Long("seed") => options.seed = args.value()?.parse()?,
            Long("iterations") => options.iterations = Some(args.value()?.parse()?),
            Long("duration") => options.duration = Some(args.value()?.parse_with(parse_seconds)?),
            Long("operators") => options.operators = true,
            #[cfg(feature = "cuda")]
            Long("tuning") => options.target.options.cuda.tuning = args.value()?.parse()?,
            #[cfg(feature = "cuda")]
            Long("timings") => {
                options.target.options.cuda.timings = sliderun::session::TimingsFile::File(args.value()?.into());
            }
            #[cfg(feature = "cuda")]
            Long("no-overlap") => options.target.options.cuda.no_overlap = true,
            #[cfg(feature = "cuda")]
            Long("algorithms") => options.algorithms = true,
            Long("steps") => options.steps = true,
            #[cfg(feature = "cuda")]
            Long("variant") => options.target.options.variant = Some(args.value()?.parse()?),
            Long("device") => options.target.device = args.value()?.parse()?,
            Long("threads") => options.target.options.threads = Some(args.value()?.parse_with(parse_threads)?),
            Long("json") => options.json = true,
            Long("no-mmap") => options.target.opening.no_mmap = true,
            Long("require-signature") => options.target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    options.target.plan = plan.get()?;
    Ok(Command::Bench(options))
}

fn parse_turns(mut args: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut target, mut plan) = (Target::default(), PlanFile::default());
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Print(help::TURNS)),
            #[cfg(feature = "cuda")]
            Long("tuning") => target.options.cuda.tuning = args.value()?.parse()?,
            Long("variant") => target.options.variant = Some(args.value()?.parse()?),
            Long("device") => target.device = args.value()?.parse()?,
            Long("threads") => target.options.threads = Some(args.value()?.parse_with(parse_threads)?),
            Long("no-mmap") => target.opening.no_mmap = true,
            Long("require-signature") => target.opening.signers = Some(read_signers(args.value()?)?),
            Value(value) => plan.set(value)?,
            other => return Err(other.unexpected()),
        }
    }
    target.plan = plan.get()?;
    Ok(Command::Turns(target))
}

fn read_signers(file: OsString) -> Result<Signers, lexopt::Error> {
    Signers::read(file.as_ref()).map_err(|e| e.to_string().into())
}

fn parse_input(text: &str) -> Result<(String, PathBuf), &'static str> {
    let (name, file) = text.split_once('=').ok_or("NAME=FILE.npy was expected")?;
    Ok((name.to_owned(), file.into()))
}

fn parse_threads(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|n| (1..=1024).contains(n)).ok_or("a number of threads from 1 to 1024 was expected")
}

fn parse_seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds was expected")?;
    Duration::try_from_secs_f64(seconds).map_err(|_| "a number of seconds was expected")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Command, lexopt::Error> {
        parse(lexopt::Parser::from_args(line.split_whitespace()))
    }

    #[test]
    fn good_lines() {
        let Command::Run(options) =
            parse_line("run m.slide --input x=a=b.npy --random --shape batch=2,seq=3 --threads 2 -o out --json").unwrap()
        else {
            panic!("run was expected");
        };
        assert_eq!(options.target.plan, PathBuf::from("m.slide"));
        assert_eq!(options.inputs, [("x".to_owned(), PathBuf::from("a=b.npy"))]);
        assert_eq!((options.symbols["batch"], options.target.options.threads, options.json), (2, Some(2), true));
        let Command::Bench(options) = parse_line("bench --duration 0.5 --iterations=3 m.slide").unwrap() else {
            panic!("bench was expected");
        };
        assert_eq!((options.duration, options.iterations), (Some(Duration::from_millis(500)), Some(3)));
        #[cfg(feature = "cuda")]
        for (line, no_overlap) in [("bench m.slide --device cuda", false), ("bench --no-overlap m.slide", true)] {
            let Ok(Command::Bench(options)) = parse_line(line) else { panic!("bench was expected") };
            assert_eq!(options.target.options.cuda.no_overlap, no_overlap, "{line}");
        }
        #[cfg(feature = "cuda")]
        for (line, kernels_only) in [("check m.slide --shape seq=3 --rounds 2", false), ("check --kernels m.slide", true)] {
            let Ok(Command::Check(options)) = parse_line(line) else { panic!("check was expected") };
            assert_eq!(options.kernels_only, kernels_only, "{line}");
        }
        #[cfg(feature = "cuda")]
        for line in ["run a --variant dense", "bench a --variant dense", "check a --variant dense"] {
            let (Ok(Command::Run(RunOptions { target, .. }))
            | Ok(Command::Bench(BenchOptions { target, .. }))
            | Ok(Command::Check(CheckOptions { target, .. }))) = parse_line(line)
            else {
                panic!("{line}")
            };
            assert_eq!(target.options.variant.as_deref(), Some("dense"), "{line}");
        }
        for line in ["--help", "run --help", "inspect -h", "bench --help", "--version"] {
            assert!(matches!(parse_line(line), Ok(Command::Print(_))), "{line}");
        }
    }

    #[test]
    fn bad_lines_say_what_was_expected() {
        for (line, message) in [
            ("", "a command is missing"),
            ("fly m.slide", "unknown command 'fly'"),
            ("run", "the plan's file is missing"),
            ("run a b", "one plan is expected"),
            ("run a --input x", "NAME=FILE.npy"),
            ("run a --shape seq", "NAME=NUMBER"),
            ("run a --threads 0", "from 1 to 1024"),
            ("run a --device tpu", "cpu, cuda or cuda:N"),
            ("bench a --duration -1", "a number of seconds"),
            ("inspect a --frobnicate", "--frobnicate"),
            ("run a --require-signature /nowhere/owner.pub", "/nowhere/owner.pub: "),
            ("run a --require-signature Cargo.toml", "Cargo.toml: no public Ed25519 key"),
        ] {
            let error = parse_line(line).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(message), "{line}: {error}");
        }
    }
}
