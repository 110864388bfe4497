//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use sliderun::plan::signature::Signers;
use sliderun::session::Device;

use crate::batcher::queue::Limits;
use crate::model::Policy;
use crate::model::axes::Padding;

/// Serve plans over the Open Inference Protocol (HTTP and gRPC), as KServe and Triton do.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "sliderun-serve",
    version,
    after_help = "Example:\n  sliderun serve minilm.slide --http 8000 --grpc 8001 --pad input_ids=0 --pad attention_mask=0"
)]
pub struct Config {
    /// Plans, as FILE or NAME=FILE (the name is otherwise the file's, without extension), or folders laid out as model repositories:
    /// FOLDER/NAME/VERSION/model.slide, of which the highest version is served
    #[arg(required = true, value_name = "PLAN")]
    pub plans: Vec<String>,

    /// Port for HTTP; 0 for any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    pub http: u16,
    /// Port for gRPC; 0 for any that is free. None unless given
    #[arg(long, value_name = "PORT")]
    pub grpc: Option<u16>,
    /// Address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1")]
    pub address: IpAddr,

    /// Most rows of a batch
    #[arg(long, value_name = "ROWS", default_value_t = 16, value_parser = positive)]
    pub max_batch: usize,
    /// How long a request may wait for others to share its batch: 2ms, 500us, 0ms
    #[arg(long, value_name = "TIME", default_value = "2ms", value_parser = duration)]
    pub max_delay: Duration,
    /// Most requests of a model that wait; further ones are refused at once
    #[arg(long, value_name = "REQUESTS", default_value_t = 256, value_parser = positive)]
    pub queue: usize,
    /// Instances of a model on each device: batches that run side by side
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = positive)]
    pub instances: usize,
    /// Where to run: cpu, cuda or cuda:N, several with commas between them
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    pub device: Vec<Device>,
    /// Threads of a batch on the CPU; as many as there are processors unless given
    #[arg(long, value_parser = positive)]
    pub threads: Option<usize>,
    /// Most bytes of working memory that a batch may take on the CPU: what a request with large extents asks for
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 30, value_parser = positive)]
    pub max_run_bytes: usize,
    /// A value that means nothing to the model in an input: requests of different lengths can then share a batch. Once for each input
    #[arg(long, value_name = "INPUT=VALUE", value_parser = pad)]
    pub pad: Vec<(String, String)>,
    /// Sizes that extents are filled up to: seq=16,32,64. Powers of two unless given, for symbols whose inputs all have pad values
    #[arg(long, value_name = "SYMBOL=SIZES", value_parser = bucket)]
    pub bucket: Vec<(String, Vec<usize>)>,

    /// Serve only plans that one of the public keys in this PEM file has signed
    #[arg(long, value_name = "KEY.pub", value_parser = signers)]
    pub require_signature: Option<Signers>,
    /// Read plans into memory; their files, otherwise mapped, may then be shortened and rewritten
    #[arg(long)]
    pub no_mmap: bool,

    /// Most bytes of a request
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20, value_parser = positive)]
    pub max_request_bytes: usize,
    /// Most open connections; further ones wait to be accepted
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = positive)]
    pub max_connections: usize,
    /// How long a client may take to send a request
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub read_timeout: Duration,
    /// A token that clients must send, as 'Authorization: Bearer TOKEN' (health needs none)
    #[arg(long, env = "SLIDERUN_SERVE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file that holds the token
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The server's certificates, PEM: serve TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// How often to look whether a plan's file has been replaced, to load the new one; 0s for never
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub watch: Duration,
    /// Refuse to load and unload models when clients ask for it
    #[arg(long)]
    pub no_control: bool,
    /// After SIGTERM or SIGINT, how long accepted requests may take before the program ends without them
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,
    /// Form of the log, which goes to standard error
    #[arg(long, value_enum, default_value = "text")]
    pub log: LogFormat,
    /// What is logged: error, warn, info, debug (each request) or trace
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: tracing::Level,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum LogFormat {
    Text,
    Json,
}

impl Config {
    /// How requests are queued and joined.
    pub fn policy(&self) -> Policy {
        Policy {
            limits: Limits { max_rows: self.max_batch, max_delay: self.max_delay, capacity: self.queue },
            padding: Padding { values: self.pad.iter().cloned().collect(), buckets: self.bucket.iter().cloned().collect() },
        }
    }

    /// The token that clients must send.
    ///
    /// # Errors
    /// A file that cannot be read, and a token of no characters or of other than visible ASCII ones.
    pub fn token(&self) -> Result<Option<String>, String> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?,
            (None, None) => return Ok(None),
        };
        let token = token.trim();
        match !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic()) {
            true => Ok(Some(token.to_owned())),
            false => Err("the token must be of visible ASCII characters, at least one".to_owned()),
        }
    }
}

fn signers(file: &str) -> Result<Signers, String> {
    Signers::read(file.as_ref()).map_err(|e| e.to_string())
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| *n > 0).ok_or_else(|| "a number above 0 was expected".to_owned())
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time was expected: 500us, 2ms or 30s".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match unit {
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        _ => Err(wrong()),
    }
}

fn pad(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("INPUT=VALUE was expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn bucket(text: &str) -> Result<(String, Vec<usize>), String> {
    let wrong = "SYMBOL=SIZES was expected, as in seq=16,32,64";
    let (symbol, sizes) = text.split_once('=').ok_or(wrong)?;
    let sizes = sizes.split(',').map(positive).collect::<Result<Vec<_>, _>>().map_err(|_| wrong)?;
    Ok((symbol.to_owned(), sizes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Config, String> {
        Config::try_parse_from(std::iter::once("sliderun-serve").chain(line.split(' '))).map_err(|e| e.to_string())
    }

    #[test]
    fn good_lines() {
        let config = parse(
            "a.slide b=c.slide --http 0 --grpc 8001 --max-delay 500us --device cuda:0,cuda:1 --pad x=0 --pad y=-1.5 --bucket seq=16,32",
        )
        .unwrap();
        assert_eq!((config.plans.len(), config.http, config.grpc), (2, 0, Some(8001)));
        assert_eq!((config.max_delay, config.drain_timeout), (Duration::from_micros(500), Duration::from_secs(30)));
        assert_eq!(config.device, [Device::Cuda(0), Device::Cuda(1)]);
        let padding = config.policy().padding;
        assert_eq!((padding.values["y"].as_str(), padding.buckets["seq"].as_slice()), ("-1.5", &[16, 32][..]));
        assert_eq!(config.token(), Ok(None));
        assert_eq!(parse("a --token s3cret").unwrap().token(), Ok(Some("s3cret".to_owned())));
    }

    #[test]
    fn bad_lines() {
        for line in [
            "--http 0",
            "a --http 65536",
            "a --max-batch 0",
            "a --max-delay 2",
            "a --max-delay ms",
            "a --device gpu",
            "a --pad x",
            "a --bucket seq=0",
            "a --bucket seq",
            "a --tls-cert c.pem",
            "a --token x --token-file y",
            "a --log xml",
            "a --log-level loud",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        assert!(parse("a --token é").unwrap().token().is_err());
        assert!(parse("a --token-file /nonexistent/token").unwrap().token().unwrap_err().contains("/nonexistent/token"));
    }
}
