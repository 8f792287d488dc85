//! The part of PostgreSQL's protocol that a proxy has to understand. Pure: bytes in, meaning out.

pub mod application_name;
pub mod authentication;
pub mod cancel;
pub mod error_response;
pub mod framing;
pub mod login;
pub mod login_again;
pub mod message;
pub mod opening;
pub mod proxy_header;
mod requests;
pub mod restoring;
pub mod sasl;
pub mod scram;
pub mod scram_exchange;
pub mod session_question;
pub mod session_state;
mod sql_prepare;
pub mod startup;
mod walk;

pub use cancel::CancelKey;
pub use error_response::{Fatal, ServerError, SqlState};
