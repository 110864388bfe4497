//! The help texts.

pub const TOP: &str = "\
sliderun: runs plans compiled by slidec

Usage: sliderun COMMAND PLAN [OPTIONS]

Commands:
  run       Run a plan on .npy files or random inputs
  inspect   Show what a plan says of itself
  bench     Measure a plan's latency
  turns     Measure a plan whenever standard input says so, in turns with others
  check     Compare a GPU's results with the CPU's, launch by launch
  churn     Run many shapes on a GPU, and see that nothing grows
  tune      Find and keep the fastest algorithms of a plan's products on a GPU
  serve     Serve plans by HTTP and gRPC (the program sliderun-serve)
  devices   List GPUs and NVIDIA's libraries, or what is missing

  -h, --help      Print help, also of a command
  -V, --version   Print the version

Examples:
  sliderun run model.slide --random --shape batch=2,seq=64
  sliderun inspect model.slide --check
";

pub const RUN: &str = "\
Run a plan once and print a line on each output: type, shape, smallest, largest and mean
element, and the beginning of a BLAKE3 digest of type, shape and bytes (whole in JSON)

Usage: sliderun run PLAN [OPTIONS]

  --input NAME=FILE.npy   Read an input from a file; may be given for each input
  --random                Draw the inputs that are not given
  --seed N                What random inputs start from (default 0)
  --shape batch=2,seq=64  Extents of random inputs (default: 1 for a batch, else 32)
  -o, --output DIR        Write the outputs there, one .npy file each
  --device cpu|cuda[:N]   Where to run (default cpu)
  --variant NAME          On a GPU, the plan's variant (default: what is fastest for the shape)
  --threads N             Threads to use (default: as many as there are processors)
  --json                  Print JSON
  --require-signature KEY.pub
                          Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap               Read the plan into memory instead of mapping it

Examples:
  sliderun run model.slide --input input_ids=ids.npy --input attention_mask=mask.npy --output out
  sliderun run model.slide --random --shape batch=2,seq=64 --json
";

pub const INSPECT: &str = "\
Show a plan's origin, symbols, inputs, outputs, steps and verdicts, and what it launches on a GPU

Usage: sliderun inspect PLAN [OPTIONS]

  --check   Check every blob against its digest
  --steps   List the launches on a GPU one by one, and each of the model's nodes
            with the steps and launches that it went into
  --json    Print everything, as JSON
  --require-signature KEY.pub
            Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap Read the plan into memory instead of mapping it

Example:
  sliderun inspect model.slide --check
";

#[cfg(feature = "cuda")]
pub const CHECK: &str = "\
Run a plan's CUDA program on a GPU and compare each launch with the CPU, on random inputs:
integers must be equal, floats within a limit; then compare the results end to end

Usage: sliderun check PLAN [OPTIONS]

  --shape batch=4,seq=128  Extents (default: 1 for a batch, else 32)
  --rounds N               Sets of random inputs (default 1)
  --seed N                 What the first starts from (default 0)
  --limit X                Greatest relative error of f32 (default 1e-5; f16 and bf16: 1000 times that)
  --kernels                Only the plan's own kernels: leave out the libraries' products, which are not
                           loaded, and the results end to end
  --variant NAME           Only this variant of the plan (default: each)
  --device cuda[:N]        The GPU (default cuda)
  --threads N              Threads of the CPU's run (default: as many as there are processors)
  --require-signature KEY.pub
                           Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap                Read the plan into memory instead of mapping it

Examples:
  sliderun check model.slide --shape batch=4,seq=128 --rounds 20
  compute-sanitizer --tool racecheck sliderun check model.slide --kernels
";

#[cfg(feature = "cuda")]
pub const CHURN: &str = "\
Run a plan on a GPU many times over many shapes, and fail when device memory, the host's
memory or the number of the libraries' plans grows after a warm-up, or a result changes

Usage: sliderun churn PLAN [OPTIONS]

  --largest batch=8,seq=128  The largest extents (default: 16 each)
  --runs N                   Runs (default 10000)
  --shapes N                 Different shapes (default 200)
  --seed N                   What shapes and inputs start from (default 0)
  --device cuda[:N]          The GPU (default cuda)
  --require-signature KEY.pub
                             Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap                  Read the plan into memory instead of mapping it

Example:
  sliderun churn model.slide --largest batch=8,seq=128
";

#[cfg(feature = "cuda")]
pub const TUNE: &str = "\
Try all algorithms that NVIDIA's libraries have for a plan's matrix products, replay each of
the plan's variants, and keep the fastest, in SLIDERUN_CACHE or ~/.cache/sliderun, for later
sessions on such a GPU; timings also beside the plan, where sessions on a like machine find
them. Without, a session tries for a tenth of a second when it first needs a product or shape

Usage: sliderun tune PLAN [OPTIONS]

  --shape batch=4,seq=128  Extents (default: 1 for a batch, else 32); may be given several times
  --timings FILE           Where timings are written (default: PLAN.timings)
  --variant NAME           Only this variant of the plan
  --device cuda[:N]        The GPU (default cuda)
  --require-signature KEY.pub
                           Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap                Read the plan into memory instead of mapping it

Example:
  sliderun tune model.slide --shape batch=1,seq=128 --shape batch=8,seq=128
";

#[cfg(feature = "cuda")]
pub const DEVICES: &str = "\
List the GPUs of this machine and the libraries that plans need on them, with versions, or
what is missing and where it was looked for

Usage: sliderun devices
";

pub const BENCH: &str = "\
Measure a plan's latency on random inputs. On a GPU: with copies from and to the host and
without; where the time goes, against what the GPU does in a large copy and in large dense
products in the same run; clocks and watts meanwhile

Usage: sliderun bench PLAN [OPTIONS]

  --shape batch=4,seq=128  Extents (default: 1 for a batch, else 32)
  --iterations N           Stop after so many runs
  --duration SECONDS       Stop after so long (default 3, without --iterations)
  --operators              Also tell where the time goes, by operator
  --steps                  Also tell the time of each step, on a GPU of each launch
  --seed N                 What random inputs start from (default 0)
  --device cpu|cuda[:N]    Where to run (default cpu)
  --variant NAME           On a GPU, the plan's variant (default: what is fastest for the shape)
  --tuning HOW             On a GPU, how products and the variant are chosen: off, remembered, quick
                           (default) or exhaustive
  --timings FILE           On a GPU, timings by tune (default: PLAN.timings, if there are any)
  --algorithms             On a GPU, also run each product with all of its library's algorithms
  --no-overlap             On a GPU, start each kernel only when the one before it has ended
  --threads N              Threads to use (default: as many as there are processors)
  --json                   Print JSON
  --require-signature KEY.pub
                           Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap                Read the plan into memory instead of mapping it

Example:
  sliderun bench model.slide --shape batch=4,seq=128 --threads 2
";

pub const TURNS: &str = "\
Load a plan and measure it whenever standard input says so, so that several engines can take
turns in one run. Says with a line of JSON what was loaded, then answers each command with one:

  inputs DIR      Take each input from DIR/NAME.npy and make their shape ready
  outputs DIR     Run once and write the outputs there, one .npy file each
  burst SECONDS   Time runs that are waited for one by one
  steady SECONDS  Time runs that follow each other without a wait
  launches        On a GPU, time each launch by itself, and tell what the GPU can do

Usage: sliderun turns PLAN [OPTIONS]

  --device cpu|cuda[:N]   Where to run (default cpu)
  --variant NAME          On a GPU, the plan's variant (default: what is fastest for the shape)
  --tuning HOW            On a GPU, how products are chosen: off, remembered, quick (default) or
                          exhaustive
  --threads N             Threads to use (default: as many as there are processors)
  --require-signature KEY.pub
                          Refuse a plan that none of the keys in this PEM file has signed
  --no-mmap               Read the plan into memory instead of mapping it

Example:
  printf 'inputs in\\nburst 0.5\\nsteady 3\\n' | sliderun turns model.slide --device cuda
";
