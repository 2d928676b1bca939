//! A hierarchical timing wheel over (deadline, payload); pure: it is handed integers and never
//! reads a clock.
//!
//! Level `k` has 64 slots of `64^k` ticks each. An entry lives in the level of the highest
//! 6-bit digit in which its deadline differs from the wheel's `now`, in the slot that digit
//! names. Three things follow, and are all there is to it:
//!
//! - every entry of a level agrees with `now` in all higher digits, so slots never wrap, and
//!   the earliest slot of the lowest occupied level comes first;
//! - an entry moves down at most once per level (a *cascade*) before it fires, never early and
//!   in the first `advance` that reaches its deadline;
//! - one `u64` per level says which slots are occupied, so empty time is skipped, not stepped
//!   through.
//!
//! After Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987).
//!
//! What it does not do: decide anything. A fired entry is a hint that a deadline has passed;
//! lookups compare the deadline with the time and need no wheel.

/// 64 slots a level: one bit each in a `u64`.
const SLOTS: usize = 64;
const DIGIT: u32 = SLOTS.trailing_zeros();
/// No node.
const NIL: u32 = u32::MAX;

/// Names an entry until it fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimerId(u32);

struct Node {
    deadline: u64,
    payload: u32,
    prev: u32,
    next: u32,
    level: u8,
    slot: u8,
}

struct Level {
    /// Bit `i` is set while slot `i` has entries.
    occupied: u64,
    heads: [u32; SLOTS],
}

pub(crate) struct Wheel {
    now: u64,
    /// Grown on demand: leases of a minute need four levels, a wheel without entries none.
    levels: Vec<Level>,
    nodes: Vec<Node>,
    /// Head of the list of free nodes, linked by `next`.
    free: u32,
}

/// What [`Wheel::advance`] did with its allowance of steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Advance {
    /// Everything due has fired.
    Done,
    /// The allowance ran out first; call again.
    More,
}

impl Wheel {
    pub(crate) fn new(now: u64) -> Self {
        Wheel {
            now,
            levels: Vec::new(),
            nodes: Vec::new(),
            free: NIL,
        }
    }

    /// Adds an entry; one whose deadline is past fires at the next `advance`.
    pub(crate) fn insert(&mut self, deadline: u64, payload: u32) -> TimerId {
        let node = Node {
            deadline,
            payload,
            prev: NIL,
            next: NIL,
            level: 0,
            slot: 0,
        };
        let index = if self.free == NIL {
            self.nodes.push(node);
            (self.nodes.len() - 1) as u32
        } else {
            let index = self.free;
            self.free = self.nodes[index as usize].next;
            self.nodes[index as usize] = node;
            index
        };
        self.link(index);
        TimerId(index)
    }

    /// Moves an entry to another deadline. The id must not have fired.
    pub(crate) fn reset(&mut self, id: TimerId, deadline: u64) {
        self.unlink(id.0);
        self.nodes[id.0 as usize].deadline = deadline;
        self.link(id.0);
    }

    /// The earliest tick at which `advance` may have something to do; a lower bound of the
    /// earliest deadline.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.next_event().map(|(tick, ..)| tick)
    }

    /// Moves time forward and fires what is due, in at most `steps` firings and cascades.
    pub(crate) fn advance(&mut self, to: u64, steps: &mut usize, mut fire: impl FnMut(u32)) -> Advance {
        loop {
            let (tick, level, slot) = match self.next_event() {
                Some(event) if event.0 <= to => event,
                _ => {
                    self.now = self.now.max(to);
                    return Advance::Done;
                }
            };
            if *steps == 0 {
                return Advance::More;
            }
            *steps -= 1;
            // The slot's own digit becomes `now`'s digit: until the slot is empty it stays the
            // next event, so an interrupted cascade resumes where it stopped.
            self.now = tick;
            let index = self.levels[level].heads[slot];
            self.unlink(index);
            if self.nodes[index as usize].deadline <= self.now {
                let payload = self.nodes[index as usize].payload;
                self.release(index);
                fire(payload);
            } else {
                self.link(index);
            }
        }
    }

    /// Bytes of a wheel without entries, six levels deep (two years of milliseconds).
    pub(crate) const BYTES: u64 = (size_of::<Wheel>() + 6 * size_of::<Level>()) as u64;
    /// Bytes an entry adds.
    pub(crate) const NODE_BYTES: u64 = size_of::<Node>() as u64;

    /// The next (tick, level, slot) to process, not before `now`.
    fn next_event(&self) -> Option<(u64, usize, usize)> {
        let mut best: Option<(u64, usize, usize)> = None;
        for (k, level) in self.levels.iter().enumerate() {
            if level.occupied == 0 {
                continue;
            }
            let slot = level.occupied.trailing_zeros() as usize;
            let shift = DIGIT * k as u32;
            let above = shift + DIGIT;
            let prefix = if above >= u64::BITS {
                0
            } else {
                self.now >> above << above
            };
            let start = (prefix | (slot as u64) << shift).max(self.now);
            if best.is_none_or(|(tick, ..)| start < tick) {
                best = Some((start, k, slot));
            }
        }
        best
    }

    fn link(&mut self, index: u32) {
        let deadline = self.nodes[index as usize].deadline.max(self.now);
        let level = (self.now ^ deadline).checked_ilog2().unwrap_or(0) / DIGIT;
        let slot = (deadline >> (DIGIT * level)) as usize % SLOTS;
        let level = level as usize;
        while self.levels.len() <= level {
            self.levels.push(Level {
                occupied: 0,
                heads: [NIL; SLOTS],
            });
        }
        let head = &mut self.levels[level].heads[slot];
        let next = std::mem::replace(head, index);
        self.levels[level].occupied |= 1 << slot;
        if next != NIL {
            self.nodes[next as usize].prev = index;
        }
        let node = &mut self.nodes[index as usize];
        node.prev = NIL;
        node.next = next;
        node.level = level as u8;
        node.slot = slot as u8;
    }

    fn unlink(&mut self, index: u32) {
        let Node {
            prev,
            next,
            level,
            slot,
            ..
        } = self.nodes[index as usize];
        if next != NIL {
            self.nodes[next as usize].prev = prev;
        }
        if prev != NIL {
            self.nodes[prev as usize].next = next;
            return;
        }
        let level = &mut self.levels[usize::from(level)];
        level.heads[usize::from(slot)] = next;
        if next == NIL {
            level.occupied &= !(1 << slot);
        }
    }

    fn release(&mut self, index: u32) {
        self.nodes[index as usize].next = self.free;
        self.free = index;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn fired(wheel: &mut Wheel, to: u64) -> Vec<u32> {
        let mut out = Vec::new();
        let mut steps = usize::MAX;
        assert_eq!(wheel.advance(to, &mut steps, |p| out.push(p)), Advance::Done);
        out.sort_unstable();
        out
    }

    #[test]
    fn fires_at_its_deadline_and_not_before() {
        for deadline in [
            1,
            63,
            64,
            65,
            4_095,
            4_096,
            262_144,
            1 << 24,
            (1 << 36) + 7,
            1 << 60,
        ] {
            let mut wheel = Wheel::new(0);
            wheel.insert(deadline, 9);
            assert!(fired(&mut wheel, deadline - 1).is_empty(), "{deadline}");
            assert_eq!(fired(&mut wheel, deadline), [9], "{deadline}");
            assert_eq!(wheel.next_due(), None);
        }
    }

    /// What the store's byte budget is told.
    #[test]
    fn a_wheel_for_two_years_has_the_bytes_it_says() {
        let mut wheel = Wheel::new(0);
        wheel.insert(2 * 365 * 86_400_000, 1);
        let levels = wheel.levels.len() * size_of::<Level>();
        assert_eq!(Wheel::BYTES as usize, size_of::<Wheel>() + levels);
    }

    /// A wheel is as large as the most entries it has had at a time.
    #[test]
    fn the_place_of_a_fired_entry_is_used_again() {
        let mut wheel = Wheel::new(0);
        for now in 1..1_000 {
            wheel.insert(now, 1);
            wheel.insert(now, 2);
            assert_eq!(fired(&mut wheel, now), [1, 2]);
        }
        assert_eq!(wheel.nodes.len(), 2);
    }

    #[test]
    fn a_past_deadline_fires_at_once() {
        let mut wheel = Wheel::new(1_000);
        wheel.insert(3, 1);
        assert_eq!(fired(&mut wheel, 1_000), [1]);
    }

    #[test]
    fn deadlines_just_across_a_digit_boundary_are_not_held_back() {
        let mut wheel = Wheel::new((1 << 36) - 5);
        wheel.insert((1 << 36) + 5, 1);
        assert!(fired(&mut wheel, (1 << 36) + 4).is_empty());
        assert_eq!(fired(&mut wheel, (1 << 36) + 5), [1]);
    }

    #[test]
    fn a_million_in_one_tick_come_in_bounded_steps() {
        let mut wheel = Wheel::new(0);
        for i in 0..1_000_000 {
            wheel.insert(100_000, i);
        }
        let mut count = 0;
        loop {
            let mut steps = 64;
            let before = count;
            let result = wheel.advance(100_000, &mut steps, |_| count += 1);
            assert!(count - before <= 64);
            if result == Advance::Done {
                break;
            }
        }
        assert_eq!(count, 1_000_000);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u64),
        Reset(usize, u64),
        Advance(u64, usize),
    }

    fn delay() -> impl Strategy<Value = u64> {
        (0u32..50).prop_flat_map(|bits| 0..=(1u64 << bits))
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => delay().prop_map(Op::Insert),
            1 => (any::<usize>(), delay()).prop_map(|(i, d)| Op::Reset(i, d)),
            3 => (delay(), 0usize..20).prop_map(|(d, s)| Op::Advance(d, s)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Against an ordered map: whatever the steps and their allowance, an entry fires once,
        /// never early, and an advance that says it is done has left nothing due.
        #[test]
        fn agrees_with_an_ordered_map(start in delay(), ops in prop::collection::vec(op(), 1..80)) {
            let mut wheel = Wheel::new(start);
            let mut model: BTreeMap<u32, (u64, TimerId)> = BTreeMap::new();
            let mut now = start;
            let mut serial = 0;
            for op in ops {
                match op {
                    Op::Insert(d) => {
                        let id = wheel.insert(now + d, serial);
                        model.insert(serial, (now + d, id));
                        serial += 1;
                    }
                    Op::Reset(i, d) if !model.is_empty() => {
                        let payload = *model.keys().nth(i % model.len()).unwrap();
                        let entry = model.get_mut(&payload).unwrap();
                        entry.0 = now + d;
                        wheel.reset(entry.1, entry.0);
                    }
                    Op::Reset(..) => {}
                    Op::Advance(d, steps) => {
                        now += d;
                        let mut steps = steps;
                        let mut out = Vec::new();
                        let result = wheel.advance(now, &mut steps, |p| out.push(p));
                        for p in out {
                            let (deadline, _) = model.remove(&p).expect("fires once");
                            prop_assert!(deadline <= now, "early");
                        }
                        if result == Advance::Done {
                            prop_assert!(model.values().all(|(d, _)| *d > now), "late");
                        }
                    }
                }
                if let Some(due) = wheel.next_due() {
                    let earliest = model.values().map(|(d, _)| *d).min().unwrap();
                    prop_assert!(due <= earliest.max(now));
                } else {
                    prop_assert!(model.is_empty());
                }
            }
        }
    }
}
