//! Immutable memory: which addresses lie in it; and which may lie in the interpreted program.
//!
//! # Invariants
//! A region into which the trace itself has a store, as far as the recording shows, is not immutable for this trace.
//! (A store without a note counts only if its address is a constant: the host has declared that nothing writes there.)
//! A region that may be the program is never immutable, and keeps its place beside data that the trace stores to.
//!
//! Worked example: with declared memory 0x1000 to 0x2000 and a store recorded at 0x1ff8, no load from it is folded.

use redmagic_ir::{Opcode, Recorded, Region, RegionKind, Trace, Value};

/// The immutable regions of a trace, in order of their starts.
pub(crate) struct Regions {
    sorted: Vec<Region>,
    /// For each region the highest end of it and of those before it.
    reach: Vec<u64>,
    /// The regions that may be the program.
    code: Vec<Region>,
    /// Start and end of what the trace stores, as far as the recording shows, if there are such regions.
    stores: Vec<(u64, u64)>,
}

impl Regions {
    /// The regions of `trace` that it does not write to itself.
    pub(crate) fn new(trace: &Trace) -> Regions {
        if trace.regions.is_empty() {
            return Regions::sorted(Vec::new());
        }
        let (code, immutable): (Vec<Region>, Vec<Region>) =
            trace.regions.iter().partition(|region| region.kind == RegionKind::Code);
        let mut all = Regions::sorted(immutable);
        let mut written = vec![false; all.sorted.len()];
        let mut stores = Vec::new();
        for segment in trace.segments.values() {
            for &value in &segment.insts {
                if trace.insts[value].op == Opcode::Store
                    && let Some(address) = stored_address(trace, value)
                {
                    let bytes = trace.ty(value).bytes();
                    all.mark(address, bytes, &mut written);
                    if !code.is_empty() {
                        stores.push((address, address.saturating_add(u64::from(bytes))));
                    }
                }
            }
        }
        if written.contains(&true) {
            let kept = all.sorted.iter().zip(&written).filter(|(_, written)| !**written);
            all = Regions::sorted(kept.map(|(region, _)| *region).collect());
        }
        Regions { code, stores, ..all }
    }

    fn sorted(mut sorted: Vec<Region>) -> Regions {
        sorted.sort_by_key(|region| (region.start, region.end));
        let mut highest = 0;
        let reach = sorted
            .iter()
            .map(|region| {
                highest = highest.max(region.end);
                highest
            })
            .collect();
        Regions { sorted, reach, code: Vec::new(), stores: Vec::new() }
    }

    /// Notes every region that overlaps the `bytes` bytes at `address`.
    fn mark(&self, address: u64, bytes: u32, written: &mut [bool]) {
        let end = address.saturating_add(u64::from(bytes));
        let after = self.sorted.partition_point(|region| region.start < end);
        for at in (0..after).rev() {
            if self.reach[at] <= address {
                break;
            }
            written[at] |= self.sorted[at].end > address;
        }
    }

    /// How the `bytes` bytes at `address` are immutable, if they are. `Declared` is preferred.
    pub(crate) fn kind(&self, address: u64, bytes: u32) -> Option<RegionKind> {
        let end = address.checked_add(u64::from(bytes))?;
        let after = self.sorted.partition_point(|region| region.start <= address);
        let mut found = None;
        for at in (0..after).rev() {
            if self.reach[at] < end {
                break;
            }
            let region = &self.sorted[at];
            if region.end >= end {
                match region.kind {
                    RegionKind::Declared => return Some(RegionKind::Declared),
                    RegionKind::ReadOnly => found = Some(RegionKind::ReadOnly),
                    // They are kept apart.
                    RegionKind::Code => {}
                }
            }
        }
        found
    }

    /// Whether any memory may be the program.
    pub(crate) fn have_code(&self) -> bool {
        !self.code.is_empty()
    }

    /// Whether the `bytes` bytes at `address` may be the program, and are not immutable.
    pub(crate) fn is_code(&self, address: u64, bytes: u32) -> bool {
        let Some(end) = address.checked_add(u64::from(bytes)) else { return false };
        self.code.iter().any(|region| region.start <= address && end <= region.end)
            && self.kind(address, bytes).is_none()
    }

    /// What the program was near to when the recording began.
    pub(crate) fn middles(&self) -> impl Iterator<Item = u64> + '_ {
        self.code.iter().map(Region::middle)
    }

    /// Whether the trace stores to any of the `bytes` bytes at `address`, where memory may be the program.
    pub(crate) fn is_written(&self, address: u64, bytes: u32) -> bool {
        let end = address.saturating_add(u64::from(bytes));
        self.stores.iter().any(|store| store.0 < end && address < store.1)
    }
}

fn stored_address(trace: &Trace, store: Value) -> Option<u64> {
    if let Some(Recorded { address, .. }) = trace.recorded(store) {
        return Some(address);
    }
    let address = trace.insts[store].address()?;
    let root = trace.as_const(address.root)?;
    (!address.index.is_some()).then(|| root.wrapping_add(i64::from(address.offset)) as u64)
}
