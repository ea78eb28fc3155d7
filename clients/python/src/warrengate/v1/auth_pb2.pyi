import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IssueTokenRequest(_message.Message):
    __slots__ = ("client_id", "client_secret", "lifetime")
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_SECRET_FIELD_NUMBER: _ClassVar[int]
    LIFETIME_FIELD_NUMBER: _ClassVar[int]
    client_id: str
    client_secret: str
    lifetime: _duration_pb2.Duration
    def __init__(self, client_id: _Optional[str] = ..., client_secret: _Optional[str] = ..., lifetime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class IssueTokenResponse(_message.Message):
    __slots__ = ("access_token", "token_type", "expires")
    ACCESS_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOKEN_TYPE_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    access_token: str
    token_type: str
    expires: _timestamp_pb2.Timestamp
    def __init__(self, access_token: _Optional[str] = ..., token_type: _Optional[str] = ..., expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class WhoAmIRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WhoAmIResponse(_message.Message):
    __slots__ = ("tenant", "client_id", "grants", "token_expires")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    GRANTS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_EXPIRES_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    client_id: str
    grants: Grants
    token_expires: _timestamp_pb2.Timestamp
    def __init__(self, tenant: _Optional[str] = ..., client_id: _Optional[str] = ..., grants: _Optional[_Union[Grants, _Mapping]] = ..., token_expires: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Grants(_message.Message):
    __slots__ = ("publish", "subscribe", "configure", "administer", "observe")
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIBE_FIELD_NUMBER: _ClassVar[int]
    CONFIGURE_FIELD_NUMBER: _ClassVar[int]
    ADMINISTER_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    publish: _containers.RepeatedCompositeFieldContainer[PublishGrant]
    subscribe: _containers.RepeatedScalarFieldContainer[str]
    configure: _containers.RepeatedScalarFieldContainer[str]
    administer: bool
    observe: bool
    def __init__(self, publish: _Optional[_Iterable[_Union[PublishGrant, _Mapping]]] = ..., subscribe: _Optional[_Iterable[str]] = ..., configure: _Optional[_Iterable[str]] = ..., administer: _Optional[bool] = ..., observe: _Optional[bool] = ...) -> None: ...

class PublishGrant(_message.Message):
    __slots__ = ("exchange", "routing_key")
    EXCHANGE_FIELD_NUMBER: _ClassVar[int]
    ROUTING_KEY_FIELD_NUMBER: _ClassVar[int]
    exchange: str
    routing_key: str
    def __init__(self, exchange: _Optional[str] = ..., routing_key: _Optional[str] = ...) -> None: ...
