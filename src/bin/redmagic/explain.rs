//! `redmagic explain FILE`: what each pass removed from a trace, and why each load, store and guard that is left could not
//! be removed. The reasons are those that the passes themselves have noted.
//!
//! The file is one of those that `REDMAGIC_DUMP` leaves, or traces in text form.
//!
//! # Worked example
//! ```text
//! $ redmagic explain trace-4242-1.txt
//! trace 0: loop 0 at 0x4011b6: 71 operations become 24
//! an iteration weighs 11 = loads 2, stores 1, ...
//! what the passes did
//!   forward: loads 9 -> 4, stores 3 -> 2, guards 7 -> 3, others 52 -> 20: constant memory 2, load forwarded 3, ...
//! what is left
//!   seg1
//!     v9: i64 = load [v2 + 8]
//!       forward: the store v7 may be to the same memory: nothing says that v4 and v2 are apart
//! ```

use redmagic_ir::{Effect, Trace, Value};
use redmagic_passes::{PassRun, Pipeline, Reason, Reasons, loop_weight, optimise_explained};
use std::fmt::Write;

/// The lifted trace in a file that the library has left, or else all of the text.
pub fn lifted(text: &str) -> &str {
    let Some((_, rest)) = text.split_once("==== lifted\n") else { return text };
    rest.split_once("\n==== ").map_or(rest, |(section, _)| section)
}

/// Optimises the trace and explains the result.
pub fn explain(trace: &mut Trace, pipeline: &Pipeline) -> String {
    let (stats, reasons) = optimise_explained(trace, pipeline);
    let mut text = format!("{}: {} operations become {}\n", trace.name, stats.ops_before, stats.ops_after);
    if let Some(weight) = loop_weight(trace) {
        let _ = writeln!(text, "an iteration weighs {weight}");
    }
    for refusal in &stats.loop_refusals {
        let _ = writeln!(text, "no second copy of the loop: {refusal}");
    }
    text += "what the passes did\n";
    passes(&mut text, &reasons);
    text += "what is left\n";
    let mut pairs: Vec<(Value, Value, u32)> = Vec::new();
    for (segment, data) in trace.segments.iter() {
        let _ = writeln!(text, "  {segment}");
        for &value in &data.insts {
            if matches!(trace.insts[value].op.effect(), Effect::Read | Effect::Write | Effect::Guard) {
                let _ = writeln!(text, "    {}", trace.display_inst(value));
                if reasons.of(value).is_empty() {
                    text += "      no pass has noted a reason\n";
                }
                for (pass, reason) in reasons.of(value) {
                    let store = reason.store().map(|store| format!(", {store} is {}", trace.display_inst(store)));
                    let _ = writeln!(text, "      {pass}: {reason}{}", store.unwrap_or_default());
                    if let Reason::Killed { its_root, root, .. } = reason {
                        count(&mut pairs, *its_root, *root);
                    }
                }
            }
        }
    }
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.2));
    if !pairs.is_empty() {
        text += "roots that are not known to be apart, with the loads that this costs\n";
    }
    for (one, other, loads) in pairs {
        let show =
            |root: Value| if root.is_some() { trace.display_inst(root).to_string() } else { "absolute".to_owned() };
        let _ = writeln!(text, "  {loads}: {} | {}", show(one), show(other));
    }
    text
}

/// Counts an unordered pair.
fn count(pairs: &mut Vec<(Value, Value, u32)>, one: Value, other: Value) {
    let (one, other) = (one.min(other), one.max(other));
    match pairs.iter_mut().find(|pair| (pair.0, pair.1) == (one, other)) {
        Some(pair) => pair.2 += 1,
        None => pairs.push((one, other, 1)),
    }
}

/// A line for each run of a pass: what it left of each kind, and its rewrites with their number.
fn passes(text: &mut String, reasons: &Reasons) {
    for PassRun { pass, before, after, rewrites } in reasons.runs() {
        let _ = write!(text, "  {pass}: loads {} -> {}", before.loads, after.loads);
        let _ = write!(
            text,
            ", stores {} -> {}, guards {} -> {}",
            before.stores, after.stores, before.guards, after.guards
        );
        let _ = write!(text, ", others {} -> {}", before.others, after.others);
        let mut done: Vec<(&str, u32)> = Vec::new();
        for rewrite in rewrites {
            match done.iter_mut().find(|known| known.0 == rewrite.what) {
                Some(known) => known.1 += 1,
                None => done.push((rewrite.what, 1)),
            }
        }
        done.sort_by_key(|known| std::cmp::Reverse(known.1));
        let list: Vec<String> = done.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let _ = writeln!(text, "{}{}", if list.is_empty() { "" } else { ": " }, list.join(", "));
    }
}
