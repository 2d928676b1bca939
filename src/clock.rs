//! The one place where time comes from.
//!
//! A call reads the clock once, at the door, and hands a [`Tick`] down. Ticks are milliseconds
//! of store time; a deadline is rounded up by one, because the reading it starts from was
//! rounded down: late by a tick is allowed, early never.

use crate::error::{Error, Result};
use crate::sync::{Arc, Mutex, Weak};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// Where a store reads the time.
///
/// The default is the machine's own clocks. Tests pass a [`ManualClock`].
///
/// # Duties of an implementer
///
/// `monotonic` never goes backwards and may be called from any thread, several times per
/// operation; keep it cheap. If time can move by other means than passing (a test that jumps),
/// tell every listener after each move, or waits last until their next look at the clock.
///
/// # Examples
///
/// ```
/// use onceonly::{Clock, Store};
/// use std::time::{Duration, Instant, SystemTime};
///
/// /// Time at double speed, to see what a day looks like in half of one.
/// struct Hurried(Instant);
///
/// impl Clock for Hurried {
///     fn monotonic(&self) -> Duration {
///         self.0.elapsed() * 2
///     }
///     fn wall(&self) -> SystemTime {
///         SystemTime::now()
///     }
/// }
/// let store = Store::builder().clock(Hurried(Instant::now())).in_memory()?;
/// # Ok::<(), onceonly::Error>(())
/// ```
pub trait Clock: Send + Sync + 'static {
    /// Time since some fixed moment; never goes backwards.
    fn monotonic(&self) -> Duration;

    /// The calendar's time; may jump both ways.
    fn wall(&self) -> SystemTime;

    /// Takes a function to call after each jump. Clocks that never jump ignore it.
    fn on_jump(&self, listener: Weak<dyn Fn() + Send + Sync>) {
        let _ = listener;
    }
}

/// A store's clock: the machine's, which is asked without a detour, or one it was given.
#[derive(Clone)]
pub(crate) enum AnyClock {
    /// Counted from this moment.
    Machine(Instant),
    Given(Arc<dyn Clock>),
}

impl AnyClock {
    pub(crate) fn machine() -> Self {
        AnyClock::Machine(Instant::now())
    }

    pub(crate) fn monotonic(&self) -> Duration {
        match self {
            AnyClock::Machine(start) => start.elapsed(),
            AnyClock::Given(clock) => clock.monotonic(),
        }
    }

    pub(crate) fn wall(&self) -> SystemTime {
        match self {
            AnyClock::Machine(_) => SystemTime::now(),
            AnyClock::Given(clock) => clock.wall(),
        }
    }

    pub(crate) fn on_jump(&self, listener: Weak<dyn Fn() + Send + Sync>) {
        if let AnyClock::Given(clock) = self {
            clock.on_jump(listener);
        }
    }
}

impl<C: Clock> From<C> for AnyClock {
    fn from(clock: C) -> Self {
        AnyClock::Given(Arc::new(clock))
    }
}

/// A clock that stands still until it is told to move. Clones share one time.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, ManualClock, Store};
/// use std::time::Duration;
///
/// let clock = ManualClock::new();
/// let store = Store::builder().clock(clock.clone()).ttl(Duration::from_secs(60)).in_memory()?;
/// assert!(store.first_seen(Key::new("acme", "m-1"))?);
/// assert!(!store.first_seen(Key::new("acme", "m-1"))?);
///
/// clock.advance(Duration::from_secs(61));
/// assert!(store.first_seen(Key::new("acme", "m-1"))?, "forgotten after its ttl");
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone)]
pub struct ManualClock {
    inner: Arc<ManualInner>,
}

struct ManualInner {
    time: Mutex<(Duration, SystemTime)>,
    listeners: Mutex<Vec<Weak<dyn Fn() + Send + Sync>>>,
}

impl ManualClock {
    /// A clock at zero; its wall clock starts at 2024-01-01 00:00:00 UTC.
    pub fn new() -> Self {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_704_067_200);
        ManualClock {
            inner: Arc::new(ManualInner {
                time: Mutex::new((Duration::ZERO, wall)),
                listeners: Mutex::new(Vec::new()),
            }),
        }
    }

    /// Moves both clocks forward, then wakes every waiter and helper of every store on it.
    pub fn advance(&self, by: Duration) {
        {
            let mut time = self.inner.time.lock();
            time.0 = time.0.saturating_add(by);
            // A wall clock at the end of its range stays there.
            time.1 = time.1.checked_add(by).unwrap_or(time.1);
        }
        self.tell();
    }

    /// Sets the wall clock, forwards or backwards; the monotonic clock stays.
    pub fn set_wall(&self, to: SystemTime) {
        self.inner.time.lock().1 = to;
        self.tell();
    }

    fn tell(&self) {
        let listeners: Vec<_> = {
            let mut listeners = self.inner.listeners.lock();
            listeners.retain(|l| l.strong_count() > 0);
            listeners.iter().filter_map(Weak::upgrade).collect()
        };
        for listener in listeners {
            listener();
        }
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn monotonic(&self) -> Duration {
        self.inner.time.lock().0
    }

    fn wall(&self) -> SystemTime {
        self.inner.time.lock().1
    }

    fn on_jump(&self, listener: Weak<dyn Fn() + Send + Sync>) {
        self.inner.listeners.lock().push(listener);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (monotonic, wall) = *self.inner.time.lock();
        f.debug_struct("ManualClock")
            .field("monotonic", &monotonic)
            .field("wall", &wall)
            .finish_non_exhaustive()
    }
}

/// Until when a call may wait.
///
/// Made from a [`Duration`] (counted on the store's clock from the moment of the call) or an
/// [`Instant`].
///
/// ```
/// use onceonly::Deadline;
/// use std::time::{Duration, Instant};
/// let _: Deadline = Duration::from_secs(2).into();
/// let _: Deadline = (Instant::now() + Duration::from_secs(2)).into();
/// let _ = [Deadline::NOW, Deadline::NEVER];
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(When);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    After(Duration),
    At(Instant),
    Never,
}

impl Deadline {
    /// Wait for as long as it takes.
    pub const NEVER: Self = Deadline(When::Never);
    /// Do not wait at all.
    pub const NOW: Self = Deadline(When::After(Duration::ZERO));

    /// The tick at which waiting ends.
    pub(crate) fn tick(self, now: Tick) -> Tick {
        match self.0 {
            When::Never => Tick::NEVER,
            When::After(span) if span.is_zero() => now,
            When::After(span) => now.after(Span::rounded_up(span)),
            When::At(at) => {
                let left = at.saturating_duration_since(Instant::now());
                Deadline(When::After(left)).tick(now)
            }
        }
    }
}

impl From<Duration> for Deadline {
    fn from(span: Duration) -> Self {
        Deadline(When::After(span))
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Deadline(When::At(at))
    }
}

/// Where store time stands still: some hundred million years on, and far enough from the end of
/// the numbers that no sum of a tick and spans overflows.
const END: u64 = 1 << 62;
/// No clock goes further: whatever names a later moment as past is no store's.
pub(crate) const LATEST: Tick = Tick(END);

/// A moment of store time, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Tick(pub(crate) u64);

/// A length of time in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Span(u64);

/// The longest ttl and lease: a hundred years. Far enough for anything a program means, near
/// enough that no sum of a tick and two spans overflows.
const MAX_SPAN: Duration = Duration::from_secs(36_525 * 24 * 3_600);

impl Tick {
    /// Later than any tick a clock can reach.
    pub(crate) const NEVER: Tick = Tick(u64::MAX);

    /// The deadline `span` after this reading of the clock, rounded up by one tick.
    pub(crate) fn after(self, span: Span) -> Tick {
        Tick(self.0.saturating_add(span.0).saturating_add(1))
    }

    /// How long from `earlier` until this tick; zero if it is past.
    pub(crate) fn since(self, earlier: Tick) -> Duration {
        Duration::from_millis(self.millis_since(earlier))
    }

    /// The same in milliseconds.
    pub(crate) fn millis_since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Span {
    pub(crate) fn rounded_up(span: Duration) -> Span {
        let up = span.saturating_add(Duration::from_nanos(999_999));
        Span(u64::try_from(up.as_millis()).unwrap_or(u64::MAX))
    }

    /// Checks a ttl or lease given by the caller.
    pub(crate) fn checked(what: &'static str, span: Duration) -> Result<Span> {
        Self::in_limits(span).map_err(|why| Error::InvalidInput { what, why })
    }

    /// The span, or why it cannot be one.
    pub(crate) fn in_limits(span: Duration) -> Result<Span, &'static str> {
        if span.is_zero() {
            return Err("it is zero; give at least one millisecond");
        }
        if span > MAX_SPAN {
            return Err("it is longer than a hundred years");
        }
        Ok(Self::rounded_up(span))
    }

    pub(crate) const fn from_millis(ms: u64) -> Span {
        Span(ms)
    }

    pub(crate) fn millis(self) -> u64 {
        self.0
    }
}

/// A store's view of its clock.
///
/// In memory ticks count from 1 at the store's making. With a log they count from the epoch of
/// the wall clock, so that deadlines mean the same to the next process; but while a process
/// lives they follow the monotonic clock, whatever the wall clock does.
///
/// What the wall clock did while no process was there to see is decided once, at open, by
/// [`resume_time`].
pub(crate) struct Timeline {
    clock: AnyClock,
    origin: Origin,
    start: Tick,
}

/// Where a clock stood when store time was `start`.
enum Origin {
    Machine(Instant),
    Given(Duration),
}

/// How time goes on after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Resumed {
    pub(crate) now: Tick,
    /// Store time less the wall clock's, to be kept: below zero where the wall clock has been
    /// ahead of what was believed.
    pub(crate) offset: i64,
    /// What the wall clock would have said, if it was not believed.
    pub(crate) disbelieved: Option<Tick>,
}

/// Store time never runs back, and is at most `max_jump` further than it was. A clock that
/// stepped back is waited for: keys live longer. One that jumped ahead is believed up to the
/// limit, and what it was ahead by stays taken off, so that the next restart does not believe it
/// either.
pub(crate) fn resume_time(last: Option<(Tick, i64)>, wall: Tick, max_jump: Span) -> Resumed {
    let Some((last, offset)) = last else {
        return Resumed {
            now: wall,
            offset: 0,
            disbelieved: None,
        };
    };
    let expected = Tick(wall.0.saturating_add_signed(offset.min(0)));
    let furthest = Tick(last.0.saturating_add(max_jump.0));
    let now = expected.clamp(last, furthest);
    let ahead = wall.0.saturating_sub(now.0).min(i64::MAX as u64) as i64;
    Resumed {
        now,
        offset: -ahead,
        disbelieved: (now != expected).then_some(expected),
    }
}

impl Timeline {
    pub(crate) fn new(clock: AnyClock) -> Self {
        Self::starting_at(clock, Tick(1), Duration::ZERO)
    }

    /// Time that goes on from a tick of which a part has passed. It is never 0, which means "no
    /// time" in packed fields.
    pub(crate) fn starting_at(clock: AnyClock, start: Tick, passed: Duration) -> Self {
        let origin = match &clock {
            AnyClock::Machine(_) => {
                let now = Instant::now();
                Origin::Machine(now.checked_sub(passed).unwrap_or(now))
            }
            AnyClock::Given(clock) => Origin::Given(clock.monotonic().saturating_sub(passed)),
        };
        Timeline {
            clock,
            origin,
            start: start.max(Tick(1)),
        }
    }

    /// Reads the clock.
    #[inline]
    pub(crate) fn now(&self) -> Tick {
        let elapsed = match self.origin {
            Origin::Machine(origin) => origin.elapsed(),
            Origin::Given(origin) => self.clock.monotonic().saturating_sub(origin),
        };
        let millis = elapsed.as_secs().min(END / 1_000) * 1_000 + u64::from(elapsed.subsec_millis());
        Tick(self.start.0 + millis)
    }

    pub(crate) fn clock(&self) -> &AnyClock {
        &self.clock
    }
}

/// The wall clock's reading as a tick, and how much of that tick has passed. A clock before its
/// epoch stands at it.
pub(crate) fn wall_tick(wall: SystemTime) -> (Tick, Duration) {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    let tick = Tick(u64::try_from(since.as_millis()).map_or(END, |ms| ms.clamp(1, END)));
    (
        tick,
        Duration::from_nanos(u64::from(since.subsec_nanos()) % 1_000_000),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_for_any_fraction_of_a_millisecond() {
        let clock = ManualClock::new();
        clock.advance(Duration::from_micros(999));
        let line = Timeline::new(clock.clone().into());
        clock.advance(Duration::from_micros(700));
        let end = line.now().after(Span::rounded_up(Duration::from_millis(5)));
        clock.advance(Duration::from_micros(4_999));
        assert!(line.now() < end, "4.999 ms have passed of 5");
        clock.advance(Duration::from_micros(2_001));
        assert!(line.now() >= end, "two ticks later it has ended");
    }

    #[test]
    fn at_the_end_of_time_it_stands_still() {
        let clock = ManualClock::new();
        let line = Timeline::new(clock.clone().into());
        clock.advance(Duration::MAX);
        let end = line.now();
        clock.advance(Duration::MAX);
        assert_eq!(line.now(), end);
        let spans = Span::checked("ttl", MAX_SPAN).unwrap();
        assert!(end.after(spans).after(spans) > end);
    }

    #[test]
    fn time_goes_on_after_a_restart_and_neither_back_nor_far_ahead() {
        let day = Span::from_millis(86_400_000);
        let at = |last, wall| resume_time(Some(last), Tick(wall), day);
        let was = (Tick(1_000_000_000), 0);
        let fine = at(was, 1_000_005_000);
        assert_eq!(
            (fine.now, fine.offset, fine.disbelieved),
            (Tick(1_000_005_000), 0, None)
        );
        // An hour back: time stands where it was, and the step is not kept.
        let back = at(was, 996_400_000);
        assert_eq!((back.now, back.offset), (was.0, 0));
        assert_eq!(back.disbelieved, Some(Tick(996_400_000)));
        // Ten days ahead: a day of it is believed, and the rest is not believed later either.
        let ahead = at(was, 1_864_000_000);
        assert_eq!((ahead.now, ahead.offset), (Tick(1_086_400_000), -777_600_000));
        let later = at((ahead.now, ahead.offset), 1_864_060_000);
        assert_eq!((later.now, later.offset), (Tick(1_086_460_000), -777_600_000));
        assert_eq!(later.disbelieved, None);
        // A small step back does not let it be believed.
        let step = at((later.now, later.offset), 1_864_059_999);
        assert_eq!((step.now, step.offset), (later.now, -777_599_999));
        // The clock is put right: time waits for it.
        let right = at((later.now, later.offset), 1_000_200_000);
        assert_eq!((right.now, right.offset), (later.now, 0));
        assert_eq!(resume_time(None, Tick(5), day).now, Tick(5));
    }

    #[test]
    fn spans_are_checked() {
        assert!(Span::in_limits(Duration::ZERO).is_err());
        assert!(Span::in_limits(Duration::MAX).is_err());
        assert_eq!(Span::in_limits(Duration::from_nanos(1)), Ok(Span(1)));
        assert_eq!(Span::in_limits(MAX_SPAN).map(|s| s.0 > 1 << 40), Ok(true));
    }

    #[test]
    fn deadlines_resolve_against_the_stores_time() {
        let now = Tick(1_000);
        assert_eq!(Deadline::NOW.tick(now), now);
        assert_eq!(Deadline::NEVER.tick(now), Tick::NEVER);
        assert_eq!(Deadline::from(Duration::from_millis(5)).tick(now), Tick(1_006));
        assert_eq!(Deadline::from(Instant::now()).tick(now), now);
        assert_eq!(Deadline::from(Duration::MAX).tick(now), Tick::NEVER);
    }

    #[test]
    fn a_manual_clock_tells_its_listeners_and_forgets_dead_ones() {
        let clock = ManualClock::new();
        let told = Arc::new(crate::sync::AtomicU64::new(0));
        let counter = told.clone();
        let listener: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            counter.fetch_add(1, crate::sync::Ordering::Relaxed);
        });
        clock.on_jump(Arc::downgrade(&listener));
        clock.advance(Duration::from_secs(1));
        drop(listener);
        clock.advance(Duration::from_secs(1));
        assert_eq!(told.load(crate::sync::Ordering::Relaxed), 1);
        assert!(clock.inner.listeners.lock().is_empty());
    }
}
