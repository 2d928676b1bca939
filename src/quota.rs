//! Limits that are exact at the edge and cost nothing far from it.
//!
//! A [`Quota`] hands its units to the shards in small blocks; a shard pays from its block
//! under a lock it holds anyway and touches the shared count only when the block is empty.
//! When a shard is refused, the quota turns *tight*: from then on units come and go one by one,
//! the store collects the blocks of all shards once, and a refusal means that every unit is
//! really in use. Well below the limit it relaxes again.

use crate::sync::{AtomicBool, AtomicI64, AtomicU64, Ordering};

pub(crate) struct Quota {
    limit: u64,
    /// Below zero while units were taken that nobody may refuse.
    left: AtomicI64,
    /// How many shards share what is left; sizes their blocks.
    shards: u64,
    max_block: u64,
    tight: AtomicBool,
}

/// Units a shard has taken and not used.
#[derive(Default)]
pub(crate) struct Credit(u64);

impl Credit {
    pub(crate) fn units(&self) -> u64 {
        self.0
    }
}

impl Quota {
    pub(crate) fn new(limit: u64, shards: usize, max_block: u64) -> Self {
        // Nothing a machine can hold comes near it.
        let limit = limit.min(i64::MAX as u64 / 2);
        Quota {
            limit,
            left: AtomicI64::new(limit as i64),
            shards: shards as u64,
            max_block,
            tight: AtomicBool::new(false),
        }
    }

    /// Takes `units` through a shard's credit.
    #[inline]
    pub(crate) fn take(&self, units: u64, credit: &mut Credit) -> bool {
        if credit.0 >= units {
            credit.0 -= units;
            return true;
        }
        self.refill(units, credit)
    }

    #[cold]
    fn refill(&self, units: u64, credit: &mut Credit) -> bool {
        let missing = units - credit.0;
        let spare = if self.tight.load(Ordering::Relaxed) {
            0
        } else {
            let fair = self.left.load(Ordering::Relaxed).max(0) as u64 / (4 * self.shards);
            fair.min(self.max_block)
        };
        for want in [missing + spare, missing] {
            if self.take_direct(want) {
                credit.0 = credit.0 + want - units;
                return true;
            }
        }
        false
    }

    /// Gives `units` back through a shard's credit.
    #[inline]
    pub(crate) fn give(&self, units: u64, credit: &mut Credit) {
        credit.0 += units;
        if credit.0 > 2 * self.max_block {
            let surplus = credit.0 - self.max_block;
            credit.0 = self.max_block;
            self.give_direct(surplus);
        } else if self.tight.load(Ordering::Relaxed) {
            self.collect(credit);
        }
    }

    /// Takes a shard's unused units back.
    pub(crate) fn collect(&self, credit: &mut Credit) {
        let units = std::mem::take(&mut credit.0);
        if units > 0 {
            self.give_direct(units);
        }
    }

    /// Takes units for something that must not be refused, beyond the limit if need be.
    pub(crate) fn force(&self, units: u64, credit: &mut Credit) {
        if !self.take(units, credit) {
            self.left.fetch_sub(units as i64, Ordering::Relaxed);
        }
    }

    /// Has more been taken by force than there is? Then the shards' unused credit is owed.
    pub(crate) fn is_overdrawn(&self) -> bool {
        self.left.load(Ordering::Relaxed) < 0
    }

    /// Takes units that belong to no shard, all or nothing.
    pub(crate) fn take_direct(&self, units: u64) -> bool {
        let Ok(units) = i64::try_from(units) else {
            return false;
        };
        // Relaxed: the count guards no other memory.
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                (left >= units).then(|| left - units)
            })
            .is_ok()
    }

    /// Takes units that belong to no shard and must not be refused.
    pub(crate) fn force_direct(&self, units: u64) {
        self.left.fetch_sub(units as i64, Ordering::Relaxed);
    }

    pub(crate) fn give_direct(&self, units: u64) {
        let left = self.left.fetch_add(units as i64, Ordering::Relaxed) + units as i64;
        debug_assert!(left <= self.limit as i64, "more given back than was taken");
        if left > (self.limit / 8) as i64 && self.tight.load(Ordering::Relaxed) {
            self.tight.store(false, Ordering::Relaxed);
        }
    }

    /// Turns the quota tight. True if it was not: then the caller collects every shard's
    /// credit and tries again.
    pub(crate) fn tighten(&self) -> bool {
        !self.tight.swap(true, Ordering::Relaxed)
    }

    /// Units taken, the shards' unused credit among them.
    pub(crate) fn taken(&self) -> u64 {
        self.limit
            .saturating_add_signed(-self.left.load(Ordering::Relaxed))
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

/// What a record may take of the room there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Share {
    /// What was promised to it.
    Promised,
    /// Anything that is not promised to others: records that nobody has promised and that should
    /// not be refused.
    Reserve,
    /// What is left beyond that.
    Rest,
}

/// Room in space that is prepared, and what of it has been promised. Whoever uses room without
/// a promise leaves as much as is promised.
pub(crate) struct Room {
    free: AtomicU64,
    promised: AtomicU64,
    /// Kept for what nobody has promised and must not be refused.
    reserve: u64,
}

impl Room {
    pub(crate) fn new(reserve: u64) -> Self {
        Room {
            free: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            reserve,
        }
    }

    /// Promises room, if there is as much beyond what has been promised before.
    pub(crate) fn promise(&self, bytes: u64) -> bool {
        // SeqCst, here and in `use_up`: of a promise and a use at the same time at least one
        // sees the other.
        let promised = self.promised.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if self.free.load(Ordering::SeqCst) >= promised + self.reserve {
            return true;
        }
        self.settle(bytes);
        false
    }

    /// Promises room whether or not it is there.
    pub(crate) fn owe(&self, bytes: u64) {
        self.promised.fetch_add(bytes, Ordering::SeqCst);
    }

    /// A promise was kept, or is no longer needed.
    pub(crate) fn settle(&self, bytes: u64) {
        let before = self.promised.fetch_sub(bytes, Ordering::SeqCst);
        debug_assert!(before >= bytes, "settled more than was promised");
    }

    /// What must stay free: promised, or in reserve.
    pub(crate) fn promised(&self) -> u64 {
        self.must_stay(Share::Rest)
    }

    /// What must stay free after a record that takes this.
    pub(crate) fn must_stay(&self, takes: Share) -> u64 {
        match takes {
            Share::Promised => 0,
            Share::Reserve => self.promised.load(Ordering::SeqCst),
            Share::Rest => self.promised.load(Ordering::SeqCst) + self.reserve,
        }
    }

    pub(crate) fn free(&self) -> u64 {
        self.free.load(Ordering::SeqCst)
    }

    /// Sets what is free, unless less would be left than must stay. One caller at a time.
    pub(crate) fn use_down_to(&self, free: u64, takes: Share) -> bool {
        let before = self.free.swap(free, Ordering::SeqCst);
        if free >= self.must_stay(takes) {
            return true;
        }
        self.free.store(before, Ordering::SeqCst);
        false
    }

    /// Sets what is free, whatever is promised.
    pub(crate) fn set_free(&self, free: u64) {
        self.free.store(free, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_room_is_not_used_up_by_others() {
        let room = Room::new(10);
        room.set_free(100);
        assert!(room.promise(60) && !room.promise(31) && room.promise(30));
        assert!(!room.use_down_to(99, Share::Rest));
        assert!(room.use_down_to(99, Share::Reserve) && !room.use_down_to(89, Share::Reserve));
        room.settle(30);
        assert!(room.use_down_to(70, Share::Rest) && room.free() == 70);
        room.owe(1_000);
        assert!(!room.promise(0), "owed beyond what is there");
        room.set_free(2_000);
        assert!(room.promise(1));
    }

    #[test]
    fn every_unit_can_be_used_once_it_is_tight() {
        let quota = Quota::new(1_000, 4, 64);
        let mut credits: [Credit; 4] = Default::default();
        let mut used = 0;
        'refused: loop {
            for i in 0..4 {
                if quota.take(1, &mut credits[i]) {
                    used += 1;
                    continue;
                }
                if !quota.tighten() {
                    break 'refused;
                }
                credits.iter_mut().for_each(|c| quota.collect(c));
            }
        }
        assert_eq!(used, 1_000);
        quota.give(1, &mut credits[0]);
        assert!(
            quota.take(1, &mut credits[3]),
            "what one shard gives another may take"
        );
        assert!(!quota.take(1, &mut credits[0]));
    }

    #[test]
    fn far_from_the_limit_the_shared_count_rests() {
        let quota = Quota::new(1 << 20, 4, 64);
        let mut credit = Credit::default();
        assert!(quota.take(1, &mut credit));
        let taken = quota.taken();
        for _ in 0..60 {
            assert!(quota.take(1, &mut credit));
        }
        for _ in 0..61 {
            quota.give(1, &mut credit);
        }
        assert_eq!(quota.taken(), taken);
    }

    #[test]
    fn what_must_not_be_refused_is_owed() {
        let quota = Quota::new(2, 1, 64);
        let mut credit = Credit::default();
        (0..4).for_each(|_| quota.force(1, &mut credit));
        assert_eq!(quota.taken(), 4);
        (0..2).for_each(|_| quota.give(1, &mut credit));
        quota.collect(&mut credit);
        assert!(!quota.take(1, &mut credit));
        quota.give_direct(1);
        assert!(quota.take(1, &mut credit));
    }

    #[test]
    fn all_or_nothing() {
        let quota = Quota::new(10, 1, 64);
        let mut credit = Credit::default();
        assert!(!quota.take(11, &mut credit));
        assert!(quota.take(10, &mut credit));
        assert!(!quota.take(1, &mut credit));
        quota.give(10, &mut credit);
        assert!(quota.take_direct(10 - credit.units()));
    }
}
