// The web console in a headless Chromium. scripts/console runs it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const { CHROMIUM, CONSOLE, DOCS, PROFILE, SCREENSHOTS, WARRENGATE } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");
const DEADLINE = 30_000;

const run = (...words) => execFileSync(WARRENGATE, words, { encoding: "utf8" });

// A small shop: an exchange, three queues, some messages, and dead letters with a script in their text.
for (const queue of ["orders", "invoices", "audit"]) run("queue", "declare", queue);
run("exchange", "declare", "events", "--type", "topic");
run("exchange", "declare", "archive", "--type", "fanout");
run("binding", "create", "events", "orders", "--routing-key", "order.*");
run("binding", "create", "events", "invoices", "--routing-key", "order.paid");
run("binding", "create", "archive", "audit");
run("binding", "create", "events", "archive", "--to", "exchange", "--routing-key", "#");
for (let at = 0; at < 12; at += 1) {
  run("publish", "--exchange", "events", "--routing-key", at % 3 ? "order.new" : "order.paid", JSON.stringify({ order: at, total: at * 9.5 }));
}
run("queue", "declare", "failing");
run("publish", "--queue", "failing", "<script>document.title = 'broken'</script>");
run("publish", "--queue", "failing", JSON.stringify({ order: 7, items: [{ name: "book", price: 12.5 }] }));
run("subscribe", "failing", "--count", "2", "--nack", "dead-letter", "--reason", "no stock");

const browser = await puppeteer.launch({
  executablePath: execFileSync("which", [CHROMIUM], { encoding: "utf8" }).trim(),
  userDataDir: PROFILE,
  // Chromium has no sandbox for root; the only site is this console.
  args: ["--no-sandbox", "--lang=en-GB"],
});
const problems = [];

/** A browser of its own in which this client is signed in. */
async function signIn(name) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({ width: 1200, height: 800 });
  page.setDefaultTimeout(DEADLINE);
  page.on("pageerror", (error) => problems.push(`${name}: ${error}`));
  page.on("console", (message) => message.type() === "error" && problems.push(`${name}: ${page.url()}: ${message.text()}`));
  page.on("requestfailed", (request) => {
    if (!request.url().includes("/live")) problems.push(`${name}: ${request.url()} failed`);
  });
  page.on("request", (request) => {
    // Fields for times contain icons of the browser.
    if (!request.url().startsWith(CONSOLE) && !request.url().startsWith("data:")) problems.push(`${name}: a request to ${request.url()}`);
  });
  await page.goto(CONSOLE);
  await check(page, "sign-in");
  const id = process.env[`WARRENGATE_${name.toUpperCase()}_CLIENT_ID`];
  await page.type("input[name=client_id]", id);
  await page.type("input[name=client_secret]", process.env[`WARRENGATE_${name.toUpperCase()}_CLIENT_SECRET`]);
  await Promise.all([page.waitForNavigation(), page.click("button")]);
  assert.equal(new URL(page.url()).pathname, "/", await text(page));
  return page;
}

const text = (page) => page.evaluate(() => document.body.innerText);

/** Checks a page with axe, and takes its picture; with `docs`, also for the documentation. */
async function check(page, name, docs = false) {
  // The mouse position of an earlier click must not change how a button looks.
  await page.mouse.move(0, 0);
  const found = await page.evaluate(`${axe}; axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] })`);
  for (const violation of found.violations) {
    problems.push(`${name}: ${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  }
  const path = `${SCREENSHOTS}/${name}.png`;
  await page.screenshot({ path });
  if (docs && DOCS) copyFileSync(path, `${DOCS}/${name}.png`);
}

async function visit(page, path, name, words, docs = false) {
  const started = Date.now();
  const response = await page.goto(`${CONSOLE}${path}`);
  const took = Date.now() - started;
  assert.equal(response.status(), 200, `${path}: ${await text(page)}`);
  for (const word of words) assert.ok((await text(page)).includes(word), `${path} does not show ${word}: ${await text(page)}`);
  assert.ok(took < 10_000, `${path} took ${took} ms`);
  await check(page, name, docs);
}

const [admin, acme, globex] = [await signIn("admin"), await signIn("acme"), await signIn("globex")];

await visit(acme, "/", "tenant-overview", ["orders", "Most messages"], true);
await visit(acme, "/queues", "queues", ["orders", "invoices", "quorum"]);
await visit(acme, "/queues/orders", "queue", ["Ready", "order.*"], true);
await visit(acme, "/exchanges", "exchanges", ["events", "topic"]);
await visit(acme, "/exchanges/events", "exchange", ["order.paid"]);
await visit(acme, "/topology", "topology", ["events", "archive", "audit"], true);
await visit(acme, "/dead-letters", "dead-letters", ["failing", "rejected"], true);

// A message body that is a script is shown as text.
const links = await acme.$$eval("a[href^='/dead-letters/letter']", (all) => all.map((a) => a.getAttribute("href")));
assert.equal(links.length, 2);
for (const [at, link] of links.entries()) await visit(acme, link, `dead-letter-${at}`, ["rejected"], at === 1);
assert.ok(!(await acme.title()).includes("broken"));

// Sending one again, by the keyboard.
await acme.goto(`${CONSOLE}/dead-letters`);
await acme.focus("tbody input[name=id]");
await acme.keyboard.press("Space");
await Promise.all([acme.waitForNavigation(), acme.click("button[value=selected]")]);
assert.match(await text(acme), /1 message was sent again/);
await check(acme, "sent-again");

// A test message.
await acme.goto(`${CONSOLE}/exchanges/events`);
await acme.type("form[action='/publish'] input[name=routing_key]", "order.new");
await Promise.all([acme.waitForNavigation(), acme.click("form[action='/publish'] button")]);
assert.match(await text(acme), /CONFIRMED/);
await check(acme, "published", true);

// The other tenant sees none of this.
for (const path of ["/", "/queues", "/topology", "/dead-letters"]) {
  await globex.goto(`${CONSOLE}${path}`);
  assert.doesNotMatch(await text(globex), /orders|events|failing|acme/, path);
}
assert.equal((await globex.goto(`${CONSOLE}/queues/orders`)).status(), 404);
await check(globex, "error");
problems.splice(0, problems.length, ...problems.filter((problem) => !problem.includes("404")));

await visit(admin, "/", "admin-overview", ["Tenants", "Last events"], true);
await visit(admin, "/tenants", "tenants", ["acme", "globex", "active"]);
await visit(admin, "/tenants/acme", "tenant", ["max_queues", "acme.app"], true);
await visit(admin, "/plans", "plans", ["Plans"]);
await visit(admin, "/clients", "administrators", ["admin"]);
await visit(admin, "/clients/acme.app", "client", ["Rotate the secret"]);
await visit(admin, "/audit?tenant=acme", "audit", ["IssueToken"], true);
await visit(admin, "/keys", "keys", ["Rotate"]);
await admin.goto(`${CONSOLE}/tenants/acme`);
await admin.type("input[name=other_tenant]", "globex");
await Promise.all([admin.waitForNavigation(), admin.click("form[action$='/isolation'] button")]);
assert.match(await text(admin), /every attempt was refused/);
await check(admin, "isolation", true);

await visit(admin, "/health", "health", ["RabbitMQ", "running"], true);

// Live figures: the chart grows while messages are published.
await acme.goto(`${CONSOLE}/`);
const points = (number) => acme.waitForFunction(
  (n) => (document.querySelector("[data-chart=ready]").getAttribute("points") || "").split(" ").length >= n, {}, number);
for (const number of [1, 2, 3, 4]) {
  for (let at = 0; at < 4 * number; at += 1) run("publish", "--exchange", "events", "--routing-key", "order.paid", `{"more": ${at}}`);
  await points(number);
}
assert.match(await text(acme), /Live, every 5 s/);
await check(acme, "live", true);
await visit(acme, "/streams", "streams", ["Open streams"]);
await visit(acme, "/usage", "usage", ["max_queues"]);
await visit(acme, "/audit", "tenant-audit", ["IssueToken"]);
await acme.goto(`${CONSOLE}/queues/orders`);
await Promise.all([acme.waitForNavigation(), acme.click("form[action$='/peek'] button")]);
assert.match(await text(acme), /Message 1/);
await check(acme, "first-messages", true);

// Dark, and on a phone.
await acme.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "dark" }]);
await visit(acme, "/queues/orders", "queue-dark", ["Ready"], true);
await visit(acme, "/dead-letters", "dead-letters-dark", ["failing"]);
await acme.setViewport({ width: 390, height: 800, isMobile: true });
await visit(acme, "/", "phone", ["Most messages"], true);
const width = await acme.evaluate(() => document.documentElement.scrollWidth);
assert.ok(width <= 390, `a page on a phone is ${width} pixels wide`);

await browser.close();
assert.deepEqual(problems, []);
