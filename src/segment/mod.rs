//! Where finished records live: append-only segments that die whole.
//!
//! A record is appended by a lane ([`lane`]) to the segment of its ttl class, never changed,
//! and goes when its segment goes: at the latest deadline of all records in it ([`space`]).
//! Addresses are resolved without a lock ([`table`]); the bytes are drawn in [`record`].
//!
//! What always holds: a record below a lane's cursor is complete; a segment that is hidden
//! from readers holds only expired records; an id is issued again only when no slot and no
//! reader can hold an address with it.

pub(crate) mod lane;
pub(crate) mod pages;
pub(crate) mod record;
pub(crate) mod space;
pub(crate) mod table;
pub(crate) mod words;

pub(crate) use record::{Draft, Record};
pub(crate) use space::{NoRoom, Segments};
pub(crate) use table::Address;
