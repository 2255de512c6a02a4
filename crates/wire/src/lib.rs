//! Every encoding that crosses a process or machine boundary: worker ↔ monitor ([`monitor`]), worker ↔ zygote
//! ([`zygote`], [`descriptor`]), monitor ↔ egress ([`egress`]), and the JSON shapes of the Lambda API ([`lambda`]).
//!
//! Types and codecs only: no sockets, no clock. Decoders are total: any byte sequence gives a value or an error.

#![forbid(unsafe_code)]

pub mod descriptor;
pub mod egress;
pub mod frame;
pub mod lambda;
pub mod monitor;
pub mod zygote;
