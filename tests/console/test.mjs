// The web console in a headless Chromium, as an administrator and two tenants use it. scripts/console runs it.
import assert from "node:assert/strict";
import { once } from "node:events";

import { CONSOLE, check, end, problems, run, signIn, start, submit, text, visit, within } from "./browser.mjs";

const { DOCS } = process.env;
// Text of others, which must stay text. The pictures of the documentation have no such text.
const HOSTILE = DOCS ? "checked by hand" : `"><img src=x onerror=alert(1)><script>alert(1)</script>`;

// The shop of the tenant acme: orders are published, and several applications consume them.
for (const queue of ["orders", "invoices", "emails", "analytics"]) run("queue", "declare", queue);
run("exchange", "declare", "shop", "--type", "topic");
run("exchange", "declare", "archive", "--type", "fanout");
run("binding", "create", "shop", "orders", "--routing-key", "order.*");
run("binding", "create", "shop", "invoices", "--routing-key", "order.paid");
run("binding", "create", "shop", "emails", "--routing-key", "customer.#");
run("binding", "create", "archive", "analytics");
run("binding", "create", "shop", "archive", "--to", "exchange", "--routing-key", "#");
const order = (number) => JSON.stringify({ order: number, items: [{ sku: "BK-12", count: 1 + (number % 3) }], total: number * 9.5 });
const orders = Array.from({ length: 14 }, (_, at) => order(1000 + at)).join("\n");
run("publish", "--exchange", "shop", "--routing-key", "order.new", "--lines", { input: orders });
run("publish", "--exchange", "shop", "--routing-key", "order.paid", "--lines", { input: orders.split("\n").slice(0, 5).join("\n") });
// A consumer of invoices fails.
const invoice = ["--type", "order.paid", "--content-type", "application/json", "--header", "region=eu", "--app-id", "checkout"];
run("publish", "--queue", "invoices", ...invoice, order(1014));
run("subscribe", "invoices", "--count", "6", "--nack", "dead-letter", "--reason", "customer 4711 has no address");
run("publish", "--queue", "invoices", "--type", HOSTILE, "--content-type", HOSTILE, "--header", `${HOSTILE}=${HOSTILE}`, HOSTILE);
run("subscribe", "invoices", "--count", "1", "--nack", "dead-letter", "--reason", HOSTILE);
// Another consumer works, and a publisher goes on.
start("subscribe", "orders");
const publisher = start("publish", "--exchange", "shop", "--routing-key", "order.new", "--lines");

const admin = await signIn("admin", process.env.WARRENGATE_ADMIN_CLIENT_ID, process.env.WARRENGATE_ADMIN_CLIENT_SECRET, "sign-in");
const acme = await signIn("acme", process.env.WARRENGATE_ACME_CLIENT_ID, process.env.WARRENGATE_ACME_CLIENT_SECRET);
const globex = await signIn("globex", process.env.WARRENGATE_GLOBEX_CLIENT_ID, process.env.WARRENGATE_GLOBEX_CLIENT_SECRET);

// Live figures: the charts and the rows of the table follow while messages are published.
await acme.goto(`${CONSOLE}/`);
let published = 2000;
for (let point = 1; point <= (DOCS ? 30 : 4); point += 1) {
  const many = 20 + Math.round(15 * Math.sin(point / 3));
  publisher.stdin.write(Array.from({ length: many }, () => `${order((published += 1))}\n`).join(""));
  await acme.waitForFunction(
    (n) => (document.querySelector("[data-chart=ready]").getAttribute("points") || "").split(" ").length >= n, {}, point + 1);
}
assert.match(await text(acme), /Live, every 5 s/);
await acme.waitForFunction(() => Number(document.querySelector("tr[data-row=analytics] [data-figure=ready]").textContent) > 20);
await check(acme, "tenant-overview");

await visit(acme, "/queues", "queues", ["orders", "invoices", "quorum"]);
await visit(acme, "/queues/analytics", "queue", ["Ready", "archive"]);
await submit(acme, "form[action$='/peek'] button");
assert.match(await text(acme), /Message 1/);
await check(acme, "first-messages");
await visit(acme, "/exchanges", "exchanges", ["shop", "topic"]);
await visit(acme, "/exchanges/shop", "exchange", ["order.paid"]);
await visit(acme, "/topology", "topology", ["shop", "archive", "analytics"]);
assert.equal(await passedBehindBoxes(acme), 0, "no arrow passes behind a box");
const before = await acme.$eval(".topology svg", (svg) => svg.getBoundingClientRect().width);
await Promise.all([acme.waitForNavigation(), acme.click("a[href$='zoom=200']")]);
assert.equal(await acme.$eval(".topology svg", (svg) => svg.getBoundingClientRect().width), 2 * before, "zoom");
await visit(acme, "/streams", "streams", ["subscribe", "orders", "acme.app"]);
await visit(acme, "/usage", "usage", ["max_queues"]);
await visit(acme, "/audit", "tenant-audit", ["IssueToken"]);

// Dead letters: text of others stays text, a trace id is a link, and sending one again works by keyboard.
await visit(acme, "/dead-letters", "dead-letters", ["invoices", "rejected", "no address", HOSTILE]);
const letters = await acme.$$eval("a[href^='/dead-letters/letter']", (all) => all.map((a) => a.getAttribute("href")));
assert.equal(letters.length, 7);
let traced = 0;
for (const [at, letter] of letters.slice(-2).entries()) {
  await visit(acme, letter, ["dead-letter", "dead-letter-hostile"][at], ["rejected", at === 0 ? "no address" : HOSTILE]);
  traced += (await acme.$$("a.trace[href^='http://127.0.0.1:16686/trace/']")).length;
}
assert.ok(traced >= 2, "each dead letter has a link to its trace");
await visit(acme, `/dead-letters?reason=${encodeURIComponent(HOSTILE)}`, "dead-letters-filtered", [HOSTILE]);
assert.equal((await acme.$$("tbody input[name=id]")).length, 1);
await acme.goto(`${CONSOLE}/dead-letters`);
await acme.focus("tbody tr:first-child input[name=id]");
await acme.keyboard.press("Space");
await submit(acme, "button[value=selected]");
assert.match(await text(acme), /1 message was sent again/);
await check(acme, "sent-again");

// A test message.
await acme.goto(`${CONSOLE}/exchanges/shop`);
await acme.type("form[action='/publish'] input[name=routing_key]", "order.new");
await acme.type("form[action='/publish'] textarea[name=body]", order(3000));
await submit(acme, "form[action='/publish'] button");
assert.match(await text(acme), /CONFIRMED/);
await check(acme, "published");

// The other tenant sees none of this.
for (const path of ["/", "/queues", "/topology", "/dead-letters", "/streams", "/usage", "/audit"]) {
  await globex.goto(`${CONSOLE}${path}`);
  assert.doesNotMatch(await text(globex), /orders|shop|invoices|acme/, path);
}
await refused(globex, "/queues/orders", 404, "QUEUE_NOT_FOUND");
await check(globex, "error");

// An administrator creates a tenant, whose first message comes within a minute.
const started = Date.now();
await admin.goto(`${CONSOLE}/tenants`);
await admin.type("input[name=id]", "initech");
await admin.type("input[name=display_name]", HOSTILE);
await submit(admin, "form[action='/tenants'] button");
assert.ok((await text(admin)).includes(HOSTILE));
await admin.goto(`${CONSOLE}/clients?tenant=initech`);
const worker = await create(admin, "worker", { publish: "# #", subscribe: "#", configure: "#" });
const initech = { env: { ...process.env, WARRENGATE_CLIENT_ID: "initech.worker", WARRENGATE_CLIENT_SECRET: worker, WARRENGATE_NO_TOKEN_CACHE: "true" } };
run("queue", "declare", "reports", initech);
run("publish", "--queue", "reports", "the first message", initech);
const took = Date.now() - started;
assert.ok(took < 60_000, `the first message took ${took} ms`);
// Its secret is rotated with an overlap; the session of a client ends with its tenant's suspension, as its streams do.
await admin.goto(`${CONSOLE}/clients/initech.worker`);
await admin.$eval("form[action$='/rotate']", (form) => { form.closest("details").open = true; });
await submit(admin, "form[action$='/rotate'] button");
const rotated = await admin.$eval("#secret", (element) => element.textContent);
assert.notEqual(rotated, worker);
for (const secret of [worker, rotated]) {
  run("publish", "--queue", "reports", "with both secrets", { env: { ...initech.env, WARRENGATE_CLIENT_SECRET: secret } });
}
const session = await signIn("initech", "initech.worker", rotated);
const ended = once(start("subscribe", "reports", initech), "exit");
await admin.goto(`${CONSOLE}/streams?tenant=initech`);
await within("its stream", async () => {
  await admin.reload();
  return (await text(admin)).includes("initech.worker");
});
await admin.goto(`${CONSOLE}/tenants/initech`);
await admin.$eval("form[action$='/suspend']", (form) => { form.closest("details").open = true; });
await submit(admin, "form[action$='/suspend'] button");
assert.match(await text(admin), /suspended/);
await ended;
await session.goto(`${CONSOLE}/queues`);
assert.match(await text(session), /Your session has ended/);
await submit(admin, "form[action$='/resume'] button");
assert.match(await text(admin), /active/);

// A tenant's own administrator.
await admin.goto(`${CONSOLE}/clients?tenant=acme`);
const secret = await create(admin, "operator", { publish: "# #", subscribe: "#", configure: "#", administer: true, observe: true });
const operator = await signIn("operator", "acme.operator", secret);
await visit(operator, "/clients", "clients", ["acme.app", "acme.operator"]);
await visit(operator, "/clients/acme.app", "client", ["Rotate the secret"]);

// The administrator's pages.
await visit(admin, "/", "admin-overview", ["Tenants", "Last events", "reachable"]);
await visit(admin, "/tenants?usage=yes", "tenants", ["acme", "globex", "active", "max_"]);
await visit(admin, "/tenants/acme", "tenant", ["max_queues", "acme.app"]);
await visit(admin, "/plans", "plans", ["Plans"]);
await visit(admin, "/plans/standard", "plan", ["acme"]);
await visit(admin, "/clients", "administrators", ["admin"]);
await visit(admin, "/audit?tenant=acme", "audit", ["IssueToken"]);
await visit(admin, "/keys", "keys", ["Rotate"]);
await visit(admin, "/health", "health", ["RabbitMQ", "running"]);
await admin.goto(`${CONSOLE}/tenants/acme`);
await admin.type("input[name=other_tenant]", "globex");
await submit(admin, "form[action$='/isolation'] button");
assert.match(await text(admin), /every attempt was refused/);
await check(admin, "isolation");

// The audit trail follows.
await refused(admin, `/audit?client=${encodeURIComponent(HOSTILE)}`, 400, "INVALID_NAME");
await admin.goto(`${CONSOLE}/audit?follow=yes&tenant=initech`);
run("queue", "delete", "reports", initech);
await admin.waitForFunction(() => document.body.innerText.includes("DeleteQueue"));
assert.match(await text(admin), /Following, every 5 s/);

// Dark, and on a phone.
await acme.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
await visit(acme, "/queues/analytics", "queue-dark", ["Ready"]);
await visit(acme, "/dead-letters", "dead-letters-dark", ["invoices"]);
await acme.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
await acme.setViewport({ width: 390, height: 800, isMobile: true });
for (const path of ["/", "/queues", "/dead-letters", "/topology", "/usage", "/audit"]) {
  await visit(acme, path, `phone${path === "/" ? "" : path.replace("/", "-")}`, []);
  const width = await acme.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `${path} on a phone is ${width} pixels wide`);
}

await end();
assert.deepEqual(problems, []);

/** Creates a client with the form of the page, and returns its secret. */
async function create(page, name, grants) {
  await page.type("input[name=name]", name);
  await page.type("input[name=display_name]", HOSTILE);
  for (const field of ["publish", "subscribe", "configure"]) await page.type(`textarea[name=${field}]`, grants[field]);
  for (const box of ["administer", "observe"]) if (grants[box]) await page.click(`input[name=${box}]`);
  await submit(page, "form[action='/clients'] button");
  return page.$eval("#secret", (element) => element.textContent);
}

/** Opens a page that is an error with this code. */
async function refused(page, path, status, code) {
  assert.equal((await page.goto(`${CONSOLE}${path}`)).status(), status, path);
  assert.ok((await text(page)).includes(code), await text(page));
  // The browser reports the status.
  problems.splice(0, problems.length, ...problems.filter((problem) => !problem.includes(`the server responded with a status of ${status}`)));
}

/** How many points of arrows are inside boxes. */
function passedBehindBoxes(page) {
  return page.evaluate(() => {
    const boxes = [...document.querySelectorAll(".topology rect")].map((rect) => rect.getBBox());
    let inside = 0;
    for (const line of document.querySelectorAll(".topology svg > path")) {
      for (let at = 2; at < line.getTotalLength() - 2; at += 3) {
        const { x, y } = line.getPointAtLength(at);
        inside += boxes.filter((box) => x > box.x + 1 && x < box.x + box.width - 1 && y > box.y && y < box.y + box.height).length;
      }
    }
    return inside;
  });
}
