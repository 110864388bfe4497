//! Checks of a cubin before the driver sees it.
//!
//! The driver takes a cubin as a pointer without a length and reads what the ELF header says. A truncated or hostile file must not
//! make it read beyond the bytes that are there.

/// An ELF file for NVIDIA GPUs: `EM_CUDA`.
const EM_CUDA: u16 = 190;
/// A section without bytes in the file.
const SHT_NOBITS: u32 = 8;
/// The header of a 64-bit ELF file.
const HEADER: usize = 64;

/// Whether every table, section and segment that the header tells of lies within `bytes`.
pub(super) fn check(bytes: &[u8]) -> Result<(), &'static str> {
    if bytes.len() < HEADER || !bytes.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is not a 64-bit little-endian ELF file");
    }
    if u16_at(bytes, 18) != Some(EM_CUDA) {
        return Err("it is not machine code for NVIDIA GPUs");
    }
    for_each_entry(bytes, 40, 58, 64, |entry| {
        let occupies = u32_at(entry, 4) != Some(SHT_NOBITS);
        (!occupies || within(bytes, u64_at(entry, 24), u64_at(entry, 32))).then_some(())
    })
    .ok_or("its sections leave the file")?;
    for_each_entry(bytes, 32, 54, 56, |entry| within(bytes, u64_at(entry, 8), u64_at(entry, 32)).then_some(()))
        .ok_or("its segments leave the file")
}

/// Visits the entries of a table whose offset stands at `offset`, and the size of an entry and their number at `size` and after it.
fn for_each_entry(
    bytes: &[u8],
    offset: usize,
    size: usize,
    least: usize,
    mut visit: impl FnMut(&[u8]) -> Option<()>,
) -> Option<()> {
    let (size, count) = (usize::from(u16_at(bytes, size)?), usize::from(u16_at(bytes, size + 2)?));
    if count == 0 {
        return Some(());
    }
    let start = usize::try_from(u64_at(bytes, offset)?).ok()?;
    let table = bytes.get(start..start.checked_add(size.checked_mul(count)?)?)?;
    if size < least {
        return None;
    }
    table.chunks_exact(size).try_for_each(&mut visit)
}

fn within(bytes: &[u8], offset: Option<u64>, len: Option<u64>) -> bool {
    let end = offset.zip(len).and_then(|(offset, len)| offset.checked_add(len));
    end.is_some_and(|end| end <= bytes.len() as u64)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF header with one section header behind it.
    fn elf(section: (u32, u64, u64)) -> Vec<u8> {
        let mut bytes = vec![0; HEADER + 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[18..20].copy_from_slice(&EM_CUDA.to_le_bytes());
        bytes[40..48].copy_from_slice(&(HEADER as u64).to_le_bytes());
        bytes[58..60].copy_from_slice(&64u16.to_le_bytes());
        bytes[60..62].copy_from_slice(&1u16.to_le_bytes());
        bytes[HEADER + 4..][..4].copy_from_slice(&section.0.to_le_bytes());
        bytes[HEADER + 24..][..8].copy_from_slice(&section.1.to_le_bytes());
        bytes[HEADER + 32..][..8].copy_from_slice(&section.2.to_le_bytes());
        bytes
    }

    #[test]
    fn what_leaves_the_file_is_refused() {
        let cases = [
            ((1, 64, 64), true),
            ((1, 64, 65), false),
            ((1, u64::MAX, 2), false),
            ((SHT_NOBITS, u64::MAX, 2), true),
            ((SHT_NOBITS + 1, 0, u64::MAX), false),
        ];
        for (section, ok) in cases {
            assert_eq!(check(&elf(section)).is_ok(), ok, "{section:?}");
        }
        let good = elf((1, 0, 64));
        for len in 0..good.len() {
            assert!(check(&good[..len]).is_err(), "{len} bytes");
        }
        // A byte of the header changed to anything is accepted or refused, without a panic.
        for at in 0..HEADER {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = check(&bytes);
            }
        }
        assert!(check(b".version 9.0\n.target sm_90\n\0").unwrap_err().contains("ELF"));
    }
}
