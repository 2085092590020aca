//! Plain Lua, Lua with Redmagic and LuaJIT on the same scripts: a table and a picture.
//!
//! The scripts are the loops of `hosts/lua/loops`, which any Lua understands, with more repetitions, and the programs of
//! `hosts/lua/programs`, of which LuaJIT runs those that need nothing newer than Lua 5.1. Every script reports the processor
//! time of its process at its end, with all that was spent on recording and compiling. The four ways of running take turns;
//! the median of the turns counts. What plain Lua runs in less than 20 ms is left out.
//!
//! ```text
//! cargo build --release -p redmagic-lua && target/release/versus              five turns, the table
//! target/release/versus 9 docs/speed.svg                                    nine turns, and the picture
//! ```

use lua_runs::programs;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What stands for the number of repetitions in a loop's script, and the number: `{n}` is replaced by it.
const LOOPS: [(&str, &str, &str, u32); 11] = [
    ("int_sum", "100 do", "{n} do", 80_000_000),
    ("float_sum", "100 do", "{n} do", 80_000_000),
    ("array_sum", "= 1, 2 do", "= 1, {n} do", 800_000),
    ("array_write", "= 1, 2 do", "= 1, {n} do", 1_000_000),
    ("fields", "100 do", "{n} do", 20_000_000),
    ("global", "100 do", "{n} do", 20_000_000),
    ("call", "100 do", "{n} do", 20_000_000),
    ("closure", "100 do", "{n} do", 20_000_000),
    ("method", "100 do", "{n} do", 12_000_000),
    ("floor", "100 do", "{n} do", 12_000_000),
    ("byte_scan", "\"lua\", 40", "\"lua\", {n}", 4_000_000),
];

/// Appended to every script.
const REPORT: &str = "\nio.stderr:write(string.format('\\nprocessor time %.6f\\n', os.clock()))\n";

/// What plain Lua runs in less says nothing about speed.
const LEAST_SECONDS: f64 = 0.02;

/// Ways of running a script.
const WAYS: [&str; 4] = ["plain", "off", "traces", "LuaJIT"];

/// A script and the medians of its times in seconds, none for a way that cannot run it.
struct Row {
    name: String,
    times: [Option<f64>; WAYS.len()],
}

impl Row {
    /// How many times as fast as plain Lua.
    fn speed(&self, way: usize) -> Option<f64> {
        Some(self.times[0]? / self.times[way]?)
    }
}

fn main() {
    if let Err(error) = run() {
        eprintln!("versus: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let turns: usize = arguments.next().map_or(Ok(5), |turns| turns.parse())?;
    let file = arguments.next().map(PathBuf::from);
    let folder = std::env::temp_dir().join(format!("redmagic-versus-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut rows = Vec::new();
    println!("| script | plain | off | traces | LuaJIT | traces: times as fast | LuaJIT: times as fast |");
    println!("|---|---|---|---|---|---|---|");
    for (name, text) in scripts()? {
        let script = folder.join(format!("{name}.lua"));
        std::fs::write(&script, text + REPORT)?;
        let row = measure(name, &script, turns)?;
        if row.times[0].is_some_and(|seconds| seconds < LEAST_SECONDS) {
            continue;
        }
        println!("{}", line(&row));
        rows.push(row);
    }
    std::fs::remove_dir_all(&folder)?;
    let both: Vec<&Row> = rows.iter().filter(|row| row.times[3].is_some()).collect();
    let mean = |rows: &[&Row], way: usize| {
        let logarithms: Vec<f64> = rows.iter().filter_map(|row| row.speed(way)).map(f64::ln).collect();
        (logarithms.iter().sum::<f64>() / logarithms.len().max(1) as f64).exp()
    };
    println!("| geometric mean of those that LuaJIT runs | | | | | {:.2} | {:.2} |", mean(&both, 2), mean(&both, 3));
    println!("| geometric mean of all | | | | | {:.2} | |", mean(&rows.iter().collect::<Vec<_>>(), 2));
    if let Some(file) = file {
        std::fs::write(file, picture(&rows))?;
    }
    Ok(())
}

/// Names and texts.
fn scripts() -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut scripts = Vec::new();
    for (name, from, to, count) in LOOPS {
        let text =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("loops").join(format!("{name}.lua")))?;
        if !text.contains(from) {
            return Err(format!("{name}.lua: no `{from}`").into());
        }
        scripts.push((format!("loop {name}"), text.replace(from, &to.replace("{n}", &count.to_string()))));
    }
    for program in programs::all()? {
        scripts.push((program.name, std::fs::read_to_string(program.path)?));
    }
    Ok(scripts)
}

/// The medians of `turns` runs of a script in every way that can run it.
fn measure(name: String, script: &Path, turns: usize) -> Result<Row, Box<dyn Error>> {
    let exe = std::env::current_exe()?;
    let mut times: [Vec<f64>; WAYS.len()] = Default::default();
    for _ in 0..turns {
        for (way, times) in times.iter_mut().enumerate() {
            let mut command = match way {
                0 => Command::new(exe.with_file_name("plain-lua")),
                3 => Command::new("luajit"),
                _ => Command::new(exe.with_file_name("redmagic-lua")),
            };
            if way == 1 {
                command.env("REDMAGIC", "off");
            }
            // Without LuaJIT, or where a script is too new for it, the column stays empty.
            let output = match command.arg(script).env("LUA_HASH_SEED", "1").stdin(Stdio::null()).output() {
                Ok(output) => output,
                Err(_) if way == 3 => continue,
                Err(error) => return Err(error.into()),
            };
            let errors = String::from_utf8_lossy(&output.stderr);
            let time = errors.lines().find_map(|line| line.strip_prefix("processor time ")?.parse().ok());
            match time.filter(|_| output.status.success()) {
                Some(time) => times.push(time),
                None if way == 3 => {}
                None => return Err(format!("{name} fails ({}): {errors}", WAYS[way]).into()),
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied()
    };
    Ok(Row { name, times: times.map(median) })
}

fn line(row: &Row) -> String {
    let time = |way: usize| row.times[way].map_or("-".to_owned(), |time| format!("{time:.3} s"));
    let speed = |way: usize| row.speed(way).map_or("-".to_owned(), |speed| format!("{speed:.2}"));
    let times: Vec<String> = (0..WAYS.len()).map(time).collect();
    format!("| {} | {} | {} | {} |", row.name, times.join(" | "), speed(2), speed(3))
}

/// Draws bars on a logarithmic axis: how many times as fast as plain Lua.
fn picture(rows: &[Row]) -> String {
    const LEFT: f64 = 150.0;
    const TOP: f64 = 40.0;
    const WIDTH: f64 = 720.0;
    /// The height of a row.
    const STEP: f64 = 22.0;
    /// What the axis begins with.
    const LOW: f64 = 0.25;
    const RED: &str = "#c0392b";
    const BLUE: &str = "#2c6fbb";
    let most = rows.iter().flat_map(|row| [row.speed(2), row.speed(3)]).flatten().fold(2.0, f64::max);
    let x = |speed: f64| LEFT + WIDTH * (speed.max(LOW) / LOW).ln() / (most / LOW).ln();
    let bottom = TOP + STEP * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"16\">Times as fast as plain Lua 5.4</text>\n",
        bottom + 30.0
    );
    for (at, (title, color)) in [("Redmagic", RED), ("LuaJIT", BLUE)].into_iter().enumerate() {
        let place = 450.0 + 120.0 * at as f64;
        svg += &format!("<rect x=\"{place}\" y=\"10\" width=\"12\" height=\"12\" fill=\"{color}\"/>\n");
        svg += &format!("<text x=\"{}\" y=\"20\">{title}</text>\n", place + 18.0);
    }
    let mut mark = LOW;
    while mark <= most {
        let (place, color) = (x(mark), if mark == 1.0 { "black" } else { "lightgrey" });
        svg += &format!("<path d=\"M{place:.1} {TOP}V{bottom}\" stroke=\"{color}\"/>\n");
        svg += &format!("<text x=\"{place:.1}\" y=\"{}\" text-anchor=\"middle\">{mark}</text>\n", bottom + 18.0);
        mark *= 2.0;
    }
    for (at, row) in rows.iter().enumerate() {
        let y = TOP + STEP * at as f64;
        svg += &format!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n", LEFT - 8.0, y + 14.0, row.name);
        for (way, color, down) in [(2, RED, 2.0), (3, BLUE, 11.0)] {
            let Some(speed) = row.speed(way) else { continue };
            let (from, to) = (x(1.0).min(x(speed)), x(1.0).max(x(speed)));
            svg += &format!(
                "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"8\" fill=\"{color}\"/>\n",
                y + down,
                (to - from).max(1.0)
            );
        }
    }
    svg + "</svg>\n"
}
