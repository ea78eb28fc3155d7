// A headless Chromium, pages in which a client is signed in, and what is checked on each page.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import puppeteer from "puppeteer-core";

const { CHROMIUM, DOCS, PROFILE, SCREENSHOTS, WARRENGATE } = process.env;
export const { CONSOLE } = process.env;
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");
const DEADLINE = 60_000;
/** The pictures of docs/console.md. */
const DOCUMENTED = [
  "sign-in", "tenant-overview", "queues", "queue", "first-messages", "exchange", "topology", "dead-letters", "dead-letter",
  "published", "streams", "clients", "usage", "admin-overview", "tenants", "tenant", "plans", "audit", "keys", "health",
  "isolation", "queue-dark", "phone",
];

/** What is wrong on any page. */
export const problems = [];

/** Runs a command; a last argument that is an object has options. */
export function run(...words) {
  const options = typeof words.at(-1) === "object" ? words.pop() : {};
  return execFileSync(WARRENGATE, words, { encoding: "utf8", stdio: ["pipe", "pipe", "inherit"], timeout: DEADLINE, ...options });
}

/** Starts a command, which ends with this process at the latest. */
export function start(...words) {
  const options = typeof words.at(-1) === "object" ? words.pop() : {};
  const command = spawn(WARRENGATE, words, { stdio: ["pipe", "ignore", "ignore"], ...options });
  process.on("exit", () => command.kill());
  // It must not keep this process.
  command.unref();
  command.stdin.unref();
  return command;
}

const browser = await puppeteer.launch({
  executablePath: execFileSync("which", [CHROMIUM], { encoding: "utf8" }).trim(),
  userDataDir: PROFILE,
  // Making many queues is one call.
  protocolTimeout: 3_600_000,
  // Chromium has no sandbox for root; the only site is this console.
  args: ["--no-sandbox", "--lang=en-GB"],
  env: { ...process.env, TZ: "UTC", LANG: "en_GB.UTF-8", LANGUAGE: "en_GB" },
});

export const end = () => browser.close();

export const text = (page) => page.evaluate(() => document.body.innerText);

/** Clicks a button of a form and waits for the page that answers. */
export const submit = (page, button) => Promise.all([page.waitForNavigation(), page.click(button)]);

/** Waits until something is so. */
export async function within(what, is) {
  const end = Date.now() + DEADLINE;
  while (!(await is())) assert.ok(Date.now() < end, `${what} did not happen in time`);
}

/** A page of a separate browser in which nobody is signed in. */
export async function open(name) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  await page.setViewport({ width: 1200, height: 800 });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  page.setDefaultTimeout(DEADLINE);
  page.on("pageerror", (error) => problems.push(`${name}: ${error}`));
  page.on("dialog", (dialog) => {
    problems.push(`${name}: ${page.url()}: a script of a text was run`);
    dialog.dismiss();
  });
  page.on("console", (message) => message.type() === "error" && problems.push(`${name}: ${page.url()}: ${message.text()}`));
  page.on("requestfailed", (request) => {
    // The streams of live figures end when the page is left.
    if (!request.url().includes("/live")) problems.push(`${name}: ${request.url()} failed`);
  });
  page.on("request", (request) => {
    // Fields for times contain icons of the browser.
    if (!request.url().startsWith(CONSOLE) && !request.url().startsWith("data:")) problems.push(`${name}: a request to ${request.url()}`);
  });
  await page.goto(CONSOLE);
  return page;
}

/** A page of a separate browser in which this client is signed in; with `picture`, the form is checked before. */
export async function signIn(name, id, secret, picture) {
  const page = await open(name);
  if (picture) await check(page, picture);
  await page.type("input[name=client_id]", id);
  await page.type("input[name=client_secret]", secret);
  await submit(page, "button");
  assert.equal(new URL(page.url()).pathname, "/", await text(page));
  return page;
}

/** Checks that a page has no element that no page of the console has: it would be text of others that became markup. */
export async function checkText(page) {
  const found = await page.evaluate(() => {
    const elements = document.querySelectorAll("img, iframe, object, base, script:not([src^='/assets/']), [onerror], [onclick], [onload]");
    return [...elements].map((element) => element.outerHTML);
  });
  for (const element of found) problems.push(`${page.url()}: ${element}`);
}

/** Checks a page with axe, and takes its picture. */
export async function check(page, name) {
  await checkText(page);
  // The mouse position of an earlier click must not change how a button looks.
  await page.mouse.move(0, 0);
  const found = await page.evaluate(`${axe}; axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"] })`);
  for (const violation of found.violations) {
    problems.push(`${name}: ${violation.id}: ${violation.help}: ${violation.nodes.map((node) => node.html).slice(0, 3).join(" ")}`);
  }
  await page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
  if (DOCS && DOCUMENTED.includes(name)) await page.screenshot({ path: `${DOCS}/${name}.webp`, type: "webp", quality: 60 });
}

/** Opens a page, which must show these words. */
export async function visit(page, path, name, words) {
  const started = Date.now();
  const response = await page.goto(`${CONSOLE}${path}`);
  const took = Date.now() - started;
  assert.equal(response.status(), 200, `${path}: ${await text(page)}`);
  for (const word of words) assert.ok((await text(page)).includes(word), `${path} does not show ${word}: ${await text(page)}`);
  assert.ok(took < 10_000, `${path} took ${took} ms`);
  await check(page, name);
}
