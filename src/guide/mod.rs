//! Pages for those who adopt the store. Every example in them is compiled and run as a test.

#[doc = include_str!("server.md")]
pub mod server {}

#[doc = include_str!("crashes.md")]
pub mod crashes {}

#[doc = include_str!("times.md")]
pub mod times {}

#[doc = include_str!("operating.md")]
pub mod operating {}

#[doc = include_str!("messages.md")]
pub mod messages {}
