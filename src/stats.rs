//! Counters: one table for the C structure, the JSON file and the code.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// `struct redmagic_stats` of the header, field by field.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Snapshot {
            /// The size of the structure in bytes.
            pub size: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The live counters.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// All at zero.
            pub const fn new() -> Counters {
                Counters { $($name: AtomicU64::new(0),)* }
            }

            /// The values now.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { size: size_of::<Snapshot>() as u64, $($name: self.$name.load(Relaxed),)* }
            }
        }

        impl Snapshot {
            /// Names and values, in the header's order.
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Anchor calls that reached the library.
    anchors,
    /// Recordings begun.
    recordings,
    /// Recordings given up.
    recordings_failed,
    /// Traces compiled.
    traces,
    /// Recordings that could not be compiled.
    traces_refused,
    /// Traces that begin at an exit.
    side_traces,
    /// Traces dropped.
    traces_dropped,
    /// Trace entries from anchors.
    entries,
    /// Exits that reached the library.
    exits,
    /// Guest instructions executed by the recorder.
    recorded_instructions,
    /// Time spent recording, in nanoseconds.
    recording_ns,
    /// Recorded instructions that became native operations.
    native_operations,
    /// IR operations before optimisation.
    operations_before,
    /// IR operations after optimisation.
    operations_after,
    /// Time spent lifting, optimising and lowering, in nanoseconds.
    compile_ns,
    /// Bytes of machine code in use.
    code_bytes,
    /// API calls that made no sense.
    misuse,
    /// Self-checks of traces that found a difference.
    check_failures,
    /// Self-checks of traces that passed.
    checks_passed,
    /// Bytes that are kept of the exits of compiled traces: descriptions and records.
    exit_bytes,
}

/// The counters of this process.
pub static COUNTERS: Counters = Counters::new();

/// Adds to a counter.
pub fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Relaxed);
}

/// The statistics as JSON: the counters, and how often each reason for a failed recording or trace occurred.
pub fn to_json(snapshot: &Snapshot, reasons: &BTreeMap<String, u64>) -> String {
    let mut object = serde_json::Map::new();
    for (name, value) in snapshot.fields() {
        object.insert(name.to_owned(), value.into());
    }
    let reasons = reasons.iter().map(|(reason, count)| (reason.clone(), (*count).into())).collect();
    object.insert("reasons".to_owned(), serde_json::Value::Object(reasons));
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_lists_the_same_counters_in_the_same_order() {
        let header = include_str!("../include/redmagic.h");
        let body = header.split("struct redmagic_stats {").nth(1).and_then(|rest| rest.split("};").next());
        let names: Vec<&str> = body
            .expect("the structure")
            .lines()
            .filter_map(|line| line.trim().strip_prefix("uint64_t "))
            .filter_map(|line| line.split(';').next())
            .collect();
        let ours: Vec<&str> =
            ["size"].into_iter().chain(Snapshot::default().fields().into_iter().map(|field| field.0)).collect();
        assert_eq!(names, ours);
    }

    #[test]
    fn json_has_counters_and_reasons() {
        let snapshot = Snapshot { traces: 3, ..Snapshot::default() };
        let json = to_json(&snapshot, &BTreeMap::from([("too \"long\"".to_owned(), 2)]));
        let value: serde_json::Value = serde_json::from_str(&json).expect("valid JSON");
        assert_eq!(value["traces"], 3);
        assert_eq!(value["reasons"]["too \"long\""], 2);
    }
}
