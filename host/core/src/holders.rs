//! Sessions that backends hold and report: their documents, and their session hooks.
//!
//! ```text
//!  operations ──▶ HeldDocuments ──read, compare-and-set──▶ store ──updates of owned partitions──▶ Tracker: statuses
//!   answers  ◀────────┘  ▲                                                              └──▶ HeldHooks ──▶ session hooks
//!                        └────────────────────── Forget: an end that every plugin has settled ──┘
//! ```
//!
//! Whoever is asked writes the documents, whoever owns the user runs the hooks; both may be other hosts, and change. It
//! must not know leases: a holder lives and dies as an instance, which is [`Membership`](crate::membership::Membership)'s.

mod documents;
mod hooks;
mod words;

pub use documents::HeldDocuments;
pub use hooks::{HeldEffect, HeldHooks};
pub use words::{
    Answer, DocumentEffect, DocumentId, Done, EMPTY_KEPT, Facts, Held, MAX_SESSIONS_PER_DOCUMENT, NotDone,
    Operation, Rejected, Ticket,
};

#[cfg(test)]
mod tests;
