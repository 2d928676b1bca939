//! What is promised to be on the device is there after a power cut, on real file systems.
//!
//! A program works on a store on ext4 or XFS in an image file. At any moment the file system is
//! shut down without flushing its journal (an ioctl made for such tests), the program is killed,
//! and the image mounted again, which recovers the file system's own log: what was not synced is
//! gone. What the program had said is then compared with what the store answers. See `worker/`.
//!
//! Before the cut some pages that nobody synced are pushed out, as the system itself does at any
//! time: of what was written after the last sync any part may have reached the device.
//!
//! Needs root, and a system that may mount images; otherwise it says `skipped`. All of it happens
//! in a mount namespace of its own, and loop devices end with their mount: nothing is left behind
//! whatever becomes of this process.
//!
//! `ONCEONLY_CUTS` and `ONCEONLY_XFS_CUTS` are the numbers of cuts. `ONCEONLY_SEED` makes the
//! same choices again; the moments stay chance. What is left of a run that failed is kept.

mod worker;

#[cfg(not(target_os = "linux"))]
fn main() {
    worker::child::run_if_child();
    println!("power: skipped: all power cuts, for they need Linux");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use crate::worker::life::{Life, TempDir, copy_store, wait_unlocked};
    use crate::worker::oracle::{End, Oracle};
    use crate::worker::{self, INTERVAL, Lasting, MODES, Rng, Setup};
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    /// Cuts on one image.
    const CUTS: u64 = 5;
    /// What a sync of an `Interval` store may take: a lot, on a machine that is busy otherwise.
    const ONE_SYNC: Duration = Duration::from_millis(600);
    /// No cut takes so long: something hangs.
    const HANGS_AFTER: Duration = Duration::from_secs(120);

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Kind {
        Ext4,
        Xfs,
    }

    impl Kind {
        fn name(self) -> &'static str {
            match self {
                Kind::Ext4 => "ext4",
                Kind::Xfs => "xfs",
            }
        }

        /// XFS refuses to be smaller.
        fn image_bytes(self) -> u64 {
            match self {
                Kind::Ext4 => 96 << 20,
                Kind::Xfs => 300 << 20,
            }
        }
    }

    #[derive(Default, Debug)]
    struct Counts {
        cuts: u64,
        while_opening: u64,
        examined: u64,
        /// Of the stores examined, those that had lost something answered and not yet synced;
        /// and those that could: with outcomes or claims weaker than `Sync`.
        lost: u64,
        could_lose: u64,
        /// Those that had a hole: something unsynced has survived behind something lost.
        holes: u64,
        answers: u64,
        segments: u64,
        carried: u64,
        in_doubt_done: u64,
        in_doubt_undone: u64,
    }

    pub(super) fn main() {
        worker::child::run_if_child();
        if !worker::is_wanted("power") {
            return;
        }
        let cuts = [
            (Kind::Ext4, worker::from_env("ONCEONLY_CUTS", 100)),
            (Kind::Xfs, worker::from_env("ONCEONLY_XFS_CUTS", 20)),
        ];
        if let Err(why) = private_mounts() {
            for (kind, cuts) in cuts {
                println!("power: skipped: {cuts} power cuts on {}: {why}", kind.name());
            }
            return;
        }
        let seed = worker::seed();
        for (kind, cuts) in cuts {
            if cuts == 0 {
                continue;
            }
            let name = kind.name();
            if let Err(why) = try_mount(kind) {
                println!("power: skipped: {cuts} power cuts on {name}: {why}");
                continue;
            }
            println!("power: {cuts} power cuts on {name} with ONCEONLY_SEED={seed}");
            cut_all(kind, cuts, seed);
        }
    }

    fn cut_all(kind: Kind, cuts: u64, seed: u64) {
        let began = Instant::now();
        let counts = Mutex::new(Counts::default());
        let (images, failed, done) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let runners: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let image = images.fetch_add(1, Ordering::Relaxed);
                            if image * CUTS >= cuts || failed.load(Ordering::Relaxed) {
                                return;
                            }
                            let cuts = CUTS.min(cuts - image * CUTS);
                            if let Err(why) = run(kind, seed, image, cuts, &counts) {
                                failed.store(true, Ordering::Relaxed);
                                let name = kind.name();
                                eprintln!(
                                    "power: FAILED with ONCEONLY_SEED={seed}, {name} image {image}\n{why}"
                                );
                            }
                        }
                    })
                })
                .collect();
            scope.spawn(|| watch(&counts, &done));
            for runner in runners {
                failed.fetch_or(runner.join().is_err(), Ordering::Relaxed);
            }
            done.store(true, Ordering::Relaxed);
        });
        let counts = counts
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        println!("power: {}: {counts:?} in {:.1?}", kind.name(), began.elapsed());
        assert!(!failed.into_inner(), "see above");
        assert_eq!(counts.cuts, cuts);
        // A test in which nothing is lost proves nothing. (Most of what is lost is lost by stores
        // that do not promise to keep it; those that do rarely have more than a page unsynced.)
        let Counts {
            lost,
            could_lose,
            holes,
            ..
        } = counts;
        if could_lose >= 20 {
            assert!(lost * 3 >= could_lose, "too little was lost: the cuts are none");
            assert!(holes * 12 >= could_lose, "too few holes: the cuts are too clean");
        }
    }

    /// Ends this process, and with it all of its mounts, when nothing moves any more.
    fn watch(counts: &Mutex<Counts>, done: &AtomicBool) {
        let (mut last, mut since) = (0, Instant::now());
        while !done.load(Ordering::Relaxed) {
            // A watchdog over a file system that may hang: nothing would wake it.
            std::thread::sleep(Duration::from_millis(20));
            let cuts = counts.lock().map_or(0, |counts| counts.cuts);
            if cuts != last {
                (last, since) = (cuts, Instant::now());
            }
            if since.elapsed() > HANGS_AFTER {
                eprintln!("power: hangs after {cuts} cuts");
                std::process::exit(1);
            }
        }
    }

    /// Some power cuts on one image.
    fn run(kind: Kind, seed: u64, image: u64, cuts: u64, counts: &Mutex<Counts>) -> Result<(), String> {
        let temp = TempDir::new("power");
        let mut rng = Rng::new(seed ^ image << 32 ^ (kind as u64) << 60);
        let at = temp.path().join("mount");
        // Most images are to lose much: a hole needs several pages that nobody has synced.
        let rarely_synced = rng.below(4) > 0;
        let sizes: [usize; 4] = if rarely_synced {
            [256, 512, 1_024, 1_024]
        } else {
            [8, 16, 64, 256]
        };
        let mut setup = Setup {
            dir: at.join("store"),
            seed: 0,
            mode: MODES[(image + seed) as usize % MODES.len()],
            segment_bytes: sizes[rng.below(4) as usize] << 10,
            threads: 2 + rng.below(3),
            bytes: if rarely_synced { 600 } else { 120 },
            rarely_synced,
            close_after: None,
            quiet_after: None,
        };
        let failed = |error: io::Error| format!("the image cannot be prepared: {error}");
        make_image(kind, temp.path()).map_err(failed)?;
        let mut mount = Some(Mount::new(kind, temp.path()).map_err(failed)?);
        let mut oracle = Oracle::default();
        for cut in 0..cuts {
            setup.seed = rng.next() >> 20;
            setup.close_after = rng.one_in(10).then(|| Duration::from_millis(rng.below(60)));
            let patient = setup.mode.outcomes == Lasting::Interval && rng.one_in(6);
            setup.quiet_after = patient.then_some(Duration::from_millis(30));
            let is_last = cut + 1 == cuts;
            let done = cut_once(
                kind,
                &setup,
                &mut oracle,
                &mut rng,
                temp.path(),
                &mut mount,
                is_last,
                counts,
            );
            if let Err(why) = done {
                let kept = temp.path().display().to_string();
                drop(mount);
                temp.keep();
                return Err(format!(
                    "{}, cut {cut}: {setup:?}\n{why}\nkept in {kept}, as the cut left it in `left`",
                    setup.mode
                ));
            }
        }
        Ok(())
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "one story, cut from `run` for its length"
    )]
    fn cut_once(
        kind: Kind,
        setup: &Setup,
        oracle: &mut Oracle,
        rng: &mut Rng,
        temp: &Path,
        mount: &mut Option<Mount>,
        is_last: bool,
        counts: &Mutex<Counts>,
    ) -> Result<(), String> {
        let failed = |error: io::Error| format!("the image cannot be cut off and mounted again: {error}");
        let life = Life::start(setup);
        let opening = rng.one_in(8);
        let moment = match setup.quiet_after {
            Some(quiet) => quiet + ONE_SYNC + INTERVAL + Duration::from_millis(200),
            None => Duration::from_micros(rng.below(if opening { 30_000 } else { 120_000 })),
        };
        if !opening {
            life.wait_open();
        }
        // The moment of a cut is chance, and the child, another process, works meanwhile.
        std::thread::sleep(moment);
        push_out_some(&setup.dir, rng);
        std::thread::sleep(Duration::from_micros(rng.below(3_000)));
        let kept_before = (setup.mode.outcomes == Lasting::Interval
            && setup.mode.claims == Lasting::Interval)
            .then(|| Instant::now().checked_sub(INTERVAL + ONE_SYNC))
            .flatten();
        if let Some(mount) = mount.as_ref() {
            mount.cut_power().map_err(failed)?;
        }
        let lines = life.kill(true)?;
        drop(mount.take());
        *mount = Some(Mount::new(kind, temp).map_err(failed)?);
        oracle.hear(lines, End::PowerCut { kept_before })?;
        copy_store(&setup.dir, &temp.join("left"));
        let mut found = None;
        // Else the next life finds what this one has left, and perhaps is cut off as it mends it.
        if is_last || rng.below(4) > 0 {
            let store = setup.builder().open(&setup.dir);
            let store = store.map_err(|error| format!("it does not open: {error}"))?;
            found = Some((oracle.examine(&store)?, store.recovery().torn.is_some()));
            if rng.one_in(2) {
                store
                    .close()
                    .map_err(|error| format!("it does not close: {error}"))?;
            } else {
                drop(store);
            }
            wait_unlocked(&setup.dir)?;
        }
        let mut sum = counts.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sum.cuts += 1;
        sum.while_opening += u64::from(!oracle.is_open);
        sum.answers += std::mem::take(&mut oracle.answers);
        sum.segments += oracle.segments;
        sum.carried += oracle.carried;
        if let Some((found, is_torn)) = found {
            sum.examined += 1;
            sum.lost += u64::from(found.lost);
            sum.could_lose += u64::from(found.could_lose);
            sum.holes += u64::from(is_torn);
            sum.in_doubt_done += found.in_doubt_done;
            sum.in_doubt_undone += found.in_doubt_undone;
        }
        Ok(())
    }

    /// Has the system write some pages of the newest segments though nobody has synced them.
    fn push_out_some(store: &Path, rng: &mut Rng) {
        // One in so many; at 0 none.
        let share = [0, 2, 2, 2, 5][rng.below(5) as usize];
        let mut segments: Vec<(PathBuf, u64)> = Vec::new();
        for entry in fs::read_dir(store).into_iter().flatten().flatten() {
            // The names of segments are numbers, and grow.
            let is_segment = entry.file_name().as_bytes()[0].is_ascii_hexdigit();
            let len = entry.metadata().map_or(0, |data| data.len());
            segments.extend(is_segment.then(|| (entry.path(), len)));
        }
        segments.sort();
        for (path, len) in segments.iter().rev().take(6) {
            let Ok(file) = File::open(path) else { continue };
            for page in 0..len / 4_096 {
                if share == 0 || !rng.one_in(share) {
                    continue;
                }
                let flags = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
                // SAFETY: the descriptor is open, and the call takes no memory of ours.
                unsafe { libc::sync_file_range(file.as_raw_fd(), (page * 4_096) as i64, 4_096, flags) };
            }
        }
    }

    /// Mounts of this process and its children are seen by nobody else and end with them.
    fn private_mounts() -> Result<(), String> {
        let failed = |what| Err(format!("{what}: {}", io::Error::last_os_error()));
        // SAFETY: it takes no memory; no other thread runs yet.
        if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
            return failed("it needs root, to have mounts of its own");
        }
        let (none, root) = (std::ptr::null(), c"/".as_ptr());
        // SAFETY: the strings end with a zero, and null stands for what this call does not read.
        if unsafe { libc::mount(none, root, none, libc::MS_REC | libc::MS_PRIVATE, none.cast()) } != 0 {
            return failed("mounts cannot be made private");
        }
        Ok(())
    }

    /// Does this machine do it at all?
    fn try_mount(kind: Kind) -> Result<(), String> {
        let temp = TempDir::new("power-try");
        make_image(kind, temp.path()).map_err(|error| error.to_string())?;
        let mount = Mount::new(kind, temp.path()).map_err(|error| error.to_string())?;
        mount.cut_power().map_err(|error| format!("no shutdown: {error}"))
    }

    fn output_of(command: &mut Command) -> io::Result<()> {
        let name = command.get_program().to_string_lossy().into_owned();
        let named = |error| io::Error::other(format!("{name}: {error}"));
        let output = command.output().map_err(named)?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("{name}: {}", why.trim())))
    }

    fn make_image(kind: Kind, temp: &Path) -> io::Result<()> {
        let image = temp.join("image");
        File::create(&image)?.set_len(kind.image_bytes())?;
        fs::create_dir_all(temp.join("mount"))?;
        output_of(Command::new(format!("mkfs.{}", kind.name())).arg("-q").arg(image))
    }

    /// A mounted image; its loop device ends with the mount.
    struct Mount(PathBuf);

    impl Mount {
        fn new(kind: Kind, temp: &Path) -> io::Result<Self> {
            let at = temp.join("mount");
            let mut mount = Command::new("mount");
            mount
                .args(["-n", "-t", kind.name(), "-o", "loop"])
                .arg(temp.join("image"));
            output_of(mount.arg(&at))?;
            Ok(Mount(at))
        }

        fn cut_power(&self) -> io::Result<()> {
            /// `EXT4_IOC_SHUTDOWN` and `XFS_IOC_GOINGDOWN` alike.
            const SHUT_DOWN: libc::c_ulong = 0x8004_587d;
            const WITHOUT_FLUSHING_THE_LOG: u32 = 2;
            let root = File::open(&self.0)?;
            let how = WITHOUT_FLUSHING_THE_LOG;
            // SAFETY: the descriptor is open, and this ioctl reads one `u32`, which `how` is.
            match unsafe { libc::ioctl(root.as_raw_fd(), SHUT_DOWN, &raw const how) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            let Ok(at) = CString::new(self.0.as_os_str().as_bytes()) else {
                return;
            };
            // SAFETY: the string ends with a zero.
            let unmount = |flags| unsafe { libc::umount2(at.as_ptr(), flags) } == 0;
            // A program that is being started holds a copy of what this process has open.
            let until = Instant::now() + Duration::from_secs(5);
            while !unmount(0) {
                if Instant::now() > until {
                    unmount(libc::MNT_DETACH);
                    return;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
