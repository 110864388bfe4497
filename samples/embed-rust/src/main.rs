//! A plan inside a program: `cargo run --profile small -p sliderun-embed-rust -- 1 2 3 4`.

use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::Tensor;

/// A perceptron of 4 inputs; put your plan's file here.
static PLAN: &[u8] = sliderun::include_plan!("../../../runtime/examples/perceptron.slide");

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let values = std::env::args().skip(1).map(|a| a.parse::<f32>()).collect::<Result<Vec<_>, _>>()?;
    let session = Session::new(Plan::from_bytes(PLAN)?.into(), Device::Cpu, SessionOptions::default())?;
    let x = Tensor::from_slice(&[values.len() / 4, 4], &values)?;
    for (name, tensor) in session.run(&[("x", x.view())])? {
        println!("{name} {:?}: {:?}", tensor.shape(), tensor.as_slice::<f32>().unwrap_or_default());
    }
    Ok(())
}
