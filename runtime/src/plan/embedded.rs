//! Plans inside programs.

/// Bytes at an address that sliderun can use in place; made by [`include_plan!`](crate::include_plan).
#[doc(hidden)]
#[repr(C, align(64))]
pub struct Embedded<T: ?Sized> {
    pub bytes: T,
}

const _: () = assert!(align_of::<Embedded<[u8; 0]>>() == crate::tensor::ALIGN);

/// A plan's file as part of the program: `&'static [u8]` for [`Plan::from_bytes`](crate::plan::Plan::from_bytes), which uses it where it is. (What
/// `include_bytes!` gives may lie at any address and is then copied.) The path is as for `include_bytes!`.
///
/// ```
/// use sliderun::plan::Plan;
/// static PLAN: &[u8] = sliderun::include_plan!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/perceptron.slide"));
/// let plan = Plan::from_bytes(PLAN)?;
/// assert_eq!(plan.manifest().program.inputs.len(), 1);
/// # Ok::<(), sliderun::plan::PlanError>(())
/// ```
#[macro_export]
macro_rules! include_plan {
    ($path:expr $(,)?) => {{
        static PLAN: &$crate::plan::Embedded<[u8]> = &$crate::plan::Embedded { bytes: *include_bytes!($path) };
        &PLAN.bytes
    }};
}
