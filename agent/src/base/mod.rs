//! Vocabulary and tools of every other folder: errors, limits, text, files, standard output.

pub mod console;
pub mod digest;
pub mod error;
pub mod files;
pub mod interrupt;
pub mod json;
pub mod limits;
pub mod replace;
pub mod sys;
pub mod text;
pub mod words;
