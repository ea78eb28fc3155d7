/** Client of Warrengate, the multi-tenant messaging gateway, for Node.js. `@warrengate/client/web` is for browsers. */
export { Client, type ClientOptions } from "./client.js";
export { type ConsumeOptions, Consumer, type Delivery, type Handler, type MessagesOptions, type Position } from "./consumer.js";
export * from "./errors.js";
export type { EventKind, LifecycleEvent, Logger } from "./events.js";
export { type HeaderValue, type Message, ReceivedMessage } from "./message.js";
export { type Confirmation, Publisher, type PublisherOptions, type PublishOptions, type Sent } from "./publisher.js";
export type { Admin, BindingOptions, DeadLetterQuery, DeadLetters, QueueOptions, Redriven, Topology } from "./services.js";
export { connect, type ConnectOptions, fromEnv } from "./node.js";
export type { TokenSource } from "./tokens.js";
/** The version of this package. */
export const version = "0.1.0";
