//! What has changed between two looks at a list, for a page that keeps no record of it: what was
//! removed, and what comes at which place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;

use live_state::places::{removed, stay_in_order};
use rustler::{Encoder, Env, Term};

use super::shared_term::SharedTerm;
use super::snapshot::{encode_list, Record, ROW_COST, SHARED_LIMIT};

mod atoms {
    rustler::atoms! { changed, keep, insert, update, r#move = "move" }
}

/// A change of a list.
pub struct StreamChange {
    /// The generation that it comes from.
    pub from: u64,
    /// The places, in the earlier list, of records that are gone.
    removed: Vec<usize>,
    items: Vec<Item>,
    cost: usize,
    /// Whether a page has taken it: the next ones get it as a term that is made once.
    taken: AtomicBool,
    term: OnceLock<SharedTerm>,
}

/// A piece of the new list, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    /// So many records of the earlier list, from this place on, as they were and in their order.
    Keep { first: usize, count: usize },
    /// A record that was not there.
    Insert { new: usize },
    /// A record with other data, in its place among those that were there.
    Update { old: usize, new: usize },
    /// A record, changed or not, in another place among those that were there.
    Move { old: usize, new: usize },
}

impl StreamChange {
    /// From a list, of this generation, to another one.
    pub fn between(from: u64, before: &[Record], now: &[Record]) -> Self {
        let olds = old_places(before, now);
        let stays = stay_in_order(&olds);
        let mut change = StreamChange {
            from,
            removed: removed(before.len(), &olds),
            items: Vec::new(),
            cost: ROW_COST,
            taken: AtomicBool::new(false),
            term: OnceLock::new(),
        };
        for (new, old) in olds.iter().enumerate() {
            change.push(match *old {
                None => Item::Insert { new },
                Some(old) if !stays[new] => Item::Move { old, new },
                Some(old) if before[old].is_equal(&now[new]) => Item::Keep {
                    first: old,
                    count: 1,
                },
                Some(old) => Item::Update { old, new },
            });
        }
        let cost = |item: &Item| match *item {
            Item::Keep { .. } => ROW_COST,
            Item::Insert { new } | Item::Update { new, .. } | Item::Move { new, .. } => {
                ROW_COST + now[new].cost()
            }
        };
        change.cost += change.items.iter().map(cost).sum::<usize>();
        let removed = change.removed.iter().map(|old| before[*old].cost());
        change.cost += removed.sum::<usize>();
        change
    }

    fn push(&mut self, item: Item) {
        if let (Item::Keep { first: old, .. }, Some(Item::Keep { first, count })) =
            (item, self.items.last_mut())
        {
            if *first + *count == old {
                *count += 1;
                return;
            }
        }
        self.items.push(item);
    }

    /// What `encode` costs.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// `{:changed, removed, items}`, of the lists that it was made of.
    pub fn encode<'a>(&self, env: Env<'a>, before: &[Record], now: &[Record]) -> Term<'a> {
        // The first one may be the only one.
        if self.cost > SHARED_LIMIT || !self.taken.swap(true, Ordering::Relaxed) {
            return self.encode_new(env, before, now);
        }
        self.term
            .get_or_init(|| SharedTerm::new(|env| self.encode_new(env, before, now)))
            .copy(env)
    }

    fn encode_new<'a>(&self, env: Env<'a>, before: &[Record], now: &[Record]) -> Term<'a> {
        let removed = encode_list(env, &self.removed, |old| {
            (*old, before[*old].encode(env)).encode(env)
        });
        let items = encode_list(env, &self.items, |item| match *item {
            Item::Keep { first, count } => (atoms::keep(), first, count).encode(env),
            Item::Insert { new } => (atoms::insert(), now[new].encode(env)).encode(env),
            Item::Update { old, new } => (atoms::update(), old, now[new].encode(env)).encode(env),
            Item::Move { old, new } => (atoms::r#move(), old, now[new].encode(env)).encode(env),
        });
        (atoms::changed(), removed, items).encode(env)
    }
}

/// For each record its place in the earlier list, if it was there.
fn old_places(before: &[Record], now: &[Record]) -> Vec<Option<usize>> {
    let mut next = 0;
    let mut places: Option<HashMap<&[u8], usize>> = None;
    let find = |record: &Record| {
        let is_next = |old: &&Record| old.key() == record.key();
        let old = match before.get(next).filter(is_next) {
            Some(_) => next,
            None => {
                let places = places.get_or_insert_with(|| {
                    let keys = before.iter().map(Record::key);
                    keys.zip(0..).collect()
                });
                *places.get(record.key())?
            }
        };
        next = old + 1;
        Some(old)
    };
    now.iter().map(find).collect()
}
