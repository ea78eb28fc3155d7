// Warrengate in TypeScript: a queue, publishing, consuming, a retry and a dead letter. See ../README.md.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { type Delivery, fromEnv, type LifecycleEvent, PublishError } from "@warrengate/client";

const RETRY_AFTER_MS = 4000; // the broker keeps the message meanwhile

const scenario = JSON.parse(readFileSync("../scenario.json", "utf8"));
const queue = `quickstart-${randomUUID().slice(0, 8)}`;
const onEvent = ({ kind }: LifecycleEvent) => {
  if (kind === "reauthenticated") console.log("token renewed");
};
const client = await fromEnv({ onEvent });
await client.topology.declareQueue(queue);

const publisher = client.publisher();
const sent = [];
for (const order of scenario.orders) sent.push({ order, ...(await publisher.send(order, queue)) });
sent.push({ order: scenario.nowhere, ...(await publisher.send(scenario.nowhere, `${queue}.nowhere`)) });
for (const { order, outcome } of sent) {
  const name = await outcome.then(() => "CONFIRMED", (error: PublishError) => error.outcome);
  console.log(`published ${order}: ${name}`);
}
await publisher.close();

const left = new Set<string>(scenario.orders);
await new Promise<void>((finished) => {
  // Returning acknowledges, unless the delivery was settled otherwise.
  void client.consume(queue, (delivery: Delivery) => {
    const order = delivery.message.text;
    const retries = order === scenario.retry_once && delivery.attempt === 1;
    const result = order === scenario.dead_letter ? "give up" : retries ? "try again" : "done";
    if (result === "give up") delivery.deadLetter("required by the scenario");
    if (result === "try again") delivery.retry({ delayMs: RETRY_AFTER_MS, reason: "required by the scenario" });
    console.log(`delivered ${order}, attempt ${delivery.attempt}: ${result}`);
    if (result !== "try again") left.delete(order);
    if (left.size === 0) finished();
  });
});
await client.topology.deleteQueue(queue);
await client.close();
