// What both sides have in common: commands from standard input, and times on standard output.
import { createInterface } from "node:readline";

/** Executes one command after another, and answers each with its seconds. */
export async function serve(actions) {
  console.log(JSON.stringify({ ready: true }));
  for await (const line of createInterface({ input: process.stdin })) {
    const command = JSON.parse(line);
    const began = performance.now();
    await actions[command.do](command);
    console.log(JSON.stringify({ seconds: (performance.now() - began) / 1000 }));
  }
}
