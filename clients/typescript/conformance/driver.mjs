// The conformance driver of the TypeScript library; clients/conformance/README.md describes the protocol.
import { createInterface } from "node:readline";
import { createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Auth } from "../dist/generated/warrengate/v1/auth_pb.js";
import { ConfigurationError, fromEnv, version, WarrengateError } from "../dist/index.js";
import { connect as connectWeb, fromConnectError } from "../dist/web.js";

const isWeb = process.argv.includes("--web");

const some = (command, ...names) => Object.fromEntries(names.filter(([from]) => from in command).map(([from, to]) => [to, command[from]]));
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

function toHeader(value) {
  return value !== null && typeof value === "object" && typeof value.bytes === "string" ? Buffer.from(value.bytes, "base64") : value;
}

function fromHeader(value) {
  return value instanceof Uint8Array ? { bytes: Buffer.from(value).toString("base64") } : value;
}

function keyOf(body) {
  return Buffer.from(body.buffer, body.byteOffset, Math.min(body.byteLength, 200)).toString().split(":", 1)[0];
}

function describe(error) {
  const { reason, code, retryable, retryAfterMs, message } = error;
  return { reason, code, retryable, retry_after_ms: retryAfterMs ?? null, message };
}

function settle(delivery, rule) {
  switch (rule.then) {
    case "retry":
      return delivery.retry({ ...("delay_ms" in rule && { delayMs: rule.delay_ms }), ...("reason" in rule && { reason: rule.reason }) });
    case "dead_letter":
      return delivery.deadLetter(rule.reason);
    case "drop":
      return delivery.drop();
  }
}

/** A consumer and the deliveries that its handlers received. */
class ObservedConsumer {
  keys = new Map();
  total = 0;
  running = 0;
  maxRunning = 0;
  maxAttempt = 0;
  unsettled = [];

  constructor(workMs, rules) {
    this.workMs = workMs;
    this.rules = rules;
  }

  arrive({ message, attempt }) {
    const key = keyOf(message.body);
    const counts = this.keys.get(key) ?? [0, 0];
    this.keys.set(key, [counts[0] + 1, Math.max(counts[1], attempt)]);
    this.total += 1;
    this.maxAttempt = Math.max(this.maxAttempt, attempt);
    this.last = message;
    return this.rules.find((rule) => key.startsWith(rule.prefix ?? "") && attempt <= (rule.attempts ?? Infinity)) ?? { then: "ack" };
  }

  async during(work) {
    this.running += 1;
    this.maxRunning = Math.max(this.maxRunning, this.running);
    try {
      if (this.workMs) await sleep(this.workMs);
      return await work();
    } finally {
      this.running -= 1;
    }
  }

  callback = (delivery) => {
    const rule = this.arrive(delivery);
    return this.during(() => {
      if (rule.then === "fail") throw new Error("this case requires the handler to fail");
      if (rule.then === "stuck") return new Promise(() => undefined);
      settle(delivery, rule);
    });
  };

  async iterate(concurrency) {
    const tasks = new Set();
    try {
      for await (const delivery of this.consumer) {
        if (tasks.size >= concurrency) await Promise.race(tasks);
        const rule = this.arrive(delivery);
        const task = this.during(() => {
          if (rule.then === "hold") this.unsettled.push(delivery);
          else if (rule.then === "fail") delivery.retry();
          else if (rule.then === "ack") delivery.ack();
          else settle(delivery, rule);
        }).finally(() => tasks.delete(task));
        tasks.add(task);
      }
    } catch {
      // `report` shows it.
    }
  }
}

/** Connects like a page; the token comes from its own server, which is simulated here. */
async function fromPage({ clientId, clientSecret, tokenLifetimeMs, ...options }) {
  const { WARRENGATE_ENDPOINT: endpoint, WARRENGATE_CLIENT_ID, WARRENGATE_CLIENT_SECRET } = process.env;
  const id = clientId ?? WARRENGATE_CLIENT_ID;
  const secret = clientSecret ?? WARRENGATE_CLIENT_SECRET;
  if (!secret && !options.token) throw new ConfigurationError("there is no token");
  const where = { endpoint, ...options };
  const token = async () => {
    const auth = createClient(Auth, createGrpcWebTransport({ baseUrl: where.endpoint, useBinaryFormat: true }));
    const lifetime = tokenLifetimeMs ? { lifetime: { seconds: BigInt(tokenLifetimeMs / 1000), nanos: 0 } } : {};
    try {
      return (await auth.issueToken({ clientId: id, clientSecret: secret, ...lifetime })).accessToken;
    } catch (error) {
      throw fromConnectError(error, where.endpoint);
    }
  };
  return connectWeb({ token, ...where });
}

const clients = new Map();
const events = new Map();
const publishers = new Map();
const consumers = new Map();
const of = (command) => clients.get(command.client);

const commands = {
  hello: () => ({ protocol: 1, language: "typescript", library: version }),
  async connect(command) {
    const list = events.get(command.client) ?? [];
    events.set(command.client, list);
    if ("token" in command) {
      delete process.env.WARRENGATE_CLIENT_ID;
      delete process.env.WARRENGATE_CLIENT_SECRET;
    }
    const options = some(
      command, ["endpoint", "endpoint"], ["ca", "ca"], ["client_id", "clientId"], ["client_secret", "clientSecret"], ["token", "token"],
      ["token_lifetime_ms", "tokenLifetimeMs"], ["connect_timeout_ms", "connectTimeoutMs"],
    );
    const log = (message) => process.stderr.write(`${message}\n`);
    const logger = { debug: () => undefined, info: log, warn: log, error: log };
    const open = isWeb ? fromPage : fromEnv;
    clients.set(command.client, await open({ ...options, logger, onEvent: ({ kind }) => list.push(kind) }));
    return {};
  },
  async close(command) {
    await of(command).close(command.timeout_ms);
    return {};
  },
  events: (command) => ({ events: events.get(command.client) }),
  async whoami(command) {
    const { tenant, clientId } = await of(command).whoami();
    return { tenant, client_id: clientId };
  },
  async declare_queue(command) {
    await of(command).topology.declareQueue(
      command.name,
      some(command, ["type", "type"], ["max_length", "maxLength"], ["max_delivery_attempts", "maxDeliveryAttempts"], ["retry_min_ms", "retryMinMs"], ["retry_max_ms", "retryMaxMs"]),
    );
    return {};
  },
  async declare_exchange(command) {
    await of(command).topology.declareExchange(command.name, command.type);
    return {};
  },
  async bind(command) {
    await of(command).topology.bind(command.source, command.destination, command.routing_key);
    return {};
  },
  delete_queue: async (command) => ({ count: await of(command).topology.deleteQueue(command.name) }),
  purge_queue: async (command) => ({ count: await of(command).topology.purgeQueue(command.name) }),
  async queue_status(command) {
    const { messagesReady, consumers } = await of(command).topology.queueStatus(command.name);
    return { ready: Number(messagesReady), consumers };
  },
  list_queues: async (command) => ({ names: (await of(command).topology.listQueues()).map(({ queue }) => queue.name) }),
  list_tenants: async (command) => ({ names: (await of(command).admin.listTenants({})).tenants.map(({ id }) => id) }),
  async dead_letters(command) {
    const letters = [];
    for await (const { message, code, reason, attempts } of of(command).deadLetters.list({ queue: command.queue })) {
      letters.push({ key: keyOf(message.body), code, reason, attempts });
    }
    return { dead_letters: letters };
  },
  async redrive(command) {
    const { redriven, failed } = await of(command).deadLetters.redrive({ queue: command.queue });
    return { redriven, failed };
  },
  purge_dead_letters: async (command) => ({ purged: await of(command).deadLetters.purge({ queue: command.queue }) }),
  publisher(command) {
    const options = some(
      command, ["exchange", "exchange"], ["max_in_flight", "maxInFlight"], ["batch_messages", "batchMessages"], ["timeout_ms", "timeoutMs"],
      ["retry_throttled", "retryThrottled"],
    );
    publishers.set(command.publisher, of(command).publisher(options));
    return {};
  },
  async publish(command) {
    const publisher = publishers.get(command.publisher);
    const sent = [];
    let peak = 0;
    for (let number = 0; number < command.count; number += 1) {
      const key = `${command.prefix}-${number}`;
      const body = command.size ? `${key}:`.padEnd(command.size, ".") : key;
      sent.push([key, await publisher.send(body, command.routing_key)]);
      peak = Math.max(peak, publisher.inFlight);
      if (command.interval_ms) await sleep(command.interval_ms);
    }
    const outcomes = {};
    const failed = [];
    for (const [key, { outcome }] of sent) {
      const name = await outcome.then(
        () => "CONFIRMED",
        (error) => {
          const name = error.outcome ?? "NOT_SENT";
          failed.push({ key, outcome: name, reason: error.reason, retry_after_ms: error.retryAfterMs ?? null, message_id: error.messageId ?? "" });
          return name;
        },
      );
      outcomes[name] = (outcomes[name] ?? 0) + 1;
    }
    return { outcomes, failed, peak_in_flight: peak };
  },
  async publish_message(command) {
    const { headers = {}, ...given } = command.message;
    const message = {
      ...some(
        given, ["body", "body"], ["message_id", "messageId"], ["correlation_id", "correlationId"], ["reply_to", "replyTo"], ["content_type", "contentType"],
        ["type", "type"], ["app_id", "appId"], ["priority", "priority"],
      ),
      headers: Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, toHeader(value)])),
    };
    const { messageId } = await publishers.get(command.publisher).publish(message, command.routing_key);
    return { outcome: "CONFIRMED", message_id: messageId };
  },
  async consume(command) {
    const observed = new ObservedConsumer(command.work_ms ?? 0, command.rules ?? []);
    const options = some(command, ["window", "window"], ["lease_ms", "leaseMs"], ["max_lease_ms", "maxLeaseMs"], ["position", "position"]);
    const concurrency = command.concurrency ?? 1;
    if (command.form === "iterator") {
      observed.consumer = await of(command).messages(command.queue, options);
      void observed.iterate(concurrency);
    } else {
      observed.consumer = await of(command).consume(command.queue, observed.callback, { ...options, concurrency });
    }
    consumers.set(command.consumer, observed);
    return {};
  },
  settle_held(command) {
    const { unsettled } = consumers.get(command.consumer);
    unsettled.forEach((delivery) => delivery.ack());
    return { count: unsettled.splice(0).length };
  },
  report(command) {
    const observed = consumers.get(command.consumer);
    const { error, isFinished } = observed.consumer;
    const result = {
      total: observed.total,
      distinct: observed.keys.size,
      running: observed.running,
      max_running: observed.maxRunning,
      max_attempt: observed.maxAttempt,
      finished: isFinished,
      error: error ? describe(error) : null,
    };
    if (!command.full) return result;
    const { last } = observed;
    const message = last && last.body.length < 1000 && {
      body: last.text,
      message_id: last.messageId,
      correlation_id: last.correlationId,
      reply_to: last.replyTo,
      content_type: last.contentType,
      type: last.type,
      app_id: last.appId,
      priority: last.priority,
      headers: Object.fromEntries(Object.entries(last.headers).map(([name, value]) => [name, fromHeader(value)])),
    };
    return { ...result, keys: [...observed.keys].map(([key, counts]) => [key, ...counts]), ...(message && { last: message }) };
  },
  async stop(command) {
    await consumers.get(command.consumer).consumer.close(command.timeout_ms);
    return {};
  },
  async respond(command) {
    await of(command).respond(command.queue, ({ message }) => message.text.toUpperCase());
    return {};
  },
  async request(command) {
    const reply = await of(command).request(command.routing_key, command.body, some(command, ["timeout_ms", "timeoutMs"]));
    return { body: reply.text };
  },
};

async function execute(command) {
  try {
    return { ok: await commands[command.do](command) };
  } catch (error) {
    if (error instanceof WarrengateError) return { error: describe(error) };
    process.stderr.write(`${error.stack}\n`);
    return { error: { reason: "DRIVER", code: "UNKNOWN", retryable: false, retry_after_ms: null, message: String(error) } };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  void execute(command).then((answer) => process.stdout.write(`${JSON.stringify({ id: command.id, ...answer })}\n`));
}
await Promise.all([...clients.values()].map((client) => client.close(2000)));
