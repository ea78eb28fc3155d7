import { DevelopmentStack } from "@warrengate/client/testing";
import { afterAll, beforeAll, expect, test } from "vitest";

let stack;
beforeAll(async () => void (stack = await DevelopmentStack.start()), 180_000);
afterAll(() => stack.stop());

test("a new tenant has no messages", async (context) => {
  const client = await (await stack.tenant(context)).connect();
  await client.topology.declareQueue("orders");
  expect((await client.topology.queueStatus("orders")).messagesReady).toBe(0n);
}, 60_000);
