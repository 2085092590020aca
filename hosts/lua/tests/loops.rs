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
