/** Topology, dead letters and administration as calls with the token attached. */
import { create, type DescMessage, type DescService, type MessageInitShape, type MessageShape } from "@bufbuild/protobuf";
import { durationFromMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import { Admin as AdminService } from "./generated/warrengate/v1/admin_pb.js";
import {
  type DeadLetter, type DeadLetterFilter, DeadLetterFilterSchema, DeadLetterSelectionSchema, DestinationType, ExchangeType, HeadersMatch,
  ListDeadLettersRequestSchema, ListQueuesRequestSchema, type Queue, type QueueEntry, QueueType, RedriveDeadLettersRequestSchema,
  type RedriveFailure, Topology as TopologyService, type QueueStatus,
} from "./generated/warrengate/v1/topology_pb.js";
import type { Method } from "./link.js";
import { type HeaderValue, toEntries } from "./message.js";

/** The interface of the client that the services use. */
export interface Caller {
  /** Makes a unary call with the token attached. */
  call<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageInitShape<I>): Promise<MessageShape<O>>;
  /** Makes a call with a stream of responses. */
  stream<I extends DescMessage, O extends DescMessage>(method: Method<I, O>, request: MessageShape<I>): AsyncIterable<MessageShape<O>>;
}

/** Options of a queue; times in milliseconds. */
export interface QueueOptions {
  /** How it stores messages. Default: `quorum`. */
  type?: "quorum" | "classic" | "stream";
  /** Maximum number of ready messages; more are rejected to the publisher. Default: no limit. */
  maxLength?: number;
  /** Maximum bytes stored; more are rejected to the publisher, and a stream drops its oldest messages. Default: no limit. */
  maxLengthBytes?: number;
  /** How long a message waits before it becomes a dead letter. Default: no limit. */
  messageTtlMs?: number;
  /** The queue is deleted when unused for this time. Default: never. */
  expiresMs?: number;
  /** A message becomes a dead letter after this many attempts. Default: 20. */
  maxDeliveryAttempts?: number;
  /** Levels of priority of a classic queue, 0 to 10. Default: 0. */
  maxPriority?: number;
  /** Whether only one consumer at a time receives messages. Default: false. */
  singleActiveConsumer?: boolean;
  /** How long a stream keeps messages. Default: until `maxLengthBytes`. */
  maxAgeMs?: number;
  /** Size of a stream's segment file. Default: the broker's (500 MB). */
  streamMaxSegmentBytes?: number;
  /** Delay after the first failed attempt. */
  retryMinMs?: number;
  /** The longest delay. */
  retryMaxMs?: number;
}

/** Options of a binding. */
export interface BindingOptions {
  /** Whether the destination is an exchange. */
  toExchange?: boolean;
  /** For headers exchanges: the values to match. */
  headers?: Record<string, HeaderValue>;
  /** For headers exchanges: whether one match is sufficient. */
  matchAny?: boolean;
}

const QUEUE_TYPES = { quorum: QueueType.QUORUM, classic: QueueType.CLASSIC, stream: QueueType.STREAM };
const EXCHANGE_TYPES = { direct: ExchangeType.DIRECT, topic: ExchangeType.TOPIC, fanout: ExchangeType.FANOUT, headers: ExchangeType.HEADERS };

/** Exchanges, queues and bindings of the client's tenant. */
export class Topology {
  constructor(private readonly caller: Caller) {}

  /** Declares a queue; repeating it with the same arguments has no effect. Resolves with the queue and its defaults. */
  async declareQueue(name: string, options: QueueOptions = {}): Promise<Queue> {
    const duration = (milliseconds: number | undefined) => (milliseconds === undefined ? undefined : durationFromMs(milliseconds));
    const { retryMinMs, retryMaxMs } = options;
    const backoff = { minBackoff: duration(retryMinMs), maxBackoff: duration(retryMaxMs) };
    const queue = {
      name,
      type: QUEUE_TYPES[options.type ?? "quorum"],
      maxLength: BigInt(options.maxLength ?? 0),
      maxLengthBytes: BigInt(options.maxLengthBytes ?? 0),
      messageTtl: duration(options.messageTtlMs),
      expires: duration(options.expiresMs),
      maxDeliveryAttempts: options.maxDeliveryAttempts ?? 0,
      maxPriority: options.maxPriority ?? 0,
      singleActiveConsumer: options.singleActiveConsumer ?? false,
      maxAge: duration(options.maxAgeMs),
      streamMaxSegmentBytes: BigInt(options.streamMaxSegmentBytes ?? 0),
      retryPolicy: retryMinMs === undefined && retryMaxMs === undefined ? undefined : backoff,
    };
    const defined = Object.fromEntries(Object.entries(queue).filter(([, value]) => value !== undefined));
    const response = await this.caller.call(TopologyService.method.declareQueue, { queue: defined });
    return required(response.queue);
  }

  /** Deletes a queue with its messages; resolves with their number. */
  async deleteQueue(name: string, options: { ifUnused?: boolean; ifEmpty?: boolean } = {}): Promise<number> {
    return Number((await this.caller.call(TopologyService.method.deleteQueue, { name, ...options })).messagesDeleted);
  }

  /** Removes the ready messages of a queue; resolves with their number. */
  async purgeQueue(name: string): Promise<number> {
    return Number((await this.caller.call(TopologyService.method.purgeQueue, { name })).messagesPurged);
  }

  /** Depth, consumers and rates of a queue. */
  async queueStatus(name: string): Promise<QueueStatus> {
    return required((await this.caller.call(TopologyService.method.getQueue, { name })).status);
  }

  /** All queues that the client may see, by name. */
  async listQueues(): Promise<QueueEntry[]> {
    const entries: QueueEntry[] = [];
    const request = create(ListQueuesRequestSchema, { pageSize: 1000 });
    do {
      const page = await this.caller.call(TopologyService.method.listQueues, request);
      entries.push(...page.queues);
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
    return entries;
  }

  /** Declares an exchange; repeating it with the same arguments has no effect. */
  async declareExchange(
    name: string,
    type: keyof typeof EXCHANGE_TYPES = "topic",
    options: { autoDelete?: boolean; internal?: boolean; alternateExchange?: string } = {},
  ): Promise<void> {
    await this.caller.call(TopologyService.method.declareExchange, { exchange: { name, type: EXCHANGE_TYPES[type], ...options } });
  }

  /** Deletes an exchange. */
  async deleteExchange(name: string, options: { ifUnused?: boolean } = {}): Promise<void> {
    await this.caller.call(TopologyService.method.deleteExchange, { name, ...options });
  }

  /** Binds a queue, or an exchange, to an exchange; binding again has no effect. */
  async bind(source: string, destination: string, routingKey = "", options: BindingOptions = {}): Promise<void> {
    await this.caller.call(TopologyService.method.bind, { binding: binding(source, destination, routingKey, options) });
  }

  /** Removes a binding; removing a missing one has no effect. */
  async unbind(source: string, destination: string, routingKey = "", options: BindingOptions = {}): Promise<void> {
    await this.caller.call(TopologyService.method.unbind, { binding: binding(source, destination, routingKey, options) });
  }
}

function binding(source: string, destination: string, routingKey: string, options: BindingOptions) {
  return {
    source,
    destination,
    routingKey,
    destinationType: options.toExchange ? DestinationType.EXCHANGE : DestinationType.QUEUE,
    headers: toEntries(options.headers ?? {}),
    headersMatch: options.matchAny ? HeadersMatch.ANY : HeadersMatch.ALL,
  };
}

/** A filter of dead letters. */
export interface DeadLetterQuery {
  /** Only those of this queue. */
  queue?: string;
  /** Only those with this code. */
  code?: string;
  /** Only those whose reason contains this text. */
  reasonContains?: string;
  /** Only those dead-lettered at this time or later. */
  diedAfter?: Date;
  /** Only those dead-lettered before this time. */
  diedBefore?: Date;
}

/** What `DeadLetters.redrive` did. */
export interface Redriven {
  /** The number of dead letters that are in their queues again. */
  redriven: number;
  /** The number of those that are still dead letters. */
  failed: number;
  /** Why, for each of those that failed. */
  failures: RedriveFailure[];
}

/** Dead letters: list them, redrive them, or delete them. */
export class DeadLetters {
  constructor(private readonly caller: Caller) {}

  /** Iterates over dead letters, oldest first, without removing them. */
  async *list(query: DeadLetterQuery = {}): AsyncGenerator<DeadLetter> {
    const request = create(ListDeadLettersRequestSchema, { filter: filter(query) });
    do {
      const page = await this.caller.call(TopologyService.method.listDeadLetters, request);
      yield* page.deadLetters;
      request.pageToken = page.nextPageToken;
    } while (request.pageToken);
  }

  /** Redrives dead letters to their queues: those with these ids, those that match, or all. */
  async redrive(query: DeadLetterQuery & { ids?: string[]; maxPerSecond?: number } = {}): Promise<Redriven> {
    const request = create(RedriveDeadLettersRequestSchema, { selection: selection(query), maxPerSecond: query.maxPerSecond ?? 0 });
    const done: Redriven = { redriven: 0, failed: 0, failures: [] };
    for await (const progress of this.caller.stream(TopologyService.method.redriveDeadLetters, request)) {
      done.redriven = Number(progress.redriven);
      done.failed = Number(progress.failed);
      done.failures.push(...progress.failures);
    }
    return done;
  }

  /** Deletes dead letters: those with these ids, those that match, or all. Resolves with their number. */
  async purge(query: DeadLetterQuery & { ids?: string[] } = {}): Promise<number> {
    return Number((await this.caller.call(TopologyService.method.purgeDeadLetters, { selection: selection(query) })).purged);
  }
}

function filter(query: DeadLetterQuery): DeadLetterFilter {
  const result = create(DeadLetterFilterSchema, { queue: query.queue ?? "", code: query.code ?? "", reasonContains: query.reasonContains ?? "" });
  if (query.diedAfter) result.diedAfter = timestampFromDate(query.diedAfter);
  if (query.diedBefore) result.diedBefore = timestampFromDate(query.diedBefore);
  return result;
}

function selection(query: DeadLetterQuery & { ids?: string[] }) {
  if (query.ids) return create(DeadLetterSelectionSchema, { deadLetterIds: query.ids });
  const isEmpty = !query.queue && !query.code && !query.reasonContains && !query.diedAfter && !query.diedBefore;
  return create(DeadLetterSelectionSchema, isEmpty ? { all: true } : { filter: filter(query) });
}

function required<T>(value: T | undefined): T {
  if (value === undefined) throw new TypeError("the gateway's response is incomplete");
  return value;
}

/** The unary calls of a service, by their names. */
export type Calls<S extends DescService> = {
  readonly [K in keyof S["method"]]: (request: MessageInitShape<S["method"][K]["input"]>) => Promise<MessageShape<S["method"][K]["output"]>>;
};

/** Tenants, clients and plans, for administrators. */
export type Admin = Calls<typeof AdminService>;

/** Creates the calls of the administration service. */
export function admin(caller: Caller): Admin {
  const methods: Record<string, Method<DescMessage, DescMessage>> = AdminService.method;
  const calls = Object.entries(methods).map(([name, method]) => [name, (request: MessageInitShape<DescMessage>) => caller.call(method, request)]);
  return Object.fromEntries(calls) as Admin;
}
