//! Resident memory, as the kernel counts it.

/// Resident bytes of this process.
pub fn resident_bytes() -> u64 {
    resident_bytes_of(std::process::id())
}

/// Resident bytes of a process; 0 if it is gone.
pub fn resident_bytes_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
