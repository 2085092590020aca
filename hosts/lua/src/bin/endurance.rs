//! All Lua programs again and again: in processes that live as long as this command, and in a process for each run.
//!
//! Four processes live on, Lua 5.4 and 5.5 without and with traces; each round loads and runs all programs anew
//! (`benches/endurance.lua`), and what the programs print must be the same in all rounds and with and without traces. Between two
//! rounds eight programs run in processes of their own, with thresholds that the seed decides, every trace checked. One process
//! works at a time. Memory is printed once a minute: that of a process with traces must not grow with the rounds.
//!
//! ```text
//! cargo build --release -p redmagic-lua
//! target/release/endurance 3600             an hour from a seed of the moment
//! target/release/endurance 60 7             a minute from seed 7
//! ```

use lua_runs::programs::{Program, all};
use lua_runs::runs::{Lua, Outcome, Settings, mix, seed};
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);

/// A process that lives on.
struct Lasting {
    name: &'static str,
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
    /// Resident memory after each round, in kilobytes.
    resident: Vec<u64>,
}

impl Lasting {
    fn start(name: &'static str, lua: &Path, threshold: u64, programs: &[Program]) -> io::Result<Lasting> {
        let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/endurance.lua");
        let mut command = Command::new(lua);
        command.arg(driver).args(programs.iter().map(|program| &program.path));
        command.env("LUA_HASH_SEED", "1").env("REDMAGIC_LOG", "1").env("REDMAGIC_HOT_LOOP", threshold.to_string());
        if threshold < 50 {
            command.env("REDMAGIC_COMPILE_SHARE", "0");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let answers = child.stdout.take().ok_or_else(|| io::Error::other("no pipe"))?;
        Ok(Lasting { name, child, answers: BufReader::new(answers), resident: Vec::new() })
    }

    /// One round; the hash of everything that was printed so far.
    fn round(&mut self) -> io::Result<String> {
        let gone = || io::Error::other(format!("{} has ended", self.name));
        self.child.stdin.as_mut().ok_or_else(gone)?.write_all(b"\n")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        let mut words = answer.split_whitespace();
        let resident = words.next().and_then(|word| word.parse().ok()).ok_or_else(gone)?;
        self.resident.push(resident);
        Ok(words.next_back().unwrap_or_default().to_owned())
    }
}

/// Runs of all programs in processes of their own.
struct Runs {
    programs: Vec<Program>,
    lua: [Lua; 2],
    expected: Vec<Outcome>,
    seed: u64,
    count: u64,
}

impl Runs {
    fn size(program: &Program) -> [String; 1] {
        [program.size("test").unwrap_or(1).to_string()]
    }

    fn start(programs: Vec<Program>, lua: [Lua; 2], seed: u64) -> io::Result<Runs> {
        let mut expected = Vec::new();
        for lua in &lua {
            for program in &programs {
                expected.push(lua.plain(&program.path, 1).arguments(&Runs::size(program)).finish(LIMIT)?);
            }
        }
        Ok(Runs { programs, lua, expected, seed, count: 0 })
    }

    /// The next run of the next program; a difference in words.
    fn next(&mut self) -> io::Result<Option<String>> {
        let at = self.count as usize % self.expected.len();
        let (version, program) = (at / self.programs.len(), &self.programs[at % self.programs.len()]);
        let random =
            |what: u64, of: &[u64]| of[(mix(self.seed ^ mix(self.count * 8 + what)) % of.len() as u64) as usize];
        let settings = Settings::hot(random(0, &[1, 2, 5, 50, 3 + self.count % 97])).with("CHECK", 1);
        let settings = settings.with("HOT_EXIT", random(1, &[1, 2, 10]));
        self.count += 1;
        let run = self.lua[version].traced(&program.path, 1, &settings).arguments(&Runs::size(program));
        let outcome = run.finish(LIMIT)?;
        let difference = outcome.difference(&self.expected[at], &self.expected[at]);
        Ok(difference.map(|what| format!("{} of Lua 5.{}: {settings}: {what}", program.name, 4 + version)))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u64>());
    let (Some(Ok(seconds)), Ok(first)) = (number(0), number(1).transpose()) else {
        eprintln!("usage: endurance SECONDS [SEED]");
        std::process::exit(2);
    };
    match endure(Duration::from_secs(seconds), first.unwrap_or_else(seed)) {
        Ok(different) => std::process::exit(i32::from(different > 0)),
        Err(error) => {
            eprintln!("endurance: {error}");
            std::process::exit(2);
        }
    }
}

/// Runs until the time is over. Returns how many differences there were.
fn endure(limit: Duration, seed: u64) -> io::Result<u64> {
    let programs = all()?;
    let beside = |name: &str| std::env::current_exe().map(|exe| exe.with_file_name(name));
    let threshold = [1, 2, 7, 50][(seed % 4) as usize];
    let mut lasting = Vec::new();
    for name in ["plain-lua", "redmagic-lua", "plain-lua55", "redmagic-lua55"] {
        let lua: PathBuf = beside(name)?;
        lasting.push(Lasting::start(name, &lua, threshold, &programs)?);
    }
    let count = programs.len();
    println!("seed {seed}: {count} programs, threshold {threshold} in the processes that live on");
    let versions = [Lua::beside_this_program("")?, Lua::beside_this_program("55")?];
    let mut runs = Runs::start(programs, versions, seed)?;
    let (start, mut said, mut rounds, mut different) = (Instant::now(), None, 0_u64, 0);
    while start.elapsed() < limit {
        for pair in lasting.chunks_exact_mut(2) {
            let [plain, traced] = pair else { continue };
            if plain.round()? != traced.round()? && different == 0 {
                println!("DIFFERENT {} in round {}", traced.name, rounds + 1);
                different += 1;
            }
        }
        rounds += 1;
        for _ in 0..8 {
            if let Some(difference) = runs.next()? {
                println!("DIFFERENT {difference}");
                different += 1;
            }
        }
        if said.is_none_or(|said: Instant| said.elapsed() > Duration::from_secs(60)) {
            said = Some(Instant::now());
            println!("{}", memory(start.elapsed(), rounds, runs.count, &lasting));
        }
    }
    println!("{}", memory(start.elapsed(), rounds, runs.count, &lasting));
    for lasting in &mut lasting {
        drop(lasting.child.stdin.take());
        different += u64::from(!lasting.child.wait()?.success());
        // What is loaded and allocated for the first time is no growth.
        let (early, last) = (lasting.resident.get(20).copied(), lasting.resident.last().copied());
        if let (Some(early), Some(last)) = (early, last) {
            println!("{}: {early} KB after 20 rounds, {last} KB after {rounds}", lasting.name);
        }
    }
    println!("{rounds} rounds, {} runs, {different} different", runs.count);
    Ok(different)
}

fn memory(time: Duration, rounds: u64, runs: u64, lasting: &[Lasting]) -> String {
    let mut line = format!("{:5} s {rounds:6} rounds {runs:7} runs  KB:", time.as_secs());
    for lasting in lasting {
        // Writing to a string cannot fail.
        let _ = write!(line, "  {} {}", lasting.name, lasting.resident.last().copied().unwrap_or(0));
    }
    line
}
