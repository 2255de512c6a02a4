//! Messages between the worker, its monitors and the zygote, in pieces as a socket gives them.

#![no_main]

use calypte_wire::frame::Decoder;
use calypte_wire::monitor::{ToMonitor, ToWorker};
use calypte_wire::zygote::{self, FromZygote, ToZygote};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

const MESSAGE_BYTES_MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 4 {
        0 => stream::<ToWorker>(rest),
        1 => stream::<ToMonitor>(rest),
        2 => packet::<ToZygote>(rest),
        _ => packet::<FromZygote>(rest),
    }
});

fn stream<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let mut decoder = Decoder::new(MESSAGE_BYTES_MAX);
    for piece in bytes.chunks(7) {
        decoder.push(piece);
        while let Ok(Some(message)) = decoder.next::<T>() {
            let encoded = calypte_wire::frame::encode(&message);
            let mut again = Decoder::new(usize::MAX);
            again.push(&encoded);
            assert!(matches!(again.next::<T>(), Ok(Some(_))), "an encoded message cannot be decoded");
        }
    }
}

fn packet<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(message) = zygote::decode::<T>(bytes) {
        assert!(zygote::decode::<T>(&zygote::encode(&message)).is_ok(), "an encoded message cannot be decoded");
    }
}
