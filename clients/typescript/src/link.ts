/** What a client needs of the way to its gateway: gRPC in Node.js, gRPC-Web in browsers. */
import type { DescMessage, DescMethod, MessageShape } from "@bufbuild/protobuf";
import type { WarrengateError } from "./errors.js";

/** A method of a service whose requests and responses are these. */
export type Method<I extends DescMessage, O extends DescMessage> = DescMethod & { input: I; output: O };

/** The writing side of a stream. */
export interface Call<Request> {
  /** Writes a frame; false when the next one has to wait for `drained`. */
  write(frame: Request): boolean;
  /** Ends the writing side after what was written. */
  end(): void;
  /** Ends the stream at once; does nothing when it has ended. */
  cancel(): void;
}

/** The reading side of a stream. */
export interface Listener<Response> {
  /** The gateway has accepted the call. */
  opened(): void;
  /** A frame. */
  data(response: Response): void;
  /** There is room for another frame. */
  drained(): void;
  /** The end, in order or with an error. May be called again, which means nothing. */
  ended(error?: WarrengateError): void;
}

/** The way to a gateway. */
export interface Link {
  /** The gateway's address. */
  readonly endpoint: string;
  /** The connection for new streams; names it for `replace`. */
  readonly channel: object;
  /** Uses a new connection for new calls, unless somebody replaced this one already. */
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
  /** Makes a call that is answered by a stream. */
  serverStream<I extends DescMessage, O extends DescMessage>(
    method: Method<I, O>,
    request: MessageShape<I>,
    token: string,
  ): AsyncIterable<MessageShape<O>>;
  /** Closes everything at once. */
  close(): void;
}
