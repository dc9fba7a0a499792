//! Safe words for the operating system: the only folder with `unsafe`; knows no SQL.

pub mod child_program;
pub mod clock;
pub mod durable;
pub mod failpoint;
pub mod family;
pub mod msgq;
pub mod pipe;
pub mod process;
pub mod shared;
pub mod signal;
pub mod supervisor;
pub mod title;
