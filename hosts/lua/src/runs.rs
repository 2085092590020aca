//! Processes that run Lua scripts: with which settings, for how long, what comes of them, and how two outcomes differ.
//!
//! A process writes into files that have no name, so that it may write as much as it likes. One that does not end in time
//! is killed and has no status. The settings always come with `REDMAGIC_LOG=1`: whatever the library finds wrong with
//! itself becomes part of the outcome, and an outcome without such lines is what the reference has.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The two interpreters that are compared.
#[derive(Debug, Clone)]
pub struct Lua {
    plain: PathBuf,
    traced: PathBuf,
}

impl Lua {
    /// The interpreters at these places.
    pub fn new(plain: impl Into<PathBuf>, traced: impl Into<PathBuf>) -> Lua {
        Lua { plain: plain.into(), traced: traced.into() }
    }

    /// The interpreters in the folder of the running program, of Lua 5.4 if `version` is empty, of Lua 5.5 if it is "55".
    pub fn beside_this_program(version: &str) -> io::Result<Lua> {
        let exe = std::env::current_exe()?;
        let beside = |name: &str| exe.with_file_name(format!("{name}{version}"));
        Ok(Lua::new(beside("plain-lua"), beside("redmagic-lua")))
    }

    /// These interpreters, or others where they are given.
    #[must_use]
    pub fn or(self, plain: Option<String>, traced: Option<String>) -> Lua {
        Lua { plain: plain.map_or(self.plain, PathBuf::from), traced: traced.map_or(self.traced, PathBuf::from) }
    }

    /// The script in the interpreter without the patch; hash tables put their keys where `seed` says.
    pub fn plain(&self, script: &Path, seed: u64) -> Run {
        Run::new(&self.plain, script, seed)
    }

    /// The script in the interpreter with traces.
    pub fn traced(&self, script: &Path, seed: u64, settings: &Settings) -> Run {
        let mut run = Run::new(&self.traced, script, seed);
        run.command.envs(settings.0.iter().map(|(name, value)| (name, value)));
        run
    }
}

/// Options of the library, as variables of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Loops become hot after so many passes, and as many traces as wanted may be compiled.
    pub fn hot(threshold: u64) -> Settings {
        let settings = Settings(vec![("REDMAGIC_LOG".into(), "1".into())]);
        settings.with("HOT_LOOP", threshold).with("COMPILE_SHARE", 0)
    }

    /// The library does nothing.
    pub fn off() -> Settings {
        Settings(vec![("REDMAGIC".into(), "off".into())])
    }

    /// These settings and the option `REDMAGIC_name`.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Settings {
        let name = format!("REDMAGIC_{name}");
        self.0.retain(|(other, _)| *other != name);
        self.0.push((name, value.to_string()));
        self
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            write!(f, "{}{name}={value}", if index > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// One process that is yet to run.
#[derive(Debug)]
pub struct Run {
    command: Command,
    script: PathBuf,
    before: Vec<String>,
    arguments: Vec<String>,
}

impl Run {
    fn new(lua: &Path, script: &Path, seed: u64) -> Run {
        let mut command = Command::new(lua);
        // The same name everywhere, because messages hold it.
        command.arg0("lua").env_remove("REDMAGIC").env("LUA_HASH_SEED", seed.to_string());
        Run { command, script: script.into(), before: Vec::new(), arguments: Vec::new() }
    }

    /// With these arguments in front of the script, for Lua itself.
    #[must_use]
    pub fn before(mut self, arguments: &[String]) -> Run {
        self.before = arguments.to_vec();
        self
    }

    /// With a variable of the environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    /// With these arguments for the script.
    #[must_use]
    pub fn arguments(mut self, arguments: &[String]) -> Run {
        self.arguments = arguments.to_vec();
        self
    }

    /// Runs the process in the script's folder and waits for its end, at most for `limit`. Standard input is a pipe
    /// without anything in it.
    pub fn finish(mut self, limit: Duration) -> io::Result<Outcome> {
        let (mut output, mut errors) = (nameless()?, nameless()?);
        if let Some(folder) = self.script.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            self.command.current_dir(folder);
        }
        // A relative name, because messages hold it as well.
        self.command.args(&self.before).arg(self.script.file_name().unwrap_or_default()).args(&self.arguments);
        self.command.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(errors.try_clone()?);
        let mut child = self.command.spawn()?;
        drop(child.stdin.take());
        let start = Instant::now();
        let mut pause = Duration::from_micros(500);
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if start.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        Ok(Outcome { status, output: text(&mut output)?, errors: text(&mut errors)? })
    }
}

fn nameless() -> io::Result<File> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let name = format!("lua-run-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

fn text(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a process did.
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended; `None` if it was killed because it took too long.
    pub status: Option<ExitStatus>,
    /// What it wrote to standard output.
    pub output: Vec<u8>,
    /// What it wrote to standard error.
    pub errors: Vec<u8>,
}

impl Outcome {
    /// The end in words.
    pub fn end(&self) -> String {
        match self.status {
            None => "took too long".into(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit status {code}"),
                (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
            },
        }
    }

    /// Whether the process ended by itself and without an error.
    pub fn good(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// The first difference from `reference`, in words. Lines in which `second`, another run of the reference, differs
    /// from the first depend on addresses or times and are not compared.
    pub fn difference(&self, reference: &Outcome, second: &Outcome) -> Option<String> {
        if self.status != reference.status {
            let last = String::from_utf8_lossy(&self.errors);
            let last = last.lines().take(3).collect::<Vec<_>>().join(" | ");
            return Some(format!("{} in place of {}: {last}", self.end(), reference.end()));
        }
        let streams = [
            ("output", &self.output, &reference.output, &second.output),
            ("errors", &self.errors, &reference.errors, &second.errors),
        ];
        streams.iter().find_map(|(name, own, first, second)| {
            let difference = different_line(own, first, second)?;
            Some(format!("{name}, {difference}"))
        })
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.end())?;
        for (name, bytes) in [("output", &self.output), ("errors", &self.errors)] {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(bytes))?;
        }
        Ok(())
    }
}

/// The first line of `own` that is not that of `first`, where `first` and `second` agree. Texts of which the two have
/// different numbers of lines are not compared, except for what the library says about itself.
fn different_line(own: &[u8], first: &[u8], second: &[u8]) -> Option<String> {
    let lines = |text| -> Vec<&[u8]> { <[u8]>::split(text, |&byte| byte == b'\n').collect() };
    let (own, first, second) = (lines(own), lines(first), lines(second));
    let show =
        |line: Option<&&[u8]>| line.map_or("nothing".into(), |line| format!("{:?}", String::from_utf8_lossy(line)));
    if first.len() != second.len() {
        let said = own.iter().find(|line| line.starts_with(b"redmagic:"));
        return said.map(|line| show(Some(line)));
    }
    for line in 0..own.len().max(first.len()) {
        if own.get(line) != first.get(line) && first.get(line) == second.get(line) {
            return Some(format!("line {}: {} in place of {}", line + 1, show(own.get(line)), show(first.get(line))));
        }
    }
    None
}

/// Runs the random program of `seed` without traces and `times` times with them, with options that the seed decides. Says
/// what differs and how to repeat it; the program stays in the folder of temporary files then.
pub fn random_difference(lua: &Lua, seed: u64, times: u64) -> io::Result<Option<String>> {
    let script = std::env::temp_dir().join(format!("random-{}-{seed}.lua", std::process::id()));
    std::fs::write(&script, crate::random::program(seed))?;
    let hashes = seed % 16;
    let plain = lua.plain(&script, hashes).finish(RANDOM_LIMIT)?;
    let mut found = None;
    for time in 0..times {
        let random = |what: u64, of: &[u64]| of[(mix(seed ^ mix(time * 16 + what)) % of.len() as u64) as usize];
        let mut settings = Settings::hot(random(0, &[1, 2, 3, 7, 20])).with("HOT_EXIT", random(1, &[1, 2, 5, 20]));
        if random(2, &[0, 0, 1]) == 1 {
            settings = settings.with("CHECK", random(3, &[1, 1, 1, 2]));
        } else if random(4, &[0, 0, 0, 0, 0, 0, 0, 1]) == 1 {
            settings = settings.with("BACKEND", "eval");
        }
        // A program that fails by itself is a good one as well, one that takes too long is not.
        if plain.status.is_none() {
            break;
        }
        let traced = lua.traced(&script, hashes, &settings).finish(RANDOM_LIMIT * 10)?;
        if let Some(difference) = traced.difference(&plain, &plain) {
            found = Some(format!("seed {seed}: {settings} LUA_HASH_SEED={hashes} {}: {difference}", script.display()));
            break;
        }
    }
    if found.is_none() {
        std::fs::remove_file(&script)?;
    }
    Ok(found)
}

/// Longer than a random program takes.
const RANDOM_LIMIT: Duration = Duration::from_secs(20);

/// The results of `work` on every item, in any order, `parallel` at a time.
pub fn in_parallel<T: Sync, R: Send>(parallel: usize, items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    results.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// One step of the splitmix64 generator: a number that has nothing to do with `state`, but is the same every time.
pub fn mix(state: u64) -> u64 {
    let z = state.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The seed of a test: `REDMAGIC_TEST_SEED`, or else another one every time.
pub fn seed() -> u64 {
    let given = std::env::var("REDMAGIC_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |time| time.subsec_nanos().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_vary_are_not_compared() {
        assert_eq!(different_line(b"a\nb 3\nc", b"a\nb 1\nc", b"a\nb 2\nc"), None);
        let found = different_line(b"a\nb 3\nd", b"a\nb 1\nc", b"a\nb 2\nc");
        assert_eq!(found.as_deref(), Some("line 3: \"d\" in place of \"c\""));
        let found = different_line(b"a\nb", b"a", b"a");
        assert_eq!(found.as_deref(), Some("line 2: \"b\" in place of nothing"));
        assert_eq!(different_line(b"x", b"a\nb", b"a"), None);
        assert!(different_line(b"redmagic: check failed", b"a\nb", b"a").is_some());
    }

    #[test]
    fn settings_are_replaced() {
        let settings = Settings::hot(1).with("CHECK", 1).with("HOT_LOOP", 2);
        let expected = "REDMAGIC_LOG=1 REDMAGIC_COMPILE_SHARE=0 REDMAGIC_CHECK=1 REDMAGIC_HOT_LOOP=2";
        assert_eq!(settings.to_string(), expected);
    }

    #[test]
    fn all_items_are_worked_on() {
        let mut squares = in_parallel(3, &[1, 2, 3, 4, 5], |n| n * n);
        squares.sort_unstable();
        assert_eq!(squares, [1, 4, 9, 16, 25]);
    }
}
