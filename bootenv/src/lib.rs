//! A/B slot protocol (stub).
