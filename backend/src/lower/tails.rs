//! Tails: the stores of slots that exits have in common.
//!
//! An exit writes many slots, and the next exit mostly the same ones: a store in each would be more than half of all code
//! and of the time to compile it. So the stores of an exit end in a *tail*, a chain of blocks that other exits join. The
//! address of the exit's record goes with them, and is returned at the end of the chain.
//!
//! # How
//! The stores of all exits form a tree. Each exit is a path from a node to the root; what is stored for longest, that is, by
//! the latest exit, comes next to the root. Exits that write different things first therefore end alike.
//!
//! # Invariants
//! A node is on the paths of exits only that write its value, so the value's definition dominates the node's block.
//!
//! # Worked example
//! `exit0 {rax = v1, rbx = v2}`, `exit1 {rax = v3, rbx = v2}`: rbx = v2 is next to the root, with both rax above it.
//! ```text
//! exit0: store v1 -> rax; jump tail(record 0)        tail(record): store v2 -> rbx; return record
//! exit1: store v3 -> rax; jump tail(record 1)
//! ```

use super::Lowering;
use crate::BackendError;
use cranelift_codegen::ir::{Block, BlockArg, InstBuilder, Value, types};
use redmagic_ir::{Entity, Exit, ExitData, ExitValue, Opcode, Slot, Trace, Type, Value as IrValue};
use rustc_hash::FxBuildHasher;
use std::cmp::Reverse;
use std::collections::HashMap;

type FastMap<K, V> = HashMap<K, V, FxBuildHasher>;

/// A tail with fewer stores is not worth a jump.
const LEAST_STORES: u32 = 3;
/// The end of all paths.
const ROOT: u32 = 0;

/// What a store writes: the same for two exits if these would compute the same from the same values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Value(IrValue),
    Const(Type, i64),
    /// A recipe, by the number of its [`Formula`].
    Formula(u32),
    Undefined,
}

/// A recipe without the exit that it stands in.
#[derive(PartialEq, Eq, Hash)]
struct Formula {
    op: Opcode,
    ty: Type,
    args: [Source; 3],
}

/// A store and where it leads.
struct Node {
    slot: Slot,
    /// What is stored, as this exit has it.
    value: ExitValue,
    exit: Exit,
    /// The next store.
    parent: u32,
    /// Stores from here on.
    depth: u32,
    /// Paths and nodes that lead here.
    users: u32,
    block: Option<Block>,
}

/// The tree of the exits' stores.
#[derive(Default)]
pub(super) struct Tails {
    nodes: Vec<Node>,
    /// By exit: its first node.
    starts: Vec<u32>,
    /// Nodes that have a block without code.
    pending: Vec<u32>,
}

impl Tails {
    /// The tree of the exits that `has_tail` names.
    pub fn new(trace: &Trace, has_tail: impl Fn(Exit) -> bool) -> Tails {
        let mut formulas = FastMap::default();
        let mut last: FastMap<(Slot, Source), Exit> = FastMap::default();
        let mut paths = Vec::new();
        for (exit, data) in trace.exits.iter().filter(|(exit, _)| has_tail(*exit)) {
            let mut stores = Vec::new();
            for (slot, value) in data.slots.iter().filter(|(slot, value)| is_in_tail(trace, data, *slot, *value)) {
                let source = source(data, *value, slot.ty(), &mut formulas);
                last.insert((*slot, source), exit);
                stores.push((*slot, source, *value));
            }
            paths.push((exit, stores));
        }
        let root = Node {
            slot: Slot::FLAGS,
            value: ExitValue::Undefined,
            exit: Exit::NONE,
            parent: ROOT,
            depth: 0,
            users: 0,
            block: None,
        };
        let mut tails = Tails { nodes: vec![root], starts: vec![ROOT; trace.exits.len()], pending: Vec::new() };
        let mut known: FastMap<(u32, Slot, Source), u32> = FastMap::default();
        for (exit, mut stores) in paths {
            stores.sort_by_key(|(slot, source, _)| Reverse(last.get(&(*slot, *source)).copied()));
            let mut at = ROOT;
            for (slot, source, value) in stores {
                at = *known.entry((at, slot, source)).or_insert_with(|| tails.add(slot, value, exit, at));
            }
            tails.nodes[at as usize].users += 1;
            tails.starts[exit.index()] = at;
        }
        tails
    }

    fn add(&mut self, slot: Slot, value: ExitValue, exit: Exit, parent: u32) -> u32 {
        self.nodes[parent as usize].users += 1;
        let depth = self.nodes[parent as usize].depth + 1;
        self.nodes.push(Node { slot, value, exit, parent, depth, users: 0, block: None });
        self.nodes.len() as u32 - 1
    }
}

/// Whether the tail of an exit writes a slot. Constants are in the exit's record, and flags are often computed by others.
pub(super) fn is_in_tail(trace: &Trace, data: &ExitData, slot: Slot, value: ExitValue) -> bool {
    match value {
        ExitValue::Value(value) => trace.as_const(value).is_none(),
        ExitValue::Recipe(index) => slot != Slot::FLAGS && (index as usize) < data.recipes.len(),
        ExitValue::Const(_) | ExitValue::Undefined => false,
    }
}

/// What an exit's value comes from. `ty` is the type of a constant.
fn source(data: &ExitData, value: ExitValue, ty: Type, formulas: &mut FastMap<Formula, u32>) -> Source {
    let recipe = match value {
        ExitValue::Value(value) => return Source::Value(value),
        ExitValue::Const(imm) => return Source::Const(ty, imm),
        ExitValue::Undefined => return Source::Undefined,
        ExitValue::Recipe(index) => &data.recipes[index as usize],
    };
    let mut args = [Source::Undefined; 3];
    for (at, arg) in args.iter_mut().enumerate() {
        *arg = source(data, recipe.args[at], recipe.arg_types[at], formulas);
    }
    let next = formulas.len() as u32;
    Source::Formula(*formulas.entry(Formula { op: recipe.op, ty: recipe.ty, args }).or_insert(next))
}

impl Lowering<'_, '_> {
    /// Makes the stores of an exit's tail, or jumps to who does, and returns the record.
    pub(super) fn tail_of(&mut self, exit: Exit, record: Value) -> Result<(), BackendError> {
        self.tail(self.tails.starts[exit.index()], record)
    }

    fn tail(&mut self, mut at: u32, record: Value) -> Result<(), BackendError> {
        while at != ROOT {
            let node = &mut self.tails.nodes[at as usize];
            if node.users > 1 && node.depth >= LEAST_STORES {
                let block = match node.block {
                    Some(block) => block,
                    None => {
                        let block = self.builder.create_block();
                        node.block = Some(block);
                        self.builder.append_block_param(block, types::I64);
                        self.tails.pending.push(at);
                        block
                    }
                };
                self.builder.ins().jump(block, &[BlockArg::Value(record)]);
                return Ok(());
            }
            at = self.tail_store(at)?;
        }
        self.builder.ins().return_(&[record]);
        Ok(())
    }

    /// Makes one store; returns what comes next.
    fn tail_store(&mut self, at: u32) -> Result<u32, BackendError> {
        let Node { slot, value, exit, parent, .. } = self.tails.nodes[at as usize];
        let data = &self.trace.exits[exit];
        let mut made = vec![None; data.recipes.len()];
        if let Some(operand) = self.exit_operand(data, value, slot.ty(), &mut made)? {
            let (value, _) = self.at_home(operand)?;
            self.write_slot(slot, value);
        }
        Ok(parent)
    }

    /// The blocks that exits have jumped to.
    pub(super) fn tails(&mut self) -> Result<(), BackendError> {
        while let Some(at) = self.tails.pending.pop() {
            let Some(block) = self.tails.nodes[at as usize].block else { continue };
            self.builder.set_cold_block(block);
            self.builder.switch_to_block(block);
            self.scope += 1;
            let record = self.builder.block_params(block)[0];
            let next = self.tail_store(at)?;
            self.tail(next, record)?;
        }
        Ok(())
    }
}
