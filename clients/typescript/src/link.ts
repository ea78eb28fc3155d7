/** The transport between a client and its gateway: gRPC in Node.js, gRPC-Web in browsers. */
import type { DescMessage, DescMethod, MessageShape } from "@bufbuild/protobuf";
import type { WarrengateError } from "./errors.js";

/** A method of a service with these request and response types. */
export type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { input: I; output: O };

/** The writing side of a stream. */
export interface Call<Request> {
  /** Writes a frame; false if the next one must wait for `drained`. */
  write(frame: Request): boolean;
  /** Ends the writing side after the frames written so far. */
  end(): void;
  /** Ends the stream at once; has no effect when it has ended. */
  cancel(): void;
}

/** The reading side of a stream. */
export interface Listener<Response> {
  /** The gateway has accepted the call. */
  opened(): void;
  /** A frame. */
  data(response: Response): void;
  /** There is capacity for another frame. */
  drained(): void;
  /** The end, in order or with an error. May be called repeatedly; only the first call counts. */
  ended(error?: WarrengateError): void;
}

/** The transport to a gateway. */
export interface Link {
  /** The gateway's address. */
  readonly endpoint: string;
  /** The connection for new streams, as an argument of `replace`. */
  readonly channel: object;
  /** Uses a new connection for new calls, unless this one was already replaced. */
  replace(channel: object): void;
  /** Makes a unary call. */
  unary<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string | undefined,
    timeoutMs: number,
    waitForReady: boolean,
  ): Promise<MessageShape<O>>;
  /** Opens a stream in both directions. */
  stream<I extends DescMessage, O extends DescMessage>(
    channel: object,
    method: Method<I, O>,
    token: string,
    listener: Listener<MessageShape<O>>,
  ): Call<MessageShape<I>>;
  /** Makes a call with a stream of responses. */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string,
  ): AsyncIterable<MessageShape<O>>;
  /** Closes everything at once. */
  close(): void;
}
