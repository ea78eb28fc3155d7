import { PublishError, fromEnv } from "@warrengate/client";

const client = await fromEnv();
await client.topology.declareQueue("shipping");
const consumer = await client.consume(
  "shipping",
  (delivery) => console.log("shipped", delivery.message.text), // an exception retries; returning acknowledges
  { concurrency: 4 },
);
const publisher = client.publisher();
for (let number = 0; number < 2000; number += 1) {
  const message = { body: `order ${number}`, messageId: `order-${number}` };
  while (true) {
    try {
      await publisher.publish(message, "shipping");
      break;
    } catch (error) {
      // After a minute of attempts.
      if (!(error instanceof PublishError && error.retryable)) throw error;
    }
  }
}
await consumer.wait();
