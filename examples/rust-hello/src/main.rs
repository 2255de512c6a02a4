//! The smallest useful Rust function, on AWS's own `lambda_runtime` crate.

use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Greeting {
    #[serde(default = "world")]
    name: String,
}

#[derive(Serialize)]
struct Answer {
    message: String,
    request_id: String,
}

fn world() -> String {
    "world".to_owned()
}

async fn handler(event: LambdaEvent<Greeting>) -> Result<Answer, Error> {
    let LambdaEvent { payload, context } = event;
    println!("greeting {}", payload.name);
    Ok(Answer { message: format!("Hello, {}!", payload.name), request_id: context.request_id })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    run(service_fn(handler)).await
}
