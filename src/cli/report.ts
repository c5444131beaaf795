/** What the command line prints: tables, units, JSON, and progress. */
import { escaped } from "../show.ts";

/** Where text goes: a process's stream, or a collector in tests. */
export interface TextOutput {
  write(text: string): unknown;
  /** Set where a person watches. */
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/** A record as one line of JSON, in which every character that a terminal would act on is an escape. */
export function jsonLine(record: object): string {
  return `${escaped(JSON.stringify(record))}\n`;
}

/** A number, perhaps with a unit. */
const quantity = /^[-+]?[\d.,]+(e[-+]\d+)?( \S+)?$/;

/** Lines of a table: columns as wide as their widest cell, numbers to the right. */
export function table(headings: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => row[column]!.length)),
  );
  const rightward = headings.map(
    (_, column) => rows.length > 0 && rows.every((row) => quantity.test(row[column]!)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, c) => (rightward[c] ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)))
      .join("  ")
      .trimEnd();
  return `${[headings, ...rows].map(line).join("\n")}\n`;
}

/** A time of so many milliseconds, with three digits, in the unit that suits it. */
export function duration(milliseconds: number): string {
  const units = [
    ["s", 1000],
    ["ms", 1],
    ["µs", 1e-3],
  ] as const;
  const [unit, size] = units.find(([, size]) => milliseconds >= 0.9995 * size) ?? ["ns", 1e-6];
  return `${threeDigits(milliseconds / size)} ${unit}`;
}

/** A positive number with three significant digits, never in exponent form. */
export function threeDigits(value: number): string {
  if (value === 0) return "0";
  // Rounded first: 0.9996 has no digit before the point, but 1.00 has.
  const rounded = Number(value.toPrecision(3));
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(rounded))));
  return value.toLocaleString("en-US", {
    minimumFractionDigits: Math.min(digits, 20),
    maximumFractionDigits: Math.min(digits, 20),
  });
}

/** Bytes in powers of 1,024. */
export function bytes(count: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = count < 1 ? 0 : Math.min(4, Math.floor(Math.log2(count) / 10));
  return `${power === 0 ? count : (count / 1024 ** power).toFixed(1)} ${units[power]}`;
}

/** One status line on a terminal, for work that takes longer than a second; nothing anywhere else. */
export class Progress {
  readonly #output: TextOutput;
  readonly #shows: boolean;
  readonly #start: number = performance.now();
  readonly #timer: NodeJS.Timeout | undefined;
  #what = "";
  #fraction: number | undefined;
  #visible = false;
  #drawn = 0;

  constructor(output: TextOutput) {
    this.#output = output;
    this.#shows = output.isTTY === true;
    if (!this.#shows) return;
    this.#timer = setInterval(() => this.#draw(), 100);
    this.#timer.unref();
  }

  /** Say what is being done, and how much of it is done where that is known. */
  update(what: string, fraction?: number): void {
    this.#what = what;
    this.#fraction = fraction;
    if (this.#shows && performance.now() - this.#drawn > 100) this.#draw();
  }

  /** A line that stays, on a terminal or not. */
  say(text: string): void {
    this.clear();
    this.#output.write(`${text}\n`);
  }

  /** Remove the line. */
  clear(): void {
    clearInterval(this.#timer);
    if (this.#visible) this.#output.write("\r\x1b[K");
    this.#visible = false;
  }

  #draw(): void {
    const now = performance.now();
    const seconds = (now - this.#start) / 1000;
    if (seconds < 1 || this.#what === "") return;
    const fraction = this.#fraction;
    const share = fraction === undefined ? "" : ` ${Math.floor(fraction * 100)} %`;
    const line = `${this.#what}${share}, ${Math.floor(seconds)} s`;
    this.#output.write(`\r\x1b[K${line.slice(0, (this.#output.columns || 80) - 1)}`);
    this.#visible = true;
    this.#drawn = now;
  }
}
