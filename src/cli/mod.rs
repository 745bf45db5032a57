//! The command line and the environment: turns both into a `Config`, or into an error that
//! names the source and the problem.
//!
//! Owns flags, variables, defaults and their validation, the help, the language of messages,
//! and the list of settings in effect. `flags` is the table that all of these come from.
//! Leaves what the settings mean to `config.rs`. May use `http` (syntax) and `net`.

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
