//! A process that is killed loses nothing it has acknowledged, whatever the durability.
//!
//! A program works on a store and is killed (`SIGKILL`) at any moment: while it opens the store,
//! while it works, while it closes it; again and again on the same directory. What it said before
//! and after each call is compared with what the store answers afterwards, here or to its next
//! life. See `worker/`.
//!
//! `ONCEONLY_KILLS` is the number of kills. `ONCEONLY_SEED` makes the same choices again; the
//! moments stay chance. What is left of a run that failed is kept.

mod worker;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use worker::life::{Life, TempDir, copy_store, wait_unlocked};
use worker::oracle::{End, Oracle};
use worker::{MODES, Rng, Setup};

/// Lives on one directory.
const LIVES: u64 = 6;

fn main() {
    worker::child::run_if_child();
    if !worker::is_wanted("kill") {
        return;
    }
    if cfg!(not(unix)) {
        println!("kill: skipped: stores with a log are for Unix");
        return;
    }
    let kills = worker::from_env("ONCEONLY_KILLS", 500);
    let seed = worker::seed();
    println!("kill: {kills} kills with ONCEONLY_SEED={seed}");
    let began = Instant::now();
    let totals = Totals::default();
    let (directories, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let directory = directories.fetch_add(1, Ordering::Relaxed);
                    if directory * LIVES >= kills || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let lives = LIVES.min(kills - directory * LIVES);
                    if let Err(why) = run(seed, directory, lives, &totals) {
                        failed.store(true, Ordering::Relaxed);
                        eprintln!("kill: FAILED with ONCEONLY_SEED={seed}, directory {directory}\n{why}");
                    }
                }
            });
        }
    });
    let totals = totals
        .0
        .into_inner()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    println!("kill: {totals:?} in {:.1?}", began.elapsed());
    assert!(!failed.into_inner(), "see above");
    assert_eq!(totals.kills, kills);
    // A test that does nothing proves nothing.
    if kills >= 200 {
        assert!(
            totals.while_opening > 0 && totals.answers > 20 * kills,
            "too little was done"
        );
        assert!(
            totals.segments > kills / 2 && totals.carried > 0,
            "no segment was left"
        );
        assert!(
            totals.in_doubt_done > 0 && totals.in_doubt_undone > 0,
            "no kill hit a call"
        );
    }
}

#[derive(Default)]
struct Totals(Mutex<Counts>);

#[derive(Default, Debug)]
struct Counts {
    kills: u64,
    while_opening: u64,
    while_closing: u64,
    examined: u64,
    answers: u64,
    segments: u64,
    carried: u64,
    in_doubt_done: u64,
    in_doubt_undone: u64,
}

/// Some lives on one directory.
fn run(seed: u64, directory: u64, lives: u64, totals: &Totals) -> Result<(), String> {
    let temp = TempDir::new("kill");
    let mut rng = Rng::new(seed ^ directory << 32);
    let mut setup = Setup {
        dir: temp.path().join("store"),
        seed: 0,
        mode: MODES[directory as usize % MODES.len()],
        segment_bytes: [8 << 10, 16 << 10, 16 << 10, 256 << 10][rng.below(4) as usize],
        threads: 1 + rng.below(4),
        bytes: 120,
        rarely_synced: rng.one_in(2),
        close_after: None,
        quiet_after: None,
    };
    let mut oracle = Oracle::default();
    for life in 0..lives {
        setup.seed = rng.next() >> 20;
        setup.close_after = rng.one_in(8).then(|| Duration::from_millis(rng.below(40)));
        let is_last = life + 1 == lives;
        let done = live_once(&setup, &mut oracle, &mut rng, temp.path(), is_last, totals);
        if let Err(why) = done {
            let kept = temp.path().display().to_string();
            temp.keep();
            return Err(format!(
                "{}, life {life}: {setup:?}\n{why}\nkept in {kept}, as the kill left it in `left`",
                setup.mode
            ));
        }
    }
    Ok(())
}

fn live_once(
    setup: &Setup,
    oracle: &mut Oracle,
    rng: &mut Rng,
    temp: &std::path::Path,
    is_last: bool,
    totals: &Totals,
) -> Result<(), String> {
    let life = Life::start(setup);
    let opening = rng.one_in(4);
    let moment = Duration::from_micros(rng.below(if opening { 15_000 } else { 60_000 }));
    if !opening {
        life.wait_open();
    }
    // The moment of a kill is chance: the child is another process, and works meanwhile.
    std::thread::sleep(moment);
    let lines = life.kill(false)?;
    oracle.hear(lines, End::Killed)?;
    {
        let mut sum = totals.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sum.kills += 1;
        sum.while_opening += u64::from(!oracle.is_open);
        sum.while_closing += u64::from(setup.close_after.is_some_and(|after| !opening && moment > after));
        sum.answers += oracle.answers;
        sum.segments += oracle.segments;
        sum.carried += oracle.carried;
    }
    oracle.answers = 0;
    copy_store(&setup.dir, &temp.join("left"));
    // Else the next life finds what this one has left, and perhaps is killed while it mends it.
    if is_last || rng.below(3) > 0 {
        let store = setup
            .builder()
            .open(&setup.dir)
            .map_err(|error| format!("it does not open: {error}"))?;
        let found = oracle.examine(&store)?;
        if rng.one_in(2) {
            store
                .close()
                .map_err(|error| format!("it does not close: {error}"))?;
        } else {
            drop(store);
        }
        wait_unlocked(&setup.dir)?;
        let mut sum = totals.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sum.examined += 1;
        sum.in_doubt_done += found.in_doubt_done;
        sum.in_doubt_undone += found.in_doubt_undone;
    }
    Ok(())
}
