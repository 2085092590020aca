//! What happens around a fork: the child is a copy of one thread, and its code arena must become its own.
//!
//! Worked example: thread A forks while thread B compiles. `before` waits until B has given the lock back; in the child, where
//! there is no B, nothing is locked, and the shared mapping of the arena is replaced by a private copy before anything runs.

use crate::records;
use crate::runtime::{Locked, get};
use crate::thread;
use std::cell::RefCell;

thread_local! {
    /// The locks, from before a fork until after it.
    static FORKING: RefCell<Option<(records::Held, Locked)>> = const { RefCell::new(None) };
}

/// Takes the locks, so that no other thread holds them in the child.
pub extern "C" fn before() {
    if let Some(runtime) = get() {
        let locked = runtime.lock();
        let locks = (records::hold(), locked);
        let _ = FORKING.try_with(|forking| forking.replace(Some(locks)));
    }
}

/// Gives them back.
pub extern "C" fn after_in_parent() {
    if let Ok(Some((_, mut locked))) = FORKING.try_with(|forking| forking.take()) {
        locked.arena.freeze();
    }
}

/// Gives them back in the child, which has its own copy of the code from here on, or runs none.
pub extern "C" fn after_in_child() {
    let locks = FORKING.try_with(|forking| forking.take()).ok().flatten();
    let (Some((mut held, mut locked)), Some(runtime)) = (locks, get()) else { return };
    held.keep_only(thread::current_context() as u64);
    // Dropping units looks at the records, too.
    drop(held);
    if !locked.arena.after_fork() {
        runtime.words.set_active(false);
        runtime.drop_units(&mut locked, |_| true);
    }
}
