//! Socket-level tests.
