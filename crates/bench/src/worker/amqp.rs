//! Direct AMQP connections: lapin's TLS with a client certificate and SASL EXTERNAL, as its documentation shows.
//!
//! There are two connections, because one that the broker blocks for publishing does not write acknowledgements either.

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, Consumer, PublisherConfirm,
    options::{BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions},
    tcp::{OwnedIdentity, OwnedTLSConfig},
    types::{AMQPValue, FieldTable},
};

use crate::{
    Error,
    job::{Account, Endpoints},
};

/// The same value as the gateway's.
const FRAME_MAX: u32 = 131_072;

pub(crate) async fn connect(endpoints: &Endpoints, account: &Account, name: &str) -> Result<Connection, Error> {
    // The vhost's name contains a tenant id, which needs no escaping.
    let uri = format!(
        "amqps://{}:{}/{}?auth_mechanism=external&heartbeat=10&frame_max={FRAME_MAX}",
        endpoints.broker_host, endpoints.broker_port, account.vhost
    );
    let tls = OwnedTLSConfig {
        identity: Some(OwnedIdentity::PKCS8 {
            pem: account.certificate.clone().into_bytes(),
            key: account.key.clone().into_bytes(),
        }),
        cert_chain: Some(endpoints.broker_ca.clone()),
    };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Ok(Connection::connect_with_config(&uri, properties, tls, lapin::runtime::default_runtime()?).await?)
}

pub(super) async fn confirming(connection: &Connection) -> Result<Channel, Error> {
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(channel)
}

/// Publishes persistent and mandatory, like the gateway.
pub(super) async fn publish(channel: &Channel, queue: &str, body: &[u8]) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default().with_delivery_mode(2);
    channel.basic_publish("".into(), queue.into(), options, body, properties).await
}

pub(super) async fn consume(channel: &Channel, queue: &str, prefetch: u16, is_stream: bool) -> Result<Consumer, Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let mut arguments = FieldTable::default();
    if is_stream {
        arguments.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
    }
    Ok(channel.basic_consume(queue.into(), "".into(), BasicConsumeOptions::default(), arguments).await?)
}
