/**
 * A development stack for tests, with a new tenant for each of them, deleted afterwards; for `node:test` and vitest.
 * The stack is `warrengate dev` from `PATH` or `WARRENGATE_BINARY`, or the gateway of `WARRENGATE_TEST_ENDPOINT`,
 * `WARRENGATE_TEST_CA` and `WARRENGATE_TEST_ADMIN_SECRET`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";
import { sleep } from "./backoff.js";
import type { Client } from "./client.js";
import { connect, type ConnectOptions } from "./node.js";

const START_MS = 180_000;

/** The clean-up hook of a test: `after` in node:test, `onTestFinished` in vitest. */
export type TestContext =
  | {
      /** Of node:test. */
      after: (work: () => Promise<void>) => void;
    }
  | {
      /** Of vitest. */
      onTestFinished: (work: () => Promise<void>) => void;
    };

/** A tenant, with a client that has every grant. */
export class Tenant {
  readonly #clients: Client[] = [];

  /** @internal */
  constructor(
    /** Its id. */ readonly name: string,
    /** The gateway's address and the client's credentials. */ readonly options: ConnectOptions,
  ) {}

  /** Connects; the client is closed after the test. */
  async connect(options: Partial<ConnectOptions> = {}): Promise<Client> {
    const client = await connect({ ...this.options, ...options });
    this.#clients.push(client);
    return client;
  }

  /** The variables that `fromEnv` reads, for programs under test. */
  get environment(): Record<string, string> {
    const { endpoint, ca, clientId, clientSecret } = this.options;
    const values = { WARRENGATE_ENDPOINT: endpoint, WARRENGATE_CA: String(ca), WARRENGATE_CLIENT_ID: clientId, WARRENGATE_CLIENT_SECRET: clientSecret };
    return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value ?? ""]));
  }

  /** @internal */
  async close(): Promise<void> {
    await Promise.all(this.#clients.map((client) => client.close(5_000)));
  }
}

/** A gateway, its broker and its administrator. */
export class DevelopmentStack {
  private constructor(
    private readonly admin: Client,
    private readonly where: { endpoint: string; ca: string },
    private readonly development: Development | undefined,
  ) {}

  /** Starts a stack, or connects to the one in the environment. */
  static async start(): Promise<DevelopmentStack> {
    const { WARRENGATE_TEST_ENDPOINT: endpoint, WARRENGATE_TEST_CA: ca = "", WARRENGATE_TEST_ADMIN_SECRET: secret = "" } = process.env;
    const development = endpoint ? undefined : await Development.start();
    const where = development?.where ?? { endpoint: endpoint ?? "", ca };
    const admin = await connect({ ...where, clientId: "admin", clientSecret: development?.secret ?? secret });
    return new DevelopmentStack(admin, where, development);
  }

  /** Creates a tenant; it is deleted after the test. */
  async tenant(test: TestContext, plan = "unlimited"): Promise<Tenant> {
    const id = `test-${randomBytes(6).toString("hex")}`;
    await this.admin.admin.createTenant({ tenant: { id, plan } });
    const grants = { publish: [{ exchange: "#", routingKey: "#" }], subscribe: ["#"], configure: ["#"] };
    const clientId = `${id}.app`;
    const { clientSecret } = await this.admin.admin.createClient({ client: { clientId, grants } });
    const tenant = new Tenant(id, { ...this.where, clientId, clientSecret });
    const cleanUp = async () => {
      await tenant.close();
      await this.admin.admin.deleteTenant({ tenant: id });
    };
    if ("after" in test) test.after(cleanUp);
    else test.onTestFinished(cleanUp);
    return tenant;
  }

  /** Stops what was started. */
  async stop(): Promise<void> {
    await this.admin.close();
    await this.development?.stop();
  }
}

/** A `warrengate dev` in a separate folder, on free ports. */
class Development {
  private constructor(
    private readonly folder: string,
    private readonly process: ChildProcess,
  ) {}

  static async start(): Promise<Development> {
    const folder = mkdtempSync(join(tmpdir(), "warrengate-test-"));
    const [grpc, ops, amqps, management] = await freePorts(4);
    const ports = ["--grpc", `127.0.0.1:${grpc ?? 0}`, "--ops", `127.0.0.1:${ops ?? 0}`, "--amqps-port", `${amqps ?? 0}`, "--management-port", `${management ?? 0}`];
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("WARRENGATE_")));
    const log = openSync(join(folder, "gateway.log"), "w");
    const child = spawn(process.env["WARRENGATE_BINARY"] ?? "warrengate", ["dev", ...ports], { cwd: folder, env, stdio: ["ignore", log, log] });
    let failure: Error | undefined;
    child.on("error", (error) => (failure = error));
    const development = new Development(folder, child);
    const deadline = performance.now() + START_MS;
    while (!development.#log().includes("Ctrl-C")) {
      if (failure ?? (child.exitCode !== null || performance.now() > deadline)) {
        const why = failure?.message ?? development.#log().slice(-2000);
        await development.stop();
        throw new Error(`\`warrengate dev\` did not start: ${why}`);
      }
      await sleep(100);
    }
    return development;
  }

  #log(): string {
    return readFileSync(join(this.folder, "gateway.log"), "utf8");
  }

  #settings(): Map<string, string> {
    const lines = readFileSync(join(this.folder, ".warrengate/dev.env"), "utf8").split("\n");
    const pairs = lines.map((line) => /^(?:export )?(\w+)=['"]?(.*?)['"]?$/.exec(line)).filter((match) => match !== null);
    return new Map(pairs.map(([, name = "", value = ""]) => [name, value]));
  }

  get where(): { endpoint: string; ca: string } {
    const settings = this.#settings();
    const ca = settings.get("WARRENGATE_CA") ?? "";
    return { endpoint: settings.get("WARRENGATE_ENDPOINT") ?? "", ca: isAbsolute(ca) ? ca : join(this.folder, ca) };
  }

  get secret(): string {
    return this.#settings().get("WARRENGATE_ADMIN_CLIENT_SECRET") ?? "";
  }

  async stop(): Promise<void> {
    if (this.process.exitCode === null && this.process.pid !== undefined) {
      this.process.kill("SIGINT");
      await once(this.process, "exit");
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => once(server, "listening")));
  const ports = servers.map((server) => {
    const address = server.address();
    return typeof address === "object" && address ? address.port : 0;
  });
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}
