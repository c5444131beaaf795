/** Values and foreign text as messages show them: nothing that a terminal acts on, and not too much. */

/** Most characters of a value, a file's text or a path in a message. */
const mostShown = 200;

/**
 * Characters that a terminal acts on instead of showing them: those of control (C0, DEL, C1), line and paragraph separators,
 * and marks, embeddings, overrides and isolates of the direction of writing.
 */
const controls =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;

/** `text` with an escape, as JavaScript writes it, for each control character but the ends of lines in a driver's message. */
export function escaped(text: string): string {
  return text.replace(controls, (c) => (c === "\n" ? c : escapeOf(c)));
}

/** Text of a file, a user or the system, for a message: on one line, every control character escaped, cut where it is long. */
export function printable(text: string): string {
  return cut(text.slice(0, mostShown + 1).replace(controls, escapeOf), mostShown);
}

/** An escape that JavaScript and JSON both read. */
function escapeOf(character: string): string {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function cut(text: string, most: number): string {
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

/** Plain objects are shown by their first fields, this deep. */
const [mostFields, mostDepth] = [4, 2];

/** `text` of a value for an error message: control characters escaped, cut where it is long. */
export function show(value: unknown): string {
  return printable(shown(value, 0));
}

function shown(value: unknown, depth: number): string {
  if (typeof value === "number")
    return Number.isInteger(value) ? value.toLocaleString("en-US") : String(value);
  if (typeof value === "string") return quoted(value);
  if (ArrayBuffer.isView(value) && "length" in value) {
    return `${value.constructor.name}(${(value.length as number).toLocaleString("en-US")})`;
  }
  if (Array.isArray(value) && depth < mostDepth)
    return `[${value
      .slice(0, mostShown)
      .map((v) => shown(v, depth + 1))
      .join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const plain = Object.getPrototypeOf(value) === Object.prototype;
    if (!plain || depth === mostDepth) return value.constructor?.name ?? "an object";
    const fields = Object.entries(value);
    const texts = fields.slice(0, mostFields).map(([k, v]) => `${k}: ${shown(v, depth + 1)}`);
    if (fields.length > mostFields) texts.push("…");
    return texts.length > 0 ? `{ ${texts.join(", ")} }` : "{}";
  }
  // Never its source: that of a class fills pages.
  if (typeof value === "function") return value.name ? `function ${value.name}` : "a function";
  return String(value);
}

/** A string as JSON has it, cut within its quotes. */
function quoted(text: string): string {
  const inner = JSON.stringify(text.slice(0, mostShown)).slice(1, -1).replace(controls, escapeOf);
  return `"${cut(text.length > mostShown ? `${inner}…` : inner, mostShown - 2)}"`;
}
