//! Memory of this process.

/// The most physical memory that this process has held so far, in bytes. Known on Linux.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    parse_peak(&status)
}

/// `VmHWM:     5120 kB`, where kB are 1024 bytes.
fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_high_water_mark() {
        assert_eq!(parse_peak("Name:\tslidec\nVmPeak:\t  9000 kB\nVmHWM:\t    5120 kB\n"), Some(5120 * 1024));
        assert_eq!(parse_peak("Name:\tslidec\n"), None);
        assert_eq!(parse_peak("VmHWM:\tmuch kB\n"), None);
    }
}
