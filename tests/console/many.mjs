// The console with 10,000 queues of one tenant and 1,000 tenants, made by its own forms. scripts/console --many runs it.
import assert from "node:assert/strict";

import { CONSOLE, end, problems, signIn, submit, text } from "./browser.mjs";

const { OPS, LIMIT_MS, QUEUES = "10000", TENANTS = "1000" } = process.env;
const MEMORY = 64 << 20;

const admin = await signIn("admin", process.env.WARRENGATE_ADMIN_CLIENT_ID, process.env.WARRENGATE_ADMIN_CLIENT_SECRET);
const acme = await signIn("acme", process.env.WARRENGATE_ACME_CLIENT_ID, process.env.WARRENGATE_ACME_CLIENT_SECRET);
await admin.goto(`${CONSOLE}/tenants/acme`);
await admin.$eval("input[name=plan]", (input) => { input.closest("details").open = true; input.value = "unlimited"; });
await submit(admin, "form[action='/tenants/acme'] button");

/** Sends a form for each number, a few at the same time. */
const fill = (page, path, number, fields) => page.evaluate(async (to, count, prefix, extra) => {
  const csrf = document.querySelector("input[name=csrf]").value;
  let next = 0;
  const worker = async () => {
    while (next < count) {
      const name = `${prefix}${String(next++).padStart(5, "0")}`;
      const values = Object.entries(extra).map(([key, value]) => [key, value ?? name]);
      const send = () => fetch(to, { method: "POST", redirect: "manual", body: new URLSearchParams([["csrf", csrf], ...values]) });
      let answer = await send();
      // A broker that makes thousands of queues may be too busy to answer in time.
      for (let attempt = 1; answer.status === 503 && attempt < 10; attempt += 1) answer = await send();
      if (answer.type !== "opaqueredirect") throw new Error(`${name}: ${answer.status} ${(await answer.text()).slice(0, 2000)}`);
    }
  };
  await Promise.all(Array.from({ length: 4 }, worker));
}, path, number, fields.prefix, fields.values);

const memory = async () => {
  const metrics = await (await fetch(`http://${OPS}/metrics`)).text();
  return Number(metrics.match(/^process_resident_memory_bytes ([0-9.e+]+)/m)[1]);
};

/** The size of a page, and the median time from 21 requests until its headers arrived, in milliseconds. */
async function measure(page, path) {
  const cookie = (await page.browserContext().cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  const times = [];
  let size = 0;
  for (let at = 0; at < 21; at += 1) {
    const started = performance.now();
    const response = await fetch(`${CONSOLE}${path}`, { headers: { cookie }, redirect: "error" });
    times.push(performance.now() - started);
    size = (await response.arrayBuffer()).byteLength;
    assert.equal(response.status, 200, path);
  }
  const median = times.sort((one, other) => one - other)[10];
  console.log(`${path}: ${median.toFixed(1)} ms, ${(size / 1024).toFixed(1)} KiB`);
  return { path, median, size };
}

await acme.goto(`${CONSOLE}/queues`);
await fill(acme, "/queues", Number(QUEUES), { prefix: "q", values: { name: null, type: "classic" } });
await admin.goto(`${CONSOLE}/tenants`);
await fill(admin, "/tenants", Number(TENANTS), { prefix: "many-", values: { id: null, plan: "free" } });
// Redirects of forms are not followed, which the browser reports as failed requests.
problems.splice(0, problems.length, ...problems.filter((problem) => !problem.endsWith("done=created failed") && !problem.includes("status of 503")));
const used = await memory();

const measured = [];
for (const path of ["/queues", "/", "/topology", "/exchanges", "/dead-letters", "/usage"]) measured.push(await measure(acme, path));
for (const path of ["/tenants", "/", "/plans", "/plans/free", "/audit", "/tenants/acme"]) measured.push(await measure(admin, path));
await acme.goto(`${CONSOLE}/queues`);
assert.match(await text(acme), /q00099/);
assert.doesNotMatch(await text(acme), /q00100/);
let pages = 1;
for (; await acme.$("a[rel=next]"); pages += 1) await Promise.all([acme.waitForNavigation(), acme.click("a[rel=next]")]);
assert.ok(pages >= Number(QUEUES) / 100, `${pages} pages of queues`);
const grown = (await memory()) - used;
console.log(`memory: ${(used / 2 ** 20).toFixed(0)} MiB, and ${(grown / 2 ** 20).toFixed(1)} MiB more after all pages`);
await end();
assert.deepEqual(problems, []);
assert.ok(grown < MEMORY, "the pages' memory is bounded");
for (const { path, median, size } of measured) {
  assert.ok(median < Number(LIMIT_MS), `${path} took ${median} ms`);
  assert.ok(path === "/topology" || size < 100 * 1024, `${path} has ${size} bytes`);
}
