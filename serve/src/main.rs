//! The program: see `docs/serving.md`.

use std::process::ExitCode;

use clap::Parser;
use sliderun_serve::config::Config;
use sliderun_serve::server::Server;
use sliderun_serve::telemetry;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let config = Config::parse();
    telemetry::start(config.log, config.log_level);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the threads cannot be started: {error}")),
    };
    let result = runtime.block_on(serve(config));
    // What has not ended within the drain timeout does not keep the program.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

async fn serve(config: Config) -> Result<(), String> {
    let on = |kind| signal(kind).map_err(|e| format!("signals cannot be received: {e}"));
    let (mut terminate, mut interrupt) = (on(SignalKind::terminate())?, on(SignalKind::interrupt())?);
    let server = Server::start(config).await?;
    // For scripts that asked for any free port.
    println!("http://{}", server.http);
    if let Some(address) = server.grpc {
        println!("grpc://{address}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("told to end: answering the requests that were accepted");
    server.stop().await?;
    tracing::info!("all accepted requests are answered");
    Ok(())
}

fn fail(message: &str) -> ExitCode {
    eprintln!("sliderun-serve: {message}");
    ExitCode::FAILURE
}
