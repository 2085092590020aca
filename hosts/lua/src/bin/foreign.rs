//! Runs Lua programs that were not written for this project, without and with traces, and compares.
//!
//! Every file of the trees that are named on the command line is run in its folder, twice by `plain-lua` and then by
//! `redmagic-lua` at each threshold. Exit status, output and errors must be the same, except for lines in which the two
//! runs of `plain-lua` differ themselves: they hold addresses or times. Whatever the library finds wrong is a difference
//! as well. Scripts may do anything, so let this loose on a copy.
//!
//! ```text
//! cargo build --release -p redmagic-lua
//! target/release/foreign ~/penlight/tests                          every file that ends in .lua
//! target/release/foreign --before=-e_port=true lua-tests/sort.lua  with an option for Lua
//! target/release/foreign --lua=55 lua-5.5-tests                    with Lua 5.5
//! target/release/foreign --hot=1,random --check=2 --limit=600 program.lua
//! LUA_PATH='/library/?.lua;;' target/release/foreign program.lua
//! ```

use lua_runs::runs::{Lua, Outcome, Settings, in_parallel, mix, seed};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const USAGE: &str = "usage: foreign [--hot=1,2,50,random] [--exit=n] [--check=0|1|2] [--limit=seconds] [--seed=n] \
                     [--jobs=n] [--before=argument]... [--after=argument]... [--lua=55] [--plain=program] \
                     [--traced=program] PATH...";

/// What the command line asks for.
struct Wanted {
    thresholds: Vec<String>,
    exit: u64,
    check: u64,
    limit: Duration,
    seed: u64,
    jobs: usize,
    before: Vec<String>,
    after: Vec<String>,
    lua: Lua,
    scripts: Vec<PathBuf>,
}

fn main() {
    match Wanted::read() {
        Err(problem) => {
            eprintln!("foreign: {problem}\n{USAGE}");
            std::process::exit(2);
        }
        Ok(wanted) => std::process::exit(i32::from(!wanted.compare())),
    }
}

impl Wanted {
    fn read() -> Result<Wanted, String> {
        let beside = |version: &str| Lua::beside_this_program(version).map_err(|error| error.to_string());
        let (mut plain, mut traced) = (None, None);
        let mut wanted = Wanted {
            thresholds: ["1", "2", "50", "random"].map(String::from).to_vec(),
            exit: 2,
            check: 1,
            limit: Duration::from_secs(60),
            seed: seed(),
            jobs: 1,
            before: Vec::new(),
            after: Vec::new(),
            lua: beside("")?,
            scripts: Vec::new(),
        };
        for argument in std::env::args().skip(1) {
            let Some(option) = argument.strip_prefix("--") else {
                find(Path::new(&argument), true, &mut wanted.scripts)
                    .map_err(|error| format!("{argument}: {error}"))?;
                continue;
            };
            let (name, value) = option.split_once('=').unwrap_or((option, ""));
            let number = || value.parse::<u64>().map_err(|_| format!("{argument}: not a number"));
            match name {
                "hot" => wanted.thresholds = value.split(',').map(String::from).collect(),
                "exit" => wanted.exit = number()?,
                "check" => wanted.check = number()?,
                "limit" => wanted.limit = Duration::from_secs(number()?),
                "seed" => wanted.seed = number()?,
                "jobs" => wanted.jobs = value.parse().map_err(|_| format!("{argument}: not a number"))?,
                "before" => wanted.before.push(value.into()),
                "after" => wanted.after.push(value.into()),
                "lua" => wanted.lua = beside(value)?,
                "plain" => plain = Some(value.to_owned()),
                "traced" => traced = Some(value.to_owned()),
                _ => return Err(format!("{argument}: no such option")),
            }
        }
        wanted.lua = wanted.lua.or(plain, traced);
        if wanted.scripts.is_empty() {
            return Err("no scripts".into());
        }
        if let Some(wrong) = wanted.thresholds.iter().find(|text| *text != "random" && text.parse::<u64>().is_err()) {
            return Err(format!("{wrong}: not a threshold"));
        }
        Ok(wanted)
    }

    /// Compares all scripts and prints what differs. Returns whether nothing did.
    fn compare(&self) -> bool {
        println!("seed {}, {} scripts", self.seed, self.scripts.len());
        let different = AtomicUsize::new(0);
        let odd: Vec<usize> = in_parallel(self.jobs, &self.scripts, |script| match self.script(script) {
            Ok(odd) => usize::from(odd),
            Err(difference) => {
                println!("DIFFERENT {}: {difference}", script.display());
                different.fetch_add(1, Ordering::Relaxed);
                0
            }
        });
        let different = different.into_inner();
        println!(
            "{} scripts, {different} different; {} do not end well or vary by themselves",
            self.scripts.len(),
            odd.iter().sum::<usize>()
        );
        different == 0
    }

    /// Compares one script. The result says whether it is a poor witness: it ends with an error, takes too long, or does
    /// not do the same every time.
    fn script(&self, script: &Path) -> Result<bool, String> {
        let finish = |run: lua_runs::runs::Run, limit| -> Result<Outcome, String> {
            run.before(&self.before).arguments(&self.after).finish(limit).map_err(|error| error.to_string())
        };
        let first = finish(self.lua.plain(script, self.seed), self.limit)?;
        if first.status.is_none() {
            println!("{}: takes too long by itself", script.display());
            return Ok(true);
        }
        let second = finish(self.lua.plain(script, self.seed), self.limit)?;
        if first.status != second.status {
            println!("{}: ends in different ways by itself", script.display());
            return Ok(true);
        }
        for (number, threshold) in self.thresholds.iter().enumerate() {
            let random = mix(self.seed.wrapping_add(number as u64)) % 100 + 3;
            let settings = Settings::hot(threshold.parse().unwrap_or(random));
            let settings = settings.with("HOT_EXIT", self.exit).with("CHECK", self.check);
            // Checks cost a lot for each trace, and nothing for the rest of the run.
            let outcome = finish(self.lua.traced(script, self.seed, &settings), self.limit * 10)?;
            if outcome.difference(&first, &second).is_none() {
                continue;
            }
            // A time in seconds may be the same twice; here it is not.
            let third = finish(self.lua.plain(script, self.seed), self.limit)?;
            if let Some(difference) = outcome.difference(&first, &third) {
                return Err(format!("{settings} LUA_HASH_SEED={}: {difference}", self.seed));
            }
        }
        Ok(!first.good() || first != second)
    }
}

/// The scripts at `path`: itself, or what ends in `.lua` below a folder.
fn find(path: &Path, named: bool, scripts: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if path.is_dir() {
        let mut entries = std::fs::read_dir(path)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            if !entry.file_type()?.is_symlink() {
                find(&entry.path(), false, scripts)?;
            }
        }
    } else if named || path.extension().is_some_and(|extension| extension == "lua") {
        scripts.push(path.canonicalize()?);
    }
    Ok(())
}
