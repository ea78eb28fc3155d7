//! lapin, as its documentation shows it: confirms of a window are collected and awaited, and each delivery is
//! acknowledged by itself.

use std::env;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::FieldTable,
};
use warrengate_client_bench::{Action, Command, serve};

const PERSISTENT: u8 = 2;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let read = |name| anyhow::Ok(std::fs::read(env::var(name)?)?);
    let identity = OwnedIdentity::PKCS8 { pem: read("BENCH_CERTIFICATE")?, key: read("BENCH_KEY")? };
    let authority = String::from_utf8(read("BENCH_CA")?)?;
    let uri =
        format!("amqps://localhost:{}/{}?auth_mechanism=external", env::var("BENCH_PORT")?, env::var("BENCH_VHOST")?);
    let tls = OwnedTLSConfig { identity: Some(identity), cert_chain: Some(authority) };
    let runtime = lapin::runtime::default_runtime()?;
    let connection = Connection::connect_with_config(&uri, ConnectionProperties::default(), tls, runtime).await?;
    let publishing = connection.create_channel().await?;
    publishing.confirm_select(ConfirmSelectOptions::default()).await?;
    serve(async |command| match command.action {
        Action::Publish => publish(&publishing, &command).await,
        Action::Consume => consume(&connection, &command).await,
    })
    .await?;
    connection.close(200, "".into()).await?;
    Ok(())
}

async fn publish(channel: &Channel, command: &Command) -> anyhow::Result<()> {
    let body = vec![0_u8; command.size];
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    for window in command.windows() {
        let mut confirms = Vec::with_capacity(window);
        for _ in 0..window {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            confirms.push(
                channel.basic_publish("".into(), command.queue.as_str().into(), options, &body, properties).await?,
            );
        }
        for confirm in confirms {
            anyhow::ensure!(confirm.await?.is_ack(), "a message was refused");
        }
    }
    Ok(())
}

async fn consume(connection: &Connection, command: &Command) -> anyhow::Result<()> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(command.prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume(command.queue.as_str().into(), "".into(), options, FieldTable::default()).await?;
    for _ in 0..command.count {
        let delivery = consumer.next().await.context("the consumer has ended")??;
        delivery.acker.ack(BasicAckOptions::default()).await?;
    }
    channel.close(200, "".into()).await?;
    Ok(())
}
