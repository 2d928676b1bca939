//! Bytes read as choices. When they run out every choice is zero, so that any input is one.

pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.byte()) % from.len()]
    }

    /// A number of any size; most are near zero, and some as far from it as they get.
    pub(crate) fn number(&mut self) -> u64 {
        let first = self.byte();
        match first {
            0..200 => u64::from(first),
            200..255 => {
                let mut bytes = [0; 8];
                let given = self.bytes(usize::from(first) % 8 + 1);
                bytes[..given.len()].copy_from_slice(given);
                u64::from_le_bytes(bytes)
            }
            255 => u64::MAX - u64::from(self.byte()),
        }
    }

    /// As many bytes as there are, at most `most`.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (now, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        now
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }
}
