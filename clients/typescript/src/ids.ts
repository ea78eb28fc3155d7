/** Ids of messages. */

// Browsers have no `Buffer`.
const text = (globalThis as { Buffer?: typeof Buffer }).Buffer?.from("00000000-0000-4000-8000-000000000000");
const DIGITS = Uint8Array.from("0123456789abcdef", (digit) => digit.charCodeAt(0));
/** Where the text of each byte begins. */
const POSITIONS = Uint8Array.of(0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34);
/** Random bytes for many ids, and the position of the first one that was not used. */
const random = new Uint8Array(256 * 16);
let position = random.length;

/** Returns a random UUID: the same as `crypto.randomUUID`, whose text is created several times as slowly. */
export function randomId(): string {
  if (!text) return crypto.randomUUID();
  if (position === random.length) {
    crypto.getRandomValues(random);
    position = 0;
  }
  for (let index = 0; index < 16; index += 1) {
    let byte = random[position + index] ?? 0;
    // Version 4, variant 1.
    if (index === 6) byte = (byte & 0x0f) | 0x40;
    else if (index === 8) byte = (byte & 0x3f) | 0x80;
    const at = POSITIONS[index] ?? 0;
    text[at] = DIGITS[byte >> 4] ?? 0;
    text[at + 1] = DIGITS[byte & 0x0f] ?? 0;
  }
  position += 16;
  return text.toString("latin1");
}
