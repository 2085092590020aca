//! The page of supported instructions, made from what the lifter says of every encoding.
//!
//! Worked example: `bts` has six encodings that are lifted; its row says so, and that it writes CF and leaves OF, SF, AF
//! and PF undefined. `vaddsd` stands in the list of those that are executed verbatim, `syscall` among the refusals.

use crate::native::State;
use crate::undefined::{flag_names, iced_flags, undefined_flags};
use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, OpCodeOperandKind, OpKind, Register};
use redmagic_lift::coverage::{Treatment, rule, treatment};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What is said of a mnemonic.
#[derive(Default)]
struct Row {
    /// Operand forms that are lifted, of all.
    lifted: usize,
    forms: usize,
    /// The rules that lift them, and their operands as the decoder library names them.
    rules: BTreeSet<String>,
    operands: Vec<String>,
    read: u32,
    written: u32,
    undefined: u32,
    features: BTreeSet<String>,
}

/// Whether processors of today have the encoding.
fn exists(code: Code) -> bool {
    let gone = [CpuidFeature::KNC, CpuidFeature::TBM, CpuidFeature::XOP, CpuidFeature::LWP, CpuidFeature::D3NOW];
    let of_today = !code.cpuid_features().iter().any(|feature| gone.contains(feature));
    code.op_code().mode64() && code.op_code().is_instruction() && of_today
}

/// The encodings with a form that is lifted.
pub fn lifted_codes() -> Vec<Code> {
    let is_lifted = |code: &Code| {
        let forms = [sample(*code, false), sample(*code, true)];
        forms.into_iter().flatten().any(|inst| treatment(&inst) == Treatment::Lifted)
    };
    Code::values().filter(|code| exists(*code)).filter(is_lifted).collect()
}

/// The page's text.
pub fn page() -> String {
    let mut lifted: BTreeMap<String, Row> = BTreeMap::new();
    let mut verbatim: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut refused: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for code in Code::values().filter(|code| exists(*code)) {
        let name = format!("{:?}", code.mnemonic()).to_lowercase();
        for inst in [sample(code, false), sample(code, true)].into_iter().flatten() {
            match treatment(&inst) {
                Treatment::Refused(reason) => {
                    refused.entry(reason.to_string()).or_default().insert(name.clone());
                }
                Treatment::X87 | Treatment::Native | Treatment::Repeated => {
                    verbatim.entry(group(code)).or_default().insert(name.clone());
                    lifted.entry(name.clone()).or_default().forms += 1;
                }
                Treatment::Lifted => {
                    let row = lifted.entry(name.clone()).or_default();
                    row.forms += 1;
                    row.lifted += 1;
                    row.rules.insert(rule(&inst));
                    let operands = operands(code);
                    if !row.operands.contains(&operands) {
                        row.operands.push(operands);
                    }
                    row.read |= iced_flags(inst.rflags_read());
                    row.written |= iced_flags(inst.rflags_modified());
                    row.undefined |= undefined_flags(&inst, &State { gpr: [9; 16], ..State::default() });
                    row.features.extend(code.cpuid_features().iter().map(|feature| format!("{feature:?}")));
                }
            }
        }
    }
    lifted.retain(|_, row| row.lifted > 0);
    verbatim.values_mut().for_each(|names| names.retain(|name| !lifted.contains_key(name)));
    let mut text = HEADER.to_owned();
    text += "\n| Mnemonic | Rule | Forms lifted | Operands | Flags read | Flags written | of these undefined | CPU feature |\n";
    text += "|---|---|---|---|---|---|---|---|\n";
    for (name, row) in &lifted {
        let features: Vec<_> = row.features.iter().map(String::as_str).collect();
        let [read, written, undefined] =
            [row.read, row.written, row.undefined & row.written].map(|flags| flag_names(flags).replace('|', " "));
        let rules: Vec<_> = row.rules.iter().map(String::as_str).collect();
        let _ = writeln!(
            text,
            "| {name} | {} | {} of {} | {} | {read} | {written} | {undefined} | {} |",
            rules.join(", "),
            row.lifted,
            row.forms,
            row.operands.join(", "),
            features.join(", ")
        );
    }
    text += VERBATIM;
    for (group, names) in verbatim.iter().filter(|entry| !entry.1.is_empty()) {
        let _ = write!(text, "\n**{group}**\n{}", wrapped(names));
    }
    text += REFUSED;
    for (reason, names) in &refused {
        let _ = write!(text, "\n**{reason}**\n{}", wrapped(names));
    }
    text
}

/// The operands in the name of an encoding: `rm8 r8` of `Add_rm8_r8`.
fn operands(code: Code) -> String {
    let name = format!("{code:?}");
    let name = name.strip_prefix("VEX_").unwrap_or(&name);
    name.split_once('_').map_or("none".to_owned(), |(_, operands)| operands.replace('_', " "))
}

const HEADER: &str = "# Supported instructions

This page is made by a test from the lifter's coverage table (`lift/src/cover.rs`); `BLESS=1 cargo test -p redmagic-fuzz
--test page` rewrites it.

An instruction in a trace is *lifted* to operations of the IR, executed *verbatim* as one native operation between
lifted ones, or *refused*: then a recording ends before it, and the guest executes it itself. Every form of a lifted
instruction has been compared with the hardware, in all flags that are not undefined.

- With a `lock` prefix, and as `xchg` with memory, an instruction becomes a load, what it computes, and a `compare_swap`, which is
  atomic and a barrier. Where another thread has been faster, the trace is left in front of the instruction. `lock cmpxchg16b` is
  executed verbatim.
- `rep movs` and `rep stos` are lifted if their count is a constant in the trace of at most 128, or is one for addresses as aligned
  as the recorded one, which is guarded; `rep cmps` and `rep scas` if it is a constant of at most 16. Otherwise they are executed
  verbatim: the processor's own loop is exact for every count, and says how far it has come where it faults. `rep lods` is
  executed verbatim.
- VEX-encoded vector instructions on ymm registers are lifted as two halves. In a recording that also names zmm or mask
  registers, which are no slots, they are executed verbatim.
- Gathers and masked moves access memory lane by lane, and not where the mask has a 0; dot products (`dpps`, `dppd`), reciprocals
  (`rcpps`) and their like have results that no manual defines to the last bit. They are executed verbatim.
- Forms are encodings, counted twice where an operand may be a register or memory (`rm`, `m`).
- x87, MMX and AVX-512 instructions are executed verbatim.

## Lifted
";

const VERBATIM: &str = "
## Executed verbatim

Beside the forms of the instructions above that are not lifted:
";

const REFUSED: &str = "
## Refused
";

/// The heading that a verbatim instruction stands under.
fn group(code: Code) -> String {
    match code.op_code().encoding() {
        EncodingKind::EVEX | EncodingKind::MVEX => "AVX-512".to_owned(),
        EncodingKind::VEX => "AVX, AVX2 and others with a VEX prefix".to_owned(),
        _ => {
            let x87 = treatment(&sample(code, false).unwrap_or_default()) == Treatment::X87;
            if x87 { "x87 and MMX".to_owned() } else { "Others".to_owned() }
        }
    }
}

/// Names separated by commas, in lines of a readable length.
fn wrapped(names: &BTreeSet<String>) -> String {
    const WIDTH: usize = 110;
    let mut text = String::new();
    let mut line = String::new();
    for (at, name) in names.iter().enumerate() {
        if line.len() + name.len() > WIDTH {
            text += line.trim_end();
            text.push('\n');
            line.clear();
        }
        line += name;
        line += if at + 1 == names.len() { "." } else { ", " };
    }
    text + &line + "\n"
}

/// An instruction with this encoding, with memory or registers where both are possible; `None` if it has no such form.
fn sample(code: Code, memory: bool) -> Option<Instruction> {
    let mut inst = Instruction::default();
    inst.set_code(code);
    let mut has_memory = false;
    for (index, &kind) in code.op_code().op_kinds().iter().enumerate() {
        let index = index as u32;
        // The kinds have systematic names, of which only the register class and "mem" matter here.
        let name = format!("{kind:?}");
        let is_memory = name.contains("mem") || name.contains("vsib");
        if is_memory && (memory || !name.contains("_or_")) {
            inst.set_op_kind(index, OpKind::Memory);
            inst.set_memory_base(Register::RAX);
            has_memory = true;
        } else if let Some(register) = register(&name) {
            inst.set_op_kind(index, OpKind::Register);
            inst.set_op_register(index, register);
        } else {
            inst.set_op_kind(index, other(kind));
        }
    }
    (has_memory == memory).then_some(inst)
}

/// A register of the class that an operand kind names; `None` if it names none.
fn register(kind: &str) -> Option<Register> {
    let classes = [
        ("xmm", Register::XMM1),
        ("ymm", Register::YMM1),
        ("zmm", Register::ZMM1),
        ("tmm", Register::TMM1),
        ("mm", Register::MM1),
        ("bnd", Register::BND1),
        ("seg_reg", Register::DS),
        ("fs", Register::FS),
        ("gs", Register::GS),
        ("k_", Register::K1),
        ("kp1", Register::K2),
        ("cr_", Register::CR0),
        ("dr_", Register::DR0),
        ("st0", Register::ST0),
        ("sti", Register::ST1),
        ("r8", Register::DL),
        ("r16", Register::DX),
        ("r32", Register::EDX),
        ("r64", Register::RDX),
        ("al", Register::AL),
        ("cl", Register::CL),
        ("ax", Register::AX),
        ("dx", Register::DX),
        ("eax", Register::EAX),
        ("rax", Register::RAX),
    ];
    classes.iter().find(|(prefix, _)| kind.starts_with(prefix)).map(|class| class.1)
}

fn other(kind: OpCodeOperandKind) -> OpKind {
    use OpCodeOperandKind as K;
    match kind {
        K::seg_rSI => OpKind::MemorySegRSI,
        K::es_rDI => OpKind::MemoryESRDI,
        K::br64_1 | K::br64_4 | K::brdisp_4 => OpKind::NearBranch64,
        K::br16_1 | K::br16_2 | K::brdisp_2 => OpKind::NearBranch16,
        K::br32_1 | K::br32_4 => OpKind::NearBranch32,
        K::farbr2_2 => OpKind::FarBranch16,
        K::farbr4_2 => OpKind::FarBranch32,
        K::seg_rDI => OpKind::MemorySegRDI,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm64 => OpKind::Immediate64,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm32sex64 => OpKind::Immediate32to64,
        _ => OpKind::Immediate8,
    }
}
