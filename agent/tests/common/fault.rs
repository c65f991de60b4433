//! A server that does what a real registry cannot be made to do.
