//! The command `loops` records the twelve loops, and what it counts does not depend on where the program was loaded.

use std::process::Command;

fn table() -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_loops")).arg("--details").output().expect("the command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_loop_is_counted_and_always_the_same() {
    let first = table();
    assert_eq!(first, table());
    let rows: Vec<Vec<&str>> = first
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| loop"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert_eq!(rows.len(), 12, "{first}");
    for row in rows {
        let number = |at: usize| row[at].parse::<u32>().unwrap_or_else(|_| panic!("{row:?}"));
        let (recorded, straight, looped) = (number(2), number(3), number(5));
        assert!(looped <= straight && straight < recorded, "{row:?}");
    }
}

/// What a loop takes for apart holds for all objects that it is entered with, not only for those of the recording.
#[test]
fn a_loop_entered_through_many_closures_stays_in_its_trace() {
    let stats = std::env::temp_dir().join(format!("redmagic-closures-{}", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_redmagic-lua"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/closures.lua"))
        .env("REDMAGIC_STATS", &stats)
        .env("REDMAGIC_JUDGE", "off")
        .env("REDMAGIC_COMPILE_SHARE", "0")
        .output()
        .expect("the command");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "84610000\n");
    let text = std::fs::read_to_string(&stats).expect("statistics");
    // There is nothing to do about a file that cannot be removed.
    let _ = std::fs::remove_file(&stats);
    let numbers: serde_json::Value = serde_json::from_str(&text).expect("statistics");
    let number = |name: &str| numbers[name].as_u64().expect(name);
    assert!(number("entries") > 0 && number("traces") > 0, "{text}");
    // 4,000 entries, some of them from other traces.
    assert!(number("exits") <= 200, "{text}");
}
