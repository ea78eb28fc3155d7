//! Prints and acknowledges messages of the queue `orders` until it is interrupted.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use warrengate_client::{Client, ClientOptions, SubscribeOptions};

#[tokio::main]
async fn main() -> Result<(), warrengate_client::Error> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let mut subscription = client.subscribe(SubscribeOptions::queue("orders")).await?;
    while let Some(delivery) = subscription.next().await? {
        println!("{}", String::from_utf8_lossy(delivery.body()));
        subscription.ack(&delivery)?;
    }
    Ok(())
}
