import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import field_mask_pb2 as _field_mask_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from warrengate.v1 import auth_pb2 as _auth_pb2
from warrengate.v1 import topology_pb2 as _topology_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TenantState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TENANT_STATE_UNSPECIFIED: _ClassVar[TenantState]
    TENANT_STATE_ACTIVE: _ClassVar[TenantState]
    TENANT_STATE_SUSPENDED: _ClassVar[TenantState]

class StreamKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STREAM_KIND_UNSPECIFIED: _ClassVar[StreamKind]
    STREAM_KIND_PUBLISH: _ClassVar[StreamKind]
    STREAM_KIND_SUBSCRIBE: _ClassVar[StreamKind]
    STREAM_KIND_REDRIVE: _ClassVar[StreamKind]
TENANT_STATE_UNSPECIFIED: TenantState
TENANT_STATE_ACTIVE: TenantState
TENANT_STATE_SUSPENDED: TenantState
STREAM_KIND_UNSPECIFIED: StreamKind
STREAM_KIND_PUBLISH: StreamKind
STREAM_KIND_SUBSCRIBE: StreamKind
STREAM_KIND_REDRIVE: StreamKind

class Tenant(_message.Message):
    __slots__ = ("id", "display_name", "plan", "state", "created")
    ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    id: str
    display_name: str
    plan: str
    state: TenantState
    created: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., display_name: _Optional[str] = ..., plan: _Optional[str] = ..., state: _Optional[_Union[TenantState, str]] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("name", "max_connections", "max_queues", "max_message_bytes", "max_streams", "max_in_flight_messages", "max_in_flight_bytes", "max_exchanges", "max_bindings", "max_clients", "max_publish_messages_per_second", "publish_messages_burst", "max_publish_bytes_per_second", "publish_bytes_burst", "max_stored_messages", "max_stored_bytes", "max_message_ttl", "queue_expires", "sampling_ratio")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    MAX_BINDINGS_FIELD_NUMBER: _ClassVar[int]
    MAX_CLIENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PUBLISH_MESSAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_MESSAGES_BURST_FIELD_NUMBER: _ClassVar[int]
    MAX_PUBLISH_BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_BYTES_BURST_FIELD_NUMBER: _ClassVar[int]
    MAX_STORED_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_TTL_FIELD_NUMBER: _ClassVar[int]
    QUEUE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATIO_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_connections: int
    max_queues: int
    max_message_bytes: int
    max_streams: int
    max_in_flight_messages: int
    max_in_flight_bytes: int
    max_exchanges: int
    max_bindings: int
    max_clients: int
    max_publish_messages_per_second: int
    publish_messages_burst: int
    max_publish_bytes_per_second: int
    publish_bytes_burst: int
    max_stored_messages: int
    max_stored_bytes: int
    max_message_ttl: _duration_pb2.Duration
    queue_expires: _duration_pb2.Duration
    sampling_ratio: float
    def __init__(self, name: _Optional[str] = ..., max_connections: _Optional[int] = ..., max_queues: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_streams: _Optional[int] = ..., max_in_flight_messages: _Optional[int] = ..., max_in_flight_bytes: _Optional[int] = ..., max_exchanges: _Optional[int] = ..., max_bindings: _Optional[int] = ..., max_clients: _Optional[int] = ..., max_publish_messages_per_second: _Optional[int] = ..., publish_messages_burst: _Optional[int] = ..., max_publish_bytes_per_second: _Optional[int] = ..., publish_bytes_burst: _Optional[int] = ..., max_stored_messages: _Optional[int] = ..., max_stored_bytes: _Optional[int] = ..., max_message_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., queue_expires: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., sampling_ratio: _Optional[float] = ...) -> None: ...

class Client(_message.Message):
    __slots__ = ("client_id", "display_name", "grants", "revoked", "created", "issuer", "external_id")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    ISSUER_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    display_name: str
    grants: _auth_pb2.Grants
    revoked: bool
    created: _timestamp_pb2.Timestamp
    issuer: str
    external_id: str
    def __init__(self, client_id: _Optional[str] = ..., display_name: _Optional[str] = ..., grants: _Optional[_Union[_auth_pb2.Grants, _Mapping]] = ..., revoked: _Optional[bool] = ..., created: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., issuer: _Optional[str] = ..., external_id: _Optional[str] = ...) -> None: ...

class CreateTenantRequest(_message.Message):
    __slots__ = ("tenant", "request_id", "validate_only")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    request_id: str
    validate_only: bool
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class CreateTenantResponse(_message.Message):
    __slots__ = ("tenant", "changes")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    changes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., changes: _Optional[_Iterable[str]] = ...) -> None: ...

class GetTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class ListTenantsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTenantsResponse(_message.Message):
    __slots__ = ("tenants", "next_page_token")
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[Tenant]
    next_page_token: str
    def __init__(self, tenants: _Optional[_Iterable[_Union[Tenant, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateTenantRequest(_message.Message):
    __slots__ = ("tenant", "update_mask", "validate_only")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    update_mask: _field_mask_pb2.FieldMask
    validate_only: bool
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class UpdateTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class SuspendTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class SuspendTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class ResumeTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class ResumeTenantResponse(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: Tenant
    def __init__(self, tenant: _Optional[_Union[Tenant, _Mapping]] = ...) -> None: ...

class DeleteTenantRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class DeleteTenantResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTenantUsageRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class UsageMeter(_message.Message):
    __slots__ = ("limit", "allowed", "used", "of_this_gateway")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    OF_THIS_GATEWAY_FIELD_NUMBER: _ClassVar[int]
    limit: str
    allowed: int
    used: int
    of_this_gateway: bool
    def __init__(self, limit: _Optional[str] = ..., allowed: _Optional[int] = ..., used: _Optional[int] = ..., of_this_gateway: _Optional[bool] = ...) -> None: ...

class GetTenantUsageResponse(_message.Message):
    __slots__ = ("meters", "plan")
    METERS_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    meters: _containers.RepeatedCompositeFieldContainer[UsageMeter]
    plan: str
    def __init__(self, meters: _Optional[_Iterable[_Union[UsageMeter, _Mapping]]] = ..., plan: _Optional[str] = ...) -> None: ...

class ListPlansRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPlansResponse(_message.Message):
    __slots__ = ("plans", "next_page_token")
    PLANS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    plans: _containers.RepeatedCompositeFieldContainer[Plan]
    next_page_token: str
    def __init__(self, plans: _Optional[_Iterable[_Union[Plan, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPlanRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetPlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class CreatePlanRequest(_message.Message):
    __slots__ = ("plan", "request_id", "validate_only")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    request_id: str
    validate_only: bool
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class CreatePlanResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class UpdatePlanRequest(_message.Message):
    __slots__ = ("plan", "update_mask", "validate_only")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    update_mask: _field_mask_pb2.FieldMask
    validate_only: bool
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class UpdatePlanResponse(_message.Message):
    __slots__ = ("plan", "tenants")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    tenants: int
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., tenants: _Optional[int] = ...) -> None: ...

class DeletePlanRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DeletePlanResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CreateClientRequest(_message.Message):
    __slots__ = ("client", "request_id", "validate_only")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    client: Client
    request_id: str
    validate_only: bool
    def __init__(self, client: _Optional[_Union[Client, _Mapping]] = ..., request_id: _Optional[str] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class CreateClientResponse(_message.Message):
    __slots__ = ("client", "client_secret")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    client: Client
    client_secret: str
    def __init__(self, client: _Optional[_Union[Client, _Mapping]] = ..., client_secret: _Optional[str] = ...) -> None: ...

class ListClientsRequest(_message.Message):
    __slots__ = ("tenant", "page_size", "page_token")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    page_size: int
    page_token: str
    def __init__(self, tenant: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListClientsResponse(_message.Message):
    __slots__ = ("clients", "next_page_token")
    CLIENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    clients: _containers.RepeatedCompositeFieldContainer[Client]
    next_page_token: str
    def __init__(self, clients: _Optional[_Iterable[_Union[Client, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateClientRequest(_message.Message):
    __slots__ = ("client", "update_mask", "validate_only")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_MASK_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    client: Client
    update_mask: _field_mask_pb2.FieldMask
    validate_only: bool
    def __init__(self, client: _Optional[_Union[Client, _Mapping]] = ..., update_mask: _Optional[_Union[_field_mask_pb2.FieldMask, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class UpdateClientResponse(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: Client
    def __init__(self, client: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class RevokeClientRequest(_message.Message):
    __slots__ = ("client_id",)
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    def __init__(self, client_id: _Optional[str] = ...) -> None: ...

class RevokeClientResponse(_message.Message):
    __slots__ = ("client",)
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    client: Client
    def __init__(self, client: _Optional[_Union[Client, _Mapping]] = ...) -> None: ...

class DeleteClientRequest(_message.Message):
    __slots__ = ("client_id",)
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    def __init__(self, client_id: _Optional[str] = ...) -> None: ...

class DeleteClientResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotateClientSecretRequest(_message.Message):
    __slots__ = ("client_id", "overlap")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    overlap: _duration_pb2.Duration
    def __init__(self, client_id: _Optional[str] = ..., overlap: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RotateClientSecretResponse(_message.Message):
    __slots__ = ("client_secret", "previous_expires")
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    client_secret: str
    previous_expires: _timestamp_pb2.Timestamp
    def __init__(self, client_secret: _Optional[str] = ..., previous_expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RotateBrokerCredentialsRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class RotateBrokerCredentialsResponse(_message.Message):
    __slots__ = ("expires",)
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    expires: _timestamp_pb2.Timestamp
    def __init__(self, expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RotateSigningKeyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotateSigningKeyResponse(_message.Message):
    __slots__ = ("key_id", "previous_expires")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    previous_expires: _timestamp_pb2.Timestamp
    def __init__(self, key_id: _Optional[str] = ..., previous_expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RevokeSigningKeyRequest(_message.Message):
    __slots__ = ("key_id", "all")
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    key_id: str
    all: bool
    def __init__(self, key_id: _Optional[str] = ..., all: _Optional[bool] = ...) -> None: ...

class RevokeSigningKeyResponse(_message.Message):
    __slots__ = ("key_ids",)
    KEY_IDS_FIELD_NUMBER: _ClassVar[int]
    key_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, key_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ListAuditEventsRequest(_message.Message):
    __slots__ = ("tenant", "page_size", "page_token", "client_id", "method", "outcome", "until")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FROM_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    page_size: int
    page_token: str
    client_id: str
    method: str
    outcome: str
    until: _timestamp_pb2.Timestamp
    def __init__(self, tenant: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., client_id: _Optional[str] = ..., method: _Optional[str] = ..., outcome: _Optional[str] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., **kwargs) -> None: ...

class AuditEvent(_message.Message):
    __slots__ = ("time", "client_id", "peer_address", "method", "tenant", "object", "rule", "outcome", "trace_id", "id", "times")
    TIME_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    client_id: str
    peer_address: str
    method: str
    tenant: str
    object: str
    rule: str
    outcome: str
    trace_id: str
    id: str
    times: int
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., client_id: _Optional[str] = ..., peer_address: _Optional[str] = ..., method: _Optional[str] = ..., tenant: _Optional[str] = ..., object: _Optional[str] = ..., rule: _Optional[str] = ..., outcome: _Optional[str] = ..., trace_id: _Optional[str] = ..., id: _Optional[str] = ..., times: _Optional[int] = ...) -> None: ...

class ListAuditEventsResponse(_message.Message):
    __slots__ = ("events", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[AuditEvent]
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[AuditEvent, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class VerifyIsolationRequest(_message.Message):
    __slots__ = ("tenant", "other_tenant")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    OTHER_TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    other_tenant: str
    def __init__(self, tenant: _Optional[str] = ..., other_tenant: _Optional[str] = ...) -> None: ...

class IsolationProbe(_message.Message):
    __slots__ = ("attempt", "refused", "answer", "is_control")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    IS_CONTROL_FIELD_NUMBER: _ClassVar[int]
    attempt: str
    refused: bool
    answer: str
    is_control: bool
    def __init__(self, attempt: _Optional[str] = ..., refused: _Optional[bool] = ..., answer: _Optional[str] = ..., is_control: _Optional[bool] = ...) -> None: ...

class VerifyIsolationResponse(_message.Message):
    __slots__ = ("isolated", "probes")
    ISOLATED_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    isolated: bool
    probes: _containers.RepeatedCompositeFieldContainer[IsolationProbe]
    def __init__(self, isolated: _Optional[bool] = ..., probes: _Optional[_Iterable[_Union[IsolationProbe, _Mapping]]] = ...) -> None: ...

class ReconcileTenantRequest(_message.Message):
    __slots__ = ("tenant", "dry_run")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    dry_run: bool
    def __init__(self, tenant: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class Reconciliation(_message.Message):
    __slots__ = ("tenant", "changes", "failure")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    changes: _containers.RepeatedScalarFieldContainer[str]
    failure: str
    def __init__(self, tenant: _Optional[str] = ..., changes: _Optional[_Iterable[str]] = ..., failure: _Optional[str] = ...) -> None: ...

class ReconcileTenantResponse(_message.Message):
    __slots__ = ("reconciliations", "unknown", "looked_at")
    RECONCILIATIONS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    LOOKED_AT_FIELD_NUMBER: _ClassVar[int]
    reconciliations: _containers.RepeatedCompositeFieldContainer[Reconciliation]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    looked_at: int
    def __init__(self, reconciliations: _Optional[_Iterable[_Union[Reconciliation, _Mapping]]] = ..., unknown: _Optional[_Iterable[str]] = ..., looked_at: _Optional[int] = ...) -> None: ...

class WatchTenantRequest(_message.Message):
    __slots__ = ("tenant", "interval", "max_queues", "queue")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    MAX_QUEUES_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    interval: _duration_pb2.Duration
    max_queues: int
    queue: str
    def __init__(self, tenant: _Optional[str] = ..., interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_queues: _Optional[int] = ..., queue: _Optional[str] = ...) -> None: ...

class WatchTenantResponse(_message.Message):
    __slots__ = ("time", "measured", "queues", "totals", "failure")
    TIME_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    measured: _timestamp_pb2.Timestamp
    queues: _containers.RepeatedCompositeFieldContainer[QueueFigures]
    totals: TenantFigures
    failure: str
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., measured: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., queues: _Optional[_Iterable[_Union[QueueFigures, _Mapping]]] = ..., totals: _Optional[_Union[TenantFigures, _Mapping]] = ..., failure: _Optional[str] = ...) -> None: ...

class QueueFigures(_message.Message):
    __slots__ = ("queue", "type", "messages_ready", "messages_unsettled", "consumers", "publish_rate", "deliver_rate", "oldest_message_age")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_READY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_RATE_FIELD_NUMBER: _ClassVar[int]
    DELIVER_RATE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_MESSAGE_AGE_FIELD_NUMBER: _ClassVar[int]
    queue: str
    type: _topology_pb2.QueueType
    messages_ready: int
    messages_unsettled: int
    consumers: int
    publish_rate: float
    deliver_rate: float
    oldest_message_age: _duration_pb2.Duration
    def __init__(self, queue: _Optional[str] = ..., type: _Optional[_Union[_topology_pb2.QueueType, str]] = ..., messages_ready: _Optional[int] = ..., messages_unsettled: _Optional[int] = ..., consumers: _Optional[int] = ..., publish_rate: _Optional[float] = ..., deliver_rate: _Optional[float] = ..., oldest_message_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class TenantFigures(_message.Message):
    __slots__ = ("queues", "messages_ready", "messages_unsettled", "consumers", "publish_rate", "deliver_rate", "oldest_message_age", "dead_letters", "messages_delayed")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_READY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_UNSETTLED_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_RATE_FIELD_NUMBER: _ClassVar[int]
    DELIVER_RATE_FIELD_NUMBER: _ClassVar[int]
    OLDEST_MESSAGE_AGE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_DELAYED_FIELD_NUMBER: _ClassVar[int]
    queues: int
    messages_ready: int
    messages_unsettled: int
    consumers: int
    publish_rate: float
    deliver_rate: float
    oldest_message_age: _duration_pb2.Duration
    dead_letters: int
    messages_delayed: int
    def __init__(self, queues: _Optional[int] = ..., messages_ready: _Optional[int] = ..., messages_unsettled: _Optional[int] = ..., consumers: _Optional[int] = ..., publish_rate: _Optional[float] = ..., deliver_rate: _Optional[float] = ..., oldest_message_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dead_letters: _Optional[int] = ..., messages_delayed: _Optional[int] = ...) -> None: ...

class ListStreamsRequest(_message.Message):
    __slots__ = ("tenant", "client_id", "kind", "page_size", "page_token")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    client_id: str
    kind: StreamKind
    page_size: int
    page_token: str
    def __init__(self, tenant: _Optional[str] = ..., client_id: _Optional[str] = ..., kind: _Optional[_Union[StreamKind, str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListStreamsResponse(_message.Message):
    __slots__ = ("streams", "next_page_token", "gateway")
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    streams: _containers.RepeatedCompositeFieldContainer[OpenStream]
    next_page_token: str
    gateway: str
    def __init__(self, streams: _Optional[_Iterable[_Union[OpenStream, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., gateway: _Optional[str] = ...) -> None: ...

class OpenStream(_message.Message):
    __slots__ = ("stream_id", "client_id", "kind", "peer_address", "since", "queue", "in_flight_messages", "in_flight_bytes", "messages", "messages_per_second")
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PEER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    stream_id: str
    client_id: str
    kind: StreamKind
    peer_address: str
    since: _timestamp_pb2.Timestamp
    queue: str
    in_flight_messages: int
    in_flight_bytes: int
    messages: int
    messages_per_second: int
    def __init__(self, stream_id: _Optional[str] = ..., client_id: _Optional[str] = ..., kind: _Optional[_Union[StreamKind, str]] = ..., peer_address: _Optional[str] = ..., since: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., queue: _Optional[str] = ..., in_flight_messages: _Optional[int] = ..., in_flight_bytes: _Optional[int] = ..., messages: _Optional[int] = ..., messages_per_second: _Optional[int] = ...) -> None: ...

class CloseStreamRequest(_message.Message):
    __slots__ = ("tenant", "stream_id")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    STREAM_ID_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    stream_id: str
    def __init__(self, tenant: _Optional[str] = ..., stream_id: _Optional[str] = ...) -> None: ...

class CloseStreamResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("gateway", "version", "started", "ready", "not_ready", "draining", "open_streams", "broker", "store", "certificates", "gateways")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    OPEN_STREAMS_FIELD_NUMBER: _ClassVar[int]
    BROKER_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    GATEWAYS_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    version: str
    started: _timestamp_pb2.Timestamp
    ready: bool
    not_ready: _containers.RepeatedScalarFieldContainer[str]
    draining: bool
    open_streams: int
    broker: BrokerStatus
    store: StoreStatus
    certificates: _containers.RepeatedCompositeFieldContainer[CertificateStatus]
    gateways: _containers.RepeatedCompositeFieldContainer[GatewayStatus]
    def __init__(self, gateway: _Optional[str] = ..., version: _Optional[str] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ready: _Optional[bool] = ..., not_ready: _Optional[_Iterable[str]] = ..., draining: _Optional[bool] = ..., open_streams: _Optional[int] = ..., broker: _Optional[_Union[BrokerStatus, _Mapping]] = ..., store: _Optional[_Union[StoreStatus, _Mapping]] = ..., certificates: _Optional[_Iterable[_Union[CertificateStatus, _Mapping]]] = ..., gateways: _Optional[_Iterable[_Union[GatewayStatus, _Mapping]]] = ...) -> None: ...

class GatewayStatus(_message.Message):
    __slots__ = ("gateway", "version", "version_differs", "host", "grpc_address", "started", "last_seen", "not_seen")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_DIFFERS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    GRPC_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_FIELD_NUMBER: _ClassVar[int]
    NOT_SEEN_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    version: str
    version_differs: bool
    host: str
    grpc_address: str
    started: _timestamp_pb2.Timestamp
    last_seen: _timestamp_pb2.Timestamp
    not_seen: bool
    def __init__(self, gateway: _Optional[str] = ..., version: _Optional[str] = ..., version_differs: _Optional[bool] = ..., host: _Optional[str] = ..., grpc_address: _Optional[str] = ..., started: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_seen: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., not_seen: _Optional[bool] = ...) -> None: ...

class BrokerStatus(_message.Message):
    __slots__ = ("reachable", "failure", "version", "erlang_version", "cluster_name", "collects_statistics", "nodes")
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ERLANG_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_NAME_FIELD_NUMBER: _ClassVar[int]
    COLLECTS_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    reachable: bool
    failure: str
    version: str
    erlang_version: str
    cluster_name: str
    collects_statistics: bool
    nodes: _containers.RepeatedCompositeFieldContainer[BrokerNode]
    def __init__(self, reachable: _Optional[bool] = ..., failure: _Optional[str] = ..., version: _Optional[str] = ..., erlang_version: _Optional[str] = ..., cluster_name: _Optional[str] = ..., collects_statistics: _Optional[bool] = ..., nodes: _Optional[_Iterable[_Union[BrokerNode, _Mapping]]] = ...) -> None: ...

class BrokerNode(_message.Message):
    __slots__ = ("name", "running", "memory_alarm", "disk_alarm", "memory_used_bytes", "memory_limit_bytes", "disk_free_bytes", "disk_free_limit_bytes", "uptime", "partitions")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    MEMORY_ALARM_FIELD_NUMBER: _ClassVar[int]
    DISK_ALARM_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    name: str
    running: bool
    memory_alarm: bool
    disk_alarm: bool
    memory_used_bytes: int
    memory_limit_bytes: int
    disk_free_bytes: int
    disk_free_limit_bytes: int
    uptime: _duration_pb2.Duration
    partitions: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., running: _Optional[bool] = ..., memory_alarm: _Optional[bool] = ..., disk_alarm: _Optional[bool] = ..., memory_used_bytes: _Optional[int] = ..., memory_limit_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., disk_free_limit_bytes: _Optional[int] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., partitions: _Optional[_Iterable[str]] = ...) -> None: ...

class StoreStatus(_message.Message):
    __slots__ = ("kind", "reachable", "failure", "latency")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REACHABLE_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reachable: bool
    failure: str
    latency: _duration_pb2.Duration
    def __init__(self, kind: _Optional[str] = ..., reachable: _Optional[bool] = ..., failure: _Optional[str] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CertificateStatus(_message.Message):
    __slots__ = ("use", "expires")
    USE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    use: str
    expires: _timestamp_pb2.Timestamp
    def __init__(self, use: _Optional[str] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
