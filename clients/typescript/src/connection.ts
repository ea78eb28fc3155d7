/**
 * The connection to the gateway: one channel at a time, replaced when its gateway drains. Streams of a replaced channel
 * continue to their end, and no new call uses it.
 */
import * as tls from "node:tls";
import { type DescMessage, type DescMethod, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import * as grpc from "@grpc/grpc-js";
import { decodePublishResponse, encodePublishRequest } from "./codec.js";
import { ClosedError, ConfigurationError, fromStatus, type WarrengateError } from "./errors.js";
import { StatusSchema } from "./generated/warrengate/client/v1/status_pb.js";
import { Messaging } from "./generated/warrengate/v1/messaging_pb.js";
import type { Call, Link, Listener, Method } from "./link.js";

/** How long streams of a replaced channel may take to end. */
const GRACE_MS = 300_000;

const OPTIONS: grpc.ChannelOptions = {
  // A silent connection is detected within the sum of both times.
  "grpc.keepalive_time_ms": 15_000,
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.initial_reconnect_backoff_ms": 100,
  "grpc.max_reconnect_backoff_ms": 2_000,
  // The gateway limits the size of its responses; the default limit of 4 MiB is smaller than the largest of them.
  "grpc.max_receive_message_length": -1,
  "grpc.max_send_message_length": -1,
  // A new channel must open a new connection, because the existing one leads to the draining gateway.
  "grpc.use_local_subchannel_pool": 1,
  "grpc.enable_retries": 0,
};

/** The current channel, and those that are being closed. */
export class Connection implements Link {
  readonly #make: () => grpc.Client;
  #client: grpc.Client | undefined;
  readonly #closing = new Map<grpc.Client, NodeJS.Timeout>();

  /** Connects to an endpoint, trusting these authorities (PEM), or the system's. */
  constructor(
    readonly endpoint: string,
    ca: Buffer | undefined,
  ) {
    this.#make = maker(endpoint, ca);
    this.#client = this.#make();
  }

  /** The channel for new calls. */
  get channel(): grpc.Client {
    if (!this.#client) throw new ClosedError();
    return this.#client;
  }

  /** Uses a new connection for new calls, unless this one was already replaced. */
  replace(old: object): void {
    if (this.#client !== old || !(old instanceof grpc.Client)) return;
    this.#client = this.#make();
    const timer = setTimeout(() => {
      old.close();
      this.#closing.delete(old);
    }, GRACE_MS);
    timer.unref();
    this.#closing.set(old, timer);
  }

  /** Makes a unary call; throws errors of this library. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string | undefined,
    timeoutMs: number,
    waitForReady: boolean,
  ): Promise<MessageShape<O>> {
    const metadata = authorization(token, waitForReady);
    const options = { deadline: Date.now() + Math.max(timeoutMs, 1) };
    return new Promise((resolve, reject) => {
      const [path, serialize, deserialize] = wire(method);
      this.channel.makeUnaryRequest(path, serialize, deserialize, request, metadata, options, (error, response) => {
        if (error) reject(this.error(error));
        // A call without an error has a response.
        else resolve(response as MessageShape<O>);
      });
    });
  }

  /** Opens a stream in both directions. */
  stream<I extends DescMessage, O extends DescMessage>(
    channel: object,
    method: Method<I, O>,
    token: string,
    listener: Listener<MessageShape<O>>,
  ): Call<MessageShape<I>> {
    const [path, serialize, deserialize] = wire(method);
    const call = (channel as grpc.Client).makeBidiStreamRequest(path, serialize, deserialize, authorization(token, false));
    call.on("metadata", () => listener.opened());
    call.on("data", (response: MessageShape<O>) => listener.data(response));
    call.on("drain", () => listener.drained());
    call.on("error", (error: grpc.ServiceError) => listener.ended(this.error(error)));
    // An error, if there is one, comes before this or directly after it.
    call.on("end", () => setImmediate(() => listener.ended()));
    return {
      write: (frame) => call.write(frame),
      end: () => call.end(),
      cancel: () => call.cancel(),
    };
  }

  /** Makes a call with a stream of responses. */
  async *serverStream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string,
  ): AsyncGenerator<MessageShape<O>> {
    const [path, serialize, deserialize] = wire(method);
    const call = this.channel.makeServerStreamRequest(path, serialize, deserialize, request, authorization(token, true));
    try {
      for await (const response of call) yield response as MessageShape<O>;
    } catch (error) {
      throw this.error(error as grpc.ServiceError);
    } finally {
      call.cancel();
    }
  }

  /** Decodes an error of the transport. */
  error(error: grpc.ServiceError): WarrengateError {
    const details = (error.metadata as grpc.Metadata | undefined)?.get("grpc-status-details-bin")[0];
    const decoded = Buffer.isBuffer(details) ? fromBinary(StatusSchema, details).details : [];
    return fromStatus(error.code, error.details, decoded, this.endpoint);
  }

  /** Closes everything at once. */
  close(): void {
    this.#client?.close();
    this.#client = undefined;
    for (const [client, timer] of this.#closing) {
      clearTimeout(timer);
      client.close();
    }
    this.#closing.clear();
  }
}

function authorization(token: string | undefined, waitForReady: boolean): grpc.Metadata {
  const metadata = new grpc.Metadata({ waitForReady });
  if (token !== undefined) metadata.set("authorization", `Bearer ${token}`);
  return metadata;
}

type Codec<I extends DescMessage, O extends DescMessage> = [(request: MessageShape<I>) => Buffer, (bytes: Buffer) => MessageShape<O>];

function wire<I extends DescMessage, O extends DescMessage>(method: Method<I, O>): [string, ...Codec<I, O>] {
  const path = `/${method.parent.typeName}/${method.name}`;
  if ((method as DescMethod) === Messaging.method.publish) return [path, ...([encodePublishRequest, decodePublishResponse] as unknown as Codec<I, O>)];
  return [
    path,
    (request) => {
      const bytes = toBinary(method.input, request);
      return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    },
    (bytes) => fromBinary(method.output, bytes),
  ];
}

function maker(endpoint: string, ca: Buffer | undefined): () => grpc.Client {
  let url: URL;
  try {
    url = new URL(endpoint);
  } catch {
    throw new ConfigurationError(`"${endpoint}" is not a gateway address: use the form https://127.0.0.1:8443`);
  }
  if (!["https:", "http:"].includes(url.protocol) || url.hostname === "" || url.pathname !== "/") {
    throw new ConfigurationError(`"${endpoint}" is not a gateway address: use the form https://127.0.0.1:8443`);
  }
  // The default port of the scheme is not in the URL.
  const explicit = /:(\d+)\/?$/.exec(endpoint)?.[1];
  const target = `${url.hostname}:${url.port || explicit || "8443"}`;
  if (url.protocol === "http:") {
    if (!["127.0.0.1", "[::1]", "localhost"].includes(url.hostname)) {
      throw new ConfigurationError("http:// is for loopback addresses only: secrets and tokens need TLS");
    }
    return () => new grpc.Client(target, grpc.credentials.createInsecure(), OPTIONS);
  }
  const roots = ca ?? systemRoots();
  const address = url.hostname.replace(/[[\]]/g, "");
  if (address !== "127.0.0.1" && address !== "::1") {
    const credentials = grpc.credentials.createSsl(roots);
    return () => new grpc.Client(target, credentials, OPTIONS);
  }
  // A server name must not be an address, and Node.js would warn about it. The certificate is that of the address.
  const checkServerIdentity = (_name: string, certificate: tls.PeerCertificate) => tls.checkServerIdentity(address, certificate);
  const credentials = grpc.credentials.createSsl(roots, null, null, { checkServerIdentity });
  const options = { ...OPTIONS, "grpc.ssl_target_name_override": "localhost" };
  return () => new grpc.Client(target, credentials, options);
}

function systemRoots(): Buffer | null {
  // Node.js 22.15 and later; earlier versions use their own list.
  const { getCACertificates } = tls as { getCACertificates?: (type: "system") => string[] };
  const roots = getCACertificates?.("system") ?? [];
  return roots.length > 0 ? Buffer.from(roots.join("\n")) : null;
}
