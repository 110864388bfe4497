//! Fuzzing without a fuzzer: seeds mutated by a generator that starts from a number, on as many threads as asked. It knows nothing of what
//! code an input reaches; it is fast, and needs nothing but a test program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use sliderun::splitmix::SplitMix64;

/// Longest input that is made.
const LONGEST: usize = 1 << 14;

/// What mutations put in: numbers at the edges, MessagePack's largest lengths and deep nesting, what extents and PEM files are made of.
const TOKENS: [&[u8]; 44] = [
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xc0",
    b"\xc2",
    b"\xc3",
    b"\x90",
    b"\x91",
    b"\x80\x80",
    b"\xa0",
    b"\xa1n",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00",
    b"\xcf\x00\x00\x00\x01\x00\x00\x00\x00",
    b"\xce\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91\x91",
    b"\x81\xa1n\x81\xa1n\x81\xa1n",
    b"n",
    b"m",
    b"2*n",
    b"-1",
    b"^64",
    b"div(",
    b"mod(",
    b"max(",
    b"min(",
    b"bcast(",
    b",",
    b")",
    b"(n-m)",
    b"9223372036854775807",
    b"*",
    b"+",
    b"\n",
    b"-----BEGIN PUBLIC KEY-----",
    b"-----END PUBLIC KEY-----",
    b"'shape': (4294967296,",
    b"SLIDESIG",
];

/// Runs a target so many times on mutated seeds. Gives what it panicked with and the input, in hexadecimal; the first time ends a thread.
pub fn drive(target: fn(&[u8]), seeds: &[Vec<u8>], executions: u64, start: u64, threads: u64) -> Vec<String> {
    let findings = Mutex::new(Vec::new());
    let left = AtomicU64::new(executions);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (findings, left) = (&findings, &left);
            scope.spawn(move || {
                let mut random = SplitMix64(start ^ (thread << 48));
                let mut input = Vec::new();
                // In portions, so that threads do not wait for each other's count.
                while let Ok(before) =
                    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n > 0).then(|| n.saturating_sub(256)))
                {
                    for _ in 0..before.min(256) {
                        mutate(seeds, &mut random, &mut input);
                        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(&input))) {
                            let text = panic.downcast_ref::<String>().map(String::as_str);
                            let message = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
                            let input: String = input.iter().map(|b| format!("{b:02x}")).collect();
                            findings.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{message}: input {input}"));
                            return;
                        }
                    }
                }
            });
        }
    });
    findings.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A seed with one to eight changes, or now and then as it is.
fn mutate(seeds: &[Vec<u8>], random: &mut SplitMix64, out: &mut Vec<u8>) {
    let below = |random: &mut SplitMix64, n: usize| (random.next() % n.max(1) as u64) as usize;
    out.clear();
    out.extend(&seeds[below(random, seeds.len())]);
    for _ in 0..below(random, 9) {
        let at = below(random, out.len() + 1);
        let end = (at + below(random, 17)).min(out.len());
        match random.next() % 10 {
            0 if at < out.len() => out[at] ^= 1 << (random.next() % 8),
            1 if at < out.len() => out[at] = random.next() as u8,
            2 if at < out.len() => out[at] = out[at].wrapping_add(1),
            3 if at < out.len() => out[at] = out[at].wrapping_sub(1),
            4 => drop(out.drain(at..end)),
            5 => out.extend_from_within(at..end),
            6 => out.truncate(at),
            7 => {
                let other = &seeds[below(random, seeds.len())];
                let from = below(random, other.len() + 1);
                let to = (from + below(random, 65)).min(other.len());
                drop(out.splice(at..end, other[from..to].iter().copied()));
            }
            kind => {
                let token = TOKENS[below(random, TOKENS.len())];
                let end = if kind == 8 { at } else { (at + token.len()).min(out.len()) };
                drop(out.splice(at..end, token.iter().copied()));
            }
        }
    }
    out.truncate(LONGEST);
}
