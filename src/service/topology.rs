//! The `Topology` service. It parses names, checks grants, and declares objects as the tenant's own broker user. Lists
//! are read from the broker's management API, within the caller's vhost only. A binding forwards the messages of an
//! exchange, so it requires the configure grant for its source and its destination.

mod audit_subject;
mod convert;

use std::{convert::Infallible, ops::Deref, sync::Arc};

use tonic::{Request, Response, Status};

use self::{audit_subject::AuditSubject, convert::Named};
use super::{charged, dead_letters, page::Page, peek};
use crate::{
    audit::AuditContext,
    auth::Caller,
    broker::{self, Broker, DeleteCondition, QueueKind, QueueSpec},
    error::{Failure, Kind},
    names::{ExchangeName, QueueName},
    pb::{self, topology_server::Topology},
    provision::{BindingInfo, Inspector, Quota},
    stream::{
        session::{Session, SessionContext},
        subscribe::Policies,
    },
    telemetry::StreamKind,
    tenant::{Action, CallPermit, TenantCalls, TenantScope, Tenants},
};

/// The `Topology` service.
pub struct TopologyService {
    tenants: Arc<Tenants>,
    broker: Broker,
    inspector: Arc<Inspector>,
    quota: Quota,
    calls: TenantCalls,
    policies: Policies,
    session: SessionContext,
}

/// An admitted call.
struct Admitted {
    scope: TenantScope,
    _permit: CallPermit,
}

impl Deref for Admitted {
    type Target = TenantScope;

    fn deref(&self) -> &TenantScope {
        &self.scope
    }
}

impl TopologyService {
    /// The topology service of one gateway.
    pub fn new(
        tenants: Arc<Tenants>,
        broker: Broker,
        inspector: Arc<Inspector>,
        policies: Policies,
        session: SessionContext,
    ) -> Self {
        let quota = Quota::new(Arc::clone(&inspector));
        Self { tenants, broker, inspector, quota, calls: TenantCalls::default(), policies, session }
    }

    /// Admits the caller, and waits until one more call of its tenant may be processed.
    async fn admit<T: AuditSubject + Sync>(&self, request: &Request<T>, action: Action) -> Result<Admitted, Failure> {
        AuditContext::of_request(request).set_subject("", &request.get_ref().audit_subject());
        let scope = self.tenants.admit(Caller::from_request(request)?, action)?;
        let permit = self.calls.permit(scope.tenant()).await?;
        Ok(Admitted { scope, _permit: permit })
    }

    async fn queue(&self, scope: &TenantScope, name: &QueueName) -> Result<(pb::Queue, pb::QueueStatus), Failure> {
        // Ready messages and consumers are current; the rest is from the last statistics of the management API.
        let state = self.broker.topology(scope).queue_state(name).await?;
        let seen = self.inspector.queue(scope, name).await?;
        let missing = || broker::Error::NoQueue(name.to_string());
        let (queue, mut status) = convert::queue_entry(&seen.ok_or_else(missing)?);
        status.messages_ready = state.messages.into();
        status.consumers = state.consumers;
        Ok((queue, status))
    }
}

impl TopologyService {
    /// Completes an error about the type of an existing queue: the broker compares other arguments first, from which
    /// only two possible types follow.
    async fn with_type(&self, scope: &TenantScope, spec: &QueueSpec, error: broker::Error) -> broker::Error {
        match error {
            broker::Error::Inequivalent { what, name, argument, current, .. } if argument == "type" => {
                let wanted = match spec.kind {
                    QueueKind::Quorum => "quorum",
                    QueueKind::Classic => "classic",
                    QueueKind::Stream => "stream",
                };
                let found = self.inspector.queue(scope, &spec.name).await.ok().flatten();
                // Equal types have other arguments if the queue was declared past the gateway.
                let other = found.map(|queue| queue.queue_type).filter(|other| other != wanted);
                let current = other.unwrap_or(current);
                broker::Error::Inequivalent { what, name, argument, current, wanted: wanted.to_owned() }
            }
            error => error,
        }
    }

    /// Compares the retry policy with that of an existing queue. RabbitMQ compares the properties that it stores, but
    /// the policy is the gateway's own.
    async fn compare_retry_policy(&self, scope: &TenantScope, spec: &QueueSpec) -> Result<(), Failure> {
        let Some(wanted) = spec.retry else { return Ok(()) };
        self.policies.forget(scope, &spec.name);
        let found = match self.inspector.queue(scope, &spec.name).await {
            Ok(found) => found,
            Err(error) => {
                // An application that declares its queues at startup must be able to start without the management API.
                tracing::warn!(tenant = %scope.tenant(), %error, "cannot compare the retry policy of a queue");
                return Ok(());
            }
        };
        match found.and_then(|queue| queue.retry_policy().difference(&wanted)) {
            None => Ok(()),
            Some((argument, current, wanted)) => {
                let (what, argument) = ("queue", argument.to_owned());
                Err(broker::Error::Inequivalent { what, name: spec.name.to_string(), argument, current, wanted }.into())
            }
        }
    }
}

fn may_configure(scope: &TenantScope, name: &str) -> Result<(), Failure> {
    if scope.grants().may_configure(name) {
        return Ok(());
    }
    let text = format!("this client may not configure {name:?}");
    Err(Failure::new(Kind::Denied, "CONFIGURE_NOT_GRANTED", text))
}

fn is_visible(scope: &TenantScope, name: &QueueName) -> bool {
    scope.grants().may_subscribe(name) || scope.grants().may_configure(name.as_str())
}

fn is_exchange_visible(scope: &TenantScope, name: &str) -> bool {
    scope.grants().may_configure(name) || scope.grants().may_publish_somewhere(name)
}

/// A binding reveals its source and its destination, so both must be visible.
fn is_binding_visible(scope: &TenantScope, binding: &BindingInfo) -> bool {
    let destination = match QueueName::parse(&binding.destination) {
        Ok(queue) if binding.destination_is_queue => is_visible(scope, &queue),
        _ => is_exchange_visible(scope, &binding.destination),
    };
    destination && is_exchange_visible(scope, &binding.source)
}

fn require_visible(scope: &TenantScope, name: &QueueName) -> Result<(), Failure> {
    if is_visible(scope, name) {
        return Ok(());
    }
    let text = format!("this client may neither subscribe to nor configure queue {:?}", name.as_str());
    Err(Failure::new(Kind::Denied, "QUEUE_NOT_GRANTED", text))
}

#[tonic::async_trait]
impl Topology for TopologyService {
    async fn declare_exchange(
        &self,
        request: Request<pb::DeclareExchangeRequest>,
    ) -> Result<Response<pb::DeclareExchangeResponse>, Status> {
        let scope = self.admit(&request, Action::Configure).await?;
        let request = request.into_inner();
        let spec = convert::exchange_spec(request.exchange)?;
        may_configure(&scope, spec.name.as_str())?;
        if let Some(alternate) = &spec.alternate {
            may_configure(&scope, alternate.as_str())?;
        }
        if !request.validate_only {
            let exists = async || Ok(self.inspector.exchange(&scope, &spec.name).await?.is_some());
            let _slot = self.quota.exchange(&scope, spec.name.as_str(), exists).await?;
            self.broker.topology(&scope).declare_exchange(&spec).await.map_err(Failure::from)?;
        }
        Ok(Response::new(pb::DeclareExchangeResponse { exchange: Some(convert::exchange(&spec)) }))
    }

    async fn delete_exchange(
        &self,
        request: Request<pb::DeleteExchangeRequest>,
    ) -> Result<Response<pb::DeleteExchangeResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        let scope = self.admit(&request, Action::Configure).await?;
        let request = request.into_inner();
        let name = ExchangeName::own(&request.name).named("name")?;
        may_configure(&scope, name.as_str())?;
        self.broker.topology(&scope).delete_exchange(&name, request.if_unused).await.map_err(Failure::from)?;
        self.quota.deleted(scope.tenant());
        audit_context.done(None);
        Ok(Response::new(pb::DeleteExchangeResponse {}))
    }

    async fn get_exchange(
        &self,
        request: Request<pb::GetExchangeRequest>,
    ) -> Result<Response<pb::GetExchangeResponse>, Status> {
        let scope = self.admit(&request, Action::Inspect).await?;
        let name = ExchangeName::own(&request.into_inner().name).named("name")?;
        if !is_exchange_visible(&scope, name.as_str()) {
            let text = format!("this client may neither publish to nor configure exchange {:?}", name.as_str());
            return Err(Failure::new(Kind::Denied, "EXCHANGE_NOT_GRANTED", text).into());
        }
        let found = self.inspector.exchange(&scope, &name).await.map_err(Failure::from)?;
        let found = found.ok_or_else(|| Failure::from(broker::Error::NoExchange(name.to_string())))?;
        Ok(Response::new(pb::GetExchangeResponse { exchange: Some(convert::exchange_entry(&found)) }))
    }

    async fn list_exchanges(
        &self,
        request: Request<pb::ListExchangesRequest>,
    ) -> Result<Response<pb::ListExchangesResponse>, Status> {
        let scope = self.admit(&request, Action::Inspect).await?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, |name| Ok::<_, Infallible>(name.to_owned()))?;
        let found = self.inspector.exchanges(&scope, page.after.as_deref(), page.limit() as usize).await;
        let mut found = found.map_err(Failure::from)?;
        let next_page_token = page.cut(&mut found, |exchange| exchange.name.clone());
        let exchanges = found
            .iter()
            .filter(|exchange| is_exchange_visible(&scope, &exchange.name))
            .map(convert::exchange_entry)
            .collect();
        Ok(Response::new(pb::ListExchangesResponse { exchanges, next_page_token }))
    }

    async fn declare_queue(
        &self,
        request: Request<pb::DeclareQueueRequest>,
    ) -> Result<Response<pb::DeclareQueueResponse>, Status> {
        let scope = self.admit(&request, Action::Configure).await?;
        let request = request.into_inner();
        let spec = convert::queue_spec(request.queue)?;
        may_configure(&scope, spec.name.as_str())?;
        let mut status = pb::QueueStatus::default();
        if !request.validate_only {
            let topology = self.broker.topology(&scope);
            let exists = async || match topology.queue_state(&spec.name).await {
                Ok(_) => Ok(true),
                Err(broker::Error::NoQueue(_)) => Ok(false),
                Err(error) => Err(error.into()),
            };
            let _slot = self.quota.queue(&scope, spec.name.as_str(), exists).await?;
            let state = match topology.declare_queue(&spec).await {
                Ok(state) => state,
                Err(error) => return Err(Failure::from(self.with_type(&scope, &spec, error).await).into()),
            };
            status.messages_ready = state.messages.into();
            status.consumers = state.consumers;
            self.compare_retry_policy(&scope, &spec).await?;
        }
        let queue = Some(convert::queue(&spec));
        Ok(Response::new(pb::DeclareQueueResponse { queue, status: Some(status) }))
    }

    async fn delete_queue(
        &self,
        request: Request<pb::DeleteQueueRequest>,
    ) -> Result<Response<pb::DeleteQueueResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        let scope = self.admit(&request, Action::Configure).await?;
        let request = request.into_inner();
        let name = QueueName::parse(&request.name).named("name")?;
        may_configure(&scope, name.as_str())?;
        let topology = self.broker.topology(&scope);
        let condition = DeleteCondition { if_unused: request.if_unused, if_empty: request.if_empty };
        let deleted = topology.delete_queue(&name, condition, self.inspector.starts_workers_late()).await;
        let deleted = deleted.map_err(Failure::from)?;
        self.quota.deleted(scope.tenant());
        audit_context.done(None);
        Ok(Response::new(pb::DeleteQueueResponse { messages_deleted: deleted.into() }))
    }

    async fn get_queue(&self, request: Request<pb::GetQueueRequest>) -> Result<Response<pb::GetQueueResponse>, Status> {
        let scope = self.admit(&request, Action::Inspect).await?;
        let name = QueueName::parse(&request.into_inner().name).named("name")?;
        require_visible(&scope, &name)?;
        let (queue, status) = self.queue(&scope, &name).await?;
        Ok(Response::new(pb::GetQueueResponse { queue: Some(queue), status: Some(status) }))
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Result<Response<pb::ListQueuesResponse>, Status> {
        let scope = self.admit(&request, Action::Inspect).await?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, |name| Ok::<_, Infallible>(name.to_owned()))?;
        let found = self.inspector.queues(&scope, page.after.as_deref(), page.limit() as usize).await;
        let mut found = found.map_err(Failure::from)?;
        let next_page_token = page.cut(&mut found, |queue| queue.name.clone());
        let queues = found
            .iter()
            .filter(|queue| QueueName::parse(&queue.name).is_ok_and(|name| is_visible(&scope, &name)))
            .map(convert::queue_entry)
            .map(|(queue, status)| pb::QueueEntry { queue: Some(queue), status: Some(status) })
            .collect();
        Ok(Response::new(pb::ListQueuesResponse { queues, next_page_token }))
    }

    async fn purge_queue(
        &self,
        request: Request<pb::PurgeQueueRequest>,
    ) -> Result<Response<pb::PurgeQueueResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        let scope = self.admit(&request, Action::Subscribe).await?;
        let name = QueueName::parse(&request.into_inner().name).named("name")?;
        require_visible(&scope, &name)?;
        // RabbitMQ would answer this for a stream queue by closing the connection, and so every stream of the tenant.
        let seen = self.inspector.queue(&scope, &name).await.map_err(Failure::from)?;
        if seen.is_some_and(|queue| queue.queue_type == "stream") {
            return Err(Failure::from(broker::Error::Unsupported(None)).into());
        }
        let purged = self.broker.topology(&scope).purge_queue(&name).await.map_err(Failure::from)?;
        audit_context.done(None);
        Ok(Response::new(pb::PurgeQueueResponse { messages_purged: purged.into() }))
    }

    async fn peek_messages(
        &self,
        request: Request<pb::PeekMessagesRequest>,
    ) -> Result<Response<pb::PeekMessagesResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        let scope = self.admit(&request, Action::Subscribe).await?;
        let memory = self.session.memory.of(scope.tenant().as_str());
        let (broker, inspector, request) = (&self.broker, &self.inspector, request.into_inner());
        let (found, charge) = peek::peek(broker, inspector, memory, &scope, &audit_context, request).await?;
        Ok(charged(found, charge))
    }

    async fn bind(&self, request: Request<pb::BindRequest>) -> Result<Response<pb::BindResponse>, Status> {
        let scope = self.admit(&request, Action::Configure).await?;
        let requested = request.into_inner().binding;
        let spec = convert::binding_spec(requested.clone())?;
        may_configure(&scope, spec.source.as_str())?;
        may_configure(&scope, spec.destination.as_str())?;
        let exists = async || {
            let found = self.inspector.bindings(&scope, Some(&spec.source), Some(spec.destination.as_str())).await?;
            Ok(found
                .iter()
                .any(|one| requested.as_ref().is_some_and(|requested| convert::is_same_binding(one, requested))))
        };
        let _slot = self.quota.binding(&scope, exists).await?;
        self.broker.topology(&scope).bind(&spec).await.map_err(Failure::from)?;
        Ok(Response::new(pb::BindResponse {}))
    }

    async fn unbind(&self, request: Request<pb::UnbindRequest>) -> Result<Response<pb::UnbindResponse>, Status> {
        let scope = self.admit(&request, Action::Configure).await?;
        let spec = convert::binding_spec(request.into_inner().binding)?;
        may_configure(&scope, spec.source.as_str())?;
        may_configure(&scope, spec.destination.as_str())?;
        self.broker.topology(&scope).unbind(&spec).await.map_err(Failure::from)?;
        self.quota.deleted(scope.tenant());
        Ok(Response::new(pb::UnbindResponse {}))
    }

    async fn list_bindings(
        &self,
        request: Request<pb::ListBindingsRequest>,
    ) -> Result<Response<pb::ListBindingsResponse>, Status> {
        let scope = self.admit(&request, Action::Inspect).await?;
        let request = request.into_inner();
        let page = Page::parse(request.page_size, &request.page_token, str::parse::<usize>)?;
        let source = convert::optional(&request.source, ExchangeName::parse).named("source")?;
        let destination = convert::optional(&request.destination, ExchangeName::own).named("destination")?;
        let destination = destination.as_ref().map(ExchangeName::as_str);
        let found = self.inspector.bindings(&scope, source.as_ref(), destination).await.map_err(Failure::from)?;
        // The broker has no pages of bindings: the whole list is read (its size is limited) and cut here, by position.
        let skip = page.after.unwrap_or_default();
        let mut found: Vec<_> = found.iter().enumerate().skip(skip).take(page.limit() as usize).collect();
        let next_page_token = page.cut(&mut found, |(index, _)| (index + 1).to_string());
        let bindings = found
            .into_iter()
            .filter(|(_, binding)| is_binding_visible(&scope, binding))
            .map(|(_, binding)| convert::binding_entry(binding))
            .collect();
        Ok(Response::new(pb::ListBindingsResponse { bindings, next_page_token }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let scope = self.admit(&request, Action::Subscribe).await?;
        let memory = self.session.memory.of(scope.tenant().as_str());
        let (page, charge) = dead_letters::list(&self.broker, &scope, request.into_inner(), &memory).await?;
        Ok(charged(page, charge))
    }

    type RedriveDeadLettersStream = dead_letters::Progress;

    async fn redrive_dead_letters(
        &self,
        request: Request<pb::RedriveDeadLettersRequest>,
    ) -> Result<Response<Self::RedriveDeadLettersStream>, Status> {
        let scope = self.admit(&request, Action::Subscribe).await?;
        let (call, audit_context) = (request.extensions().get(), AuditContext::of_request(&request));
        let session = Session::open(&self.session, scope.scope, StreamKind::Redrive, call, audit_context)?;
        Ok(Response::new(dead_letters::redrive(&self.broker, session, request.into_inner())?))
    }

    async fn purge_dead_letters(
        &self,
        request: Request<pb::PurgeDeadLettersRequest>,
    ) -> Result<Response<pb::PurgeDeadLettersResponse>, Status> {
        let audit_context = AuditContext::of_request(&request);
        let scope = self.admit(&request, Action::Subscribe).await?;
        let answer = dead_letters::purge(&self.broker, &scope, request.into_inner()).await?;
        audit_context.done(Some(&format!("{} dead letters deleted", answer.purged)));
        Ok(Response::new(answer))
    }
}
