//! How a recording treats the functions that it meets.
//!
//! Names are looked up once, at the first recording; a function that the program does not have costs nothing. Everything
//! that is in none of the lists is traced into if it belongs to the anchor's module, and called residually otherwise.

#![expect(unsafe_code, reason = "dlsym and dladdr")]

use crate::regions::Kind;
use redmagic_ir::CallEffect;
use std::collections::HashMap;
use std::ffi::CString;

/// One of our own functions, met in a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// An anchor called as a function.
    BackwardsBranch,
    /// An anchor reached through the header's macro.
    AnchorStub,
    /// `redmagic_is_traced`.
    IsTraced,
    /// A call that a trace does not survive.
    Leave,
    /// The begin of a region that a trace leaves and comes back to.
    Region(Kind),
    /// `redmagic_fellthrough_branch`.
    FellThrough,
    /// `redmagic_begin_branchable_frame`.
    BeginFrame,
    /// `redmagic_end_branchable_frame`.
    EndFrame,
    /// A call without an effect.
    Nothing,
}

/// What a recording does at a call of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// What the module says.
    Ordinary,
    /// Calls it as it is.
    Residual,
    /// Ends before the call.
    Never,
    /// It is one of ours.
    Api(Api),
}

/// Functions that look at their return address, return twice, or change what is loaded: no trace calls them.
const NEVER: [&str; 24] = [
    "setjmp",
    "_setjmp",
    "__sigsetjmp",
    "sigsetjmp",
    "getcontext",
    "swapcontext",
    "makecontext",
    "setcontext",
    "vfork",
    "fork",
    "clone",
    "daemon",
    "dlopen",
    "dlmopen",
    "dlclose",
    "dlsym",
    "dlvsym",
    "pthread_exit",
    "thrd_exit",
    "backtrace",
    "__builtin_return_address",
    "_Unwind_Backtrace",
    "sigaltstack",
    "_dl_runtime_resolve",
];

/// Functions that are called as they are even when they belong to the anchor's module (static linking, wrappers).
const RESIDUAL: [&str; 34] = [
    "malloc",
    "calloc",
    "realloc",
    "free",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "valloc",
    "malloc_usable_size",
    "_Znwm",
    "_Znam",
    "_ZdlPv",
    "_ZdaPv",
    "_ZdlPvm",
    "_ZdaPvm",
    "exit",
    "_exit",
    "quick_exit",
    "abort",
    "longjmp",
    "_longjmp",
    "siglongjmp",
    "__longjmp_chk",
    "pthread_create",
    "pthread_mutex_lock",
    "pthread_mutex_unlock",
    "pthread_cond_wait",
    "pthread_join",
    "_Unwind_RaiseException",
    "_Unwind_Resume",
    "__cxa_throw",
    "__cxa_rethrow",
    "__cxa_end_catch",
    "__tls_get_addr",
];

/// Functions of the C library that write no memory but perhaps `errno`, with what they do.
///
/// Not among them: functions that write through an argument (`memcpy`, `frexp`, `modf`), whose extent no trace knows, and
/// those whose work depends on the locale or on the rounding mode that they change.
const EFFECTS: [(CallEffect, &[&str]); 3] = [
    (
        CallEffect::None,
        &[
            "floor",
            "ceil",
            "trunc",
            "round",
            "rint",
            "nearbyint",
            "fabs",
            "copysign",
            "fmin",
            "fmax",
            "floorf",
            "ceilf",
            "truncf",
            "roundf",
            "rintf",
            "fabsf",
            "abs",
            "labs",
            "llabs",
            "__errno_location",
            "__ctype_b_loc",
            "__ctype_tolower_loc",
            "__ctype_toupper_loc",
        ],
    ),
    (
        CallEffect::Errno,
        &[
            "fmod",
            "remainder",
            "pow",
            "sqrt",
            "cbrt",
            "hypot",
            "sin",
            "cos",
            "tan",
            "asin",
            "acos",
            "atan",
            "atan2",
            "sinh",
            "cosh",
            "tanh",
            "asinh",
            "acosh",
            "atanh",
            "exp",
            "exp2",
            "expm1",
            "log",
            "log2",
            "log10",
            "log1p",
            "ldexp",
            "scalbn",
            "fmodf",
            "powf",
            "sqrtf",
            "sinf",
            "cosf",
            "tanf",
            "atan2f",
            "expf",
            "logf",
        ],
    ),
    (
        CallEffect::Reads,
        &[
            "strlen",
            "strnlen",
            "strcmp",
            "strncmp",
            "strchr",
            "strrchr",
            "strstr",
            "strspn",
            "strcspn",
            "strpbrk",
            "memcmp",
            "memchr",
            "memrchr",
            "rawmemchr",
            "tolower",
            "toupper",
        ],
    ),
];

/// All that is known about functions, by address.
#[derive(Default)]
pub struct Functions {
    treatments: HashMap<u64, Treatment>,
    effects: HashMap<u64, CallEffect>,
    looked_up: bool,
}

impl Functions {
    /// Nothing known yet.
    pub fn new() -> Functions {
        Functions::default()
    }

    /// Says how a function is treated.
    pub fn set(&mut self, function: u64, treatment: Treatment) {
        self.treatments.insert(function, treatment);
    }

    /// Forgets what was said about functions that are no more.
    pub fn forget(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.treatments.retain(|function, _| !is_gone(*function));
    }

    /// How a function is treated.
    pub fn treatment(&mut self, function: u64) -> Treatment {
        self.look_up();
        self.treatments.get(&function).copied().unwrap_or(Treatment::Ordinary)
    }

    /// Says what a function does.
    pub fn set_effect(&mut self, function: u64, effect: CallEffect) {
        self.effects.insert(function, effect);
    }

    /// What a function does.
    pub fn effect(&mut self, function: u64) -> CallEffect {
        self.look_up();
        self.effects.get(&function).copied().unwrap_or(CallEffect::Any)
    }

    fn look_up(&mut self) {
        if self.looked_up {
            return;
        }
        self.looked_up = true;
        for (names, treatment) in [(&NEVER[..], Treatment::Never), (&RESIDUAL[..], Treatment::Residual)] {
            for address in names.iter().filter_map(|name| find(name)) {
                self.treatments.entry(address).or_insert(treatment);
            }
        }
        for (effect, names) in EFFECTS {
            for address in names.iter().filter_map(|name| find(name)).filter(|address| is_of_c_library(*address)) {
                self.effects.entry(address).or_insert(effect);
            }
        }
    }
}

/// Whether the function is one of the C library: programs may have functions of their own of the same name.
fn is_of_c_library(function: u64) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: an address, and room for the answer; strings in it are the loader's, which live as long as the module.
    let path = unsafe {
        if libc::dladdr(function as *const libc::c_void, info.as_mut_ptr()) == 0 {
            return false;
        }
        let name = info.assume_init().dli_fname;
        if name.is_null() {
            return false;
        }
        std::ffi::CStr::from_ptr(name).to_bytes()
    };
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    [&b"libc.so"[..], b"libm.so", b"libc-", b"libm-", b"libc.musl", b"ld-musl"]
        .iter()
        .any(|name| file.starts_with(name))
}

/// The address of a function of this process. Functions of which there are several variants have been bound to the one that
/// calls through linkage stubs reach as well.
fn find(name: &str) -> Option<u64> {
    let name = CString::new(name).ok()?;
    // SAFETY: a terminated string; the result is only compared.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_functions_are_found() {
        let mut functions = Functions::new();
        assert_eq!(functions.treatment(libc::malloc as *const () as u64), Treatment::Residual);
        assert_eq!(functions.treatment(libc::dlopen as *const () as u64), Treatment::Never);
        assert_eq!(functions.treatment(1), Treatment::Ordinary);
        functions.set(1, Treatment::Residual);
        assert_eq!(functions.treatment(1), Treatment::Residual);
    }

    #[test]
    fn effects_are_those_of_the_c_library_and_what_was_said() {
        let mut functions = Functions::new();
        assert_eq!(functions.effect(libc::strlen as *const () as u64), CallEffect::Reads);
        assert_eq!(functions.effect(libc::memcpy as *const () as u64), CallEffect::Any);
        // This test's own code is in no C library.
        assert!(!is_of_c_library(effects_are_those_of_the_c_library_and_what_was_said as *const () as u64));
        assert_eq!(functions.effect(1), CallEffect::Any);
        functions.set_effect(1, CallEffect::None);
        assert_eq!(functions.effect(1), CallEffect::None);
        functions.set_effect(libc::strlen as *const () as u64, CallEffect::Any);
        assert_eq!(functions.effect(libc::strlen as *const () as u64), CallEffect::Any);
    }
}
