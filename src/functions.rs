//! How a recording treats the functions that it meets.
//!
//! Names are looked up once, at the first recording; a function that the program does not have costs nothing. Everything
//! that is in none of the lists is traced into if it belongs to the anchor's module, and called residually otherwise.

#![expect(unsafe_code, reason = "dlsym")]

use crate::regions::Kind;
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

/// Functions that read and write no memory that a trace could know.
const NO_EFFECT: [&str; 14] =
    ["floor", "ceil", "fmod", "pow", "sqrt", "sin", "cos", "tan", "exp", "log", "log2", "log10", "fabs", "labs"];

/// All that is known about functions, by address.
#[derive(Default)]
pub struct Functions {
    treatments: HashMap<u64, Treatment>,
    pure: Vec<u64>,
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

    /// Whether the function has no effect on memory that a trace could know.
    pub fn is_pure(&mut self, function: u64) -> bool {
        self.look_up();
        self.pure.contains(&function)
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
        self.pure.extend(NO_EFFECT.iter().filter_map(|name| find(name)));
    }
}

/// The address of a function of this process.
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
}
