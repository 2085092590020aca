//! A tiny assembler for the pieces of code that the runtime makes at run time.
//!
//! It knows the dozen instruction forms that [`pieces`](crate::pieces) needs, and nothing else. Encodings are those of
//! the Intel SDM, volume 2. Worked example: `load(RAX, RBX, 8)` is `mov rax, [rbx + 8]` and emits `48 8b 83 08 00 00 00`.

/// A general register by its machine number.
pub type Register = u8;

/// rax.
pub const RAX: Register = 0;
/// rcx.
pub const RCX: Register = 1;
/// rdx.
pub const RDX: Register = 2;
/// rbx.
pub const RBX: Register = 3;
/// rsp.
pub const RSP: Register = 4;
/// rsi.
pub const RSI: Register = 6;
/// rdi.
pub const RDI: Register = 7;

/// Machine code under construction. Position-independent but for absolute addresses in immediates.
#[derive(Default)]
pub struct Emitter {
    code: Vec<u8>,
}

impl Emitter {
    /// No code yet.
    pub fn new() -> Emitter {
        Emitter::default()
    }

    /// The finished code.
    pub fn finish(self) -> Vec<u8> {
        self.code
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    /// `[base + offset]` behind an opcode: REX prefix, opcode, ModRM, displacement. The base is not rsp or r12.
    fn memory(&mut self, wide: bool, opcode: &[u8], register: u8, base: Register, offset: i32) {
        let rex = 0x40 | u8::from(wide) << 3 | (register >> 3) << 2 | base >> 3;
        if rex != 0x40 {
            self.code.push(rex);
        }
        self.raw(opcode);
        self.code.push(0x80 | (register & 7) << 3 | base & 7);
        self.raw(&offset.to_le_bytes());
    }

    /// `mov register, [base + offset]`, 64 bits.
    pub fn load(&mut self, register: Register, base: Register, offset: i32) {
        self.memory(true, &[0x8b], register, base, offset);
    }

    /// `mov register, [base + offset]`, 32 bits.
    pub fn load32(&mut self, register: Register, base: Register, offset: i32) {
        self.memory(false, &[0x8b], register, base, offset);
    }

    /// `mov [base + offset], register`, 64 bits.
    pub fn store(&mut self, base: Register, offset: i32, register: Register) {
        self.memory(true, &[0x89], register, base, offset);
    }

    /// `mov dword [base + offset], value`.
    pub fn store_dword(&mut self, base: Register, offset: i32, value: u32) {
        self.memory(false, &[0xc7], 0, base, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `sub dword [base + offset], 1`.
    pub fn decrement(&mut self, base: Register, offset: i32) {
        self.memory(false, &[0x83], 5, base, offset);
        self.code.push(1);
    }

    /// `movups xmm0, [base + offset]`.
    pub fn load_xmm0(&mut self, base: Register, offset: i32) {
        self.memory(false, &[0x0f, 0x10], 0, base, offset);
    }

    /// `movsd xmm0, [base + offset]`: the upper half becomes 0.
    pub fn load_low_xmm0(&mut self, base: Register, offset: i32) {
        self.raw(&[0xf2]);
        self.memory(false, &[0x0f, 0x10], 0, base, offset);
    }

    /// `movhps xmm0, [base + offset]`: the lower half stays.
    pub fn load_high_xmm0(&mut self, base: Register, offset: i32) {
        self.memory(false, &[0x0f, 0x16], 0, base, offset);
    }

    /// `movups [base + offset], xmm0`.
    pub fn store_xmm0(&mut self, base: Register, offset: i32) {
        self.memory(false, &[0x0f, 0x11], 0, base, offset);
    }

    /// `mov register, value`, in the shortest form that leaves the flags alone.
    pub fn constant(&mut self, register: Register, value: u64) {
        let (high, low) = (register >> 3, register & 7);
        if let Ok(value) = u32::try_from(value) {
            if high != 0 {
                self.code.push(0x41);
            }
            self.code.push(0xb8 | low);
            self.raw(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.raw(&[0x48 | high, 0xc7, 0xc0 | low]);
            self.raw(&value.to_le_bytes());
        } else {
            self.raw(&[0x48 | high, 0xb8 | low]);
            self.raw(&value.to_le_bytes());
        }
    }

    /// `mov to, from`, 64 bits.
    pub fn copy(&mut self, to: Register, from: Register) {
        self.raw(&[0x48 | (from >> 3) << 2 | to >> 3, 0x89, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    /// An opcode with `fs:[offset]` as its memory operand; `field` is the register field of ModRM.
    fn thread_local(&mut self, wide: bool, opcode: u8, field: u8, offset: i32) {
        self.code.push(0x64);
        if wide {
            self.code.push(0x48 | (field >> 3) << 2);
        }
        self.raw(&[opcode, (field & 7) << 3 | 4, 0x25]);
        self.raw(&offset.to_le_bytes());
    }

    /// `mov register, fs:[offset]`.
    pub fn load_local(&mut self, register: Register, offset: i32) {
        self.thread_local(true, 0x8b, register, offset);
    }

    /// `mov fs:[offset], register`.
    pub fn store_local(&mut self, offset: i32, register: Register) {
        self.thread_local(true, 0x89, register, offset);
    }

    /// `mov dword fs:[offset], value`.
    pub fn store_local_dword(&mut self, offset: i32, value: u32) {
        self.thread_local(false, 0xc7, 0, offset);
        self.raw(&value.to_le_bytes());
    }

    /// `jmp fs:[offset]`.
    pub fn jump_local(&mut self, offset: i32) {
        self.thread_local(false, 0xff, 4, offset);
    }

    /// `jmp target`, disturbing no register.
    pub fn jump(&mut self, target: u64) {
        self.raw(&[0xff, 0x25, 0, 0, 0, 0]);
        self.raw(&target.to_le_bytes());
    }

    /// `call target` through rax.
    pub fn call(&mut self, target: u64) {
        self.constant(RAX, target);
        self.raw(&[0xff, 0xd0]);
    }

    /// `lea rsi, [rip + distance]`, counted from the end of this instruction.
    pub fn address_ahead(&mut self, distance: i32) {
        self.raw(&[0x48, 0x8d, 0x35]);
        self.raw(&distance.to_le_bytes());
    }

    /// A conditional jump over the code that `body` emits, at most 127 bytes; `condition` as the machine numbers it.
    pub fn skip_if(&mut self, condition: u8, body: impl FnOnce(&mut Emitter)) {
        let mut inner = Emitter::new();
        body(&mut inner);
        debug_assert!(inner.code.len() < 128);
        self.raw(&[0x70 | condition, inner.code.len() as u8]);
        self.code.append(&mut inner.code);
    }

    /// Loads the arithmetic flags from packed flags in eax; clobbers rax and rdx.
    pub fn flags_from_eax(&mut self) {
        // mov edx, eax; shr edx, 11; and edx, 1; mov ah, al; mov al, dl; add al, 0x7f (sets OF if al was 1); sahf
        self.raw(&[0x89, 0xc2, 0xc1, 0xea, 11, 0x83, 0xe2, 1, 0x88, 0xc4, 0x88, 0xd0, 0x04, 0x7f, 0x9e]);
    }

    /// Packs the arithmetic flags into ecx; clobbers rax.
    pub fn flags_to_ecx(&mut self) {
        // lahf; seto al; movzx ecx, ah; and ecx, 0xd5; movzx eax, al; shl eax, 11; or ecx, eax
        self.raw(&[0x9f, 0x0f, 0x90, 0xc0, 0x0f, 0xb6, 0xcc, 0x81, 0xe1, 0xd5, 0, 0, 0]);
        self.raw(&[0x0f, 0xb6, 0xc0, 0xc1, 0xe0, 11, 0x09, 0xc1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emitted(emit: impl FnOnce(&mut Emitter)) -> Vec<u8> {
        let mut emitter = Emitter::new();
        emit(&mut emitter);
        emitter.finish()
    }

    #[test]
    fn encodings_are_those_of_the_manual() {
        assert_eq!(emitted(|e| e.load(RAX, RBX, 8)), [0x48, 0x8b, 0x83, 8, 0, 0, 0]);
        assert_eq!(emitted(|e| e.store(RCX, 16, 9)), [0x4c, 0x89, 0x89, 16, 0, 0, 0]);
        assert_eq!(emitted(|e| e.load32(RAX, RBX, 8)), [0x8b, 0x83, 8, 0, 0, 0]);
        assert_eq!(emitted(|e| e.constant(RAX, 5)), [0xb8, 5, 0, 0, 0]);
        assert_eq!(emitted(|e| e.constant(9, u64::MAX)), [0x49, 0xc7, 0xc1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(emitted(|e| e.constant(RDI, 1 << 40)), [0x48, 0xbf, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(emitted(|e| e.copy(RCX, RBX)), [0x48, 0x89, 0xd9]);
        assert_eq!(emitted(|e| e.load_local(RCX, -64)), [0x64, 0x48, 0x8b, 0x0c, 0x25, 0xc0, 0xff, 0xff, 0xff]);
        assert_eq!(emitted(|e| e.jump_local(-8)), [0x64, 0xff, 0x24, 0x25, 0xf8, 0xff, 0xff, 0xff]);
        assert_eq!(emitted(|e| e.decrement(RAX, 8)), [0x83, 0xa8, 8, 0, 0, 0, 1]);
        assert_eq!(emitted(|e| e.skip_if(9, |e| e.raw(&[0x90]))), [0x79, 1, 0x90]);
    }
}
