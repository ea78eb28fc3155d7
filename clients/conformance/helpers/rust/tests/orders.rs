use std::process::Command;

use warrengate_client::{Client, Error, pb, publication, testing::TestTenant};

// Twice: the tenant of the second one must be new.
#[tokio::test]
async fn a_new_tenant_has_no_messages() -> Result<(), Error> {
    order().await
}

#[tokio::test]
async fn another_new_tenant_has_no_messages() -> Result<(), Error> {
    order().await
}

#[tokio::test]
async fn the_program_of_the_readme_publishes_and_consumes() {
    let tenant = TestTenant::create().await;
    let output = Command::new(env!("CARGO_BIN_EXE_hello")).envs(tenant.env()).output().expect("the program runs");
    assert_eq!((output.status.success(), output.stdout.as_slice()), (true, b"hello\n".as_slice()), "{output:?}");
}

async fn order() -> Result<(), Error> {
    let tenant = TestTenant::create().await;
    let client = tenant.connect().await;
    client.declare_queue(pb::Queue { name: "orders".into(), ..pb::Queue::default() }).await?;
    assert_eq!(ready(&client).await?, 0);
    client.publisher().publish(publication("", "orders", "order 1")).await?;
    assert_eq!(ready(&client).await?, 1);
    Ok(())
}

async fn ready(client: &Client) -> Result<u64, Error> {
    let request = pb::GetQueueRequest { name: "orders".into() };
    let entry = client.topology().get_queue(request).await?.into_inner();
    Ok(entry.status.unwrap_or_default().messages_ready)
}
