//! The library's side of the measurement.

use std::{
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use warrengate_client::{Client, Publisher, SubscribeOptions, publication};
use warrengate_client_bench::{Action, Command, serve};

const CLOSE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let client = Client::from_env().await?;
    let publisher = client.publisher();
    serve(async |command| match command.action {
        Action::Publish => publish(&publisher, &command).await,
        Action::Consume => consume(&client, &command).await,
    })
    .await?;
    client.close(CLOSE).await;
    Ok(())
}

async fn publish(publisher: &Publisher, command: &Command) -> anyhow::Result<()> {
    let body = vec![0_u8; command.size];
    for window in command.windows() {
        let mut receipts = Vec::with_capacity(window);
        for _ in 0..window {
            receipts.push(publisher.send(publication("", &*command.queue, body.clone())).await?);
        }
        for receipt in receipts {
            receipt.confirmed().await?;
        }
    }
    Ok(())
}

async fn consume(client: &Client, command: &Command) -> anyhow::Result<()> {
    let (left, done) = (Arc::new(AtomicUsize::new(command.count)), Arc::new(Notify::new()));
    let handler = {
        let done = Arc::clone(&done);
        move |_delivery| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                done.notify_one();
            }
            ready(Ok(()))
        }
    };
    let options = SubscribeOptions::queue(&*command.queue).max_outstanding_messages(u32::from(command.prefetch));
    let consumer = client.consume(options, handler).await?;
    done.notified().await;
    consumer.close(CLOSE).await?;
    Ok(())
}
