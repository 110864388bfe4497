//! What a session's inputs, outputs and symbols are, in C's terms.

use std::ffi::{CString, c_char};

use sliderun::session::Session;

use crate::failure::{Failure, Status};
use crate::tensor::Dtype;

/// An input or output. What it points to lives as long as the session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Port {
    /// The model's name for it.
    pub name: *const c_char,
    /// A sliderun_dtype.
    pub dtype: u32,
    /// Number of axes.
    pub rank: usize,
    /// `rank` extents as text, outermost first: "384", "batch", "2*seq + 1".
    pub extents: *const *const c_char,
    /// The same as numbers, -1 where an extent depends on symbols.
    pub fixed: *const i64,
}

/// A symbol that extents mention, and the values for which the plan was compiled. Its name lives as long as the session.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Symbol {
    pub name: *const c_char,
    /// The least value.
    pub min: i64,
    /// The largest value.
    pub max: i64,
}

/// What a session tells of itself. Pointers in `inputs`, `outputs` and `symbols` are into what the other fields hold, none of which changes.
#[derive(Default)]
pub(crate) struct Ports {
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub symbols: Vec<Symbol>,
    texts: Vec<CString>,
    extents: Vec<Box<[*const c_char]>>,
    fixed: Vec<Box<[i64]>>,
}

impl Ports {
    pub fn of(session: &Session) -> Result<Ports, Failure> {
        let mut ports = Ports::default();
        ports.inputs = session.inputs().iter().map(|port| ports.port(port)).collect::<Result<_, _>>()?;
        ports.outputs = session.outputs().iter().map(|port| ports.port(port)).collect::<Result<_, _>>()?;
        for symbol in session.symbols() {
            let name = ports.text(&symbol.name)?;
            ports.symbols.push(Symbol { name, min: symbol.min, max: symbol.max });
        }
        Ok(ports)
    }

    fn port(&mut self, port: &sliderun::session::Port) -> Result<Port, Failure> {
        let extents = port.ty.shape.iter().map(|d| self.text(&d.to_string())).collect::<Result<Box<[_]>, _>>()?;
        let fixed = port.ty.shape.iter().map(|d| d.as_const().unwrap_or(-1)).collect::<Box<[_]>>();
        let made = Port {
            name: self.text(&port.name)?,
            dtype: Dtype::of(port.ty.dtype),
            rank: extents.len(),
            extents: extents.as_ptr(),
            fixed: fixed.as_ptr(),
        };
        self.extents.push(extents);
        self.fixed.push(fixed);
        Ok(made)
    }

    fn text(&mut self, text: &str) -> Result<*const c_char, Failure> {
        let text = CString::new(text).map_err(|_| Failure::new(Status::BadPlan, format!("the name {text:?} has a NUL in it")))?;
        self.texts.push(text);
        // The characters stay where they are when the list of texts grows.
        Ok(self.texts[self.texts.len() - 1].as_ptr())
    }
}
