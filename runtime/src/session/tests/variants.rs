//! Variants of a plan's CUDA program, as the CPU runs them, and those that make no sense.

use std::sync::Arc;

use super::sparse_product;
use crate::dtype::DType;
use crate::op::gemm::MatMul;
use crate::op::sparse::{DenseGemm, QuantLift};
use crate::plan::cuda::{Argument, CudaPlan, Kernel, Launch, Over, Variant, Work};
use crate::plan::manifest::{BlobId, Expanded, Manifest, Storage, ValueId};
use crate::plan::tests::{dim, step, value};
use crate::plan::{Plan, PlanWriter};
use crate::session::{Device, Session, SessionOptions};
use crate::sparse::KLayout;
use crate::tensor::Tensor;

/// The sparse product with a CUDA program, in a sparse and a dense variant.
pub(in crate::session) fn two_variants() -> (PlanWriter<'static>, Manifest) {
    let (writer, mut manifest) = sparse_product();
    let launches = vec![
        Launch { steps: 1, work: kernel("lift") },
        Launch { steps: 1, work: Work::Product },
        Launch { steps: 1, work: kernel("scale") },
    ];
    let sparse = manifest.program.clone();
    let mut dense = sparse.clone();
    let [Storage::Constant(values), Storage::Constant(positions)] = [1, 2].map(|v| dense.values[v].storage) else {
        panic!("the weight is constant")
    };
    let expanded = Storage::Expanded(Expanded { values, positions, pattern: "2:4".parse().unwrap() });
    dense.values.push(value("weight", DType::I8, &["2", "8"], expanded));
    dense.values[4].ty.shape[1] = 8.into();
    dense.steps[0].op = QuantLift { to: DType::I8, layout: KLayout::dense(8) }.into();
    dense.steps[1] = step("product", DenseGemm::default(), &[4, 8], &[6]);
    let variant = |name: &str, from, program| Variant { name: name.into(), from, program, launches: launches.clone() };
    let variants = vec![variant("sparse", Some(16), sparse), variant("dense", Some(0), dense)];
    manifest.cuda = Some(CudaPlan { variants, rows: dim("rows"), modules: Vec::new() });
    (writer, manifest)
}

fn kernel(symbol: &str) -> Work {
    let arguments = vec![Argument::Value(ValueId(4)), Argument::Integer(dim("rows")), Argument::Fault];
    let (symbol, blocks) = (symbol.to_owned(), dim("rows"));
    Work::Kernel(Kernel {
        symbol,
        blocks,
        threads: 32,
        shared_bytes: 0,
        arguments,
        waits: true,
        forms: Vec::new(),
        over: Vec::new(),
    })
}

#[test]
fn variants_of_a_plan_compute_the_same() {
    let (writer, manifest) = two_variants();
    let plan = Arc::new(Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap());
    let x: Vec<f32> = (0..5 * 8).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
    let x = Tensor::from_slice(&[5, 8], &x).unwrap();
    let session = |variant: Option<&str>, cuda_program| {
        let variant = variant.map(str::to_owned);
        let options = SessionOptions { threads: Some(1), cuda_program, variant, ..SessionOptions::default() };
        Session::new(plan.clone(), Device::Cpu, options)
    };
    let expected = session(None, false).unwrap().run(&[("x", x.view())]).unwrap();
    for variant in [None, Some("sparse"), Some("dense")] {
        let got = session(variant, true).unwrap().run(&[("x", x.view())]).unwrap();
        for ((_, a), (_, b)) in got.iter().zip(&expected) {
            assert_eq!(a.bytes(), b.bytes(), "{variant:?}");
        }
    }
    let unknown = session(Some("fast"), true).map(|_| ()).unwrap_err().to_string();
    assert_eq!(unknown, "the plan has no variant 'fast': its variants are sparse, dense");
    let cuda = plan.manifest().cuda.as_ref().unwrap();
    for (rows, name) in [(1, "dense"), (15, "dense"), (16, "sparse"), (1 << 40, "sparse")] {
        assert_eq!(cuda.variants[cuda.preferred(rows)].name, name);
    }
    assert_eq!([0, 1].map(|v| cuda.range(&cuda.variants[v])), [Some((16, None)), Some((0, Some(16)))]);
    let shares = [0, 1].map(|v| cuda.variants[v].sparse_share());
    assert_eq!(shares.map(|s| (s.sparse, s.products, s.of_work)), [(1, 1, 1.0), (0, 1, 0.0)]);
    assert_eq!(cuda.variants[1].expanded_bytes(), 16);
}

#[test]
fn variants_that_make_no_sense_are_refused() {
    type Change = fn(&mut CudaPlan);
    fn expanded(cuda: &mut CudaPlan) -> &mut Expanded {
        match &mut cuda.variants[1].program.values[8].storage {
            Storage::Expanded(expanded) => expanded,
            other => panic!("{other:?}"),
        }
    }
    let cases: &[(Change, &str)] = &[
        (|c| c.variants.clear(), "no variant is preferred for few rows"),
        (|c| c.variants[1].from = None, "no variant is preferred for few rows"),
        (|c| c.variants[0].from = Some(0), "variant 'dense': another variant is preferred from the same number of rows on"),
        (|c| c.variants[0].name = "dense".into(), "variant 'dense': another variant has the same name"),
        (|c| c.rows = dim("tokens"), "rows of the CUDA program: symbol 'tokens' is not declared"),
        (|c| c.variants[1].program.steps.truncate(2), "variant 'dense': "),
        (|c| drop(c.variants[1].launches.pop()), "variant 'dense': launches: they do 2 of 3 steps"),
        (|c| c.variants[1].program.outputs.truncate(1), "its inputs and outputs are not those of the CPU's program"),
        (|c| expanded(c).values = BlobId(9), "there is no blob 9"),
        (|c| expanded(c).positions = BlobId(0), "blob 0 has 64 bytes, which is not what the positions of i8[2, 8] at 2:4 need"),
        (|c| c.variants[1].program.values[8].ty.dtype = DType::F32, "is not what the values of f32[2, 8] at 2:4 need"),
        (|c| c.variants[1].program.values[8].ty.shape = vec![dim("rows"), dim("8")], "i8[rows, 8] is no weight"),
        (|c| c.variants[1].program.values[8].ty.shape = vec![dim("2"), dim("0")], "i8[2, 0] is no weight"),
        (|c| c.variants[1].program.values[8].ty.shape = vec![dim("16")], "i8[16] is no weight"),
        (|c| c.variants[1].program.values[8].ty.shape = vec![dim("1099511627776"), dim("16777216")], "is not what the values of"),
        (|c| c.variants[1].program.steps[1].op = MatMul::default().into(), "only the right side of a DenseGemm"),
        (|c| c.variants[1].program.steps[1].inputs[0] = Some(ValueId(8)), "only the right side of a DenseGemm"),
        (
            |c| c.variants[1].program.values.push(value("again", DType::I8, &["16"], Storage::Alias(ValueId(8)))),
            "only the right side of a DenseGemm",
        ),
        (
            |c| {
                let Work::Kernel(kernel) = &mut c.variants[1].launches[0].work else { panic!("a kernel") };
                kernel.arguments[0] = Argument::Value(ValueId(8));
            },
            "only the right side of a DenseGemm",
        ),
        // In place: both must be the kernel's, of one size, one computed by it, and the other dead afterwards.
        (|c| over(c, [7, 6], &[7]), "variant 'dense': launch 2: result 7 over operand 6: the kernel is not given both"),
        (|c| over(c, [6, 7], &[6, 7]), "the one must be computed by the launch, the other by one before"),
        (|c| over(c, [7, 3], &[7, 3]), "the one must be computed by the launch, the other by one before"),
        (|c| over(c, [7, 5], &[7, 5]), "they are not of one size"),
        (|c| over(c, [7, 6], &[7, 6]), "the operand is read later"),
    ];
    fn over(cuda: &mut CudaPlan, [result, operand]: [u32; 2], given: &[u32]) {
        let Work::Kernel(kernel) = &mut cuda.variants[1].launches[2].work else { panic!("a kernel") };
        kernel.arguments = given.iter().map(|v| Argument::Value(ValueId(*v))).collect();
        kernel.over = vec![Over { result: ValueId(result), operand: ValueId(operand) }];
    }
    for (change, message) in cases {
        let (writer, mut manifest) = two_variants();
        change(manifest.cuda.as_mut().unwrap());
        let error = writer.to_bytes(manifest).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}
