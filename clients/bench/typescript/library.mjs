// The library's side of the measurement.
import { fromEnv } from "@warrengate/client";
import { serve } from "./program.mjs";

const client = await fromEnv();
const publisher = client.publisher();

await serve({
  async publish({ queue, count, window, size }) {
    const body = new Uint8Array(size);
    for (let first = 0; first < count; first += window) {
      const outcomes = [];
      for (let number = Math.min(window, count - first); number > 0; number -= 1) {
        outcomes.push((await publisher.send({ body }, queue)).outcome);
      }
      await Promise.all(outcomes);
    }
  },
  async consume({ queue, count, prefetch }) {
    let left = count;
    let consumer;
    await new Promise((resolve, reject) => {
      const handle = () => {
        left -= 1;
        if (left === 0) resolve();
      };
      client.consume(queue, handle, { window: prefetch }).then((opened) => (consumer = opened), reject);
    });
    await consumer.close();
  },
});
await client.close();
