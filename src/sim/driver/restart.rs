//! The end of a store's life, and the next one.

use super::super::disk::Cut;
use super::*;

impl Driver {
    /// Ends the store and opens it again: it must be what the model says of a crash.
    pub(super) fn restart(&mut self, how: End) -> Verdict {
        let Some((durability, _)) = self.setup.log else {
            return Ok(());
        };
        // Only what was synced survives a power cut.
        let how = match how {
            End::Cut | End::CutAll if durability != Durability::Sync => End::Kill,
            how => how,
        };
        if std::mem::take(&mut self.unsynced) && matches!(how, End::Cut | End::CutAll) {
            self.store.sync().map_err(|error| differ("sync", "Ok", &error))?;
        }
        match how {
            End::Close => {
                let closed = self.store.clone().close();
                closed.map_err(|error| differ("close", "Ok", &error))?;
            }
            End::Kill => self.disk = self.disk.kill(),
            End::CutAll => self.disk = self.disk.cut(Cut::LoseAll),
            End::Cut => self.disk = self.disk.cut(Cut::Random),
        }
        // Guards and questions of the life that ended have nothing to say.
        self.held = Default::default();
        self.asked = Default::default();
        let opened = self.setup.open(self.clock.clone(), &self.disk);
        self.store = opened.map_err(|error| differ("opening again", "the store", &error))?;
        self.model.restart();
        self.counts = Counts::default();
        for key in self.model.unsettled() {
            let status = self.store.status(&key);
            let status = status.map_err(|error| differ("status", "Ok", &error))?;
            self.model.settle(key.as_key(), &status);
        }
        self.status()
    }
}
