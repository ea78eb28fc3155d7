"""Topology, dead letters and administration as calls with the token attached."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import grpc

from .errors import from_rpc
from .message import HeaderValue, Message, to_pb
from .v1 import admin_pb2 as admin
from .v1 import topology_pb2 as topology
from .v1.admin_pb2_grpc import AdminStub
from .v1.topology_pb2_grpc import TopologyStub

if TYPE_CHECKING:
    from .client import Client

Request = TypeVar("Request")
Response = TypeVar("Response")

_PAGE = 1000


class _Method(Generic[Request, Response]):
    """A call of a service by name, bound to a client on access."""

    def __init__(self, stub: Callable[[grpc.aio.Channel], Any], name: str) -> None:
        self._stub = stub
        self._name = name
        self.__doc__ = f"{name}; see docs/reference."

    @overload
    def __get__(self, service: None, owner: type) -> _Method[Request, Response]: ...

    @overload
    def __get__(self, service: _Service, owner: type) -> Callable[[Request], Awaitable[Response]]: ...

    def __get__(
        self, service: _Service | None, owner: type
    ) -> _Method[Request, Response] | Callable[[Request], Awaitable[Response]]:
        if service is None:
            return self
        client = service.client
        return lambda request: client.call(lambda channel: getattr(self._stub(channel), self._name), request)


class _Service:
    def __init__(self, client: Client) -> None:
        self.client = client


class Topology(_Service):
    """Exchanges, queues and bindings of the client's tenant."""

    async def declare_queue(
        self,
        name: str,
        *,
        type: Literal["quorum", "classic", "stream"] = "quorum",
        max_length: int = 0,
        max_length_bytes: int = 0,
        message_ttl: timedelta | None = None,
        expires: timedelta | None = None,
        max_delivery_attempts: int = 0,
        max_priority: int = 0,
        single_active_consumer: bool = False,
        max_age: timedelta | None = None,
        retry_min: timedelta | None = None,
        retry_max: timedelta | None = None,
    ) -> topology.QueueStatus:
        """Declare a queue; repeating it with the same arguments has no effect. Returns its state."""
        queue = topology.Queue(
            name=name,
            type=f"QUEUE_TYPE_{type.upper()}",
            max_length=max_length,
            max_length_bytes=max_length_bytes,
            max_delivery_attempts=max_delivery_attempts,
            max_priority=max_priority,
            single_active_consumer=single_active_consumer,
        )
        for field, value in (("message_ttl", message_ttl), ("expires", expires), ("max_age", max_age)):
            if value is not None:
                getattr(queue, field).FromTimedelta(value)
        if retry_min is not None:
            queue.retry_policy.min_backoff.FromTimedelta(retry_min)
        if retry_max is not None:
            queue.retry_policy.max_backoff.FromTimedelta(retry_max)
        request = topology.DeclareQueueRequest(queue=queue)
        return (await self.client.call(lambda channel: TopologyStub(channel).DeclareQueue, request)).status

    async def delete_queue(self, name: str, *, if_unused: bool = False, if_empty: bool = False) -> int:
        """Delete a queue with its messages; returns how many were deleted."""
        request = topology.DeleteQueueRequest(name=name, if_unused=if_unused, if_empty=if_empty)
        return (await self.client.call(lambda channel: TopologyStub(channel).DeleteQueue, request)).messages_deleted

    async def purge_queue(self, name: str) -> int:
        """Remove the ready messages of a queue; returns their number."""
        request = topology.PurgeQueueRequest(name=name)
        return (await self.client.call(lambda channel: TopologyStub(channel).PurgeQueue, request)).messages_purged

    async def queue_status(self, name: str) -> topology.QueueStatus:
        """Return the depth, consumers and rates of a queue."""
        request = topology.GetQueueRequest(name=name)
        return (await self.client.call(lambda channel: TopologyStub(channel).GetQueue, request)).status

    async def list_queues(self) -> list[topology.QueueEntry]:
        """Return all queues that the client may see, by name."""
        entries: list[topology.QueueEntry] = []
        request = topology.ListQueuesRequest(page_size=_PAGE)
        while True:
            page = await self.client.call(lambda channel: TopologyStub(channel).ListQueues, request)
            entries.extend(page.queues)
            request.page_token = page.next_page_token
            if not request.page_token:
                return entries

    async def declare_exchange(
        self,
        name: str,
        type: Literal["direct", "topic", "fanout", "headers"] = "topic",
        *,
        auto_delete: bool = False,
        internal: bool = False,
        alternate_exchange: str = "",
    ) -> None:
        """Declare an exchange; repeating it with the same arguments has no effect."""
        exchange = topology.Exchange(
            name=name,
            type=f"EXCHANGE_TYPE_{type.upper()}",
            auto_delete=auto_delete,
            internal=internal,
            alternate_exchange=alternate_exchange,
        )
        request = topology.DeclareExchangeRequest(exchange=exchange)
        await self.client.call(lambda channel: TopologyStub(channel).DeclareExchange, request)

    async def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Delete an exchange."""
        request = topology.DeleteExchangeRequest(name=name, if_unused=if_unused)
        await self.client.call(lambda channel: TopologyStub(channel).DeleteExchange, request)

    async def bind(
        self,
        source: str,
        destination: str,
        routing_key: str = "",
        *,
        to_exchange: bool = False,
        headers: Mapping[str, HeaderValue] | None = None,
        match_any: bool = False,
    ) -> None:
        """Bind a queue, or an exchange, to an exchange; binding again has no effect."""
        binding = _binding(source, destination, routing_key, to_exchange, headers, match_any)
        await self.client.call(lambda channel: TopologyStub(channel).Bind, topology.BindRequest(binding=binding))

    async def unbind(
        self,
        source: str,
        destination: str,
        routing_key: str = "",
        *,
        to_exchange: bool = False,
        headers: Mapping[str, HeaderValue] | None = None,
        match_any: bool = False,
    ) -> None:
        """Remove a binding; removing a missing one has no effect."""
        binding = _binding(source, destination, routing_key, to_exchange, headers, match_any)
        await self.client.call(lambda channel: TopologyStub(channel).Unbind, topology.UnbindRequest(binding=binding))

    get_queue = _Method[topology.GetQueueRequest, topology.GetQueueResponse](TopologyStub, "GetQueue")
    get_exchange = _Method[topology.GetExchangeRequest, topology.GetExchangeResponse](TopologyStub, "GetExchange")
    list_exchanges = _Method[topology.ListExchangesRequest, topology.ListExchangesResponse](
        TopologyStub, "ListExchanges"
    )
    list_bindings = _Method[topology.ListBindingsRequest, topology.ListBindingsResponse](TopologyStub, "ListBindings")


def _binding(
    source: str,
    destination: str,
    routing_key: str,
    to_exchange: bool,
    headers: Mapping[str, HeaderValue] | None,
    match_any: bool,
) -> topology.Binding:
    binding = topology.Binding(source=source, destination=destination, routing_key=routing_key)
    if to_exchange:
        binding.destination_type = topology.DESTINATION_TYPE_EXCHANGE
    if headers is not None:
        for name, value in to_pb(Message(headers=dict(headers))).headers.items():
            binding.headers[name].CopyFrom(value)
        binding.headers_match = topology.HEADERS_MATCH_ANY if match_any else topology.HEADERS_MATCH_ALL
    return binding


class DeadLetters(_Service):
    """Dead letters: list them, redrive them, or delete them."""

    async def list(
        self, queue: str = "", *, code: str = "", reason_contains: str = ""
    ) -> AsyncIterator[topology.DeadLetter]:
        """Iterate over dead letters, oldest first, without removing them."""
        request = topology.ListDeadLettersRequest(filter=_filter(queue, code, reason_contains, None, None))
        while True:
            page = await self.client.call(lambda channel: TopologyStub(channel).ListDeadLetters, request)
            for dead_letter in page.dead_letters:
                yield dead_letter
            request.page_token = page.next_page_token
            if not request.page_token:
                return

    async def redrive(
        self,
        queue: str = "",
        *,
        ids: tuple[str, ...] = (),
        code: str = "",
        reason_contains: str = "",
        died_after: datetime | None = None,
        died_before: datetime | None = None,
        max_per_second: int = 0,
    ) -> topology.RedriveDeadLettersResponse:
        """Redrive dead letters to their queues: those with these ids, those that match, or all."""
        selection = _selection(ids, _filter(queue, code, reason_contains, died_after, died_before))
        request = topology.RedriveDeadLettersRequest(selection=selection, max_per_second=max_per_second)
        token = await self.client.tokens.get()
        progress = topology.RedriveDeadLettersResponse()
        failures: list[topology.RedriveFailure] = []
        try:
            async for progress in TopologyStub(self.client.connection.channel).RedriveDeadLetters(
                request, metadata=(("authorization", f"Bearer {token.text}"),), wait_for_ready=True
            ):
                failures.extend(progress.failures)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, self.client.endpoint) from None
        del progress.failures[:]
        progress.failures.extend(failures)
        return progress

    async def purge(
        self,
        queue: str = "",
        *,
        ids: tuple[str, ...] = (),
        code: str = "",
        reason_contains: str = "",
        died_after: datetime | None = None,
        died_before: datetime | None = None,
    ) -> int:
        """Delete dead letters: those with these ids, those that match, or all. Returns how many."""
        selection = _selection(ids, _filter(queue, code, reason_contains, died_after, died_before))
        request = topology.PurgeDeadLettersRequest(selection=selection)
        return (await self.client.call(lambda channel: TopologyStub(channel).PurgeDeadLetters, request)).purged


def _filter(
    queue: str, code: str, reason_contains: str, died_after: datetime | None, died_before: datetime | None
) -> topology.DeadLetterFilter:
    result = topology.DeadLetterFilter(queue=queue, code=code, reason_contains=reason_contains)
    if died_after is not None:
        result.died_after.FromDatetime(died_after)
    if died_before is not None:
        result.died_before.FromDatetime(died_before)
    return result


def _selection(ids: tuple[str, ...], chosen: topology.DeadLetterFilter) -> topology.DeadLetterSelection:
    if ids:
        return topology.DeadLetterSelection(dead_letter_ids=ids)
    if chosen.ByteSize():
        return topology.DeadLetterSelection(filter=chosen)
    return topology.DeadLetterSelection(all=True)


class Admin(_Service):
    """Administration. Requests and responses are those of `warrengate.v1.admin_pb2`."""

    create_tenant = _Method[admin.CreateTenantRequest, admin.CreateTenantResponse](AdminStub, "CreateTenant")
    get_tenant = _Method[admin.GetTenantRequest, admin.GetTenantResponse](AdminStub, "GetTenant")
    list_tenants = _Method[admin.ListTenantsRequest, admin.ListTenantsResponse](AdminStub, "ListTenants")
    update_tenant = _Method[admin.UpdateTenantRequest, admin.UpdateTenantResponse](AdminStub, "UpdateTenant")
    suspend_tenant = _Method[admin.SuspendTenantRequest, admin.SuspendTenantResponse](AdminStub, "SuspendTenant")
    resume_tenant = _Method[admin.ResumeTenantRequest, admin.ResumeTenantResponse](AdminStub, "ResumeTenant")
    delete_tenant = _Method[admin.DeleteTenantRequest, admin.DeleteTenantResponse](AdminStub, "DeleteTenant")
    get_tenant_usage = _Method[admin.GetTenantUsageRequest, admin.GetTenantUsageResponse](AdminStub, "GetTenantUsage")
    list_plans = _Method[admin.ListPlansRequest, admin.ListPlansResponse](AdminStub, "ListPlans")
    get_plan = _Method[admin.GetPlanRequest, admin.GetPlanResponse](AdminStub, "GetPlan")
    create_plan = _Method[admin.CreatePlanRequest, admin.CreatePlanResponse](AdminStub, "CreatePlan")
    update_plan = _Method[admin.UpdatePlanRequest, admin.UpdatePlanResponse](AdminStub, "UpdatePlan")
    delete_plan = _Method[admin.DeletePlanRequest, admin.DeletePlanResponse](AdminStub, "DeletePlan")
    create_client = _Method[admin.CreateClientRequest, admin.CreateClientResponse](AdminStub, "CreateClient")
    list_clients = _Method[admin.ListClientsRequest, admin.ListClientsResponse](AdminStub, "ListClients")
    update_client = _Method[admin.UpdateClientRequest, admin.UpdateClientResponse](AdminStub, "UpdateClient")
    revoke_client = _Method[admin.RevokeClientRequest, admin.RevokeClientResponse](AdminStub, "RevokeClient")
    rotate_client_secret = _Method[admin.RotateClientSecretRequest, admin.RotateClientSecretResponse](
        AdminStub, "RotateClientSecret"
    )
    rotate_broker_credentials = _Method[admin.RotateBrokerCredentialsRequest, admin.RotateBrokerCredentialsResponse](
        AdminStub, "RotateBrokerCredentials"
    )
    rotate_signing_key = _Method[admin.RotateSigningKeyRequest, admin.RotateSigningKeyResponse](
        AdminStub, "RotateSigningKey"
    )
    list_audit_events = _Method[admin.ListAuditEventsRequest, admin.ListAuditEventsResponse](
        AdminStub, "ListAuditEvents"
    )
    reconcile_tenant = _Method[admin.ReconcileTenantRequest, admin.ReconcileTenantResponse](
        AdminStub, "ReconcileTenant"
    )
    verify_isolation = _Method[admin.VerifyIsolationRequest, admin.VerifyIsolationResponse](
        AdminStub, "VerifyIsolation"
    )
