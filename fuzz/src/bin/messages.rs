//! Messages between the worker, its monitors, the zygote and egress, in pieces as a socket gives them.

#![no_main]

use calypte_wire::descriptor::Descriptor;
use calypte_wire::egress::{self, Answer, FromEgress, Question, ToEgress};
use calypte_wire::frame::Decoder;
use calypte_wire::monitor::{ToMonitor, ToWorker};
use calypte_wire::zygote::{self, FromZygote, ToZygote};
use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;

const MESSAGE_BYTES_MAX: usize = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    match first % 16 {
        0 => stream::<ToWorker>(rest),
        1 => stream::<ToMonitor>(rest),
        2 => packet::<ToZygote>(rest),
        3 => packet::<FromZygote>(rest),
        4 => packet::<Descriptor>(rest),
        5 => egress_packet::<ToEgress>(rest),
        6 => egress_packet::<FromEgress>(rest),
        7 => egress_packet::<Question>(rest),
        8 => egress_packet::<Answer>(rest),
        _ => {}
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

fn egress_packet<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    if let Ok(message) = egress::decode::<T>(bytes, MESSAGE_BYTES_MAX) {
        let encoded = zygote::encode(&message);
        assert!(egress::decode::<T>(&encoded, usize::MAX).is_ok(), "an encoded message cannot be decoded");
        assert!(egress::decode::<T>(&encoded, encoded.len() - 1).is_err(), "a message that is too long is decoded");
    }
}
