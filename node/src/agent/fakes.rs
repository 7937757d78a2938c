//! A runtime and a cluster in memory, for tests.
