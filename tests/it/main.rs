//! The integration tests, in one program: pgvane as users run it, from its binary.
//!
//! - [`sql`]: roles learnt from PostgreSQL itself, alone or beside Patroni

mod sql;
