// Two pages in a headless Chromium, and a participant at a terminal. scripts/browser runs it.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { connect } from "node:tls";
import puppeteer from "puppeteer-core";

const { CHROMIUM, PAGE, PROFILE, SCREENSHOTS, WARRENGATE, WARRENGATE_CA, WARRENGATE_ENDPOINT } = process.env;
const DEADLINE = 30_000;

/** The key of the gateway's certificate, checked against its CA here: Chromium shall believe this one and no other. */
async function key() {
  const { hostname: host, port } = new URL(WARRENGATE_ENDPOINT);
  const socket = connect({ host, port, ca: readFileSync(WARRENGATE_CA), ALPNProtocols: ["h2"] });
  await new Promise((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
  const certificate = new X509Certificate(socket.getPeerX509Certificate().raw);
  socket.destroy();
  return createHash("sha256").update(certificate.publicKey.export({ type: "spki", format: "der" })).digest("base64");
}

const browser = await puppeteer.launch({
  executablePath: execFileSync("which", [CHROMIUM], { encoding: "utf8" }).trim(),
  userDataDir: PROFILE,
  // Chromium has no sandbox for root; the only page is this example.
  args: ["--no-sandbox", `--ignore-certificate-errors-spki-list=${await key()}`],
});

async function open(name) {
  const page = await browser.newPage();
  await page.setViewport({ width: 1000, height: 620 });
  page.on("pageerror", (error) => console.error(`${name}: ${error}`));
  page.on("console", (message) => console.error(`${name}: ${message.text()}`));
  const token = execFileSync(WARRENGATE, ["token"], { encoding: "utf8" }).trim();
  const words = new URLSearchParams({ endpoint: WARRENGATE_ENDPOINT, token, queue: "browser", room: "browser", name });
  await page.goto(`${PAGE}/#${words}`);
  return page;
}

// A hidden page is not rendered, and elements that are not rendered cannot be clicked.
const submit = async (page, form) => {
  await page.bringToFront();
  await page.click(`#${form} button`);
};
const type = async (page, form, field, words) => {
  await page.bringToFront();
  await page.type(`#${form} [name=${field}]`, words);
  await submit(page, form);
};
// For the same reason pages are polled at intervals, not when they are rendered.
const WAIT = { timeout: DEADLINE, polling: 100 };

/** Waits until an element says this. */
async function says(page, element, words) {
  try {
    await page.waitForFunction((id, w) => document.getElementById(id).textContent.includes(w), WAIT, element, words);
  } catch {
    const [text, status] = await page.evaluate((id) => [id, "status"].map((i) => document.getElementById(i).textContent), element);
    assert.fail(`${JSON.stringify(words)} is not in ${JSON.stringify(text)}; ${status}`);
  }
}

const [ann, ben] = [await open("ann"), await open("ben")];

// A queue: one page receives what the other publishes.
await submit(ann, "receive");
await says(ann, "messages", "receiving browser");
const nasty = "<img src=x onerror='document.title=1'>";
await type(ben, "publish", "body", "from ben's page");
await type(ben, "publish", "body", nasty);
await says(ann, "messages", "from ben's page");
await says(ann, "messages", nasty);
assert.equal(await ann.$("#messages img"), null, "messages of others are shown as text");

// A chat: two pages, and a terminal.
for (const page of [ann, ben]) await submit(page, "join");
for (const page of [ann, ben]) await says(page, "here", "ann, ben");
await type(ann, "say", "text", "hello from a page");
await says(ben, "talk", "ann: hello from a page");
const terminal = spawn(WARRENGATE, ["chat", "browser", "--as", "carla"], { stdio: ["pipe", "pipe", "inherit"] });
const seen = [];
const lines = createInterface({ input: terminal.stdout });
lines.on("line", (line) => seen.push(line));
const shows = async (words) => {
  const end = Date.now() + DEADLINE;
  while (!seen.some((line) => line.includes(words))) {
    assert.ok(Date.now() < end, `${words} is not in ${seen.join("\n")}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
};
await shows("-- here: ann, ben, carla");
await shows("ann: hello from a page");
terminal.stdin.write("hello from a terminal\n");
for (const page of [ann, ben]) await says(page, "talk", "carla: hello from a terminal");
await type(ben, "say", "text", "and hello from another page");
await shows("ben: and hello from another page");
for (const page of [ann, ben]) await says(page, "here", "ann, ben, carla");
for (const [name, page] of [["ann", ann], ["ben", ben]]) {
  assert.equal(await page.evaluate(() => document.getElementById("status").textContent), "");
  await page.bringToFront();
  await page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
}
console.log(seen.join("\n"));
terminal.stdin.end();
assert.equal(await new Promise((resolve) => terminal.once("exit", resolve)), 0);
for (const page of [ann, ben]) await page.waitForFunction(() => document.getElementById("here").textContent === "ann, ben", WAIT);
await browser.close();
// All received messages were acknowledged.
await new Promise((resolve) => setTimeout(resolve, 0));
const { status } = JSON.parse(execFileSync(WARRENGATE, ["queue", "get", "browser", "--json"], { encoding: "utf8" }));
assert.equal(status?.messages_ready ?? 0, 0);
