//! The command line and the environment: what was typed becomes a `Config`, or one line that
//! names the source and the problem.
//!
//! Owns flags, variables, defaults and their validation, and the settings as they are shown.
//! Leaves what they mean to `config.rs`. May use `http` (syntax) and `net`.

pub mod args;
pub mod resolve;
pub mod settings;
