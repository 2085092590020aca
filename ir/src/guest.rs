//! The guest's register file, as the IR sees it: slots.
//!
//! A *slot* is a place of the guest's register file that traces read and write as an SSA value. It lives in a fixed
//! place of the *context*, the thread's copy of the register file that trace code works on.
//!
//! - The sixteen general registers, 64 bits each.
//! - `flags`: CF, PF, AF, ZF, SF and OF, packed at their places in RFLAGS ([`FLAGS_MASK`]), as an i32. All other bits
//!   of RFLAGS stay in the context untouched.
//! - The sixteen ymm registers as four 64-bit lanes each: `xmm3.lo`, `xmm3.hi`, and above them `ymm3.lo`, `ymm3.hi`. What
//!   lies further above (upper halves of zmm, zmm16 to 31, mask registers) is not a slot: it stays in the context, where
//!   native operations use it. Instructions that write a ymm register clear what is above it, and so does who writes
//!   `ymm3.hi` to a context that has it.
//! - `fs` and `gs`: the segment bases. They are read at entry and after each residual call, never written.

use crate::Type;
use std::fmt;

/// The flags that the `flags` slot holds: CF (bit 0), PF (2), AF (4), ZF (6), SF (7), OF (11).
pub const FLAGS_MASK: u32 = 0x8d5;

/// Carry flag in the packed flags.
pub const CF: u32 = 1 << 0;
/// Parity flag in the packed flags.
pub const PF: u32 = 1 << 2;
/// Auxiliary carry flag in the packed flags.
pub const AF: u32 = 1 << 4;
/// Zero flag in the packed flags.
pub const ZF: u32 = 1 << 6;
/// Sign flag in the packed flags.
pub const SF: u32 = 1 << 7;
/// Overflow flag in the packed flags.
pub const OF: u32 = 1 << 11;

/// One place of the guest's register file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

const GPR_NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

impl Slot {
    /// The accumulator.
    pub const RAX: Slot = Slot(0);
    /// The count register.
    pub const RCX: Slot = Slot(1);
    /// The data register.
    pub const RDX: Slot = Slot(2);
    /// The base register (callee-saved).
    pub const RBX: Slot = Slot(3);
    /// The stack pointer.
    pub const RSP: Slot = Slot(4);
    /// The frame pointer (callee-saved).
    pub const RBP: Slot = Slot(5);
    /// The source index.
    pub const RSI: Slot = Slot(6);
    /// The destination index.
    pub const RDI: Slot = Slot(7);
    /// The packed arithmetic flags.
    pub const FLAGS: Slot = Slot(16);
    /// The base address of the fs segment (the thread's control block).
    pub const FS: Slot = Slot(49);
    /// The base address of the gs segment.
    pub const GS: Slot = Slot(50);
    /// The number of slots.
    pub const COUNT: usize = 83;

    /// General register `number` (0 = rax … 15 = r15, in machine order).
    pub const fn gpr(number: u8) -> Slot {
        assert!(number < 16);
        Slot(number)
    }

    /// Lane `lane` (0 = low 64 bits, 1 = next 64 bits; 2 and 3 are the upper half of ymm) of vector register `number`.
    pub const fn xmm(number: u8, lane: u8) -> Slot {
        assert!(number < 16 && lane < 4);
        if lane < 2 { Slot(17 + number * 2 + lane) } else { Slot(51 + number * 2 + (lane - 2)) }
    }

    /// The slot numbered `index`, if there is one.
    #[inline]
    pub const fn from_index(index: usize) -> Option<Slot> {
        if index < Slot::COUNT { Some(Slot(index as u8)) } else { None }
    }

    /// The number of this slot.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..Slot::COUNT as u8).map(Slot)
    }

    /// The number of the general register, if this is one.
    pub const fn as_gpr(self) -> Option<u8> {
        if self.0 < 16 { Some(self.0) } else { None }
    }

    /// The number and lane of the vector register, if this is a lane of one.
    pub const fn as_xmm(self) -> Option<(u8, u8)> {
        match self.0 {
            17..49 => Some(((self.0 - 17) / 2, (self.0 - 17) % 2)),
            51.. => Some(((self.0 - 51) / 2, 2 + (self.0 - 51) % 2)),
            _ => None,
        }
    }

    /// Whether this is a lane of the upper half of a ymm register.
    pub const fn is_upper(self) -> bool {
        self.0 > Slot::GS.0
    }

    /// The type of the values that the slot holds.
    pub const fn ty(self) -> Type {
        if self.0 == Slot::FLAGS.0 { Type::I32 } else { Type::I64 }
    }

    /// Whether guest code can change the slot (the segment bases cannot change within a trace).
    pub const fn is_writable(self) -> bool {
        self.0 != Slot::FS.0 && self.0 != Slot::GS.0
    }

    /// Whether the System V ABI obliges a callee to preserve the slot (rbx, rsp, rbp, r12 to r15).
    pub const fn is_callee_saved(self) -> bool {
        matches!(self.0, 3 | 4 | 5 | 12..=15)
    }

    /// The slot called `name` in the text syntax.
    pub fn from_name(name: &str) -> Option<Slot> {
        Slot::all().find(|slot| slot.to_string() == name)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(number) = self.as_gpr() {
            f.write_str(GPR_NAMES[number as usize])
        } else if let Some((number, lane)) = self.as_xmm() {
            let register = if lane < 2 { "xmm" } else { "ymm" };
            write!(f, "{register}{number}.{}", if lane % 2 == 0 { "lo" } else { "hi" })
        } else if *self == Slot::FLAGS {
            f.write_str("flags")
        } else if *self == Slot::FS {
            f.write_str("fs")
        } else {
            f.write_str("gs")
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One of the sixteen conditions of `jcc`, `setcc` and `cmovcc`, numbered as the machine encodes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the machine's own names")]
pub enum Cond {
    O = 0,
    No = 1,
    B = 2,
    Ae = 3,
    E = 4,
    Ne = 5,
    Be = 6,
    A = 7,
    S = 8,
    Ns = 9,
    P = 10,
    Np = 11,
    L = 12,
    Ge = 13,
    Le = 14,
    G = 15,
}

impl Cond {
    /// Every condition, in encoding order.
    pub const ALL: [Cond; 16] = [
        Cond::O,
        Cond::No,
        Cond::B,
        Cond::Ae,
        Cond::E,
        Cond::Ne,
        Cond::Be,
        Cond::A,
        Cond::S,
        Cond::Ns,
        Cond::P,
        Cond::Np,
        Cond::L,
        Cond::Ge,
        Cond::Le,
        Cond::G,
    ];

    /// The suffix in assembly language and in the text syntax (`ae`, `ne`, …).
    pub const fn name(self) -> &'static str {
        match self {
            Cond::O => "o",
            Cond::No => "no",
            Cond::B => "b",
            Cond::Ae => "ae",
            Cond::E => "e",
            Cond::Ne => "ne",
            Cond::Be => "be",
            Cond::A => "a",
            Cond::S => "s",
            Cond::Ns => "ns",
            Cond::P => "p",
            Cond::Np => "np",
            Cond::L => "l",
            Cond::Ge => "ge",
            Cond::Le => "le",
            Cond::G => "g",
        }
    }

    /// The condition called `name`.
    pub fn from_name(name: &str) -> Option<Cond> {
        Cond::ALL.into_iter().find(|cond| cond.name() == name)
    }

    /// The opposite condition.
    pub const fn negate(self) -> Cond {
        Cond::ALL[self as usize ^ 1]
    }

    /// Whether the condition holds for the packed flags (Intel SDM vol. 1, appendix B).
    pub const fn holds(self, flags: u32) -> bool {
        let of = flags & OF != 0;
        let sf = flags & SF != 0;
        let zf = flags & ZF != 0;
        let cf = flags & CF != 0;
        let pf = flags & PF != 0;
        let positive = match Cond::ALL[self as usize & !1] {
            Cond::O => of,
            Cond::B => cf,
            Cond::E => zf,
            Cond::Be => cf || zf,
            Cond::S => sf,
            Cond::P => pf,
            Cond::L => sf != of,
            _ => zf || sf != of,
        };
        positive != (self as u8 & 1 == 1)
    }
}

impl fmt::Display for Cond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
