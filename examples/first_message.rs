//! A first message from Rust: a queue, a confirmed publish, a delivery, an acknowledgement. README.md says which variables
//! it reads. With `warrengate dev` running: `cargo run --example first_message`.

#![allow(clippy::print_stdout, reason = "an example speaks")]

use anyhow::{Context as _, ensure};
use warrengate::{
    client::{Client, ClientOptions, Credentials, SubscribeOptions, publication},
    pb::{DeclareQueueRequest, Outcome, Queue},
};

fn setting(name: &str) -> anyhow::Result<String> {
    std::env::var(name).with_context(|| format!("{name} is not set: README.md, \"A first message\", says how"))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let ca = std::fs::read_to_string(setting("WARRENGATE_CA")?).context("the CA certificate cannot be read")?;
    let me = Credentials::Secret {
        client_id: setting("WARRENGATE_CLIENT_ID")?,
        secret: setting("WARRENGATE_CLIENT_SECRET")?.into(),
    };
    let client = Client::connect(ClientOptions::new(setting("WARRENGATE_ENDPOINT")?, me).ca_certificate(ca)).await?;

    // Declaring it again with the same arguments is harmless.
    let queue = Queue { name: "first-message".into(), ..Queue::default() };
    client.topology().declare_queue(DeclareQueueRequest { queue: Some(queue), validate_only: false }).await?;

    let publisher = client.publisher();
    let receipt = publisher.send(publication("", "first-message", "hello from Rust")).await?;
    let result = receipt.await;
    ensure!(result.outcome() == Outcome::Confirmed, "not confirmed: {}", result.reason);
    println!("confirmed {}", result.message_id);
    publisher.close().await?;

    let mut subscription = client.subscribe(SubscribeOptions::queue("first-message")).await?;
    let delivery = subscription.next().await?.context("the subscription ended")?;
    println!("received {}", String::from_utf8_lossy(delivery.body()));
    subscription.ack(&delivery)?;
    subscription.close().await?;
    Ok(())
}
