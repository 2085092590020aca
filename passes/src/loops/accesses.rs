//! Which accesses of a loop go to the same memory, as far as the recording tells.
//!
//! # Invariants
//! - A *class* is memory at known distances from one root. Roots whose accesses overlapped in the recording are members of
//!   one class, at the distance that was recorded; that they are is checked at run time, as is that classes are disjoint.
//! - An *atom* is a range of a class that the loop accesses in one way only, with one offset and type; only atoms that no
//!   other access overlaps (unless nobody stores there, or it reads a part) are promoted.
//! - What is loaded and was recorded to be a class's base is a member, too, if it is kept: so what goes round in memory is
//!   known to be the same.
//!
//! Worked example: roots v1 and v9 with accesses at `[v1 + 8]`, recorded at 0x1008, and `[v9]`, recorded at 0x1008, are
//! one class with the members v1 at 0 and v9 at 8.

use super::Body;
use super::calls::Zone;
use crate::scope::MixMap;
use redmagic_ir::{Class as AliasClass, Opcode, Trace, Type, Value};

/// Smaller numbers are no addresses.
const LEAST_ADDRESS: u64 = 1 << 16;
/// More classes than this are too many to compare.
const MAX_CLASSES: usize = 48;

/// Memory at known distances from a root.
#[derive(Clone, Debug)]
pub(crate) struct Class {
    /// Roots and how far they are from the class's origin; the first one is the origin: a constant if there is one, else
    /// what is known earliest.
    pub members: Vec<(Value, i64)>,
    /// Where the origin was recorded to be.
    pub recorded: Option<u64>,
    /// First byte that is accessed.
    pub low: i64,
    /// First byte behind what is accessed.
    pub high: i64,
    /// Whether the loop stores there.
    pub stores: bool,
}

/// A range of bytes that is accessed in one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Atom {
    pub class: usize,
    /// From the class's origin.
    pub offset: i64,
    pub ty: Type,
    /// The loop stores there.
    pub stored: bool,
    /// No other access overlaps in a way that matters.
    pub clean: bool,
    /// All accesses are to frames that the trace has pushed.
    pub frame: bool,
    /// It is only read, and a part of this atom.
    pub inside: Option<usize>,
}

impl Atom {
    fn end(&self) -> i64 {
        self.offset + i64::from(self.ty.bytes())
    }

    fn overlaps(&self, other: &Atom) -> bool {
        self.class == other.class && self.offset < other.end() && other.offset < self.end()
    }

    /// Whether it is only read, and its bytes are some of a stored word.
    fn is_part_of(&self, whole: &Atom) -> bool {
        let narrower = self.ty.bits() < whole.ty.bits() && whole.ty.bits() <= 64;
        let within = whole.offset <= self.offset && self.end() <= whole.end();
        self.class == whole.class && whole.stored && !self.stored && narrower && within
    }
}

/// What is known of the accesses of a loop.
pub(crate) struct Accesses {
    pub classes: Vec<Class>,
    pub atoms: Vec<Atom>,
    /// Where callees have their frames, if the loop has calls.
    pub zone: Option<Zone>,
    of_root: MixMap<Value, (usize, i64)>,
    of_place: MixMap<(usize, i64, u8), usize>,
}

/// What is known of a root while classes are formed.
struct Root {
    values: Vec<Value>,
    base: Option<u64>,
    low: i64,
    high: i64,
    stores: bool,
}

/// Whether the access is one to memory that does not change.
pub(crate) fn is_immutable(trace: &Trace, value: Value) -> bool {
    trace.insts[value].class == AliasClass::Immutable
}

impl Accesses {
    /// Classifies the accesses of `body`, but for those whose root is in `varying`. `None` if there are too many roots.
    pub(crate) fn new(trace: &Trace, body: &Body, varying: &[Value]) -> Option<Accesses> {
        let roots = roots(trace, body, varying);
        let mut classes = merge(roots);
        classes.iter_mut().for_each(|class| choose_origin(trace, body, class));
        if classes.len() > MAX_CLASSES {
            return None;
        }
        let mut of_root = MixMap::default();
        for (at, class) in classes.iter().enumerate() {
            class.members.iter().for_each(|(root, delta)| {
                of_root.insert(*root, (at, *delta));
            });
        }
        let mut accesses = Accesses { classes, atoms: Vec::new(), zone: None, of_root, of_place: MixMap::default() };
        accesses.find_atoms(trace, body);
        Some(accesses)
    }

    /// The class and distance of an index-less access at `root + offset`, if the root is a member of a class.
    pub(crate) fn place(&self, root: Value, offset: i64) -> Option<(usize, i64)> {
        self.of_root.get(&root).map(|(class, delta)| (*class, delta + offset))
    }

    /// The atom at a place.
    pub(crate) fn atom(&self, class: usize, offset: i64, ty: Type) -> Option<usize> {
        self.of_place.get(&(class, offset, ty as u8)).copied()
    }

    /// The class of a root and its distance from the origin.
    pub(crate) fn of_root(&self, root: Value) -> Option<(usize, i64)> {
        self.of_root.get(&root).copied()
    }

    fn find_atoms(&mut self, trace: &Trace, body: &Body) {
        for &value in &body.insts {
            let inst = &trace.insts[value];
            let Some(address) = inst.address().filter(|address| !address.index.is_some()) else { continue };
            let Some((class, offset)) = self.place(address.root, i64::from(address.offset)) else { continue };
            let stored = inst.op == Opcode::Store;
            let frame = inst.class == AliasClass::Frame;
            let atoms = &mut self.atoms;
            let at = *self.of_place.entry((class, offset, inst.ty as u8)).or_insert_with(|| {
                atoms.push(Atom { class, offset, ty: inst.ty, stored: false, clean: true, frame: true, inside: None });
                atoms.len() - 1
            });
            atoms[at].stored |= stored;
            atoms[at].frame &= frame;
        }
        let mut of_class: Vec<Vec<usize>> = vec![Vec::new(); self.classes.len()];
        self.atoms.iter().enumerate().for_each(|(at, atom)| of_class[atom.class].push(at));
        for a in 0..self.atoms.len() {
            for &b in &of_class[self.atoms[a].class] {
                let (one, other) = (self.atoms[a], self.atoms[b]);
                if a == b || !one.overlaps(&other) || !(one.stored || other.stored) || other.is_part_of(&one) {
                    continue;
                }
                self.atoms[a].clean = false;
                if one.is_part_of(&other) {
                    self.atoms[a].inside = Some(b);
                }
            }
            // Exits and the flush segment name the place by its distance from the origin.
            self.atoms[a].clean &= i32::try_from(self.atoms[a].offset).is_ok();
        }
        for a in 0..self.atoms.len() {
            // What is a part of one and overlaps another is not clean in either way: then the other is not clean.
            let whole = self.atoms[a].inside.filter(|whole| self.atoms[*whole].clean);
            self.atoms[a].inside = whole;
        }
    }
}

/// Every root of an index-less access to memory that can change, with what is accessed there.
fn roots(trace: &Trace, body: &Body, varying: &[Value]) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    for &value in &body.insts {
        let inst = &trace.insts[value];
        let Some(address) = inst.address().filter(|address| !address.index.is_some()) else { continue };
        if is_immutable(trace, value) || varying.contains(&address.root) {
            continue;
        }
        let (low, high) = (i64::from(address.offset), i64::from(address.offset) + i64::from(inst.ty.bytes()));
        let constant = trace.as_const(address.root).map(|base| base as u64);
        let noted = trace.recorded(value).map(|recorded| recorded.address.wrapping_sub(low as u64));
        let base = constant.or(noted);
        let stores = inst.op == Opcode::Store;
        match roots.iter_mut().find(|root| root.values.contains(&address.root)) {
            Some(root) => {
                root.base = root.base.or(base);
                root.low = root.low.min(low);
                root.high = root.high.max(high);
                root.stores |= stores;
            }
            None => roots.push(Root { values: vec![address.root], base, low, high, stores }),
        }
    }
    add_kept(trace, body, varying, &mut roots);
    roots
}

/// Adds loaded pointers that are stored again, or kept for the next iteration, to the roots that they were recorded to be.
fn add_kept(trace: &Trace, body: &Body, varying: &[Value], roots: &mut [Root]) {
    let stored = body.insts.iter().map(|value| &trace.insts[*value]);
    let stored = stored.filter(|inst| inst.op == Opcode::Store && inst.ty == Type::I64).map(|inst| inst.args[2]);
    let kept: Vec<Value> = stored.chain(body.args.iter().copied()).collect();
    for &value in &body.insts {
        let inst = &trace.insts[value];
        if inst.op != Opcode::Load || inst.ty != Type::I64 || varying.contains(&value) || !kept.contains(&value) {
            continue;
        }
        let Some(recorded) = trace.recorded(value).map(|recorded| recorded.value) else { continue };
        if recorded < LEAST_ADDRESS || roots.iter().any(|root| root.values.contains(&value)) {
            continue;
        }
        if let Some(root) = roots.iter_mut().find(|root| root.base == Some(recorded)) {
            root.values.push(value);
        }
    }
}

/// Joins roots that pointed to the same place, even if nothing was accessed through both.
fn same_bases(roots: Vec<Root>) -> Vec<Root> {
    let mut joined: Vec<Root> = Vec::new();
    for root in roots {
        match joined.iter_mut().find(|other| other.base.is_some() && other.base == root.base) {
            Some(other) => {
                other.values.extend(root.values);
                other.low = other.low.min(root.low);
                other.high = other.high.max(root.high);
                other.stores |= root.stores;
            }
            None => joined.push(root),
        }
    }
    joined
}

/// Puts roots whose accesses overlapped into one class.
fn merge(roots: Vec<Root>) -> Vec<Class> {
    let mut roots = same_bases(roots);
    let start = |root: &Root| root.base.map(|base| base.wrapping_add(root.low as u64));
    roots.sort_by_key(|root| (root.base.is_none(), start(root)));
    let mut classes: Vec<Class> = Vec::new();
    // The recorded address of the origin of the class that is being formed, and its end.
    let mut current: Option<(u64, u64)> = None;
    for root in roots {
        if let (Some((origin, end)), Some(base), Some(start), Some(class)) =
            (current, root.base, start(&root), classes.last_mut())
            && start < end
        {
            let delta = base.wrapping_sub(origin) as i64;
            class.members.extend(root.values.iter().map(|value| (*value, delta)));
            class.low = class.low.min(delta + root.low);
            class.high = class.high.max(delta + root.high);
            class.stores |= root.stores;
            current = Some((origin, end.max(base.wrapping_add(root.high as u64))));
            continue;
        }
        current = root.base.map(|base| (base, base.wrapping_add(root.high as u64)));
        classes.push(Class {
            members: root.values.iter().map(|value| (*value, 0)).collect(),
            recorded: root.base,
            low: root.low,
            high: root.high,
            stores: root.stores,
        });
    }
    classes
}

/// Makes the member the origin that says most.
fn choose_origin(trace: &Trace, body: &Body, class: &mut Class) {
    let rank = |value: Value| {
        let inside = body.params.contains(&value) || body.insts.contains(&value);
        (trace.as_const(value).is_none(), inside, !body.params.contains(&value), value)
    };
    class.members.sort_by_key(|(root, _)| rank(*root));
    let Some(&(_, shift)) = class.members.first() else { return };
    class.members.iter_mut().for_each(|(_, delta)| *delta = delta.wrapping_sub(shift));
    class.recorded = class.recorded.map(|base| base.wrapping_add(shift as u64));
    class.low -= shift;
    class.high -= shift;
}
