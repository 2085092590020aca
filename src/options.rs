//! Options: one table of names for the environment and for `redmagic_configure`.
//!
//! The option `hot_loop` is read from `REDMAGIC_HOT_LOOP` when the library starts; `REDMAGIC=off` is the option
//! `enabled`. A value that is not understood changes nothing and is reported once in the log.

use redmagic_passes::{MemoryModel, Pipeline};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How compiled traces are checked before they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Not at all.
    Off,
    /// The evaluator replays the recording on the trace.
    Replay,
    /// As before; also a forked child runs one compiled iteration, which is compared with native execution.
    Fork,
    /// As before; also a child for each guard leaves the trace there.
    Sweep,
}

/// What executes traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Machine code.
    Native,
    /// The reference evaluator.
    Eval,
}

/// A trace that is optimised differently from the others, to find out which rewrite is wrong in it.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Its number, in the order of compilation, from 0.
    pub trace: u32,
    /// How many rewrites the passes may do.
    pub rewrites: u32,
    /// Its passes, instead of those of all traces.
    pub passes: Option<Pipeline>,
}

impl FromStr for Suspect {
    type Err = ();

    fn from_str(text: &str) -> Result<Suspect, ()> {
        let mut parts = text.splitn(3, ':');
        let mut number = |default: Option<u32>| match parts.next() {
            None => default.ok_or(()),
            Some(digits) => digits.parse().map_err(|_| ()),
        };
        let (trace, rewrites) = (number(None)?, number(Some(u32::MAX))?);
        let passes = parts.next().map(Pipeline::parse).transpose().map_err(|_| ())?;
        Ok(Suspect { trace, rewrites, passes })
    }
}

/// All options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the library does anything at all.
    pub enabled: bool,
    /// Passes of an anchor before its loop is recorded.
    pub hot_loop: u32,
    /// Times an exit is taken before a side trace is recorded.
    pub hot_exit: u32,
    /// The passes of the optimiser, with the memory model that they keep to.
    pub passes: Pipeline,
    /// Somebody has chosen the memory model: nobody can choose a weaker one.
    memory_model_chosen: bool,
    /// 0 silent, 1 failures, 2 also traces, 3 everything.
    pub log_level: u32,
    /// Where the log goes; standard error if empty.
    pub log_path: Option<PathBuf>,
    /// Directory for a file per trace.
    pub dump: Option<PathBuf>,
    /// File for the statistics, written at exit.
    pub stats: Option<PathBuf>,
    /// Self-checks.
    pub check: Check,
    /// What executes traces.
    pub backend: Engine,
    /// Instructions that a recording may have.
    pub max_recording: u32,
    /// Calls that a recording may be deep in.
    pub max_depth: u32,
    /// Optimised operations that a trace may have.
    pub max_operations: u32,
    /// Traces that are compiled; the later ones are refused.
    pub max_traces: u32,
    /// The trace that is optimised differently.
    pub suspect: Option<Suspect>,
    /// How much of the process's time may go into recording and compiling, in percent; 0 is no limit. Checks and the
    /// evaluator lift it.
    pub compile_share: u32,
    /// Whether loops are timed, and lose traces that are slower than the interpreter. Checks, the evaluator and low
    /// thresholds switch it off.
    pub judge: bool,
    /// File names (or their ends) of modules that are traced into beside the anchor's own.
    pub trace_modules: Vec<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            enabled: true,
            hot_loop: 200,
            hot_exit: 50,
            passes: Pipeline::default().under(MemoryModel::Default),
            memory_model_chosen: false,
            log_level: 0,
            log_path: None,
            dump: None,
            stats: None,
            check: Check::Off,
            backend: Engine::Native,
            max_recording: 30_000,
            max_depth: 60,
            max_operations: 12_000,
            max_traces: u32::MAX,
            suspect: None,
            compile_share: 2,
            judge: true,
            trace_modules: Vec::new(),
        }
    }
}

/// Why an option was not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionError {
    /// There is no option of this name.
    Unknown(String),
    /// The value is not understood.
    Value {
        /// The option.
        name: String,
        /// The value.
        value: String,
        /// What would have been.
        expected: String,
    },
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionError::Unknown(name) => write!(f, "there is no option `{name}`"),
            OptionError::Value { name, value, expected } => {
                write!(f, "option `{name}` cannot be `{value}`: expected {expected}")
            }
        }
    }
}

/// The names of all options but `enabled`; in the environment in capitals, behind `REDMAGIC_`.
pub const NAMES: [&str; 18] = [
    "hot_loop",
    "hot_exit",
    "passes",
    "memory_model",
    "log",
    "dump",
    "stats",
    "check",
    "backend",
    "max_recording",
    "max_depth",
    "max_operations",
    "max_traces",
    "suspect",
    "compile_share",
    "judge",
    "trace_module",
    "enabled",
];

impl Options {
    /// The options of the environment, and what was wrong with it.
    pub fn from_environment() -> (Options, Vec<OptionError>) {
        let mut options = Options::default();
        let mut errors = Vec::new();
        let mut set = |name: &str, variable: &str| {
            if let Some(value) = std::env::var_os(variable) {
                errors.extend(options.set(name, &value.to_string_lossy()).err());
            }
        };
        set("enabled", "REDMAGIC");
        for name in NAMES.into_iter().filter(|name| *name != "enabled") {
            set(name, &format!("REDMAGIC_{}", name.to_ascii_uppercase()));
        }
        (options, errors)
    }

    /// Sets one option.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let wrong = |expected: &str| OptionError::Value {
            name: name.to_owned(),
            value: value.to_owned(),
            expected: expected.to_owned(),
        };
        let number = || value.parse::<u32>().map_err(|_| wrong("a number"));
        let switch = || match value {
            "off" | "0" | "no" => Ok(false),
            "on" | "1" | "yes" | "" => Ok(true),
            _ => Err(wrong("on or off")),
        };
        let path = || (!value.is_empty()).then(|| PathBuf::from(value));
        match name {
            "enabled" => self.enabled = switch()?,
            "hot_loop" => self.hot_loop = number()?.clamp(1, i32::MAX as u32),
            "hot_exit" => self.hot_exit = number()?.clamp(1, i32::MAX as u32),
            "passes" => {
                let model = self.passes.model();
                self.passes = Pipeline::parse(value).map_err(|error| wrong(&error.to_string()))?.under(model);
            }
            "memory_model" => {
                let model = match value {
                    "strict" => MemoryModel::Strict,
                    "default" => MemoryModel::Default,
                    "interpreter-lock" => MemoryModel::InterpreterLock,
                    _ => return Err(wrong("strict, default or interpreter-lock")),
                };
                let weakest = if self.memory_model_chosen { self.passes.model() } else { model };
                self.memory_model_chosen = true;
                self.passes = self.passes.clone().under(model.min(weakest));
            }
            "log" => {
                let (level, path) = value.split_once(':').map_or((value, None), |(level, path)| (level, Some(path)));
                self.log_level = level.parse().map_err(|_| wrong("level or level:path"))?;
                self.log_path = path.map(PathBuf::from);
            }
            "dump" => self.dump = path(),
            "stats" => self.stats = path(),
            "check" => {
                self.check = match value {
                    "0" | "" => Check::Off,
                    "1" => Check::Replay,
                    "2" => Check::Fork,
                    "3" => Check::Sweep,
                    _ => return Err(wrong("0, 1, 2 or 3")),
                }
            }
            "backend" => {
                self.backend = match value {
                    "native" | "" => Engine::Native,
                    "eval" => Engine::Eval,
                    _ => return Err(wrong("native or eval")),
                }
            }
            "max_recording" => self.max_recording = number()?.clamp(100, 1_000_000),
            "max_depth" => self.max_depth = number()?.max(1),
            "max_operations" => self.max_operations = number()?.max(1),
            "max_traces" => self.max_traces = number()?,
            "suspect" => {
                let parsed = (!value.is_empty()).then(|| value.parse()).transpose();
                self.suspect = parsed.map_err(|()| wrong("trace, trace:rewrites or trace:rewrites:passes"))?;
            }
            "compile_share" => self.compile_share = number()?.min(100),
            "judge" => self.judge = switch()?,
            "trace_module" => {
                let modules = value.split(',').map(str::trim).filter(|module| !module.is_empty());
                self.trace_modules.extend(modules.map(str::to_owned));
            }
            _ => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let mut options = Options::default();
        for name in NAMES {
            assert!(!matches!(options.set(name, "?"), Err(OptionError::Unknown(_))), "{name}");
        }
        assert!(options.set("hot_loop", "1").is_ok());
        assert_eq!(options.hot_loop, 1);
        assert_eq!(options.set("speed", "1"), Err(OptionError::Unknown("speed".to_owned())));
        assert!(options.set("hot_loop", "many").is_err());
        assert!(options.set("log", "2:some.log").is_ok());
        assert_eq!((options.log_level, options.log_path.clone()), (2, Some(PathBuf::from("some.log"))));
        assert!(options.set("suspect", "3:15:params,dce").is_ok());
        let suspect = options.suspect.clone().expect("a suspect");
        assert_eq!((suspect.trace, suspect.rewrites), (3, 15));
        assert_eq!(suspect.passes.map(|passes| passes.to_string()).as_deref(), Some("params,dce"));
        assert!(options.set("suspect", "3:many").is_err());
        assert!(options.set("suspect", "3:1:speed").is_err());
        assert!(options.set("suspect", "3").is_ok());
        assert_eq!(options.suspect.as_ref().map(|suspect| suspect.rewrites), Some(u32::MAX));
        assert!(options.set("check", "2").is_ok());
        assert_eq!(options.check, Check::Fork);
        assert_eq!(options.passes.model(), MemoryModel::Default);
        assert!(options.set("memory_model", "interpreter-lock").is_ok());
        assert_eq!(options.passes.model(), MemoryModel::InterpreterLock);
        assert!(options.set("memory_model", "strict").is_ok());
        assert!(options.set("passes", "params,dce").is_ok());
        assert_eq!(options.passes.model(), MemoryModel::Strict);
        // What the environment asks for, the host cannot take back.
        assert!(options.set("memory_model", "interpreter-lock").is_ok());
        assert_eq!(options.passes.model(), MemoryModel::Strict);
    }
}
