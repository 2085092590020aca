//! What the walk knows about the contents of memory: cells.
//!
//! A *cell* is a range of bytes at a constant distance from a *base* (root value, index, scale) and the value in it.
//!
//! # Invariants
//! - Two cells of one base conflict exactly if their bytes overlap. Cells of different bases may be the same memory,
//!   unless their *domains* exclude it (see [`Domain`]).
//! - Forgetting a domain is one increment: a base compares its own counts with the current ones when it is used.
//! - What a store has spared because two roots are apart is only good together with these pairs of roots: every base keeps a
//!   log of the pairs that stores have relied on, and every cell since when it is there.
//!
//! Worked example: `store [v1 + 8], v2` makes a cell; `load [v1 + 8]` then is v2, and `load i8 [v1 + 9]` is
//! `trunc (lshr v2, 8)`. After `store [v3], v4` the cell is gone, unless it is a frame cell.

use crate::apart::{Pairs, RootId};
use crate::scope::MixMap;
use redmagic_ir::{Type, Value};

/// More cells than this are not kept for one base.
const MAX_CELLS: usize = 48;
/// A log of pairs that gets longer than this is folded up.
const MAX_LOG: usize = 48;

/// Which memory a cell can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// A frame that the trace itself pushed, at a known distance from the stack pointer.
    Frame = 0,
    /// Perhaps such a frame, perhaps other memory.
    Unclear = 1,
    /// Not such a frame.
    Other = 2,
    /// Such a frame, as it was before a call that does not know where it is. (Places are frames; only cells are kept ones.)
    Kept = 3,
}

/// What an address is a constant distance from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Base {
    /// The root; none for absolute addresses.
    pub root: Value,
    /// The index or none.
    pub index: Value,
    /// What the index is multiplied by.
    pub scale: u8,
}

impl Base {
    /// Its root, if it can be that of frames.
    fn of_frames(&self) -> Option<Value> {
        Some(self.root).filter(|root| root.is_some() && !self.index.is_some())
    }
}

/// A range of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// What it is relative to.
    pub base: Base,
    /// The distance.
    pub offset: i64,
    /// The number of bytes.
    pub bytes: i64,
    /// Which memory it can be.
    pub domain: Domain,
    /// The number of its root, if it is one that others can be apart from.
    pub root: Option<RootId>,
}

/// A set of domains, one bit for each.
type Domains = u8;

impl Domain {
    fn bit(self) -> Domains {
        1 << self as u8
    }
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    offset: i64,
    ty: Type,
    value: Value,
    domain: Domain,
    /// How long the log of its base was when it came.
    since: u16,
}

impl Cell {
    fn end(&self) -> i64 {
        self.offset.wrapping_add(i64::from(self.ty.bytes()))
    }

    /// Whether it is one of a frame, and not below `floor`, with a root that is this far from the stack pointer at entry.
    fn is_frame_above(&self, root: Option<i64>, floor: i64) -> bool {
        let start = root.and_then(|root| root.checked_add(self.offset));
        matches!(self.domain, Domain::Frame | Domain::Kept) && start.is_some_and(|start| start >= floor)
    }
}

/// How a load's value is made of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It is this value.
    Same(Value),
    /// It is part of this value (of at most 64 bits): these bits shifted right, then truncated.
    Part(Value, u32),
    /// It is the low or high half of this value of 128 bits.
    Half(Value, bool),
    /// It is these two halves of 64 bits.
    Halves(Value, Value),
}

#[derive(Clone, Debug)]
struct Cells {
    base: Base,
    epochs: [u32; 4],
    cells: Vec<Cell>,
    root: Option<RootId>,
    /// All cells lie between these.
    low: i64,
    high: i64,
    /// The domains of the cells.
    domains: Domains,
    /// What stores have relied on since there are cells, and for cells of which domains.
    log: Vec<(Pairs, Domains)>,
    /// The length of the log when the newest cell came, or more.
    newest: u16,
}

impl Cells {
    /// Drops the cells that were forgotten meanwhile.
    fn validate(&mut self, epochs: [u32; 4]) {
        if self.epochs != epochs {
            let old = self.epochs;
            self.epochs = epochs;
            self.retain(|cell| old[cell.domain as usize] == epochs[cell.domain as usize]);
        }
    }

    fn retain(&mut self, mut keep: impl FnMut(&Cell) -> bool) {
        let mut domains = 0;
        self.cells.retain(|cell| {
            let kept = keep(cell);
            domains |= if kept { cell.domain.bit() } else { 0 };
            kept
        });
        self.domains = domains;
        if self.cells.is_empty() {
            (self.low, self.high) = (i64::MAX, i64::MIN);
            self.log.clear();
            self.newest = 0;
        }
    }

    /// Keeps of the cells in `killed` domains those that are apart from what is stored to.
    fn spare(&mut self, killed: Domains, apart: &mut impl FnMut(RootId, i64, i64) -> Option<Pairs>) {
        let Some(root) = self.root.filter(|_| !self.cells.is_empty()) else {
            return self.retain(|cell| cell.domain.bit() & killed == 0);
        };
        if self.domains & killed == 0 {
            return;
        }
        if self.domains & !killed == 0
            && let Some(pairs) = apart(root, self.low, self.high)
        {
            return self.rely(pairs, killed);
        }
        let mut all = Pairs::default();
        self.retain(|cell| {
            cell.domain.bit() & killed == 0
                || apart(root, cell.offset, cell.end()).is_some_and(|pairs| {
                    all.add(pairs);
                    true
                })
        });
        self.rely(all, killed);
    }

    /// Notes what the cells in these domains rely on from now on.
    fn rely(&mut self, pairs: Pairs, domains: Domains) {
        if pairs.is_empty() || self.cells.is_empty() {
            return;
        }
        // What no cell is younger than is one entry.
        if usize::from(self.newest) < self.log.len()
            && let Some(last) = self.log.last_mut().filter(|last| last.1 == domains)
        {
            return last.0.add(pairs);
        }
        if self.log.len() >= MAX_LOG {
            let mut all = Pairs::default();
            self.log.iter().for_each(|entry| all.add(entry.0));
            self.log.clear();
            self.log.push((all, Domains::MAX));
            self.cells.iter_mut().for_each(|cell| cell.since = 0);
            self.newest = 0;
        }
        self.log.push((pairs, domains));
    }

    /// What a cell in `domain` relies on that is there since the log had this length.
    fn relied(&self, since: u16, domain: Domain) -> Pairs {
        let mut all = Pairs::default();
        let log = self.log[usize::from(since)..].iter();
        log.filter(|entry| entry.1 & domain.bit() != 0).for_each(|entry| all.add(entry.0));
        all
    }

    /// Notes a cell.
    fn add(&mut self, mut cell: Cell) {
        cell.since = self.log.len() as u16;
        self.newest = cell.since;
        self.domains |= cell.domain.bit();
        if cell.offset < self.high && self.low < cell.end() {
            // What is known, but cannot be relied on, is known anew.
            if let Some(old) = self.cells.iter_mut().find(|old| old.offset == cell.offset && old.ty == cell.ty) {
                *old = cell;
                self.domains = self.cells.iter().fold(0, |domains, cell| domains | cell.domain.bit());
                return;
            }
        }
        if self.cells.len() >= MAX_CELLS {
            self.cells.remove(0);
            self.domains = self.cells.iter().fold(cell.domain.bit(), |domains, cell| domains | cell.domain.bit());
        }
        (self.low, self.high) = (self.low.min(cell.offset), self.high.max(cell.end()));
        self.cells.push(cell);
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// How far the stack pointer that the context holds is from that at entry, if that is known.
    pub stack: Option<i64>,
    epochs: [u32; 4],
    bases: Vec<Cells>,
    /// Where each base is in `bases`.
    places: MixMap<Base, u32>,
    /// The bases in `bases` whose root has a number.
    numbered: Vec<u32>,
    /// The base that was used last: an access is looked at twice, and neighbours share their base.
    last: usize,
}

impl Memory {
    /// Nothing is known but how far the context's stack pointer is from that at entry.
    pub(crate) fn with_stack(stack: Option<i64>) -> Memory {
        Memory { stack, ..Memory::default() }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.bases.clear();
        self.places.clear();
        self.numbered.clear();
    }

    /// Forgets the cells of `domain`.
    pub(crate) fn forget(&mut self, domain: Domain) {
        self.epochs[domain as usize] += 1;
    }

    /// Forgets what is behind roots and indices of which `is` says so.
    pub(crate) fn forget_roots(&mut self, mut is: impl FnMut(Value) -> bool) {
        let epochs = self.epochs;
        for cells in &mut self.bases {
            cells.validate(epochs);
            if [cells.base.root, cells.base.index].into_iter().any(|part| part.is_some() && is(part)) {
                cells.retain(|_| false);
            }
        }
    }

    /// Forgets the frames below `floor`, and what may be one.
    pub(crate) fn forget_frames_below(&mut self, floor: i64, mut distance: impl FnMut(Value) -> Option<i64>) {
        let epochs = self.epochs;
        for cells in &mut self.bases {
            cells.validate(epochs);
            if cells.cells.iter().all(|cell| cell.domain == Domain::Other) {
                continue;
            }
            let root = cells.base.of_frames().and_then(&mut distance);
            cells.retain(|cell| cell.domain == Domain::Other || cell.is_frame_above(root, floor));
        }
    }

    /// Forgets what a function may have changed that sets `errno`: an `int` somewhere, which is never accessed together with
    /// anything else. So what is as wide as a pointer is other memory.
    pub(crate) fn forget_errno(&mut self) {
        let epochs = self.epochs;
        for cells in &mut self.bases {
            cells.validate(epochs);
            cells.retain(|cell| cell.ty.bytes() >= 8);
        }
    }

    /// The cells at the base of `place` that are still valid.
    fn cells(&mut self, place: &Place) -> &mut Cells {
        let base = place.base;
        if self.bases.get(self.last).is_none_or(|cells| cells.base != base) {
            self.last = *self.places.entry(base).or_insert_with(|| {
                let (low, high) = (i64::MAX, i64::MIN);
                let epochs = self.epochs;
                let (cells, log) = (Vec::new(), Vec::new());
                self.bases.push(Cells { base, epochs, cells, root: None, low, high, domains: 0, log, newest: 0 });
                self.bases.len() as u32 - 1
            }) as usize;
        }
        let cells = &mut self.bases[self.last];
        if cells.root.is_none() && place.root.is_some() {
            cells.root = place.root;
            self.numbered.push(self.last as u32);
        }
        cells.validate(self.epochs);
        cells
    }

    /// What a load of type `ty` at `place` would give, and what that relies on.
    pub(crate) fn load(&mut self, place: &Place, ty: Type) -> Option<(Known, Pairs)> {
        let cells = self.cells(place);
        let (known, since) = cells.load(place, ty)?;
        Some((known, cells.relied(since, place.domain)))
    }

    /// Whether what is known of `place` was known before a call that may do anything.
    pub(crate) fn is_kept(&mut self, place: &Place) -> bool {
        let mut cells = self.cells(place).cells.iter();
        cells.any(|cell| cell.offset == place.offset && cell.domain == Domain::Kept)
    }

    /// Forgets all but the frames at `floor` or above, distances from the stack pointer at entry; `distance` is that of a
    /// root.
    pub(crate) fn keep_frames(&mut self, floor: i64, mut distance: impl FnMut(Value) -> Option<i64>) {
        let epochs = self.epochs;
        for cells in &mut self.bases {
            cells.validate(epochs);
            if cells.cells.is_empty() {
                continue;
            }
            let root = cells.base.of_frames().and_then(&mut distance);
            cells.retain(|cell| cell.is_frame_above(root, floor));
            cells.cells.iter_mut().for_each(|cell| cell.domain = Domain::Kept);
            cells.domains = if cells.cells.is_empty() { 0 } else { Domain::Kept.bit() };
        }
    }

    /// Notes that `place` holds `value`, which was loaded.
    pub(crate) fn loaded(&mut self, place: &Place, ty: Type, value: Value) {
        let cell = Cell { offset: place.offset, ty, value, domain: place.domain, since: 0 };
        self.cells(place).add(cell);
    }

    /// Notes that `place` now holds `value`: forgets what the store may have changed, but for cells at other roots of which
    /// `apart` says that their range is other memory.
    pub(crate) fn stored(
        &mut self,
        place: &Place,
        ty: Type,
        value: Value,
        mut apart: impl FnMut(RootId, i64, i64) -> Option<Pairs>,
    ) {
        self.cells(place);
        let killed = match place.domain {
            Domain::Frame | Domain::Kept => Domain::Frame.bit() | Domain::Unclear.bit() | Domain::Kept.bit(),
            Domain::Unclear => Domains::MAX,
            Domain::Other => Domain::Unclear.bit() | Domain::Other.bit(),
        };
        let old = self.epochs;
        for (at, epoch) in self.epochs.iter_mut().enumerate() {
            *epoch += u32::from(killed >> at & 1);
        }
        if place.root.is_some() {
            for &at in self.numbered.iter().filter(|at| **at as usize != self.last) {
                let cells = &mut self.bases[at as usize];
                if !cells.cells.is_empty() {
                    cells.validate(old);
                    cells.spare(killed, &mut apart);
                }
                cells.epochs = self.epochs;
            }
        }
        // The cells of the same base, which are valid until here, are compared by offset instead.
        let cells = &mut self.bases[self.last];
        cells.epochs = self.epochs;
        let (start, end) = (place.offset, place.offset.wrapping_add(place.bytes));
        if start < cells.high && cells.low < end {
            cells.retain(|cell| cell.end() <= start || end <= cell.offset);
        }
        cells.add(Cell { offset: place.offset, ty, value, domain: place.domain, since: 0 });
    }
}

impl Cells {
    /// What a load of type `ty` at `place` would give, and since when that is known.
    fn load(&self, place: &Place, ty: Type) -> Option<(Known, u16)> {
        let cells = &self.cells;
        let (start, end) = (place.offset, place.offset.wrapping_add(place.bytes));
        if end <= self.low || self.high <= start {
            return None;
        }
        let exact = |offset: i64, ty: Type| cells.iter().find(|cell| cell.offset == offset && cell.ty == ty);
        if let Some(cell) = exact(start, ty) {
            return Some((Known::Same(cell.value), cell.since));
        }
        if ty.bits() == 128 {
            let low = exact(start, Type::I64)?;
            let high = exact(start.wrapping_add(8), Type::I64)?;
            return Some((Known::Halves(low.value, high.value), low.since.min(high.since)));
        }
        let around =
            cells.iter().find(|cell| cell.offset <= start && end <= cell.end() && cell.ty.bytes() > ty.bytes())?;
        let skipped = 8 * (start - around.offset) as u32;
        if around.ty.bits() <= 64 {
            return Some((Known::Part(around.value, skipped), around.since));
        }
        let half = (Known::Half(around.value, skipped == 64), around.since);
        (ty == Type::I64 && skipped.is_multiple_of(64)).then_some(half)
    }
}
