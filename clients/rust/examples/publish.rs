//! Publishes one message to the queue `orders` and prints its outcome.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use warrengate_client::{Client, ClientOptions, publication};

#[tokio::main]
async fn main() -> Result<(), warrengate_client::Error> {
    let client = Client::connect(ClientOptions::from_env()?).await?;
    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "orders", "hello")).await?;
    println!("{}", receipt.await.outcome().as_str_name());
    publisher.close().await
}
