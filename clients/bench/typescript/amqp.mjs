// amqplib, as its documentation shows it.
import { readFileSync } from "node:fs";
import amqp from "amqplib";
import { serve } from "./program.mjs";

const { BENCH_CA, BENCH_CERTIFICATE, BENCH_KEY, BENCH_PORT, BENCH_VHOST } = process.env;
const connection = await amqp.connect(`amqps://localhost:${BENCH_PORT}/${BENCH_VHOST}`, {
  ca: [readFileSync(BENCH_CA)],
  cert: readFileSync(BENCH_CERTIFICATE),
  key: readFileSync(BENCH_KEY),
  credentials: amqp.credentials.external(),
});
const publishing = await connection.createConfirmChannel();

await serve({
  async publish({ queue, count, window, size }) {
    const body = Buffer.alloc(size);
    for (let first = 0; first < count; first += window) {
      for (let number = Math.min(window, count - first); number > 0; number -= 1) {
        const more = publishing.publish("", queue, body, { persistent: true, mandatory: true });
        if (!more) await new Promise((resolve) => publishing.once("drain", resolve));
      }
      await publishing.waitForConfirms();
    }
  },
  async consume({ queue, count, prefetch }) {
    const channel = await connection.createChannel();
    await channel.prefetch(prefetch);
    let left = count;
    await new Promise((resolve, reject) => {
      const handle = (message) => {
        if (left === 0) return; // the channel is being closed
        channel.ack(message);
        left -= 1;
        if (left === 0) resolve();
      };
      channel.consume(queue, handle).catch(reject);
    });
    await channel.close();
  },
});
await connection.close();
