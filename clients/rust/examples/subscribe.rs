//! Prints and acknowledges messages of the queue `orders` until it is interrupted.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use warrengate_client::{Client, Error, SubscribeOptions};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::from_env().await?;
    let consumer = client.consume(SubscribeOptions::queue("orders").concurrency(16), async |delivery| {
        println!("{}", String::from_utf8_lossy(delivery.body()));
        Ok(())
    });
    consumer.await?.wait().await
}
