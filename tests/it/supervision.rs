//! Every background task is supervised: one that fails makes the gateway not ready, is named, and ends the gateway in
//! order.

use crate::harness::{wait::within, web};

#[tokio::test]
async fn each_background_task_that_fails_makes_the_gateway_not_ready_and_is_named() {
    let names = web::gateway(|_| {}).await.running.task_names();
    assert!(names.contains(&"grpc listener") && names.contains(&"audit writer"), "{names:?}");
    for name in names {
        let gateway = web::gateway(|_| {}).await;
        let ops = format!("http://{}/readyz", gateway.running.ops_address());
        gateway.running.kill_task(name);
        let failed = within("the failure", gateway.running.failed()).await;
        assert_eq!(failed, name);
        // A gateway whose operations listener has failed cannot report it; its process ends nevertheless.
        if name != "operations listener" {
            let answer = within("an answer", web::http().get(&ops).send()).await.unwrap();
            assert_eq!(answer.status().as_u16(), 503, "{name}");
            assert!(within("a body", answer.text()).await.unwrap().contains("failed task"), "{name}");
        }
        within("the end", gateway.running.shutdown()).await;
    }
}
