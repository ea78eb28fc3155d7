//! The subject of a topology request for the audit trail: the names in it, as the caller wrote them.

use std::borrow::Cow;

use crate::pb;

/// The object of a request.
pub(super) trait AuditSubject {
    /// A name, or `source -> destination`.
    fn audit_subject(&self) -> Cow<'_, str>;
}

/// Requests that name their object in a field.
macro_rules! about {
    ($($request:ident: $this:ident => $object:expr;)*) => {$(
        impl AuditSubject for pb::$request {
            fn audit_subject(&self) -> Cow<'_, str> {
                let $this = self;
                $object.into()
            }
        }
    )*};
}

about! {
    DeclareExchangeRequest: this => this.exchange.as_ref().map_or("", |exchange| exchange.name.as_str());
    DeleteExchangeRequest: this => this.name.as_str();
    GetExchangeRequest: this => this.name.as_str();
    ListExchangesRequest: _this => "";
    DeclareQueueRequest: this => this.queue.as_ref().map_or("", |queue| queue.name.as_str());
    DeleteQueueRequest: this => this.name.as_str();
    GetQueueRequest: this => this.name.as_str();
    ListQueuesRequest: _this => "";
    PurgeQueueRequest: this => this.name.as_str();
    PeekMessagesRequest: this => this.queue.as_str();
    BindRequest: this => endpoints(this.binding.as_ref());
    UnbindRequest: this => endpoints(this.binding.as_ref());
    ListBindingsRequest: this => format!("{} -> {}", this.source, this.destination);
    ListDeadLettersRequest: _this => "";
    RedriveDeadLettersRequest: _this => "";
    PurgeDeadLettersRequest: _this => "";
}

fn endpoints(binding: Option<&pb::Binding>) -> String {
    binding.map(|binding| format!("{} -> {}", binding.source, binding.destination)).unwrap_or_default()
}
