// The web console in a headless Chromium, as an administrator and two tenants use it. scripts/console runs it.
import assert from "node:assert/strict";
import { once } from "node:events";

import { CONSOLE, check, checkText, end, open, problems, run, signIn, start, submit, text, visit, within } from "./browser.mjs";

const { DOCS } = process.env;
// Text of others, which must stay text also in fields and titles. The pictures of the documentation have no such text.
const HOSTILE = DOCS ? "checked by hand" : `'"></textarea></title><img src=x onerror=alert(1)><script>alert(1)</script>`;

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
await visit(acme, "/queues/analytics", "queue", ["Ready", "archive", "No client of this gateway consumes it."]);
await submit(acme, "form[action$='/peek'] button");
assert.match(await text(acme), /Message 1/);
await check(acme, "first-messages");
await visit(acme, "/queues/orders", "queue-consumed", ["Consumers on this gateway"]);
const consumers = await acme.$$eval("main tbody tr", (rows) => rows.map((row) => row.innerText));
assert.equal(consumers.filter((row) => /^acme\.app\s+127\.0\.0\.1:\d+\s/.test(row)).length, 1, consumers.join("\n"));
await visit(acme, "/exchanges", "exchanges", ["shop", "topic"]);
await visit(acme, "/exchanges/shop", "exchange", ["order.paid"]);
await visit(acme, "/topology", "topology", ["shop", "archive", "analytics"]);
assert.equal(await passedBehindBoxes(acme), 0, "no arrow passes behind a box");
const before = await acme.$eval(".topology svg", (svg) => svg.getBoundingClientRect().width);
await Promise.all([acme.waitForNavigation(), acme.click("a[href$='zoom=200']")]);
assert.equal(await acme.$eval(".topology svg", (svg) => svg.getBoundingClientRect().width), 2 * before, "zoom");
// By keyboard: the picture follows the sizes, arrow keys move it, and each box is a link.
await acme.focus("nav.pages a:last-of-type");
await acme.keyboard.press("Tab");
assert.equal(await acme.evaluate(() => document.activeElement.className), "topology");
await acme.keyboard.press("ArrowRight");
await acme.waitForFunction(() => document.querySelector(".topology").scrollLeft > 0);
await acme.keyboard.press("Tab");
const box = await acme.evaluate(() => document.activeElement.getAttribute("href"));
await Promise.all([acme.waitForNavigation(), acme.keyboard.press("Enter")]);
assert.equal(new URL(acme.url()).pathname, box);
assert.match(box, /^\/(exchanges|queues)\//);
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
if (!DOCS) {
  await sendMany();
  await editLarge();
  await showTexts();
}

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
await visit(admin, "/", "admin-overview", ["Tenants", "Last events", "reachable", "this one"]);
await visit(admin, "/tenants?usage=yes", "tenants", ["acme", "globex", "active", "max_"]);
await visit(admin, "/tenants/acme", "tenant", ["max_queues", "acme.app"]);
await visit(admin, "/plans", "plans", ["Plans"]);
await visit(admin, "/plans/standard", "plan", ["acme"]);
await visit(admin, "/clients", "administrators", ["admin"]);
await visit(admin, "/audit?tenant=acme", "audit", ["IssueToken"]);
await visit(admin, "/keys", "keys", ["Rotate"]);
await visit(admin, "/health", "health", ["RabbitMQ", "running", "this one"]);
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
  await checkText(page);
  expectStatus(status);
}

/** Removes what the browser reports about pages that are errors. */
function expectStatus(status) {
  const report = `the server responded with a status of ${status}`;
  problems.splice(0, problems.length, ...problems.filter((problem) => !problem.includes(report)));
}

/** Declares a queue whose messages become dead letters. */
function die(queue, lines, ...words) {
  run("queue", "declare", queue);
  run("publish", "--queue", queue, "--lines", ...words, { input: lines.join("\n") });
  run("subscribe", queue, "--count", String(lines.length), "--nack", "dead-letter", "--reason", "not yet", { maxBuffer: 1 << 26 });
}

/** Sends many dead letters again at a rate: the page shows the progress while it is still being loaded. */
async function sendMany() {
  die("retries", Array.from({ length: 40 }, (_, at) => `retry ${at}`));
  await acme.goto(`${CONSOLE}/dead-letters?queue=retries`);
  await acme.type("input[name=rate]", "10");
  const click = (selector) => acme.$eval(selector, (element) => element.click());
  await click("form[action='/dead-letters/redrive'] details.ask > summary");
  const ended = acme.waitForNavigation();
  await click("button[value=matching]:not(.danger)");
  const counts = new Set();
  let shown = "";
  await within("the end of the page", async () => {
    // The page is replaced meanwhile.
    shown = await text(acme).catch(() => "");
    const lines = [...shown.matchAll(/(\d+) sent again so far, (\d+) left/g)];
    assert.ok(lines.length <= 1, `only the latest is shown: ${shown}`);
    for (const [, sent, left] of lines) {
      assert.equal(Number(sent) + Number(left), 40);
      counts.add(sent);
    }
    return shown.includes("Back to the dead letters");
  });
  await ended;
  assert.match(await text(acme), /40 messages were sent again/);
  assert.doesNotMatch(await text(acme), /so far/);
  assert.ok(counts.size >= 3, `the number rose while they were sent: ${[...counts]}`);
}

/** Changes a body of nearly a megabyte in the form. */
async function editLarge() {
  const large = `${'<"é '.repeat(190_000)}.`;
  die("large", [large]);
  await acme.goto(`${CONSOLE}/dead-letters?queue=large`);
  const letter = await acme.$eval("a[href^='/dead-letters/letter']", (a) => a.getAttribute("href"));
  await visit(acme, letter, "dead-letter-large", ["Change it and send it"]);
  await acme.$eval("textarea[name=body]", (area) => { area.value += "\nchanged"; });
  await submit(acme, "form[action='/dead-letters/edited'] button");
  assert.match(await text(acme), /1 message was sent again/);
  const received = run("subscribe", "large", "--count", "1", "--ack", { maxBuffer: 1 << 26 });
  assert.ok(received.includes(`${large}\nchanged`), `${received.length} characters`);
}

/** Text of others in all other places that show some. Names with such text are refused, on pages that may show them. */
async function showTexts() {
  const [name, value] = [`name ${HOSTILE}`, `value ${HOSTILE}`];
  run("queue", "declare", "untrusted");
  run("exchange", "declare", "untrusted", "--type", "topic");
  run("exchange", "declare", "by-header", "--type", "headers");
  run("binding", "create", "untrusted", "untrusted", "--routing-key", HOSTILE);
  run("binding", "create", "by-header", "untrusted", "--header", `${name}=${value}`);
  const properties = ["message-id", "correlation-id", "content-encoding", "app-id", "type", "content-type"];
  const options = properties.flatMap((property) => [`--${property}`, `${property} ${HOSTILE}`]);
  run("publish", "--exchange", "untrusted", "--routing-key", HOSTILE, ...options, "--header", `${name}=${value}`, `body ${HOSTILE}`);

  await visit(acme, "/queues/untrusted", "queue-hostile", [HOSTILE, "1 header"]);
  await visit(acme, "/exchanges/untrusted", "exchange-hostile", [HOSTILE]);
  await visit(acme, "/topology", "topology-hostile", []);
  const titles = await acme.$$eval(".topology title", (all) => all.map((title) => title.textContent));
  assert.ok(titles.some((title) => title.includes(HOSTILE)), titles.join("\n"));
  await acme.goto(`${CONSOLE}/queues/untrusted`);
  await submit(acme, "form[action$='/peek'] button");
  for (const shown of [...properties, "value", "body"]) assert.ok((await text(acme)).includes(`${shown} `), shown);
  // The routing key, six properties, the value of a header, and the body.
  assert.ok((await text(acme)).split("</textarea></title><img src=x onerror=alert(1)>").length > 9, await text(acme));
  await check(acme, "first-messages-hostile");

  // A test message, and its page.
  await fill(acme, "/exchanges/untrusted", "form[action='/publish']", { routing_key: HOSTILE, message_id: HOSTILE, content_type: HOSTILE, body: HOSTILE, headers: `name: ${HOSTILE}` });
  assert.match(await text(acme), /CONFIRMED/);
  assert.equal((await text(acme)).split(HOSTILE).length, 3, "routing key and message id");
  await check(acme, "published-hostile");

  // A dead letter, its failure, and the event of its redrive.
  run("subscribe", "untrusted", "--count", "2", "--nack", "dead-letter", "--reason", HOSTILE);
  await visit(acme, "/dead-letters?queue=untrusted", "dead-letters-hostile", [HOSTILE]);
  const [letter, other] = await acme.$$eval("a[href^='/dead-letters/letter']", (all) => all.map((a) => a.getAttribute("href")));
  await visit(acme, letter, "dead-letter-keys", [HOSTILE]);
  await fill(acme, letter, "form[action='/dead-letters/edited']", { exchange: "untrusted", routing_key: `unbound ${HOSTILE}` });
  assert.match(await text(acme), /NO_ROUTE/);
  await check(acme, "not-sent");
  await fill(acme, letter, "form[action='/dead-letters/edited']", { exchange: "untrusted", routing_key: HOSTILE });
  assert.match(await text(acme), /1 message was sent again/);
  await within("the event", async () => {
    await acme.goto(`${CONSOLE}/audit`);
    return (await text(acme)).includes("to untrusted/");
  });
  await check(acme, "audit-hostile");

  // Names of all kinds, which are refused.
  for (const [page, path, form, fields] of [
    [acme, "/queues", "form[action='/queues']", { name: HOSTILE }],
    [acme, "/exchanges", "form[action='/exchanges']", { name: HOSTILE, alternate: HOSTILE }],
    [acme, "/exchanges/untrusted", "form[action='/bindings']", { destination: HOSTILE, routing_key: HOSTILE }],
    [acme, other, "form[action='/dead-letters/edited']", { exchange: HOSTILE, routing_key: HOSTILE }],
    [acme, "/exchanges/untrusted", "form[action='/publish']", { headers: `${HOSTILE} without a colon` }],
    [admin, "/tenants", "form[action='/tenants']", { id: HOSTILE, plan: HOSTILE }],
    [admin, "/plans", "form[action='/plans']", { name: HOSTILE, max_queues: HOSTILE }],
    [admin, "/clients?tenant=acme", "form[action='/clients']", { name: HOSTILE, publish: HOSTILE }],
    [admin, "/tenants/acme", "form[action$='/isolation']", { other_tenant: HOSTILE }],
  ]) {
    await fill(page, path, form, fields);
    assert.match(await text(page), /That did not work/, `${form}: ${await text(page)}`);
    await checkText(page);
  }
  const given = encodeURIComponent(HOSTILE);
  const paths = ["/", "/queues/", "/exchanges/", "/dead-letters?queue=", "/dead-letters?code=", "/dead-letters?after=", "/dead-letters/letter?id=",
    "/streams?client=", "/topology?zoom=", "/audit?method=", "/audit?outcome=", "/audit?from=", "/?done=", "/queues?page="];
  const ofAdmin = ["/tenants/", "/plans/", "/clients/", "/clients?tenant=", "/streams?tenant=", "/tenants?page=", "/audit?tenant="];
  for (const [page, all] of [[acme, paths], [admin, ofAdmin]]) {
    for (const path of all) {
      assert.ok((await page.goto(`${CONSOLE}${path}${given}`)).status() < 500, path);
      await checkText(page);
    }
  }
  const anyone = await open("anyone");
  for (const path of ["/sign-in?next=", "/sign-in?reason=", "/queues/"]) {
    await anyone.goto(`${CONSOLE}${path}${given}`);
    await checkText(anyone);
  }
  await fill(anyone, "/sign-in", "form.sign-in", { client_id: HOSTILE, client_secret: HOSTILE });
  assert.equal(await anyone.$eval("input[name=client_id]", (input) => input.value), HOSTILE);
  await check(anyone, "sign-in-refused");
  for (const status of [400, 401, 403, 404]) expectStatus(status);
}

/** Sends a form with these values, whatever the browser's own checks say. */
async function fill(page, path, form, fields) {
  await page.goto(`${CONSOLE}${path}`);
  await page.$eval(form, (element, values) => {
    element.noValidate = true;
    for (const [name, value] of Object.entries(values)) element.elements[name].value = value;
  }, fields);
  await Promise.all([page.waitForNavigation(), page.$eval(form, (element) => { element.requestSubmit(); })]);
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
