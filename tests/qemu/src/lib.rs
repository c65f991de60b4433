//! Virtual devices (stub).
