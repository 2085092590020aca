//! The opcode table: the one definition of every operation of the IR.
//!
//! A row gives an opcode's Rust name, its name in text, its operand [`Format`], its [`Effect`] and its meaning. The
//! printer, the parser, the verifier's arity check and the optimiser's effect queries read the table; the evaluator
//! and the backend match on [`Opcode`] without a wildcard arm, so a new row does not compile until they know it.
//!
//! Worked example: the row `Add = "add", Binary(Same), Pure` says that `add` has two operands of the same type as the
//! result, can be removed, merged and moved freely, and is written `v3: i64 = add v1, v2`.

/// How the operand types of an opcode relate to its result type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Typing {
    /// All operands have the type of the result.
    Same,
    /// Operands have one word type (i8 to i64), the same for all; the result is i1.
    Compare,
    /// The first operand has the result's type; the second is a count of any word type.
    Count,
    /// One operand of a narrower type than the result.
    Widen,
    /// One operand of a wider type than the result.
    Narrow,
    /// All operands and the result are i64 (bit patterns of `binary64` numbers).
    F64,
    /// Operands i64 (`binary64`), result i1.
    F64Compare,
    /// One operand i32 or i64 (an integer), result i64 (`binary64`).
    F64FromInt,
    /// One operand i64 (`binary64`), result i32 or i64 (an integer).
    F64ToInt,
    /// All operands and the result are i32 (bit patterns of `binary32` numbers).
    F32,
    /// One operand i32 or i64 (an integer), result i32 (`binary32`).
    F32FromInt,
    /// One operand i32 (`binary32`), result i64 (`binary64`).
    F32Widen,
    /// One operand i64 (`binary64`), result i32 (`binary32`).
    F32Narrow,
    /// All operands and the result are i64: eight bytes, four 16-bit or two 32-bit lanes, the lowest first.
    Lanes,
    /// An i1, then two operands of the result's type.
    Select,
    /// Two i64 operands, the low half first; result i128 or v128.
    Join,
    /// One operand i128 or v128; result i64.
    Half,
    /// Word operands of one type; result i32 (packed flags).
    Flags,
    /// Word operands of one type, then an i1 (a carry); result i32 (packed flags).
    FlagsCarry,
    /// A word operand, a count (i8), the old packed flags (i32); result i32 (packed flags).
    FlagsShift,
    /// One i1 operand; result i32 (packed flags).
    FlagsFromBit,
    /// Two i64 operands (`binary64`); result i32 (packed flags).
    FlagsF64,
    /// One i8 operand; result i1.
    Parity,
    /// An i64 (an address), then two operands of the result's type, which is a word type.
    Swap,
}

/// The operands that an instruction has, and so its syntax.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A parameter of a segment; stands in the segment's header only.
    Param,
    /// An immediate: `const 5`.
    Const,
    /// A slot of the guest's register file: `slot rax`.
    Slot,
    /// One value.
    Unary(Typing),
    /// Two values.
    Binary(Typing),
    /// Three values.
    Ternary(Typing),
    /// Packed flags and a condition: `cond.ae v3`.
    Cond,
    /// The address of a meter: `tick 0x7f0000001000`.
    Tick,
    /// A memory read: `load [v1 + v2*8 + 16]`.
    Load,
    /// A memory write: `store [v1 + 16], v2`.
    Store,
    /// A truth value and an exit: `guard v3, exit1`.
    Guard,
    /// A verbatim machine instruction: `native native0`.
    Native,
    /// What a native operation left in a slot: `native_out v7, rax`.
    NativeOut,
}

impl Format {
    /// The number of leading entries of [`Inst::args`](crate::Inst) that hold plain operands (memory formats have
    /// optional operands and are counted by [`Inst::operands`](crate::Inst::operands) instead).
    pub const fn arity(self) -> usize {
        match self {
            Format::Param | Format::Const | Format::Slot | Format::Tick | Format::Native => 0,
            Format::Unary(_) | Format::Cond | Format::Guard | Format::NativeOut => 1,
            Format::Binary(_) => 2,
            Format::Ternary(_) => 3,
            Format::Load | Format::Store => 0,
        }
    }
}

/// What executing an instruction can do besides producing its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: may be removed, merged with an equal one, and moved anywhere its operands are available.
    Pure,
    /// Nothing, but the operation is undefined for some operands (division): it may be removed and merged, not moved
    /// above the guards that protect it.
    Partial,
    /// Reads memory.
    Read,
    /// Writes memory.
    Write,
    /// May leave the trace.
    Guard,
    /// May do anything to memory and to the context: a full barrier.
    Barrier,
}

macro_rules! opcodes {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal, $format:expr, $effect:ident;)*) => {
        /// An operation of the IR.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Opcode {
            $($(#[doc = $doc])* $name,)*
        }

        impl Opcode {
            /// Every opcode, in table order.
            pub const ALL: &'static [Opcode] = &[$(Opcode::$name,)*];

            /// The name in the text syntax.
            pub const fn name(self) -> &'static str {
                match self { $(Opcode::$name => $text,)* }
            }

            /// The operands it takes.
            #[inline]
            pub const fn format(self) -> Format {
                #[allow(unused_imports, reason = "not every format appears in every table")]
                use Format::*;
                use Typing::*;
                // `Flags`, `Cond` and `Param` name formats and typings; the table qualifies where both exist.
                match self { $(Opcode::$name => $format,)* }
            }

            /// What it does besides producing its result.
            #[inline]
            pub const fn effect(self) -> Effect {
                match self { $(Opcode::$name => Effect::$effect,)* }
            }

            /// Its meaning, as documented in the table.
            pub const fn doc(self) -> &'static str {
                match self { $(Opcode::$name => concat!($($doc, "\n",)*),)* }
            }
        }
    };
}

opcodes! {
    /// A parameter of a segment.
    Param = "param", Format::Param, Pure;
    /// A constant: the immediate, truncated to the type (for 128-bit types: sign-extended).
    Const = "const", Const, Pure;
    /// The value that the context holds for a slot when the trace is entered or, in a segment that a residual call
    /// resumes, when that call has returned. Stands at the start of the entry segment or of such a resume segment.
    Slot = "slot", Slot, Pure;

    /// Negation modulo 2^n.
    Neg = "neg", Unary(Same), Pure;
    /// Complement of every bit.
    Not = "not", Unary(Same), Pure;
    /// Reversal of the byte order (16, 32, 64 bits).
    Bswap = "bswap", Unary(Same), Pure;
    /// Number of leading zero bits; the width for 0.
    Clz = "clz", Unary(Same), Pure;
    /// Number of trailing zero bits; the width for 0.
    Ctz = "ctz", Unary(Same), Pure;
    /// Number of set bits.
    Popcnt = "popcnt", Unary(Same), Pure;
    /// Zero extension.
    Zext = "zext", Unary(Widen), Pure;
    /// Sign extension.
    Sext = "sext", Unary(Widen), Pure;
    /// The low bits.
    Trunc = "trunc", Unary(Narrow), Pure;
    /// The low 64 bits of a 128-bit value.
    Low = "low", Unary(Half), Pure;
    /// The high 64 bits of a 128-bit value.
    High = "high", Unary(Half), Pure;
    /// Whether the number of set bits is even (the parity flag of a result byte).
    Parity = "parity", Unary(Typing::Parity), Pure;

    /// Sum modulo 2^n.
    Add = "add", Binary(Same), Pure;
    /// Difference modulo 2^n.
    Sub = "sub", Binary(Same), Pure;
    /// Low half of the product.
    Mul = "mul", Binary(Same), Pure;
    /// High half of the unsigned product.
    Umulhi = "umulhi", Binary(Same), Pure;
    /// High half of the signed product.
    Smulhi = "smulhi", Binary(Same), Pure;
    /// Unsigned quotient; undefined for divisor 0.
    Udiv = "udiv", Binary(Same), Partial;
    /// Unsigned remainder; undefined for divisor 0.
    Urem = "urem", Binary(Same), Partial;
    /// Signed quotient, rounded towards 0; undefined for divisor 0 and for the least number divided by -1.
    Sdiv = "sdiv", Binary(Same), Partial;
    /// Signed remainder with the sign of the dividend; undefined as `sdiv` is.
    Srem = "srem", Binary(Same), Partial;
    /// Bitwise and.
    And = "and", Binary(Same), Pure;
    /// Bitwise or.
    Or = "or", Binary(Same), Pure;
    /// Bitwise exclusive or.
    Xor = "xor", Binary(Same), Pure;
    /// Shift left; the count is taken modulo the width.
    Shl = "shl", Binary(Count), Pure;
    /// Logical shift right; the count is taken modulo the width.
    Lshr = "lshr", Binary(Count), Pure;
    /// Arithmetic shift right; the count is taken modulo the width.
    Ashr = "ashr", Binary(Count), Pure;
    /// Rotation left; the count is taken modulo the width.
    Rotl = "rotl", Binary(Count), Pure;
    /// Rotation right; the count is taken modulo the width.
    Rotr = "rotr", Binary(Count), Pure;
    /// The low bits of the first operand at the places of the ones of the second (`pdep`).
    Pdep = "pdep", Binary(Same), Pure;
    /// The bits of the first operand at the places of the ones of the second, next to each other (`pext`).
    Pext = "pext", Binary(Same), Pure;
    /// 128-bit value of two 64-bit halves, the low one first.
    Join = "join", Binary(Typing::Join), Pure;

    /// Equal.
    Eq = "eq", Binary(Compare), Pure;
    /// Not equal.
    Ne = "ne", Binary(Compare), Pure;
    /// Unsigned less.
    Ult = "ult", Binary(Compare), Pure;
    /// Unsigned less or equal.
    Ule = "ule", Binary(Compare), Pure;
    /// Signed less.
    Slt = "slt", Binary(Compare), Pure;
    /// Signed less or equal.
    Sle = "sle", Binary(Compare), Pure;
    /// The second operand if the first is 1, else the third.
    Select = "select", Ternary(Typing::Select), Pure;

    /// `binary64` sum under the rounding of MXCSR, NaN operands as `addsd` treats them (first operand first).
    Fadd64 = "fadd64", Binary(F64), Pure;
    /// `binary64` difference, as `subsd`.
    Fsub64 = "fsub64", Binary(F64), Pure;
    /// `binary64` product, as `mulsd`.
    Fmul64 = "fmul64", Binary(F64), Pure;
    /// `binary64` quotient, as `divsd`.
    Fdiv64 = "fdiv64", Binary(F64), Pure;
    /// `minsd`: the first operand if it is less, else the second (also for NaN and equal zeros).
    Fmin64 = "fmin64", Binary(F64), Pure;
    /// `maxsd`: the first operand if it is greater, else the second (also for NaN and equal zeros).
    Fmax64 = "fmax64", Binary(F64), Pure;
    /// `binary64` square root, as `sqrtsd`.
    Fsqrt64 = "fsqrt64", Unary(F64), Pure;
    /// Ordered and equal.
    Feq64 = "feq64", Binary(F64Compare), Pure;
    /// Ordered and less.
    Flt64 = "flt64", Binary(F64Compare), Pure;
    /// Ordered and less or equal.
    Fle64 = "fle64", Binary(F64Compare), Pure;
    /// Unordered: an operand is NaN.
    Funo64 = "funo64", Binary(F64Compare), Pure;
    /// Signed integer to `binary64` under the rounding of MXCSR (`cvtsi2sd`).
    F64FromInt = "f64_from_int", Unary(Typing::F64FromInt), Pure;
    /// `binary64` to signed integer, rounded towards 0; the least integer if out of range or NaN (`cvttsd2si`).
    F64ToInt = "f64_to_int", Unary(Typing::F64ToInt), Pure;
    /// The next integral `binary64` number below, as `roundsd` to minus infinity.
    Ffloor64 = "ffloor64", Unary(F64), Pure;
    /// The next integral `binary64` number above, as `roundsd` to plus infinity.
    Fceil64 = "fceil64", Unary(F64), Pure;
    /// The next integral `binary64` number towards 0.
    Ftrunc64 = "ftrunc64", Unary(F64), Pure;
    /// The nearest integral `binary64` number, ties to even.
    Fnearest64 = "fnearest64", Unary(F64), Pure;

    /// `binary32` sum under the rounding of MXCSR, NaN operands as `addss` treats them (first operand first).
    Fadd32 = "fadd32", Binary(F32), Pure;
    /// `binary32` difference, as `subss`.
    Fsub32 = "fsub32", Binary(F32), Pure;
    /// `binary32` product, as `mulss`.
    Fmul32 = "fmul32", Binary(F32), Pure;
    /// `binary32` quotient, as `divss`.
    Fdiv32 = "fdiv32", Binary(F32), Pure;
    /// `binary32` square root, as `sqrtss`.
    Fsqrt32 = "fsqrt32", Unary(F32), Pure;
    /// Signed integer to `binary32` under the rounding of MXCSR (`cvtsi2ss`).
    F32FromInt = "f32_from_int", Unary(Typing::F32FromInt), Pure;
    /// `binary32` to `binary64`, exactly (`cvtss2sd`); a NaN becomes quiet.
    F64FromF32 = "f64_from_f32", Unary(F32Widen), Pure;
    /// `binary64` to `binary32` under the rounding of MXCSR (`cvtsd2ss`); a NaN becomes quiet.
    F32FromF64 = "f32_from_f64", Unary(F32Narrow), Pure;

    /// `binary64` product of the first two operands plus the third, rounded once, as `vfmadd213sd` with the first
    /// operand in its second place. Of several NaN operands the first one survives.
    Fma64 = "fma64", Ternary(F64), Pure;
    /// The product minus the third operand. As with the next two, a NaN operand keeps its sign.
    Fms64 = "fms64", Ternary(F64), Pure;
    /// The third operand minus the product.
    Fnma64 = "fnma64", Ternary(F64), Pure;
    /// The negated product minus the third operand.
    Fnms64 = "fnms64", Ternary(F64), Pure;
    /// As `fma64`, of `binary32` numbers.
    Fma32 = "fma32", Ternary(F32), Pure;
    /// As `fms64`, of `binary32` numbers.
    Fms32 = "fms32", Ternary(F32), Pure;
    /// As `fnma64`, of `binary32` numbers.
    Fnma32 = "fnma32", Ternary(F32), Pure;
    /// As `fnms64`, of `binary32` numbers.
    Fnms32 = "fnms32", Ternary(F32), Pure;

    /// Sums of 8-bit lanes.
    Add8 = "add8", Binary(Lanes), Pure;
    /// Sums of 16-bit lanes.
    Add16 = "add16", Binary(Lanes), Pure;
    /// Sums of 32-bit lanes.
    Add32 = "add32", Binary(Lanes), Pure;
    /// Differences of 8-bit lanes.
    Sub8 = "sub8", Binary(Lanes), Pure;
    /// Differences of 16-bit lanes.
    Sub16 = "sub16", Binary(Lanes), Pure;
    /// Differences of 32-bit lanes.
    Sub32 = "sub32", Binary(Lanes), Pure;
    /// Differences of unsigned 8-bit lanes, 0 instead of a negative one.
    Usubs8 = "usubs8", Binary(Lanes), Pure;
    /// Differences of unsigned 16-bit lanes, 0 instead of a negative one.
    Usubs16 = "usubs16", Binary(Lanes), Pure;
    /// Low halves of the products of 16-bit lanes.
    Mul16 = "mul16", Binary(Lanes), Pure;
    /// All ones in 8-bit lanes that are equal, 0 in others.
    Eq8 = "eq8", Binary(Lanes), Pure;
    /// All ones in 16-bit lanes that are equal, 0 in others.
    Eq16 = "eq16", Binary(Lanes), Pure;
    /// All ones in 32-bit lanes that are equal, 0 in others.
    Eq32 = "eq32", Binary(Lanes), Pure;
    /// All ones in signed 8-bit lanes where the first operand is greater, 0 in others.
    Sgt8 = "sgt8", Binary(Lanes), Pure;
    /// All ones in signed 16-bit lanes where the first operand is greater, 0 in others.
    Sgt16 = "sgt16", Binary(Lanes), Pure;
    /// All ones in signed 32-bit lanes where the first operand is greater, 0 in others.
    Sgt32 = "sgt32", Binary(Lanes), Pure;
    /// The four low bytes of both operands, by turns, the first operand's first.
    Zip8 = "zip8", Binary(Lanes), Pure;
    /// The four high bytes of both operands, by turns.
    ZipHigh8 = "zip_high8", Binary(Lanes), Pure;
    /// The two low 16-bit lanes of both operands, by turns.
    Zip16 = "zip16", Binary(Lanes), Pure;
    /// The two high 16-bit lanes of both operands, by turns.
    ZipHigh16 = "zip_high16", Binary(Lanes), Pure;
    /// The signed 16-bit lanes of both operands as signed bytes, the nearest where one does not fit.
    PackS16 = "pack_s16", Binary(Lanes), Pure;
    /// The signed 16-bit lanes of both operands as unsigned bytes, the nearest where one does not fit.
    PackU16 = "pack_u16", Binary(Lanes), Pure;
    /// The signed 32-bit lanes of both operands as signed 16-bit lanes, the nearest where one does not fit.
    PackS32 = "pack_s32", Binary(Lanes), Pure;
    /// Bytes chosen by the bytes of the third operand: byte n modulo 16 of the first two operands, 0 if bit 7 is set.
    Shuffle8 = "shuffle8", Ternary(Lanes), Pure;
    /// The sign bits of the eight bytes, as the low eight bits.
    Signs8 = "signs8", Unary(Lanes), Pure;

    /// Packed flags of `add a, b`.
    FlAdd = "fl_add", Binary(Typing::Flags), Pure;
    /// Packed flags of `sub a, b` and `cmp a, b`.
    FlSub = "fl_sub", Binary(Typing::Flags), Pure;
    /// Packed flags of `adc a, b` with carry c.
    FlAdc = "fl_adc", Ternary(FlagsCarry), Pure;
    /// Packed flags of `sbb a, b` with borrow c.
    FlSbb = "fl_sbb", Ternary(FlagsCarry), Pure;
    /// Packed flags of `and`, `or`, `xor`, `test` with this result (AF, undefined, is 0).
    FlLogic = "fl_logic", Unary(Typing::Flags), Pure;
    /// Packed flags of `inc a`; CF is the second operand.
    FlInc = "fl_inc", Binary(FlagsCarry), Pure;
    /// Packed flags of `dec a`; CF is the second operand.
    FlDec = "fl_dec", Binary(FlagsCarry), Pure;
    /// Packed flags of `shl a, n` (n masked to 5 or 6 bits by the lifter); the old flags if n is 0. AF is 0; OF is
    /// computed as for n = 1; CF is 0 when n exceeds the width.
    FlShl = "fl_shl", Ternary(FlagsShift), Pure;
    /// Packed flags of `shr a, n`, as for `fl_shl`; OF is the operand's sign.
    FlShr = "fl_shr", Ternary(FlagsShift), Pure;
    /// Packed flags of `sar a, n`, as for `fl_shl`; OF is 0; CF is the sign when n exceeds the width.
    FlSar = "fl_sar", Ternary(FlagsShift), Pure;
    /// Packed flags of `rol` with result r and masked count n: CF is bit 0, OF is CF xor the sign; others as before,
    /// all as before if n is 0.
    FlRol = "fl_rol", Ternary(FlagsShift), Pure;
    /// Packed flags of `ror` with result r and masked count n: CF is the sign, OF the xor of the two top bits.
    FlRor = "fl_ror", Ternary(FlagsShift), Pure;
    /// Packed flags of `mul` and `imul`: CF and OF are the operand (the upper half is significant), others 0.
    FlMul = "fl_mul", Unary(FlagsFromBit), Pure;
    /// Packed flags of `ucomisd a, b` and `comisd a, b`.
    FlF64 = "fl_f64", Binary(FlagsF64), Pure;
    /// Whether packed flags satisfy a condition.
    Cond = "cond", Format::Cond, Pure;

    /// Reads memory.
    Load = "load", Load, Read;
    /// Writes memory.
    Store = "store", Store, Write;
    /// Reads the memory at the first operand and, if that is the second operand, writes the third one there: atomically, and
    /// as a full barrier. The result is what was read.
    CompareSwap = "compare_swap", Ternary(Swap), Barrier;
    /// Continues if the value is 1, else leaves by the exit.
    Guard = "guard", Format::Guard, Guard;
    /// Continues if the value is 0, else leaves by the exit.
    GuardNot = "guard_not", Format::Guard, Guard;
    /// Counts down a meter, an i64 of the library's own that no guest memory overlaps; the result is what is left. Where
    /// there are no meters (in the evaluator), the greatest number.
    Tick = "tick", Format::Tick, Write;
    /// Executes one machine instruction verbatim on the context: first writes its input slots there.
    Native = "native", Format::Native, Barrier;
    /// The value that a native operation left in one of its output slots.
    NativeOut = "native_out", NativeOut, Pure;
}

impl Opcode {
    /// The opcode called `name` in the text syntax.
    pub fn from_name(name: &str) -> Option<Opcode> {
        Opcode::ALL.iter().copied().find(|op| op.name() == name)
    }

    /// Whether the operation computes packed flags.
    #[inline]
    pub const fn is_flags(self) -> bool {
        matches!(
            self.format(),
            Format::Unary(Typing::Flags | Typing::FlagsFromBit)
                | Format::Binary(Typing::Flags | Typing::FlagsCarry | Typing::FlagsF64)
                | Format::Ternary(Typing::FlagsCarry | Typing::FlagsShift)
        )
    }

    /// Whether the result depends on the operands alone and there is one for every first operand, where the second operand is
    /// the constant `second`, if it is one: a division by a constant other than 0 and -1 is such an operation.
    pub const fn is_total(self, ty: crate::Type, second: Option<i64>) -> bool {
        match (self.effect(), second) {
            (Effect::Pure, _) => true,
            (Effect::Partial, Some(divisor)) => {
                let divisor = divisor as u128 & ty.mask();
                divisor != 0 && divisor != ty.mask()
            }
            _ => false,
        }
    }

    /// Whether the first two operands may be exchanged. Floating-point operations are not in this set: the operand
    /// order decides which NaN survives.
    #[inline]
    pub const fn is_commutative(self) -> bool {
        matches!(
            self,
            Opcode::Add
                | Opcode::Mul
                | Opcode::Umulhi
                | Opcode::Smulhi
                | Opcode::And
                | Opcode::Or
                | Opcode::Xor
                | Opcode::Eq
                | Opcode::Ne
        )
    }
}
