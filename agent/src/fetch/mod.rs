//! HTTP, with a limit on everything.

pub mod answer;
pub mod blob;
pub mod body;
pub mod certificate;
pub mod challenge;
pub mod client;
pub mod cluster;
pub mod link;
pub mod login;
pub mod options;
pub mod pace;
pub mod probe;
pub mod proxy;
pub mod realm;
pub mod tls;
pub mod tokens;
pub mod upload;
pub mod url;
