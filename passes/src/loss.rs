//! What became of memory cells that are not known any more: for those who want to know why a load is left.
//!
//! # Invariants
//! What stands here changes nothing of what is known; it exists only while reasons are noted. It is found out by asking the
//! memory itself, behind every store and call, for what it has known before.
//!
//! Worked example: `load [v1]`, `store [v2], v3`, `load [v1]`: behind the store, memory does not know the cell at v1 any more, so
//! the store took it away, whose root v2 may be v1.

use crate::memory::{Base, Memory, Place};
use crate::scope::MixMap;
use crate::why::Reason;
use redmagic_ir::{Type, Value};

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Losses {
    known: Vec<(Place, Type)>,
    lost: MixMap<(Base, i64, u8), Reason>,
}

impl Losses {
    /// Memory knows what `place` holds.
    pub(crate) fn learned(&mut self, place: &Place, ty: Type) {
        self.known.push((*place, ty));
    }

    /// A segment begins: what `memory` does not know there is nobody's doing.
    pub(crate) fn enter(&mut self, memory: &mut Memory) {
        let lost = &mut self.lost;
        self.known.retain(|(place, ty)| {
            let is_known = memory.load(place, *ty).is_some();
            if !is_known {
                lost.remove(&(place.base, place.offset, *ty as u8));
            }
            is_known
        });
    }

    /// A store has been executed, or a call if there is none. The store is to `at`.
    pub(crate) fn check(&mut self, memory: &mut Memory, store: Option<(Value, &Place)>) {
        let lost = &mut self.lost;
        self.known.retain(|(place, ty)| {
            let is_known = memory.load(place, *ty).is_some();
            if !is_known {
                let reason = match store {
                    None => Reason::Called,
                    Some((by, at)) if at.base == place.base => Reason::Overlapped { by },
                    Some((by, at)) => Reason::Killed { by, its_root: at.base.root, root: place.base.root },
                };
                lost.insert((place.base, place.offset, *ty as u8), reason);
            }
            is_known
        });
    }

    /// Why nothing is known of a place.
    pub(crate) fn reason(&self, place: &Place, ty: Type) -> Reason {
        self.lost.get(&(place.base, place.offset, ty as u8)).cloned().unwrap_or(Reason::First)
    }
}
