import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from warrengate.v1 import message_pb2 as _message_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_CONFIRMED: _ClassVar[Outcome]
    OUTCOME_UNROUTABLE: _ClassVar[Outcome]
    OUTCOME_REJECTED: _ClassVar[Outcome]
    OUTCOME_DENIED: _ClassVar[Outcome]
    OUTCOME_THROTTLED: _ClassVar[Outcome]
    OUTCOME_UNKNOWN: _ClassVar[Outcome]

class NackAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NACK_ACTION_UNSPECIFIED: _ClassVar[NackAction]
    NACK_ACTION_RETRY: _ClassVar[NackAction]
    NACK_ACTION_DEAD_LETTER: _ClassVar[NackAction]
    NACK_ACTION_DROP: _ClassVar[NackAction]
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_CONFIRMED: Outcome
OUTCOME_UNROUTABLE: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_DENIED: Outcome
OUTCOME_THROTTLED: Outcome
OUTCOME_UNKNOWN: Outcome
NACK_ACTION_UNSPECIFIED: NackAction
NACK_ACTION_RETRY: NackAction
NACK_ACTION_DEAD_LETTER: NackAction
NACK_ACTION_DROP: NackAction

class Publication(_message.Message):
    __slots__ = ("sequence", "exchange", "routing_key", "message", "allow_unroutable")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    ALLOW_UNROUTABLE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    exchange: str
    routing_key: str
    message: _message_pb2.Message
    allow_unroutable: bool
    def __init__(self, sequence: _Optional[int] = ..., exchange: _Optional[str] = ..., routing_key: _Optional[str] = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., allow_unroutable: _Optional[bool] = ...) -> None: ...

class PublishBatchRequest(_message.Message):
    __slots__ = ("publications",)
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    publications: _containers.RepeatedCompositeFieldContainer[Publication]
    def __init__(self, publications: _Optional[_Iterable[_Union[Publication, _Mapping]]] = ...) -> None: ...

class PublishBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PublishResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PublishResult, _Mapping]]] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("publications", "reauthenticate")
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    REAUTHENTICATE_FIELD_NUMBER: _ClassVar[int]
    publications: Publications
    reauthenticate: Reauthenticate
    def __init__(self, publications: _Optional[_Union[Publications, _Mapping]] = ..., reauthenticate: _Optional[_Union[Reauthenticate, _Mapping]] = ...) -> None: ...

class Publications(_message.Message):
    __slots__ = ("publications",)
    PUBLICATIONS_FIELD_NUMBER: _ClassVar[int]
    publications: _containers.RepeatedCompositeFieldContainer[Publication]
    def __init__(self, publications: _Optional[_Iterable[_Union[Publication, _Mapping]]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("results", "auth_expiring", "draining")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    AUTH_EXPIRING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    results: PublishResults
    auth_expiring: AuthExpiring
    draining: Draining
    def __init__(self, results: _Optional[_Union[PublishResults, _Mapping]] = ..., auth_expiring: _Optional[_Union[AuthExpiring, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class PublishResults(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[PublishResult]
    def __init__(self, results: _Optional[_Iterable[_Union[PublishResult, _Mapping]]] = ...) -> None: ...

class PublishResult(_message.Message):
    __slots__ = ("sequence", "outcome", "message_id", "reason", "retry_after", "trace_id")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    outcome: Outcome
    message_id: str
    reason: str
    retry_after: _duration_pb2.Duration
    trace_id: str
    def __init__(self, sequence: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., message_id: _Optional[str] = ..., reason: _Optional[str] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., trace_id: _Optional[str] = ...) -> None: ...

class Reauthenticate(_message.Message):
    __slots__ = ("access_token",)
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    def __init__(self, access_token: _Optional[str] = ...) -> None: ...

class AuthExpiring(_message.Message):
    __slots__ = ("expires",)
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    expires: _timestamp_pb2.Timestamp
    def __init__(self, expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Draining(_message.Message):
    __slots__ = ("deadline",)
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    deadline: _timestamp_pb2.Timestamp
    def __init__(self, deadline: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("start", "ack", "nack", "extend_lease", "reauthenticate")
    START_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    EXTEND_LEASE_FIELD_NUMBER: _ClassVar[int]
    REAUTHENTICATE_FIELD_NUMBER: _ClassVar[int]
    start: SubscribeStart
    ack: Ack
    nack: Nack
    extend_lease: ExtendLease
    reauthenticate: Reauthenticate
    def __init__(self, start: _Optional[_Union[SubscribeStart, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., extend_lease: _Optional[_Union[ExtendLease, _Mapping]] = ..., reauthenticate: _Optional[_Union[Reauthenticate, _Mapping]] = ...) -> None: ...

class SubscribeStart(_message.Message):
    __slots__ = ("queue", "max_outstanding_messages", "max_outstanding_bytes", "ack_deadline", "position", "exclusive", "priority", "auto_ack")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTSTANDING_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTSTANDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACK_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    AUTO_ACK_FIELD_NUMBER: _ClassVar[int]
    queue: str
    max_outstanding_messages: int
    max_outstanding_bytes: int
    ack_deadline: _duration_pb2.Duration
    position: StreamPosition
    exclusive: bool
    priority: int
    auto_ack: bool
    def __init__(self, queue: _Optional[str] = ..., max_outstanding_messages: _Optional[int] = ..., max_outstanding_bytes: _Optional[int] = ..., ack_deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., position: _Optional[_Union[StreamPosition, _Mapping]] = ..., exclusive: _Optional[bool] = ..., priority: _Optional[int] = ..., auto_ack: _Optional[bool] = ...) -> None: ...

class StreamPosition(_message.Message):
    __slots__ = ("first", "last", "next", "offset", "timestamp")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    NEXT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    first: StreamFirst
    last: StreamLast
    next: StreamNext
    offset: int
    timestamp: _timestamp_pb2.Timestamp
    def __init__(self, first: _Optional[_Union[StreamFirst, _Mapping]] = ..., last: _Optional[_Union[StreamLast, _Mapping]] = ..., next: _Optional[_Union[StreamNext, _Mapping]] = ..., offset: _Optional[int] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class StreamFirst(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamLast(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StreamNext(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Ack(_message.Message):
    __slots__ = ("delivery_ids", "through")
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    THROUGH_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    through: int
    def __init__(self, delivery_ids: _Optional[_Iterable[int]] = ..., through: _Optional[int] = ...) -> None: ...

class Nack(_message.Message):
    __slots__ = ("delivery_ids", "action", "delay", "reason")
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    action: NackAction
    delay: _duration_pb2.Duration
    reason: str
    def __init__(self, delivery_ids: _Optional[_Iterable[int]] = ..., action: _Optional[_Union[NackAction, str]] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class ExtendLease(_message.Message):
    __slots__ = ("delivery_ids", "ack_deadline")
    DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    ACK_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    ack_deadline: _duration_pb2.Duration
    def __init__(self, delivery_ids: _Optional[_Iterable[int]] = ..., ack_deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("started", "deliveries", "settled", "interrupted", "resumed", "heartbeat", "auth_expiring", "draining")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    INTERRUPTED_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    AUTH_EXPIRING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    started: SubscribeStarted
    deliveries: Deliveries
    settled: Settled
    interrupted: Interrupted
    resumed: Resumed
    heartbeat: Heartbeat
    auth_expiring: AuthExpiring
    draining: Draining
    def __init__(self, started: _Optional[_Union[SubscribeStarted, _Mapping]] = ..., deliveries: _Optional[_Union[Deliveries, _Mapping]] = ..., settled: _Optional[_Union[Settled, _Mapping]] = ..., interrupted: _Optional[_Union[Interrupted, _Mapping]] = ..., resumed: _Optional[_Union[Resumed, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., auth_expiring: _Optional[_Union[AuthExpiring, _Mapping]] = ..., draining: _Optional[_Union[Draining, _Mapping]] = ...) -> None: ...

class SubscribeStarted(_message.Message):
    __slots__ = ("max_outstanding_messages", "max_outstanding_bytes", "ack_deadline", "heartbeat_interval")
    MAX_OUTSTANDING_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTSTANDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    ACK_DEADLINE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_INTERVAL_FIELD_NUMBER: _ClassVar[int]
    max_outstanding_messages: int
    max_outstanding_bytes: int
    ack_deadline: _duration_pb2.Duration
    heartbeat_interval: _duration_pb2.Duration
    def __init__(self, max_outstanding_messages: _Optional[int] = ..., max_outstanding_bytes: _Optional[int] = ..., ack_deadline: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., heartbeat_interval: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Deliveries(_message.Message):
    __slots__ = ("deliveries",)
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("delivery_id", "message", "exchange", "routing_key", "redelivered", "attempt", "lease_expires", "stream_offset")
    DELIVERY_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    LEASE_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    STREAM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    delivery_id: int
    message: _message_pb2.Message
    exchange: str
    routing_key: str
    redelivered: bool
    attempt: int
    lease_expires: _timestamp_pb2.Timestamp
    stream_offset: int
    def __init__(self, delivery_id: _Optional[int] = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., exchange: _Optional[str] = ..., routing_key: _Optional[str] = ..., redelivered: _Optional[bool] = ..., attempt: _Optional[int] = ..., lease_expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., stream_offset: _Optional[int] = ...) -> None: ...

class Settled(_message.Message):
    __slots__ = ("unknown_delivery_ids", "expired_delivery_ids")
    UNKNOWN_DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    EXPIRED_DELIVERY_IDS_FIELD_NUMBER: _ClassVar[int]
    unknown_delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    expired_delivery_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, unknown_delivery_ids: _Optional[_Iterable[int]] = ..., expired_delivery_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Interrupted(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Resumed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("time",)
    TIME_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    def __init__(self, time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ReceiveRequest(_message.Message):
    __slots__ = ("start",)
    START_FIELD_NUMBER: _ClassVar[int]
    start: SubscribeStart
    def __init__(self, start: _Optional[_Union[SubscribeStart, _Mapping]] = ...) -> None: ...

class ReceiveResponse(_message.Message):
    __slots__ = ("receive_id", "response")
    RECEIVE_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    receive_id: str
    response: SubscribeResponse
    def __init__(self, receive_id: _Optional[str] = ..., response: _Optional[_Union[SubscribeResponse, _Mapping]] = ...) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("receive_id", "ack", "nack", "extend_lease", "reauthenticate", "close")
    RECEIVE_ID_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    NACK_FIELD_NUMBER: _ClassVar[int]
    EXTEND_LEASE_FIELD_NUMBER: _ClassVar[int]
    REAUTHENTICATE_FIELD_NUMBER: _ClassVar[int]
    CLOSE_FIELD_NUMBER: _ClassVar[int]
    receive_id: str
    ack: Ack
    nack: Nack
    extend_lease: ExtendLease
    reauthenticate: Reauthenticate
    close: CloseReceive
    def __init__(self, receive_id: _Optional[str] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., nack: _Optional[_Union[Nack, _Mapping]] = ..., extend_lease: _Optional[_Union[ExtendLease, _Mapping]] = ..., reauthenticate: _Optional[_Union[Reauthenticate, _Mapping]] = ..., close: _Optional[_Union[CloseReceive, _Mapping]] = ...) -> None: ...

class CloseReceive(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
