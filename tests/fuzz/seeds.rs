//! Where fuzzing starts: inputs that reach what random bytes do not, and those that once found
//! something. They are committed (`tests/fuzz/seeds/`), and this makes them again.

use super::forge::{self, BASE, COUNTED, Keyed, NOTED, Note, TTL};

pub(crate) type Seeds = Vec<(String, Vec<u8>)>;

fn named<const N: usize>(seeds: [(&str, Vec<u8>); N]) -> Seeds {
    seeds.map(|(name, bytes)| (name.to_string(), bytes)).into()
}

fn completed(id: &str, generation: u64) -> Keyed {
    Keyed {
        kind: 1,
        scope: b"acme".to_vec(),
        id: id.into(),
        generation,
        tag: 201,
        expires: TTL as u32 + 1,
        body: b"paid".to_vec(),
        ..Keyed::default()
    }
}

fn claimed(id: &str, generation: u64) -> Keyed {
    Keyed {
        kind: 2,
        tag: NOTED | COUNTED,
        written: Some(BASE),
        counts: Some(1 << 32 | 2),
        body: b"ref 7".to_vec(),
        ..completed(id, generation)
    }
}

/// A segment's records, with the choices that come before them: all sums right, some room behind.
fn records(parts: &[Vec<u64>]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 255, 5];
    bytes.extend(forge::to_bytes(&parts.concat()));
    bytes
}

pub(crate) fn record() -> Seeds {
    let fine = Keyed {
        fingerprint: Some([1, 2]),
        written: Some(BASE),
        ..completed("c", 7)
    };
    let coarse = Keyed {
        coarse: true,
        expires: 2_592_000,
        ..completed("d", 8)
    };
    let ended = |kind| Keyed {
        kind,
        tag: 0,
        body: Vec::new(),
        ..completed("a", 9)
    };
    let unscoped = Keyed {
        scope: Vec::new(),
        ..claimed("u", 3)
    };
    let mut unsealed = records(&[completed("a", 1).to_words(), completed("b", 2).to_words()]);
    unsealed[2] = 2;
    let mut token = vec![1];
    token.extend([[7; 8], [9; 8], [0; 8], [0; 8]].concat());
    token.extend([4, 7, 0]);
    token.extend(b"acmeorder-1");
    named([
        ("completed", records(&[completed("a", 1).to_words()])),
        (
            "claims",
            records(&[claimed("a", 1).to_words(), unscoped.to_words()]),
        ),
        (
            "a-life",
            records(&[
                claimed("a", 5).to_words(),
                completed("a", 5).to_words(),
                Note::Vouch(forge::position(1, 20)).to_words(),
                ended(3).to_words(),
                ended(4).to_words(),
                Note::mark(1, 1, 0).to_words(),
                Note::Seal.to_words(),
            ]),
        ),
        ("options", records(&[fine.to_words(), coarse.to_words()])),
        ("one-sum-wrong", unsealed),
        (
            "vouched-too-far",
            records(&[Note::Vouch(forge::position(2, 9)).to_words()]),
        ),
        ("token", [vec![200, 0], token.clone()].concat()),
        (
            "token-text",
            [
                vec![200, 1],
                token
                    .iter()
                    .flat_map(|b| format!("{b:02x}").into_bytes())
                    .collect(),
            ]
            .concat(),
        ),
    ])
}

/// Steps of [`directory`](super::directory): what its bytes mean is there.
mod step {
    pub(super) const BEGIN: [u8; 3] = [0, 0, 0];
    pub(super) const COMPLETED: [u8; 4] = [30, 0, 1, 0];
    pub(super) const CLAIMED: [u8; 4] = [30, 1, 2, 0];
    pub(super) const VOUCH: [u8; 2] = [110, 0];
}

pub(crate) fn directory() -> Seeds {
    use step::{BEGIN, CLAIMED, COMPLETED, VOUCH};
    let log: Vec<u8> = [
        &[5][..],
        &BEGIN,
        &CLAIMED,
        &COMPLETED,
        &VOUCH,
        &COMPLETED,
        &BEGIN,
        &COMPLETED,
        &CLAIMED,
        &BEGIN,
        &COMPLETED,
    ]
    .concat();
    let with = |steps: &[u8]| [&log[..], steps].concat();
    named([
        ("log", log.clone()),
        ("first-turn-2", with(&[0, 6, 2, 0, 30, 0, 1, 0])),
        ("bit-flipped", with(&[160, 0, 20, 1, 1])),
        ("sector-zeroed", with(&[160, 220, 9, 0, 0])),
        ("sealed-again", with(&[150, 0, 12, 1, 0])),
        ("middle-missing", with(&[200, 1])),
        ("copied", with(&[190, 3, 7, 0])),
        ("cut-short", with(&[210, 120, 2])),
        ("torn", with(&[235, 12])),
        ("newer", with(&[175, 8, 2, 1])),
        ("unknown-file", with(&[220, 7, 1, 2, 3])),
        ("store-missing", with(&[228, 4, 0])),
        ("found-mark-under-the-seal", vec![10; 4]),
        ("found-last-turn", vec![0, 4, 0x5f, 0xff, 0, 0xff]),
        (
            "found-moment-at-the-end",
            vec![
                0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x30, 0xd6, 0xcf, 0xcf, 0xcf, 0x30, 0x30, 0x32,
                0x2e, 0xd0, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0xf8, 0, 0xf8,
            ],
        ),
        (
            "found-rounded-moment",
            vec![0x26, 1, 0x22, 0x60, 0xfc, 3, 0x5e, 0x60, 0x22, 0x60, 0x60],
        ),
    ])
}

pub(crate) fn streams() -> Seeds {
    let stores = [
        ("memory", [0, 0, 0]),
        ("memory-limited", [0x10, 0, 0x15]),
        ("log-process", [1, 1, 0]),
        ("log-sync", [2, 0, 0]),
        ("log-sync-limited", [6, 2, 0x29]),
        ("long-ttl", [2, 4, 0]),
    ];
    // Claim, complete, replay, drop, resume, checkpoint, restart; and then a few of everything.
    let story: [[u8; 6]; 12] = [
        [0, 1, 0, 0, 0, 0],
        [110, 0, 3, 0, 0, 0],
        [126, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [149, 1, 2, 0, 0, 0],
        [78, 2, 0x40, 0, 0, 0],
        [194, 1, 0, 0, 0, 0],
        [254, 0, 0, 0, 0, 0],
        [228, 0, 4, 0, 0, 0],
        [64, 1, 2, 3, 0, 0],
        [138, 0, 1, 0, 0, 0],
        [143, 1, 0, 0, 0, 0],
    ];
    let seeds = stores.iter().map(|(name, store)| {
        let all = (0..=255u8)
            .step_by(9)
            .map(|kind| [kind, kind / 3, kind / 5, 1, 0, 0]);
        let steps: Vec<u8> = story.into_iter().chain(all).flatten().collect();
        (name.to_string(), [&store[..], &steps].concat())
    });
    seeds.collect()
}
