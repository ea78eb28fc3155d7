//! Publishes and consumes orders; the Rust guide contains it.

#![allow(clippy::print_stdout, reason = "an example prints its result")]

use warrengate_client::{Client, Error, SubscribeOptions, pb::Queue, publication};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let client = Client::from_env().await?;
    client.declare_queue(Queue { name: "shipping".into(), ..Queue::default() }).await?;
    let consumer = client.consume(SubscribeOptions::queue("shipping").concurrency(4), async |delivery| {
        println!("shipped {}", String::from_utf8_lossy(delivery.body()));
        Ok(()) // acknowledges; an error retries
    });
    let consumer = consumer.await?;
    let publisher = client.publisher();
    for number in 0..2000 {
        let mut order = publication("", "shipping", format!("order {number}"));
        order.message.get_or_insert_default().message_id = format!("order-{number}");
        while let Err(error) = publisher.publish(order.clone()).await {
            if !error.is_retryable() {
                return Err(error); // a retryable one comes after a minute of attempts
            }
        }
    }
    consumer.wait().await
}
