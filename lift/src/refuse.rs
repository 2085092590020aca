//! The instructions that no trace may contain, and why.
//!
//! A refusal is a value, counted by the recorder, never a failure of the host. Worked example: `std` sets the
//! direction flag, which is not a slot and which string instructions in the trace assume to be clear, so the recording
//! ends before it with [`Refusal::SystemFlags`].

use iced_x86::{Code, FlowControl, Instruction, Mnemonic as M, OpKind};
use std::fmt;

/// Why an instruction cannot be in a trace, or a recording cannot be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A system call.
    Syscall,
    /// An interrupt, a breakpoint, or an instruction that always faults.
    Interrupt,
    /// A far call, jump or return.
    FarBranch,
    /// A near branch with 16-bit operands.
    NarrowBranch,
    /// Needs more privilege than a process has.
    Privileged,
    /// Writes flags that are not slots (direction flag, trap flag).
    SystemFlags,
    /// Transactional memory.
    Transaction,
    /// Reads or writes a descriptor table or machine status word.
    SystemTable,
    /// Writes a segment register or segment base.
    Segment,
    /// Saves or restores whole register files.
    StateArea,
    /// Reads or writes MXCSR, which floating-point operations of the IR depend on.
    FloatControl,
    /// Matrix tiles.
    Tile,
    /// Waits for memory or time.
    Wait,
    /// Shadow stacks, protection keys, user interrupts, enclaves.
    Protection,
    /// Not a valid instruction.
    Invalid,
    /// The bytes of an instruction that has to be executed verbatim cannot be read.
    Unreadable {
        /// Its address.
        pc: u64,
    },
    /// The bytes there are no longer those of the recorded instruction.
    Changed {
        /// Its address.
        pc: u64,
    },
    /// An event does not follow from the one before, or an instruction cannot have gone where it is said to have gone.
    Inconsistent {
        /// Address of the event.
        pc: u64,
    },
    /// The recording has no events.
    Empty,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refusal::Syscall => "system call",
            Refusal::Interrupt => "interrupt",
            Refusal::FarBranch => "far branch",
            Refusal::NarrowBranch => "16-bit branch",
            Refusal::Privileged => "privileged instruction",
            Refusal::SystemFlags => "write of system flags",
            Refusal::Transaction => "transactional memory",
            Refusal::SystemTable => "access to a system table",
            Refusal::Segment => "write of a segment register",
            Refusal::StateArea => "save or restore of register files",
            Refusal::FloatControl => "access to MXCSR",
            Refusal::Tile => "matrix tile instruction",
            Refusal::Wait => "wait instruction",
            Refusal::Protection => "protection instruction",
            Refusal::Invalid => "invalid instruction",
            Refusal::Unreadable { pc } => return write!(f, "unreadable code at {pc:#x}"),
            Refusal::Changed { pc } => return write!(f, "code changed at {pc:#x}"),
            Refusal::Inconsistent { pc } => return write!(f, "inconsistent recording at {pc:#x}"),
            Refusal::Empty => "empty recording",
        })
    }
}

impl std::error::Error for Refusal {}

/// Why a recording has to end before `inst`, if it has to.
pub(crate) fn reason(inst: &Instruction) -> Option<Refusal> {
    by_mnemonic(inst.mnemonic()).or_else(|| by_form(inst))
}

fn by_mnemonic(mnemonic: M) -> Option<Refusal> {
    Some(match mnemonic {
        M::INVALID => Refusal::Invalid,
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysret | M::Sysretq | M::Sysexitq => Refusal::Syscall,
        M::Int | M::Int1 | M::Int3 | M::Into | M::Ud0 | M::Ud1 | M::Ud2 | M::Bound | M::Jmpe => Refusal::Interrupt,
        M::Retf => Refusal::FarBranch,
        M::Hlt | M::Cli | M::Sti | M::In | M::Insb | M::Insw | M::Insd | M::Out | M::Outsb | M::Outsw | M::Outsd => {
            Refusal::Privileged
        }
        M::Vmcall | M::Vmmcall | M::Vmfunc | M::Getsec | M::Getsecq | M::Rsm | M::Loadall | M::Storeall => {
            Refusal::Privileged
        }
        M::Std | M::Popf | M::Popfd | M::Popfq | M::Iret | M::Iretd | M::Iretq | M::Clac | M::Stac => {
            Refusal::SystemFlags
        }
        M::Xbegin | M::Xabort | M::Xend | M::Xtest | M::Xsusldtrk | M::Xresldtrk => Refusal::Transaction,
        M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw => Refusal::SystemTable,
        M::Wrfsbase | M::Wrgsbase | M::Swapgs | M::Lfs | M::Lgs | M::Lss | M::Lds | M::Les => Refusal::Segment,
        M::Xsave | M::Xsave64 | M::Xsavec | M::Xsavec64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsaves | M::Xsaves64 => {
            Refusal::StateArea
        }
        M::Xrstor | M::Xrstor64 | M::Xrstors | M::Xrstors64 => Refusal::StateArea,
        M::Fxsave | M::Fxsave64 | M::Fxrstor | M::Fxrstor64 => Refusal::StateArea,
        M::Ldmxcsr | M::Stmxcsr | M::Vldmxcsr | M::Vstmxcsr => Refusal::FloatControl,
        M::Ldtilecfg | M::Sttilecfg | M::Tilerelease => Refusal::Tile,
        M::Umwait | M::Tpause | M::Umonitor | M::Mwait | M::Mwaitx | M::Monitor | M::Monitorx => Refusal::Wait,
        M::Wrpkru | M::Incsspd | M::Incsspq | M::Rstorssp | M::Saveprevssp | M::Setssbsy | M::Clrssbsy => {
            Refusal::Protection
        }
        M::Wrssd | M::Wrssq | M::Wrussd | M::Wrussq | M::Enclu | M::Encls | M::Enclv => Refusal::Protection,
        M::Uiret | M::Testui | M::Clui | M::Stui | M::Senduipi | M::Enqcmd | M::Enqcmds => Refusal::Protection,
        _ => return None,
    })
}

fn by_form(inst: &Instruction) -> Option<Refusal> {
    if inst.is_privileged() {
        return Some(Refusal::Privileged);
    }
    match inst.code() {
        Code::Jmp_rm16 | Code::Jmp_rel16 | Code::Jmp_rel8_16 | Code::Call_rm16 | Code::Call_rel16 => {
            return Some(Refusal::NarrowBranch);
        }
        Code::Retnw | Code::Retnw_imm16 => return Some(Refusal::NarrowBranch),
        _ => {}
    }
    let far = inst.is_call_far() || inst.is_call_far_indirect() || inst.is_jmp_far() || inst.is_jmp_far_indirect();
    if far {
        return Some(Refusal::FarBranch);
    }
    match inst.flow_control() {
        FlowControl::Interrupt | FlowControl::Exception => return Some(Refusal::Interrupt),
        FlowControl::XbeginXabortXend => return Some(Refusal::Transaction),
        FlowControl::ConditionalBranch if is_narrow_conditional(inst) => return Some(Refusal::NarrowBranch),
        _ => {}
    }
    for operand in 0..inst.op_count() {
        let register = inst.op_register(operand);
        if register.is_tmm() {
            return Some(Refusal::Tile);
        }
        if register.is_cr() || register.is_dr() || register.is_tr() {
            return Some(Refusal::Privileged);
        }
        if register.is_segment_register() && operand == 0 && matches!(inst.mnemonic(), M::Mov | M::Pop) {
            return Some(Refusal::Segment);
        }
    }
    None
}

fn is_narrow_conditional(inst: &Instruction) -> bool {
    matches!(inst.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32)
}
