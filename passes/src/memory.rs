//! What the walk knows about the contents of memory: cells.
//!
//! A *cell* is a range of bytes at a constant distance from a *base* (root value, index, scale) and the value in it.
//!
//! # Invariants
//! - Two cells of one base conflict exactly if their bytes overlap. Cells of different bases may be the same memory,
//!   unless their *domains* exclude it (see [`Domain`]).
//! - Forgetting a domain is one increment: a base compares its own counts with the current ones when it is used.
//!
//! Worked example: `store [v1 + 8], v2` makes a cell; `load [v1 + 8]` then is v2, and `load i8 [v1 + 9]` is
//! `trunc (lshr v2, 8)`. After `store [v3], v4` the cell is gone, unless it is a frame cell.

use crate::scope::MixMap;
use redmagic_ir::{Type, Value};

/// More cells than this are not kept for one base.
const MAX_CELLS: usize = 48;

/// Which memory a cell can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Domain {
    /// A frame that the trace itself pushed, at a known distance from the stack pointer.
    Frame = 0,
    /// Perhaps such a frame, perhaps other memory.
    Unclear = 1,
    /// Not such a frame.
    Other = 2,
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
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    offset: i64,
    ty: Type,
    value: Value,
    domain: Domain,
}

impl Cell {
    fn end(&self) -> i64 {
        self.offset.wrapping_add(i64::from(self.ty.bytes()))
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
    epochs: [u32; 3],
    cells: Vec<Cell>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    epochs: [u32; 3],
    bases: Vec<Cells>,
    /// Where each base is in `bases`.
    places: MixMap<Base, u32>,
    /// The base that was used last: an access is looked at twice, and neighbours share their base.
    last: usize,
}

impl Memory {
    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.bases.clear();
        self.places.clear();
    }

    /// Forgets the cells of `domain`.
    pub(crate) fn forget(&mut self, domain: Domain) {
        self.epochs[domain as usize] += 1;
    }

    /// The cells of `base` that are still valid.
    fn cells(&mut self, base: Base) -> &mut Cells {
        let epochs = self.epochs;
        if self.bases.get(self.last).is_none_or(|cells| cells.base != base) {
            self.last = *self.places.entry(base).or_insert_with(|| {
                self.bases.push(Cells { base, epochs, cells: Vec::new() });
                self.bases.len() as u32 - 1
            }) as usize;
        }
        let cells = &mut self.bases[self.last];
        if cells.epochs != epochs {
            let old = cells.epochs;
            cells.cells.retain(|cell| old[cell.domain as usize] == epochs[cell.domain as usize]);
            cells.epochs = epochs;
        }
        cells
    }

    /// What a load of type `ty` at `place` would give.
    pub(crate) fn load(&mut self, place: &Place, ty: Type) -> Option<Known> {
        let cells = &self.cells(place.base).cells;
        let (start, end) = (place.offset, place.offset.wrapping_add(place.bytes));
        let exact = |offset: i64, ty: Type| cells.iter().find(|cell| cell.offset == offset && cell.ty == ty);
        if let Some(cell) = exact(start, ty) {
            return Some(Known::Same(cell.value));
        }
        if ty.bits() == 128 {
            let low = exact(start, Type::I64)?;
            let high = exact(start.wrapping_add(8), Type::I64)?;
            return Some(Known::Halves(low.value, high.value));
        }
        let around =
            cells.iter().find(|cell| cell.offset <= start && end <= cell.end() && cell.ty.bytes() > ty.bytes())?;
        let skipped = 8 * (start - around.offset) as u32;
        if around.ty.bits() <= 64 {
            return Some(Known::Part(around.value, skipped));
        }
        (ty == Type::I64 && skipped.is_multiple_of(64)).then_some(Known::Half(around.value, skipped == 64))
    }

    /// Notes that `place` holds `value`, which was loaded.
    pub(crate) fn loaded(&mut self, place: &Place, ty: Type, value: Value) {
        let cells = &mut self.cells(place.base).cells;
        if cells.len() >= MAX_CELLS {
            cells.remove(0);
        }
        cells.push(Cell { offset: place.offset, ty, value, domain: place.domain });
    }

    /// Notes that `place` now holds `value`: forgets what the store may have changed, but for cells for which `is_apart`
    /// says of their base and range that they are other memory. It is asked for bases without an index in `spared`.
    pub(crate) fn stored(
        &mut self,
        place: &Place,
        ty: Type,
        value: Value,
        spared: &[Value],
        is_apart: impl Fn(Value, i64, i64) -> bool,
    ) {
        let mut kept = Vec::new();
        for &root in spared {
            let base = Base { root, index: Value::NONE, scale: 1 };
            if base != place.base && self.places.contains_key(&base) {
                self.cells(base);
                kept.push(self.last);
            }
        }
        self.cells(place.base);
        let killed: &[Domain] = match place.domain {
            Domain::Frame => &[Domain::Frame, Domain::Unclear],
            Domain::Unclear => &[Domain::Frame, Domain::Unclear, Domain::Other],
            Domain::Other => &[Domain::Unclear, Domain::Other],
        };
        for domain in killed {
            self.forget(*domain);
        }
        for at in kept {
            let cells = &mut self.bases[at];
            cells.epochs = self.epochs;
            let root = cells.base.root;
            cells.cells.retain(|cell| is_apart(root, cell.offset, cell.end()));
        }
        // The cells of the same base, which are valid until here, are compared by offset instead.
        let cells = &mut self.bases[self.last];
        cells.epochs = self.epochs;
        let (start, end) = (place.offset, place.offset.wrapping_add(place.bytes));
        cells.cells.retain(|cell| cell.end() <= start || end <= cell.offset);
        self.loaded(place, ty, value);
    }
}
