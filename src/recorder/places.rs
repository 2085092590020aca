//! What recordings have learned about places in the guest's code: how they are treated, and their slots.
//!
//! Looking a place up for the first time takes the library's lock and reads code; the answers hold for all recordings of a
//! thread as long as their [`Terms`] are the same.
//!
//! # Worked example
//! An interpreter dispatches through a table: a recording meets the same two dozen handlers again and again, each through an
//! indirect jump. The first recording of the thread asks the runtime about each once, later ones find them here.

use super::slots::SlotInfo;
use crate::runtime::Decision;

const PLACES: usize = 512;

/// What answers depend on beside the place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Counts what the host has said about functions, and changes of options.
    pub epoch: u64,
    /// Counts loaded and unloaded modules.
    pub modules: u64,
    /// The module that the recording began in.
    pub start: Option<usize>,
}

#[derive(Clone, Copy)]
struct Place {
    pc: u64,
    decision: Decision,
    slot: Option<&'static SlotInfo>,
}

const NOWHERE: Place = Place { pc: 0, decision: Decision::Never, slot: None };

/// The places that were met last, by a hash of their address.
#[derive(Default)]
pub struct Places {
    terms: Terms,
    /// Empty, or of length [`PLACES`].
    places: Vec<Place>,
}

impl Places {
    /// Forgets everything if it was learned on other terms. Allocates the first time.
    pub fn begin(&mut self, terms: Terms) {
        if self.terms != terms || self.places.is_empty() {
            self.terms = terms;
            self.places.clear();
            self.places.resize(PLACES, NOWHERE);
        }
    }

    fn at(&self, pc: u64) -> usize {
        (pc ^ pc >> 9) as usize % PLACES
    }

    /// How a place is treated, if that is known.
    pub fn decision(&self, pc: u64) -> Option<Decision> {
        self.places.get(self.at(pc)).filter(|place| place.pc == pc).map(|place| place.decision)
    }

    /// The slot of a place that is recorded, if it is known.
    pub fn slot(&self, pc: u64) -> Option<&'static SlotInfo> {
        self.places.get(self.at(pc)).filter(|place| place.pc == pc)?.slot
    }

    /// Learns how a place is treated. What can change by itself is not kept.
    pub fn learn(&mut self, pc: u64, decision: Decision) {
        let lasting = match decision {
            Decision::Into | Decision::Residual { .. } | Decision::Never | Decision::Api(_) => true,
            // Code may be loaded there, or the linkage slot filled in.
            Decision::Outside | Decision::Unresolved => false,
        };
        let at = self.at(pc);
        if let Some(place) = self.places.get_mut(at).filter(|_| lasting) {
            *place = Place { pc, decision, slot: None };
        }
    }

    /// Learns the slot of a place whose treatment is known.
    pub fn learn_slot(&mut self, pc: u64, slot: &'static SlotInfo) {
        let at = self.at(pc);
        if let Some(place) = self.places.get_mut(at).filter(|place| place.pc == pc) {
            place.slot = Some(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_hold_for_the_same_terms() {
        let mut places = Places::default();
        places.learn(0x1000, Decision::Into);
        assert_eq!(places.decision(0x1000), None);
        let terms = Terms { epoch: 1, modules: 2, start: Some(0) };
        places.begin(terms);
        places.learn(0x1000, Decision::Into);
        places.learn(0x2001, Decision::Unresolved);
        places.begin(terms);
        assert_eq!(places.decision(0x1000), Some(Decision::Into));
        assert_eq!(places.decision(0x2001), None);
        assert!(places.slot(0x1000).is_none());
        places.begin(Terms { epoch: 2, ..terms });
        assert_eq!(places.decision(0x1000), None);
    }
}
