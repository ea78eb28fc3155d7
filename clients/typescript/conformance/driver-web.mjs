// The driver with the client for browsers. `fetch` trusts another authority only if Node.js is started with it.
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";

const driver = fileURLToPath(new URL("driver.mjs", import.meta.url));
const env = { ...process.env, NODE_EXTRA_CA_CERTS: process.env.WARRENGATE_CA };
const child = spawn(process.execPath, ["--enable-source-maps", driver, "--web"], { stdio: "inherit", env });
child.on("exit", (code) => (process.exitCode = code ?? 1));
