/** Connecting from Node.js. */
import { readFileSync } from "node:fs";
import { Client, type ClientOptions, opened } from "./client.js";
import { Connection } from "./connection.js";
import { ConfigurationError } from "./errors.js";

/** The gateway's address and the credentials. */
export interface ConnectOptions extends ClientOptions {
  /**
   * The path, or the content as a Buffer, of a PEM file with the authority to trust. Default: the system's authorities.
   */
  ca?: string | Buffer;
}

function authority(ca: string | Buffer | undefined): Buffer | undefined {
  if (ca === undefined) return undefined;
  let pem: Buffer;
  try {
    pem = typeof ca === "string" ? readFileSync(ca) : ca;
  } catch {
    throw new ConfigurationError(`the CA file ${String(ca)} cannot be read`);
  }
  if (!pem.includes("-----BEGIN CERTIFICATE-----")) throw new ConfigurationError("the CA file contains no certificate in PEM form");
  return pem;
}

/**
 * Connects to a gateway; rejects when it cannot be reached in time or refuses the credentials. The client must be
 * closed.
 */
export async function connect(options: ConnectOptions): Promise<Client> {
  return opened(new Client(new Connection(options.endpoint, authority(options.ca)), options), options.connectTimeoutMs);
}

/** Reads endpoint and credentials from `WARRENGATE_*` variables. */
function environment(): ConnectOptions {
  const { WARRENGATE_ENDPOINT: endpoint, WARRENGATE_CA: ca, WARRENGATE_TOKEN: token } = process.env;
  const { WARRENGATE_CLIENT_ID: clientId, WARRENGATE_CLIENT_SECRET: clientSecret } = process.env;
  if (!endpoint) throw new ConfigurationError("WARRENGATE_ENDPOINT is not set: the gateway's address, such as https://127.0.0.1:8443");
  return { endpoint, ...(ca && { ca }), ...(token && { token }), ...(clientId && { clientId }), ...(clientSecret && { clientSecret }) };
}

/**
 * Connects with `WARRENGATE_ENDPOINT`, `WARRENGATE_CA`, and `WARRENGATE_CLIENT_ID` and `WARRENGATE_CLIENT_SECRET` or
 * `WARRENGATE_TOKEN`; options have precedence over the environment.
 */
export async function fromEnv(options: Partial<ConnectOptions> = {}): Promise<Client> {
  return connect({ ...environment(), ...options });
}
