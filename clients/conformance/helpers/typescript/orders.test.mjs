import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DevelopmentStack } from "@warrengate/client/testing";

let stack;
before(async () => void (stack = await DevelopmentStack.start()));
after(() => stack.stop());

// Two tests: the tenant of the second one must be new.
for (const number of [1, 2]) {
  test(`a new tenant has no messages, ${number}`, async (t) => {
    const client = await (await stack.tenant(t)).connect();
    await client.topology.declareQueue("orders");
    assert.equal((await client.topology.queueStatus("orders")).messagesReady, 0n);
    await client.publisher().publish(`order ${number}`, "orders");
    assert.equal((await client.topology.queueStatus("orders")).messagesReady, 1n);
  });
}
