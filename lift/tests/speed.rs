//! What lifting costs: `cargo test --release -p redmagic-lift --test speed -- --ignored --nocapture`.

use redmagic_lift::coverage::{Section, Treatment, executable_sections, treatment};
use redmagic_lift::{Code, End, Event, Recording, lift};
use std::time::Instant;

/// The code of this program, as guest code.
struct Text<'a>(Vec<Section<'a>>);

impl Code for Text<'_> {
    fn read(&self, pc: u64) -> Option<[u8; 16]> {
        self.0.iter().find_map(|section| {
            let rest = section.bytes.get(usize::try_from(pc.checked_sub(section.address)?).ok()?..)?;
            let mut window = [0; 16];
            let count = rest.len().min(16);
            window[..count].copy_from_slice(&rest[..count]);
            (count > 0).then_some(window)
        })
    }
}

/// A recording of `length` of the program's instructions, one after the other; conditional jumps are not taken.
fn recording(text: &Text<'_>, from: usize, length: usize) -> Recording {
    const START: u64 = 0x1000_0000;
    let mut pc = START;
    let lifted = text.0.iter().flat_map(Section::instructions).skip(from).filter(|inst| {
        let goes_on = inst.flow_control() == iced_x86::FlowControl::Next || inst.is_jcc_short_or_near();
        // What stands here is the library's code for all kinds of processors, which no program executes in one go.
        let plain = inst.encoding() == iced_x86::EncodingKind::Legacy;
        goes_on && plain && !inst.is_invalid() && treatment(inst) == Treatment::Lifted
    });
    let events = lifted
        .take(length)
        .map(|mut inst| {
            inst.set_ip(pc);
            pc = inst.next_ip();
            Event::Inst { inst, next: pc, address: 0x7000, value: 1 }
        })
        .collect();
    Recording {
        name: "speed".to_owned(),
        start: START,
        events,
        end: End::Exit { pc },
        regions: Vec::new(),
        meter: None,
    }
}

#[test]
#[ignore = "a measurement"]
fn nanoseconds_per_instruction() {
    let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let text = Text(executable_sections(&file).unwrap());
    for length in [20, 200, 1000] {
        let recordings: Vec<_> = (0..40).map(|at| recording(&text, 5000 + at * 3000, length)).collect();
        let mut best = f64::INFINITY;
        let mut values = 0;
        for _ in 0..200 {
            let start = Instant::now();
            values = recordings.iter().map(|recording| lift(recording, &text).unwrap().trace.len()).sum();
            best = best.min(start.elapsed().as_nanos() as f64 / (recordings.len() * length) as f64);
        }
        let per = values as f64 / (recordings.len() * length) as f64;
        println!("{length} instructions: {best:.0} ns each, {per:.1} operations each");
    }
}
