import asyncio

import pytest


# Two tests: the tenant of the second one must be new.
@pytest.mark.parametrize("number", [1, 2])
def test_a_new_tenant_has_no_messages(warrengate_tenant, number):
    with warrengate_tenant.connect() as client:
        assert client.topology.declare_queue("orders").messages_ready == 0
        client.publisher().publish(f"order {number}".encode(), "orders")
        assert client.topology.queue_status("orders").messages_ready == 1


def test_a_tenant_connects_with_asyncio(warrengate_tenant):
    async def tenant():
        async with warrengate_tenant.connect_async() as client:
            return (await client.whoami()).tenant

    assert asyncio.run(tenant()) == warrengate_tenant.name
