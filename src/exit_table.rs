//! What is known of a unit's exits, in few bytes: most are never taken.
//!
//! # Invariants
//! - An exit is described by how it differs from the one before it: neighbours have most constants in common. Every [`GROUP`]th one
//!   is described by itself, so that any can be read without reading all.
//! - What becomes of an exit is kept only of those that something has become of.
//!
//! # Worked example
//! Of `{pc 0x4000, rbx = 0x1000, r11 = 7}` and `{pc 0x4010, rbx = 0x1004, r11 = 7}` the second one is: one constant differs and nothing
//! else does (a byte), the pc is 16 further on, rbx has grown by 4: four bytes.

use crate::memory::CodeBlock;
use crate::pieces::VectorState;
use crate::regions::Kind;
use redmagic_backend::{ExitCode, FlagsRecipe};
use redmagic_ir::{ExitKind, Opcode, Slot, Type};
use std::collections::BTreeMap;

/// Exits that are described by how they differ from the first one of them, one after the other.
const GROUP: usize = 32;
/// In front of a slot whose constant is gone.
const GONE: u8 = 0x80;
/// So many changes or more are counted by a number of their own.
const MANY: usize = 31;

/// An exit of a unit, as it was compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitInfo {
    /// What the trace's code leaves to do; constants in the order of their slots.
    pub code: ExitCode,
    /// Where the guest goes on.
    pub pc: u64,
    /// Where control goes.
    pub kind: ExitKind,
    /// What has to be restored.
    pub vectors: VectorState,
    /// It is the state of a residual call.
    pub is_call: bool,
    /// It begins a region: what kind, and where that begins.
    pub region: Option<(Kind, u64)>,
}

/// What has become of an exit.
#[derive(Clone, Copy, Default)]
pub struct Used {
    /// The piece that leaves to the guest or makes its call, once it was made.
    pub piece: Option<CodeBlock>,
    /// What it is linked to.
    pub link: Option<Link>,
    /// Times that a recording from here was tried in vain.
    pub failures: u32,
    /// Its last recording was so long that it takes so many nanoseconds to compile; 0 if nothing is known of that.
    pub price: u64,
}

/// The way from an exit to another trace.
#[derive(Clone, Copy)]
pub struct Link {
    /// The unit that it leads to.
    pub unit: u32,
    /// The piece that enters it.
    pub code: CodeBlock,
}

/// The exits of a unit, by number.
pub struct Exits {
    count: u32,
    bytes: Box<[u8]>,
    /// Where the description of each group begins.
    groups: Box<[u32]>,
    regions: BTreeMap<u32, (Kind, u64)>,
    used: BTreeMap<u32, Used>,
}

impl Exits {
    /// Describes `exits`.
    pub fn new(exits: impl IntoIterator<Item = ExitInfo>) -> Exits {
        let (mut bytes, mut groups, mut regions, mut count) = (Vec::new(), Vec::new(), BTreeMap::new(), 0u32);
        let mut last = Before::nothing();
        for mut info in exits {
            if (count as usize).is_multiple_of(GROUP) {
                groups.push(bytes.len() as u32);
                last = Before::nothing();
            }
            info.code.constants.sort_unstable_by_key(|constant| constant.0);
            regions.extend(info.region.map(|region| (count, region)));
            write(&mut bytes, &last, &info);
            last.follow(info);
            count += 1;
        }
        Exits { count, bytes: bytes.into(), groups: groups.into(), regions, used: BTreeMap::new() }
    }

    /// The exit `index`.
    pub fn get(&self, index: u32) -> Option<ExitInfo> {
        if index >= self.count {
            return None;
        }
        let group = index as usize / GROUP;
        let mut bytes = self.bytes.get(*self.groups.get(group)? as usize..)?;
        let mut last = Before::nothing();
        for _ in group * GROUP..=index as usize {
            let info = read(&mut bytes, &last)?;
            last.follow(info);
        }
        Some(ExitInfo { region: self.regions.get(&index).copied(), ..last.info })
    }

    /// What has become of exit `index`.
    pub fn used(&self, index: u32) -> Used {
        self.used.get(&index).copied().unwrap_or_default()
    }

    /// The same, to be changed; `None` if there is no such exit.
    pub fn used_mut(&mut self, index: u32) -> Option<&mut Used> {
        (index < self.count).then(|| self.used.entry(index).or_default())
    }

    /// All exits that something has become of.
    pub fn all_used(&mut self) -> impl Iterator<Item = (u32, &mut Used)> {
        self.used.iter_mut().map(|(index, used)| (*index, used))
    }

    /// The code that belongs to exits.
    pub fn blocks(&self) -> impl Iterator<Item = CodeBlock> {
        self.used.values().flat_map(|used| [used.piece, used.link.map(|link| link.code)]).flatten()
    }

    /// The bytes that describe the exits.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.groups.len() * size_of::<u32>()
    }
}

/// What an exit is described by its difference from.
struct Before {
    /// The exit before it.
    info: ExitInfo,
    /// The constants that slots had last; they often come back.
    constants: [u64; Slot::COUNT],
    /// The last recipe for the flags.
    recipe: FlagsRecipe,
}

impl Before {
    /// What the first exit of a group differs from.
    fn nothing() -> Before {
        let code = ExitCode { flags: FlagsRecipe::Unchanged, constants: Vec::new(), halves: 0 };
        let info =
            ExitInfo { code, pc: 0, kind: ExitKind::Guest, vectors: VectorState::None, is_call: false, region: None };
        Before { info, constants: [0; Slot::COUNT], recipe: FlagsRecipe::Unchanged }
    }

    /// What the exit after `info` differs from.
    fn follow(&mut self, info: ExitInfo) {
        for &(slot, value) in &info.code.constants {
            self.constants[slot.index()] = value;
        }
        if let FlagsRecipe::Recipe { .. } = info.code.flags {
            self.recipe = info.code.flags;
        }
        self.info = info;
    }

    /// Whether `info` is alike in what most exits of a trace have in common.
    fn has_shape_of(&self, info: &ExitInfo) -> bool {
        let shape = |info: &ExitInfo| (info.kind, info.vectors, info.is_call, info.code.halves);
        shape(&self.info) == shape(info)
    }
}

/// Describes `info`: a byte with how the flags come about (two bits), whether the shape is another (one), and how many slots
/// change (five); what that byte says of the shape and of the flags; the distance of the pc; the slots.
fn write(bytes: &mut Vec<u8>, before: &Before, info: &ExitInfo) {
    let flags = match info.code.flags {
        FlagsRecipe::Unchanged => 0,
        FlagsRecipe::Stored => 1,
        recipe if recipe == before.recipe => 2,
        FlagsRecipe::Recipe { .. } => 3,
    };
    let new = &info.code.constants;
    let listed = |slot: Slot| new.iter().any(|entry| entry.0 == slot);
    let gone: Vec<Slot> =
        before.info.code.constants.iter().map(|entry| entry.0).filter(|slot| !listed(*slot)).collect();
    let other: Vec<(Slot, u64)> =
        new.iter().copied().filter(|entry| !before.info.code.constants.contains(entry)).collect();
    let (changes, other_shape) = (gone.len() + other.len(), !before.has_shape_of(info));
    bytes.push(flags | (u8::from(other_shape) << 2) | ((changes.min(MANY) as u8) << 3));
    if changes >= MANY {
        write_number(bytes, changes as u64);
    }
    if other_shape {
        write_shape(bytes, info);
    }
    if let (3, FlagsRecipe::Recipe { op, ty }) = (flags, info.code.flags) {
        bytes.extend([op as u8, ty as u8]);
    }
    write_number(bytes, zigzag(info.pc.wrapping_sub(before.info.pc)));
    bytes.extend(gone.iter().map(|slot| slot.index() as u8 | GONE));
    for (slot, value) in other {
        bytes.push(slot.index() as u8);
        write_number(bytes, zigzag(value.wrapping_sub(before.constants[slot.index()])));
    }
}

fn write_shape(bytes: &mut Vec<u8>, info: &ExitInfo) {
    let kind = match info.kind {
        ExitKind::Guest => 0,
        ExitKind::Anchor(_) => 1,
        ExitKind::Meter => 2,
    };
    let vectors = match info.vectors {
        VectorState::None => 0,
        VectorState::Xmm => 1,
        VectorState::All => 2,
    };
    bytes.push(kind | (vectors << 2) | (u8::from(info.is_call) << 4));
    if let ExitKind::Anchor(number) = info.kind {
        write_number(bytes, number.into());
    }
    write_number(bytes, info.code.halves.into());
}

/// Reads what [`write`] has written; `None` if that is something else.
fn read(bytes: &mut &[u8], before: &Before) -> Option<ExitInfo> {
    let head = read_byte(bytes)?;
    let few = usize::from(head >> 3);
    let changes = if few == MANY { read_number(bytes)? } else { few as u64 };
    let mut info = before.info.clone();
    if (head >> 2) & 1 == 1 {
        read_shape(bytes, &mut info)?;
    }
    info.code.flags = match head & 3 {
        0 => FlagsRecipe::Unchanged,
        1 => FlagsRecipe::Stored,
        2 => before.recipe,
        _ => {
            let op = *Opcode::ALL.get(usize::from(read_byte(bytes)?))?;
            let ty = read_byte(bytes)?;
            FlagsRecipe::Recipe { op, ty: Type::ALL.into_iter().find(|known| *known as u8 == ty)? }
        }
    };
    info.pc = info.pc.wrapping_add(unzigzag(read_number(bytes)?));
    let constants = &mut info.code.constants;
    for _ in 0..changes {
        let slot = read_byte(bytes)?;
        let (is_gone, slot) = (slot & GONE != 0, Slot::from_index(usize::from(slot & !GONE))?);
        let place = constants.binary_search_by_key(&slot, |entry| entry.0);
        if is_gone {
            constants.remove(place.ok()?);
            continue;
        }
        let value = before.constants[slot.index()].wrapping_add(unzigzag(read_number(bytes)?));
        match place {
            Ok(at) => constants[at].1 = value,
            Err(at) => constants.insert(at, (slot, value)),
        }
    }
    Some(info)
}

fn read_shape(bytes: &mut &[u8], info: &mut ExitInfo) -> Option<()> {
    let shape = read_byte(bytes)?;
    info.kind = match shape & 3 {
        0 => ExitKind::Guest,
        1 => ExitKind::Anchor(u32::try_from(read_number(bytes)?).ok()?),
        _ => ExitKind::Meter,
    };
    info.vectors = match (shape >> 2) & 3 {
        0 => VectorState::None,
        1 => VectorState::Xmm,
        _ => VectorState::All,
    };
    info.is_call = (shape >> 4) & 1 == 1;
    info.code.halves = u16::try_from(read_number(bytes)?).ok()?;
    Some(())
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: u64) -> u64 {
    (number << 1) ^ ((number as i64) >> 63) as u64
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// Seven bits a byte, the lowest first; the highest bit says that there are more.
fn write_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn read_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (first, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(*first)
}

fn read_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(bytes)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use redmagic_ir::sandbox::mix;

    /// An exit with a few constants, or with many, some of which many others have, too.
    fn random(seed: u64) -> ExitInfo {
        let of = |what: u64, below: u64| mix(seed, what) % below;
        let numbers = [0, 1, 7, 0x7f, 0x80, u64::MAX, 1 << 63, 0x5555_0000_1000, 0x5555_0000_1004, mix(seed, 1)];
        let rarely = [4, 4, 4, 1][of(15, 4) as usize];
        let slots = Slot::all().filter(|slot| slot.index() < 40 && of(100 + slot.index() as u64, rarely) == 0);
        let constants = slots.map(|slot| (slot, numbers[of(200 + slot.index() as u64, 10) as usize])).collect();
        let flags = match of(2, 4) {
            0 => FlagsRecipe::Unchanged,
            1 => FlagsRecipe::Stored,
            _ => {
                let op = Opcode::ALL[of(3, Opcode::ALL.len() as u64) as usize];
                FlagsRecipe::Recipe { op, ty: Type::ALL[of(4, 7) as usize] }
            }
        };
        ExitInfo {
            code: ExitCode { flags, constants, halves: [0, 0, 3, of(13, 1 << 16) as u16][of(14, 4) as usize] },
            pc: if of(5, 5) == 0 { mix(seed, 6) } else { 0x40_0000 + of(6, 1000) },
            kind: [ExitKind::Guest, ExitKind::Meter, ExitKind::Anchor(of(7, 1 << 32) as u32)][of(8, 3) as usize],
            vectors: [VectorState::None, VectorState::Xmm, VectorState::All][of(9, 3) as usize],
            is_call: of(10, 2) == 0,
            region: [None, None, Some((Kind::Merge, mix(seed, 11))), Some((Kind::Disabled, 0))][of(12, 4) as usize],
        }
    }

    #[test]
    fn exits_are_what_they_were() {
        for count in [0, 1, 31, 32, 33, 300] {
            let infos: Vec<ExitInfo> = (0..count).map(|at| random(1000 * count + at)).collect();
            let exits = Exits::new(infos.iter().cloned());
            for (at, info) in infos.iter().enumerate() {
                assert_eq!(exits.get(at as u32).as_ref(), Some(info), "{at} of {count}");
            }
            assert_eq!(exits.get(count as u32), None);
        }
    }

    #[test]
    fn neighbours_take_few_bytes() {
        let step = |at: u64| {
            let constants = vec![(Slot::RBX, 0x5555_0000_1000 + 4 * at), (Slot::gpr(11), 7)];
            let nothing = Before::nothing().info;
            ExitInfo { code: ExitCode { constants, ..nothing.code }, pc: 0x40_0000 + 16 * at, ..nothing }
        };
        assert!(Exits::new((0..64).map(step)).bytes() < 64 * 5);
    }

    #[test]
    fn little_is_kept_of_what_has_become_of_none() {
        let mut exits = Exits::new([random(1), random(2)]);
        assert!(exits.used_mut(2).is_none() && exits.all_used().next().is_none());
        exits.used_mut(1).expect("an exit").failures += 1;
        assert_eq!((exits.used(0).failures, exits.used(1).failures, exits.all_used().count()), (0, 1, 1));
    }
}
