//! Publishes one message to the queue `orders` and prints its id when the broker has stored it.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use warrengate_client::{Client, Error, publication};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::from_env().await?;
    let confirmation = client.publisher().publish(publication("", "orders", "hello")).await?;
    println!("{}", confirmation.message_id);
    client.close(std::time::Duration::from_secs(10)).await;
    Ok(())
}
