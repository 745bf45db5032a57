//! The command line and the environment: what was typed becomes a `Config`, or one line that
//! names the source and the problem.
//!
//! Owns flags, variables, defaults and their validation, the help, how a person is spoken to,
//! and the settings as they are shown. `flags` is the table that all of these come from.
//! Leaves what they mean to `config.rs`. May use `http` (syntax) and `net`.

mod args;
mod contradictions;
pub mod flags;
mod help;
mod identities;
pub mod manner;
mod nearest;
mod refused;
pub mod resolve;
pub mod settings;
mod unfit;
mod upstream;
mod values;
mod variables;
