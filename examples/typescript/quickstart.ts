// Warrengate in TypeScript: the scenario, with the functions of warrengate.ts. See ../README.md.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { NackAction, Outcome } from "./generated/warrengate/v1/messaging_pb.ts";
import { consume, publication, publish, topology } from "./warrengate.ts";

const scenario = JSON.parse(readFileSync("../scenario.json", "utf8"));
const queue = `quickstart-${randomUUID().slice(0, 8)}`;
await topology.declareQueue({ queue: { name: queue } });

const orders: string[] = scenario.orders;
const publications = orders.map((order, number) => publication(number, queue, order));
publications.push(publication(orders.length, `${queue}.nowhere`, scenario.nowhere));
for await (const [sent, outcome] of publish(publications)) {
  console.log(`published ${new TextDecoder().decode(sent.message!.body)}: ${Outcome[outcome]}`);
}

const left = new Set(orders);
await consume(queue, (delivery) => {
  const order = new TextDecoder().decode(delivery.message!.body);
  const [action, verdict] =
    order === scenario.dead_letter ? [NackAction.DEAD_LETTER, "give up"]
    : order === scenario.retry_once && delivery.attempt === 1 ? [NackAction.RETRY, "try again"]
    : [undefined, "done"];
  console.log(`delivered ${order}, attempt ${delivery.attempt}: ${verdict}`);
  if (verdict !== "try again") left.delete(order);
  return [action, left.size > 0];
});
await topology.deleteQueue({ name: queue });
