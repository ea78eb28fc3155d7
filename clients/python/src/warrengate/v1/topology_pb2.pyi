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

class ExchangeType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXCHANGE_TYPE_UNSPECIFIED: _ClassVar[ExchangeType]
    EXCHANGE_TYPE_DIRECT: _ClassVar[ExchangeType]
    EXCHANGE_TYPE_TOPIC: _ClassVar[ExchangeType]
    EXCHANGE_TYPE_FANOUT: _ClassVar[ExchangeType]
    EXCHANGE_TYPE_HEADERS: _ClassVar[ExchangeType]

class QueueType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    QUEUE_TYPE_UNSPECIFIED: _ClassVar[QueueType]
    QUEUE_TYPE_QUORUM: _ClassVar[QueueType]
    QUEUE_TYPE_CLASSIC: _ClassVar[QueueType]
    QUEUE_TYPE_STREAM: _ClassVar[QueueType]

class DestinationType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DESTINATION_TYPE_UNSPECIFIED: _ClassVar[DestinationType]
    DESTINATION_TYPE_QUEUE: _ClassVar[DestinationType]
    DESTINATION_TYPE_EXCHANGE: _ClassVar[DestinationType]

class HeadersMatch(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEADERS_MATCH_UNSPECIFIED: _ClassVar[HeadersMatch]
    HEADERS_MATCH_ALL: _ClassVar[HeadersMatch]
    HEADERS_MATCH_ANY: _ClassVar[HeadersMatch]
EXCHANGE_TYPE_UNSPECIFIED: ExchangeType
EXCHANGE_TYPE_DIRECT: ExchangeType
EXCHANGE_TYPE_TOPIC: ExchangeType
EXCHANGE_TYPE_FANOUT: ExchangeType
EXCHANGE_TYPE_HEADERS: ExchangeType
QUEUE_TYPE_UNSPECIFIED: QueueType
QUEUE_TYPE_QUORUM: QueueType
QUEUE_TYPE_CLASSIC: QueueType
QUEUE_TYPE_STREAM: QueueType
DESTINATION_TYPE_UNSPECIFIED: DestinationType
DESTINATION_TYPE_QUEUE: DestinationType
DESTINATION_TYPE_EXCHANGE: DestinationType
HEADERS_MATCH_UNSPECIFIED: HeadersMatch
HEADERS_MATCH_ALL: HeadersMatch
HEADERS_MATCH_ANY: HeadersMatch

class Exchange(_message.Message):
    __slots__ = ("name", "type", "auto_delete", "internal", "alternate_exchange")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    AUTO_DELETE_FIELD_NUMBER: _ClassVar[int]
    INTERNAL_FIELD_NUMBER: _ClassVar[int]
    ALTERNATE_EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: ExchangeType
    auto_delete: bool
    internal: bool
    alternate_exchange: str
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[ExchangeType, str]] = ..., auto_delete: _Optional[bool] = ..., internal: _Optional[bool] = ..., alternate_exchange: _Optional[str] = ...) -> None: ...

class Queue(_message.Message):
    __slots__ = ("name", "type", "max_length", "max_length_bytes", "message_ttl", "expires", "max_delivery_attempts", "max_priority", "single_active_consumer", "max_age", "stream_max_segment_bytes", "retry_policy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_TTL_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    MAX_DELIVERY_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    MAX_PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SINGLE_ACTIVE_CONSUMER_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    STREAM_MAX_SEGMENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    RETRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: QueueType
    max_length: int
    max_length_bytes: int
    message_ttl: _duration_pb2.Duration
    expires: _duration_pb2.Duration
    max_delivery_attempts: int
    max_priority: int
    single_active_consumer: bool
    max_age: _duration_pb2.Duration
    stream_max_segment_bytes: int
    retry_policy: RetryPolicy
    def __init__(self, name: _Optional[str] = ..., type: _Optional[_Union[QueueType, str]] = ..., max_length: _Optional[int] = ..., max_length_bytes: _Optional[int] = ..., message_ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., expires: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_delivery_attempts: _Optional[int] = ..., max_priority: _Optional[int] = ..., single_active_consumer: _Optional[bool] = ..., max_age: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stream_max_segment_bytes: _Optional[int] = ..., retry_policy: _Optional[_Union[RetryPolicy, _Mapping]] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("min_backoff", "max_backoff", "multiplier", "jitter")
    MIN_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_FIELD_NUMBER: _ClassVar[int]
    MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    min_backoff: _duration_pb2.Duration
    max_backoff: _duration_pb2.Duration
    multiplier: float
    jitter: float
    def __init__(self, min_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_backoff: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., multiplier: _Optional[float] = ..., jitter: _Optional[float] = ...) -> None: ...

class QueueStatus(_message.Message):
    __slots__ = ("messages_ready", "messages_unacknowledged", "consumers", "publish_rate", "deliver_rate")
    MESSAGES_READY_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_UNACKNOWLEDGED_FIELD_NUMBER: _ClassVar[int]
    CONSUMERS_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_RATE_FIELD_NUMBER: _ClassVar[int]
    DELIVER_RATE_FIELD_NUMBER: _ClassVar[int]
    messages_ready: int
    messages_unacknowledged: int
    consumers: int
    publish_rate: float
    deliver_rate: float
    def __init__(self, messages_ready: _Optional[int] = ..., messages_unacknowledged: _Optional[int] = ..., consumers: _Optional[int] = ..., publish_rate: _Optional[float] = ..., deliver_rate: _Optional[float] = ...) -> None: ...

class Binding(_message.Message):
    __slots__ = ("source", "destination", "destination_type", "routing_key", "headers", "headers_match")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _message_pb2.Value
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_message_pb2.Value, _Mapping]] = ...) -> None: ...
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_TYPE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    HEADERS_MATCH_FIELD_NUMBER: _ClassVar[int]
    source: str
    destination: str
    destination_type: DestinationType
    routing_key: str
    headers: _containers.MessageMap[str, _message_pb2.Value]
    headers_match: HeadersMatch
    def __init__(self, source: _Optional[str] = ..., destination: _Optional[str] = ..., destination_type: _Optional[_Union[DestinationType, str]] = ..., routing_key: _Optional[str] = ..., headers: _Optional[_Mapping[str, _message_pb2.Value]] = ..., headers_match: _Optional[_Union[HeadersMatch, str]] = ...) -> None: ...

class DeclareExchangeRequest(_message.Message):
    __slots__ = ("exchange", "validate_only")
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    exchange: Exchange
    validate_only: bool
    def __init__(self, exchange: _Optional[_Union[Exchange, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class DeclareExchangeResponse(_message.Message):
    __slots__ = ("exchange",)
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    exchange: Exchange
    def __init__(self, exchange: _Optional[_Union[Exchange, _Mapping]] = ...) -> None: ...

class DeleteExchangeRequest(_message.Message):
    __slots__ = ("name", "if_unused")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_UNUSED_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_unused: bool
    def __init__(self, name: _Optional[str] = ..., if_unused: _Optional[bool] = ...) -> None: ...

class DeleteExchangeResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetExchangeRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetExchangeResponse(_message.Message):
    __slots__ = ("exchange",)
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    exchange: Exchange
    def __init__(self, exchange: _Optional[_Union[Exchange, _Mapping]] = ...) -> None: ...

class ListExchangesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListExchangesResponse(_message.Message):
    __slots__ = ("exchanges", "next_page_token")
    EXCHANGES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    exchanges: _containers.RepeatedCompositeFieldContainer[Exchange]
    next_page_token: str
    def __init__(self, exchanges: _Optional[_Iterable[_Union[Exchange, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeclareQueueRequest(_message.Message):
    __slots__ = ("queue", "validate_only")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    validate_only: bool
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ..., validate_only: _Optional[bool] = ...) -> None: ...

class DeclareQueueResponse(_message.Message):
    __slots__ = ("queue", "status")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    status: QueueStatus
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ..., status: _Optional[_Union[QueueStatus, _Mapping]] = ...) -> None: ...

class DeleteQueueRequest(_message.Message):
    __slots__ = ("name", "if_unused", "if_empty")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IF_UNUSED_FIELD_NUMBER: _ClassVar[int]
    IF_EMPTY_FIELD_NUMBER: _ClassVar[int]
    name: str
    if_unused: bool
    if_empty: bool
    def __init__(self, name: _Optional[str] = ..., if_unused: _Optional[bool] = ..., if_empty: _Optional[bool] = ...) -> None: ...

class DeleteQueueResponse(_message.Message):
    __slots__ = ("messages_deleted",)
    MESSAGES_DELETED_FIELD_NUMBER: _ClassVar[int]
    messages_deleted: int
    def __init__(self, messages_deleted: _Optional[int] = ...) -> None: ...

class GetQueueRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetQueueResponse(_message.Message):
    __slots__ = ("queue", "status")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    status: QueueStatus
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ..., status: _Optional[_Union[QueueStatus, _Mapping]] = ...) -> None: ...

class ListQueuesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class QueueEntry(_message.Message):
    __slots__ = ("queue", "status")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    queue: Queue
    status: QueueStatus
    def __init__(self, queue: _Optional[_Union[Queue, _Mapping]] = ..., status: _Optional[_Union[QueueStatus, _Mapping]] = ...) -> None: ...

class ListQueuesResponse(_message.Message):
    __slots__ = ("queues", "next_page_token")
    QUEUES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    queues: _containers.RepeatedCompositeFieldContainer[QueueEntry]
    next_page_token: str
    def __init__(self, queues: _Optional[_Iterable[_Union[QueueEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class PurgeQueueRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class PurgeQueueResponse(_message.Message):
    __slots__ = ("messages_purged",)
    MESSAGES_PURGED_FIELD_NUMBER: _ClassVar[int]
    messages_purged: int
    def __init__(self, messages_purged: _Optional[int] = ...) -> None: ...

class PeekMessagesRequest(_message.Message):
    __slots__ = ("queue", "max_messages", "max_body_bytes", "stream_offset")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    STREAM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    queue: str
    max_messages: int
    max_body_bytes: int
    stream_offset: int
    def __init__(self, queue: _Optional[str] = ..., max_messages: _Optional[int] = ..., max_body_bytes: _Optional[int] = ..., stream_offset: _Optional[int] = ...) -> None: ...

class PeekMessagesResponse(_message.Message):
    __slots__ = ("messages", "has_more")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    HAS_MORE_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[PeekedMessage]
    has_more: bool
    def __init__(self, messages: _Optional[_Iterable[_Union[PeekedMessage, _Mapping]]] = ..., has_more: _Optional[bool] = ...) -> None: ...

class PeekedMessage(_message.Message):
    __slots__ = ("message", "exchange", "routing_key", "attempt", "redelivered", "stream_offset", "body_bytes")
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    REDELIVERED_FIELD_NUMBER: _ClassVar[int]
    STREAM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    BODY_BYTES_FIELD_NUMBER: _ClassVar[int]
    message: _message_pb2.Message
    exchange: str
    routing_key: str
    attempt: int
    redelivered: bool
    stream_offset: int
    body_bytes: int
    def __init__(self, message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., exchange: _Optional[str] = ..., routing_key: _Optional[str] = ..., attempt: _Optional[int] = ..., redelivered: _Optional[bool] = ..., stream_offset: _Optional[int] = ..., body_bytes: _Optional[int] = ...) -> None: ...

class BindRequest(_message.Message):
    __slots__ = ("binding",)
    BINDING_FIELD_NUMBER: _ClassVar[int]
    binding: Binding
    def __init__(self, binding: _Optional[_Union[Binding, _Mapping]] = ...) -> None: ...

class BindResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UnbindRequest(_message.Message):
    __slots__ = ("binding",)
    BINDING_FIELD_NUMBER: _ClassVar[int]
    binding: Binding
    def __init__(self, binding: _Optional[_Union[Binding, _Mapping]] = ...) -> None: ...

class UnbindResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBindingsRequest(_message.Message):
    __slots__ = ("source", "destination", "page_size", "page_token")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    source: str
    destination: str
    page_size: int
    page_token: str
    def __init__(self, source: _Optional[str] = ..., destination: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListBindingsResponse(_message.Message):
    __slots__ = ("bindings", "next_page_token")
    BINDINGS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    bindings: _containers.RepeatedCompositeFieldContainer[Binding]
    next_page_token: str
    def __init__(self, bindings: _Optional[_Iterable[_Union[Binding, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("dead_letter_id", "message", "queue", "exchange", "routing_key", "code", "reason", "attempts", "first_failure", "last_failure", "died", "redrives")
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    LAST_FAILURE_FIELD_NUMBER: _ClassVar[int]
    DIED_FIELD_NUMBER: _ClassVar[int]
    REDRIVES_FIELD_NUMBER: _ClassVar[int]
    dead_letter_id: str
    message: _message_pb2.Message
    queue: str
    exchange: str
    routing_key: str
    code: str
    reason: str
    attempts: int
    first_failure: _timestamp_pb2.Timestamp
    last_failure: _timestamp_pb2.Timestamp
    died: _timestamp_pb2.Timestamp
    redrives: int
    def __init__(self, dead_letter_id: _Optional[str] = ..., message: _Optional[_Union[_message_pb2.Message, _Mapping]] = ..., queue: _Optional[str] = ..., exchange: _Optional[str] = ..., routing_key: _Optional[str] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., attempts: _Optional[int] = ..., first_failure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_failure: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., died: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., redrives: _Optional[int] = ...) -> None: ...

class DeadLetterFilter(_message.Message):
    __slots__ = ("queue", "code", "reason_contains", "died_after", "died_before", "dead_letter_id")
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_CONTAINS_FIELD_NUMBER: _ClassVar[int]
    DIED_AFTER_FIELD_NUMBER: _ClassVar[int]
    DIED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    queue: str
    code: str
    reason_contains: str
    died_after: _timestamp_pb2.Timestamp
    died_before: _timestamp_pb2.Timestamp
    dead_letter_id: str
    def __init__(self, queue: _Optional[str] = ..., code: _Optional[str] = ..., reason_contains: _Optional[str] = ..., died_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., died_before: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., dead_letter_id: _Optional[str] = ...) -> None: ...

class DeadLetterSelection(_message.Message):
    __slots__ = ("dead_letter_ids", "filter", "all")
    DEAD_LETTER_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    dead_letter_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: DeadLetterFilter
    all: bool
    def __init__(self, dead_letter_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., all: _Optional[bool] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("filter", "page_size", "page_token", "without_bodies")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_BODIES_FIELD_NUMBER: _ClassVar[int]
    filter: DeadLetterFilter
    page_size: int
    page_token: str
    without_bodies: bool
    def __init__(self, filter: _Optional[_Union[DeadLetterFilter, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., without_bodies: _Optional[bool] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[DeadLetter]
    next_page_token: str
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RedriveDeadLettersRequest(_message.Message):
    __slots__ = ("selection", "max_per_second", "edit")
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    EDIT_FIELD_NUMBER: _ClassVar[int]
    selection: DeadLetterSelection
    max_per_second: int
    edit: DeadLetterEdit
    def __init__(self, selection: _Optional[_Union[DeadLetterSelection, _Mapping]] = ..., max_per_second: _Optional[int] = ..., edit: _Optional[_Union[DeadLetterEdit, _Mapping]] = ...) -> None: ...

class DeadLetterEdit(_message.Message):
    __slots__ = ("body", "destination")
    BODY_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    destination: PublishDestination
    def __init__(self, body: _Optional[bytes] = ..., destination: _Optional[_Union[PublishDestination, _Mapping]] = ...) -> None: ...

class PublishDestination(_message.Message):
    __slots__ = ("exchange", "routing_key")
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    exchange: str
    routing_key: str
    def __init__(self, exchange: _Optional[str] = ..., routing_key: _Optional[str] = ...) -> None: ...

class RedriveDeadLettersResponse(_message.Message):
    __slots__ = ("redriven", "failed", "remaining", "failures")
    REDRIVEN_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    redriven: int
    failed: int
    remaining: int
    failures: _containers.RepeatedCompositeFieldContainer[RedriveFailure]
    def __init__(self, redriven: _Optional[int] = ..., failed: _Optional[int] = ..., remaining: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[RedriveFailure, _Mapping]]] = ...) -> None: ...

class RedriveFailure(_message.Message):
    __slots__ = ("dead_letter_id", "reason")
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    dead_letter_id: str
    reason: str
    def __init__(self, dead_letter_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PurgeDeadLettersRequest(_message.Message):
    __slots__ = ("selection",)
    SELECTION_FIELD_NUMBER: _ClassVar[int]
    selection: DeadLetterSelection
    def __init__(self, selection: _Optional[_Union[DeadLetterSelection, _Mapping]] = ...) -> None: ...

class PurgeDeadLettersResponse(_message.Message):
    __slots__ = ("purged",)
    PURGED_FIELD_NUMBER: _ClassVar[int]
    purged: int
    def __init__(self, purged: _Optional[int] = ...) -> None: ...
