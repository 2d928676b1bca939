//! Huge pages or small ones, for the memory that is prepared. Pure: it is told what the last took.

use super::words::Pages;
use std::ops::Range;
use std::time::Duration;

/// Which pages the memory prepared next is made of.
///
/// Records on huge pages are read in an eighth less time (measured at one and ten million keys). To
/// clear one costs a fraction of what its small pages would; but where a host must find the memory
/// first, as in a virtual machine that gives back what is free, it was seen to take 5 to 20 ms, ten
/// times as much. So huge pages are tried, and a dear one is followed by small ones for a while, each
/// time for twice as long.
pub(crate) struct PageChoice {
    /// Segments left to be prepared of small pages.
    small: u32,
    /// How many it will be after the next dear one.
    pause: u32,
}

impl Default for PageChoice {
    fn default() -> Self {
        PageChoice {
            small: 0,
            pause: Self::PAUSES.start,
        }
    }
}

impl PageChoice {
    const PAUSES: Range<u32> = 16..1_024;
    /// What 4 KiB of a huge page may cost: about as much as a small page.
    const DEAR: Duration = Duration::from_nanos(1_200);

    pub(crate) fn choose(&mut self) -> Pages {
        match self.small.checked_sub(1) {
            Some(left) => {
                self.small = left;
                Pages::Small
            }
            None => Pages::Huge,
        }
    }

    pub(crate) fn learn(&mut self, pages: Pages, bytes: usize, took: Duration) {
        if pages == Pages::Small {
            return;
        }
        if took > Self::DEAR * (bytes >> 12) as u32 {
            self.small = self.pause;
            self.pause = (2 * self.pause).min(Self::PAUSES.end);
        } else {
            self.pause = Self::PAUSES.start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: usize = 4 << 20;

    /// How many segments get small pages after a huge one took this long, and what comes then.
    fn small_after(choice: &mut PageChoice, took: Duration) -> u32 {
        assert_eq!(choice.choose(), Pages::Huge);
        choice.learn(Pages::Huge, BYTES, took);
        let mut small = 0;
        while choice.small > 0 {
            assert_eq!(choice.choose(), Pages::Small);
            choice.learn(Pages::Small, BYTES, Duration::from_secs(1));
            small += 1;
        }
        small
    }

    #[test]
    fn dear_huge_pages_are_tried_less_and_less_often() {
        let (cheap, dear) = (Duration::from_micros(1_200), Duration::from_micros(1_300));
        let mut choice = PageChoice::default();
        assert_eq!(small_after(&mut choice, cheap), 0);
        let pauses: Vec<_> = (0..9).map(|_| small_after(&mut choice, dear)).collect();
        assert_eq!(pauses, [16, 32, 64, 128, 256, 512, 1_024, 1_024, 1_024]);
        assert_eq!(small_after(&mut choice, cheap), 0);
        assert_eq!(small_after(&mut choice, dear), 16, "cheap ones are trusted again");
    }
}
