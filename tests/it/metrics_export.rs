//! Metrics over OTLP: a collector receives the values of `/metrics`, and one that hangs has no effect.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    metrics::v1::{metric::Data, number_data_point::Value},
};
use prost::Message as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use warrengate::config::OtlpProtocol;

use crate::harness::{
    Tenant,
    wait::{until, within},
    web,
};

/// A collector that keeps the last metrics it received.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<ExportMetricsServiceRequest>>);

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        *self.0.lock().unwrap() = request.into_inner();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    /// Serves gRPC; returns the endpoint.
    async fn serve_grpc(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let serving = tonic::transport::Server::builder().add_service(MetricsServiceServer::new(self.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        endpoint
    }

    /// Serves HTTP; returns the endpoint.
    async fn serve_http(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}/v1/metrics", listener.local_addr().unwrap());
        let last = Arc::clone(&self.0);
        let take = async move |body: axum::body::Bytes| {
            *last.lock().unwrap() = ExportMetricsServiceRequest::decode(body).unwrap();
        };
        let router = axum::Router::new().route("/v1/metrics", axum::routing::post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        endpoint
    }

    fn service(&self) -> Vec<String> {
        let last = self.0.lock().unwrap().clone();
        let resource = last.resource_metrics.into_iter().find_map(|metrics| metrics.resource).unwrap_or_default();
        resource.attributes.into_iter().map(|attribute| attribute.key).collect()
    }

    /// A counter's value with these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> Option<i64> {
        let last = self.0.lock().unwrap().clone();
        let mut all = last.resource_metrics.into_iter().flat_map(|metrics| metrics.scope_metrics);
        let metric = all.find_map(|scope| scope.metrics.into_iter().find(|metric| metric.name == name))?;
        let Some(Data::Sum(sum)) = metric.data else { panic!("{metric:?}") };
        let point = sum.data_points.iter().find(|point| {
            let text = format!("{:?}", point.attributes);
            labels.iter().all(|label| text.contains(label))
        });
        match point?.value {
            Some(Value::AsInt(value)) => Some(value),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn metrics_are_exported_by_grpc_and_by_http() {
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let collector = Collector::default();
        let endpoint = match protocol {
            OtlpProtocol::Grpc => collector.serve_grpc().await,
            OtlpProtocol::Http => collector.serve_http().await,
        };
        let gateway = web::gateway(|config| {
            config.telemetry.metrics.endpoint = Some(endpoint);
            config.telemetry.metrics.protocol = protocol;
            config.telemetry.metrics.interval = Duration::from_millis(100);
        })
        .await;
        let tenant = Tenant::fresh().await;
        tenant.queue("orders").await;
        let token = gateway.token(&tenant.client_id, &tenant.secret).await;
        let mut stream = gateway.publish_stream(&token).await;
        for _ in 0..3 {
            stream.publish(crate::harness::to_queue("orders", "one")).await.unwrap();
        }
        until("three confirmed messages at the collector", async || {
            let confirmed = collector.sum("warrengate_published", &[&tenant.id, "confirmed"]);
            (confirmed == Some(3)).then_some(())
        })
        .await;
        let service = collector.service();
        assert!(["service.name", "service.instance.id"].iter().all(|key| service.iter().any(|had| had == key)));
        drop(stream);
        gateway.running.shutdown().await;
    }
}

#[tokio::test]
async fn a_stopping_gateway_exports_its_last_metrics_and_does_not_wait_for_a_hanging_collector() {
    let collector = Collector::default();
    let endpoint = collector.serve_grpc().await;
    let gateway = web::gateway(|config| config.telemetry.metrics.endpoint = Some(endpoint)).await;
    gateway.refused_token_by_http("nobody").await;
    assert!(collector.service().is_empty(), "the minute is not over");
    within("the end", gateway.running.shutdown()).await;
    assert!(!collector.service().is_empty());

    // It accepts connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let gateway = web::gateway(|config| {
        config.telemetry.metrics.endpoint = Some(endpoint);
        config.telemetry.metrics.interval = Duration::from_millis(10);
    })
    .await;
    let begun = std::time::Instant::now();
    within("the end", gateway.running.shutdown()).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
