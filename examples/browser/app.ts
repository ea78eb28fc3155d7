// The forms of the page. Text from others is set as text, never as HTML.
import { type Client, connect } from "@warrengate/client/web";
import { Chat, untilAborted } from "./chat.ts";

const find = (id: string) => document.getElementById(id)!;
const field = (form: string, name: string) => find(form).querySelector<HTMLInputElement>(`[name=${name}]`)!;

// #endpoint=…&token=…&queue=…&room=…&name=… fills in the forms; what follows # is not sent to any server.
for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
  const input = document.querySelector<HTMLInputElement>(`[name="${CSS.escape(name)}"]`);
  if (input) input.value = value;
}
history.replaceState(null, "", location.pathname); // keep the token out of the history

const clients = new Map<string, Promise<Client>>();

/** One client for each address. A page gets short-lived tokens from its own server, never a client's secret. */
function gateway(): Promise<Client> {
  const endpoint = field("gateway", "endpoint").value;
  const connected = clients.get(endpoint) ?? connect({ endpoint, token: async () => field("gateway", "token").value });
  clients.set(endpoint, connected);
  // A failed attempt is not kept: the token may be replaced.
  connected.catch(() => clients.delete(endpoint));
  return connected;
}

function line(list: string, words: string) {
  const item = document.createElement("li");
  item.textContent = words;
  find(list).append(item);
  item.scrollIntoView({ block: "nearest" });
}

/** Runs the action of a form, and shows its error. */
function submitted(form: string, act: () => Promise<unknown>) {
  find(form).addEventListener("submit", (event) => {
    event.preventDefault();
    find("status").textContent = "";
    act().catch((error) => (find("status").textContent = String(error.message ?? error)));
  });
}

const leaving: AbortController[] = [];
window.addEventListener("pagehide", () => leaving.forEach((controller) => controller.abort()));

/** Runs one action at a time: a new one ends the previous one. */
function alone() {
  let present: AbortController | undefined;
  return () => {
    present?.abort();
    leaving.push((present = new AbortController()));
    return present.signal;
  };
}

const received = alone();
submitted("receive", async () => {
  const [queue, signal] = [field("receive", "queue").value, received()];
  const client = await gateway();
  await client.topology.declareQueue(queue);
  const consumer = await client.consume(queue, ({ attempt, message }) => {
    line("messages", `${attempt > 1 ? `(attempt ${attempt}) ` : ""}${message.text}`);
  });
  line("messages", `receiving ${queue}`);
  await untilAborted([consumer], signal);
});

submitted("publish", async () => {
  const body = field("publish", "body");
  const words = body.value;
  body.value = "";
  const publisher = (await gateway()).publisher();
  await publisher.publish(words, field("receive", "queue").value);
  await publisher.close();
});

const joined = alone();
let chat: Chat | undefined;
submitted("join", async () => {
  find("talk").replaceChildren();
  chat = new Chat(await gateway(), field("join", "room").value, field("join", "name").value, {
    said: (name, words, time) => line("talk", `${time.toISOString().slice(11, 16)} ${name}: ${words}`),
    here: (names) => (find("here").textContent = names.join(", ") || "no participants"),
  });
  await chat.stay(joined());
});

submitted("say", async () => {
  const words = field("say", "text");
  if (!chat) throw new Error("join a room first");
  await chat.say(words.value);
  words.value = "";
});
