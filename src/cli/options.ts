/**
 * Commands as data: one table of options gives the parser, the help and the suggestions, so that they cannot
 * disagree.
 */
import { parseArgs } from "node:util";
import { type Dtype, dtypes } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import { type Mode, maxLength, modes } from "../plan/problem.ts";
import { printable, show } from "../show.ts";
import type { OutputContext } from "./pipes.ts";
import type { Progress, TextOutput } from "./report.ts";

/** One option of a command. */
interface Option {
  /** Without the dashes. */
  readonly name: string;
  /** One letter that stands for it after one dash. */
  readonly short?: string;
  /** Its value may stand alone; those that do are taken in the order of the table. */
  readonly positional?: true;
  /** What stands after it in the help, as FILE or N; an option without takes no value. */
  readonly value?: string;
  readonly help: string;
  readonly required?: true;
}

/** What a command works with. */
export interface CommandContext extends OutputContext {
  /** Where its answers go. */
  readonly stdout: TextOutput;
  readonly progress: Progress;
  /** Print JSON instead of text. */
  readonly json: boolean;
  /** Do work that Ctrl-C asks to stop, by this signal, instead of ending it. */
  stoppable<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T>;
}

/** One command. */
export interface Command {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  readonly options: readonly Option[];
  /** Paragraphs after the options. */
  readonly notes: string;
  /** What the library speaks of by names that are no options here, and what its user gave instead. */
  readonly words?: Readonly<Record<string, string>>;
  /** Whether the standard output carries a file, so that messages go to the standard error. */
  readonly toPipe?: (values: Values) => boolean;
  /** Do it and return the exit code. */
  run(values: Values, context: CommandContext): Promise<number>;
}

/** Every exit code. */
export const exitCodes = {
  done: 0,
  failed: 1,
  badInput: 2,
  badFile: 3,
  interrupted: 130,
} as const;

/** The paragraph of the help that states the exit codes. */
export const exitCodeHelp = `exit codes:
  0    done
  1    failed: an error above its bound (verify, bench), a machine that cannot
  2    bad usage or input: an unknown option, a value out of range, shapes that
       disagree, samples that would clip
  3    a file that is missing, cut short, of an unknown format, or not writable
  130  interrupted by Ctrl-C (143: terminated, 129: hung up); no unfinished file
       is left behind
`;

const jsonOption: Option = { name: "json", help: "print JSON: one object a line, errors included" };
const helpOption: Option = { name: "help", help: "print this text" };

/** Options that several commands share. */
export const shared: Readonly<
  Record<
    | "kernelLength"
    | "mode"
    | "period"
    | "backend"
    | "threads"
    | "instructions"
    | "batch"
    | "channels",
    Option
  >
> = {
  kernelLength: {
    name: "kernel-length",
    value: "K",
    help: "taps of one kernel row (default: L; 2L for bidirectional)",
  },
  mode: { name: "mode", value: "MODE", help: `${modes.join(", ")}` },
  period: {
    name: "period",
    value: "N",
    help: "period of --mode circular, at least L and K (default: the larger)",
  },
  backend: {
    name: "backend",
    value: "WHERE",
    help: "cpu, webgpu, or auto, which is cpu (default: auto)",
  },
  threads: { name: "threads", value: "N", help: "threads to use (default: all cores)" },
  instructions: {
    name: "instructions",
    value: "SET",
    help: "auto, relaxed-simd, simd or javascript (default: auto)",
  },
  batch: { name: "batch", value: "B", help: "sequences that share the kernels (default: 1)" },
  channels: { name: "channels", value: "H", help: "kernels, one a channel (default: 1)" },
};

/** Backends that a user can ask for. */
export const backends = ["auto", "cpu", "webgpu"] as const;

/** Instruction sets that a user can ask for. */
const instructionSets = ["auto", "relaxed-simd", "simd", "javascript"] as const;

/** `options` without those that are undefined: an option left out is not an option set to undefined. */
export function defined<T extends object>(options: T): Defined<T> {
  const entries = Object.entries(options).filter(([, value]) => value !== undefined);
  return Object.fromEntries(entries) as Defined<T>;
}

/** Keys that may be undefined become keys that may be missing. */
type Defined<T> = {
  [K in keyof T as undefined extends T[K] ? never : K]: T[K];
} & { [K in keyof T as undefined extends T[K] ? K : never]?: Exclude<T[K], undefined> };

/** Every option that a command takes. */
function optionsOf(command: Command): readonly Option[] {
  return [...command.options, jsonOption, helpOption];
}

/** The values that the user gave, checked as they are asked for. */
export class Values {
  /** How errors name the call: `flashfftconv conv`. */
  readonly call: string;
  readonly #given: ReadonlyMap<string, string | true>;

  constructor(call: string, given: ReadonlyMap<string, string | true>) {
    this.call = call;
    this.#given = given;
  }

  /** Whether an option was given. */
  has(name: string): boolean {
    return this.#given.has(name);
  }

  /** The text after an option. */
  text(name: string): string | undefined {
    const value = this.#given.get(name);
    return value === true ? undefined : value;
  }

  /** The text after an option that must be there. The parser has checked that it is. */
  required(name: string): string {
    return this.text(name)!;
  }

  /** One of `allowed`. */
  choice<T extends string>(name: string, allowed: readonly T[]): T | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : this.#oneOf(name, text, allowed);
  }

  /** Several of `allowed`, with commas between them; `all` means every one. */
  choices<T extends string>(name: string, allowed: readonly T[]): readonly T[] | undefined {
    const text = this.text(name);
    if (text === "all") return allowed;
    return text?.split(",").map((part) => this.#oneOf(name, part.trim(), allowed));
  }

  /** An integer from `low` to `high`; 64K and 1M mean 65,536 and 1,048,576. */
  integer(name: string, low: number, high: number): number | undefined {
    const text = this.text(name);
    return text === undefined ? undefined : this.#integer(name, text, low, high);
  }

  /** Several integers, with commas between them. */
  integers(name: string, low: number, high: number, byDefault: string): readonly number[] {
    const text = this.text(name) ?? byDefault;
    return text.split(",").map((part) => this.#integer(name, part.trim(), low, high));
  }

  /** A number from `low` to `high`, written with digits, a point and a sign. */
  number(name: string, low: number, high: number): number | undefined {
    const text = this.text(name);
    if (text === undefined) return undefined;
    const value = /^[-+]?(\d+\.?\d*|\.\d+)$/.test(text) ? Number(text) : Number.NaN;
    if (value >= low && value <= high) return value;
    throw new InvalidArgumentError({
      call: this.call,
      requirement: `--${name} must be a number from ${show(low)} to ${show(high)}`,
      value: show(text),
      remedy: "Give digits, without a unit, within that range.",
    });
  }

  #integer(name: string, text: string, low: number, high: number): number {
    const match = /^(\d[\d_]*)([kKmM]?)$/.exec(text);
    const unit = { k: 1024, m: 1024 ** 2 }[match?.[2]?.toLowerCase() ?? ""] ?? 1;
    const value = match ? Number(match[1]!.replaceAll("_", "")) * unit : Number.NaN;
    if (value >= low && value <= high) return value;
    throw new InvalidArgumentError({
      call: this.call,
      requirement: `--${name} must be an integer from ${show(low)} to ${show(high)} (64K and 1M may be written so)`,
      value: show(text),
      remedy: `Set --${name} within that range.`,
    });
  }

  #oneOf<T extends string>(name: string, text: string, allowed: readonly T[]): T {
    const found = allowed.find((item) => item === text);
    if (found !== undefined) return found;
    throw new InvalidArgumentError({
      call: this.call,
      requirement: `--${name} must be one of ${allowed.join(", ")}`,
      value: show(text),
      remedy: suggestion(text, allowed) ?? "Pick one of them.",
    });
  }
}

/**
 * Read the arguments of a command.
 * @throws InvalidArgumentError for an option that the command does not have, with the nearest one that it has.
 */
export function parseOptions(command: Command, argv: readonly string[]): Values {
  const call = `flashfftconv ${command.name}`;
  const options = optionsOf(command);
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    allowPositionals: true,
    tokens: true,
    options: Object.fromEntries(
      options.map(({ name, value, short }) => [
        name,
        { type: value ? "string" : "boolean", ...(short && { short }) } as const,
      ]),
    ),
  });
  const given = new Map<string, string | true>();
  const alone: string[] = [];
  const refuse = (requirement: string, value: string, remedy: string): never => {
    throw new InvalidArgumentError({ call, requirement, value, remedy });
  };
  for (const token of tokens) {
    if (token.kind === "option-terminator") continue;
    if (token.kind === "positional") {
      alone.push(token.value);
      continue;
    }
    const option = options.find(
      ({ name, short }) => token.rawName === `--${name}` || token.rawName === `-${short}`,
    );
    const names = options.map(({ name }) => `--${name}`);
    if (!option) {
      const hint = suggestion(token.rawName, names) ?? `${call} --help lists its options.`;
      const what = printable(token.rawName);
      return refuse("the option must be one that this command has", what, hint);
    }
    if (given.has(option.name)) {
      return refuse(`--${option.name} may be given once`, "it twice", "Keep one of the two.");
    }
    const isOption = (text: string): boolean =>
      text.startsWith("--") || options.some(({ short }) => text === `-${short}`);
    const missing = !token.value || (!token.inlineValue && isOption(token.value));
    if (option.value && missing) {
      return refuse(
        `--${option.name} needs a value`,
        "none",
        `Write --${option.name} ${option.value}.`,
      );
    }
    if (!option.value && token.value !== undefined) {
      return refuse(`--${option.name} takes no value`, show(token.value), "Leave the value out.");
    }
    given.set(option.name, token.value ?? true);
  }
  const named = new Set(given.keys());
  for (const value of alone) {
    const option = options.find(({ name, positional }) => positional && !given.has(name));
    if (!option || value === "") return refuse(...tooMany(command, named, value));
    given.set(option.name, value);
  }
  const missing = options.find(({ name, required }) => required && !given.has(name));
  if (missing && !given.has("help")) {
    return refuse(
      `--${missing.name} is required`,
      "none",
      `Add --${missing.name} ${missing.value}: ${missing.help}.`,
    );
  }
  return new Values(call, given);
}

/** What is said of a value that stands alone and has no place. */
function tooMany(
  command: Command,
  named: ReadonlySet<string>,
  value: string,
): [string, string, string] {
  const options = command.options.filter(({ name }) => !named.has(name));
  const places = placesOf({ ...command, options });
  const others = command.options.filter(({ name, positional }) => positional && named.has(name));
  const taken = others.map(({ name }) => `with --${name} `).join("");
  return [
    places === ""
      ? "everything is given by options"
      : `${taken}what stands alone is${places}, in this order`,
    `${show(value)} besides`,
    `Put an option's name before it: flashfftconv ${command.name} --help lists them.`,
  ];
}

/** The values that may stand alone, as the help names them. */
function placesOf({ options }: Command): string {
  const places = options.filter(({ positional }) => positional);
  return places.map(({ name }) => ` ${name.toUpperCase()}`).join("");
}

/**
 * A message of the library, whose options are called as JavaScript has them, for someone who typed those of a command:
 * `kernelLength must …` is `--kernel-length must …`, `mode: 'same'` and `mode 'same'` are `--mode same`. Most names are words
 * too: they count as options where a value or what is said of options follows.
 */
export function inOptions(text: string, command: Command): string {
  const words = Object.entries(command.words ?? {});
  const said = words.reduce((message, [own, typed]) => message.replaceAll(own, typed), text);
  return command.options.reduce((message, { name }) => {
    const own = name.replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
    const followed = own === name ? "(?= must | belongs | within | out\\b| at ')" : "";
    const value = "(?::? '([^']+)'|: (\\d+))";
    return message.replace(
      new RegExp(`(?<![-\\w·])${own}\\b(?:${value}|${followed})`, "g"),
      (_, word?: string, count?: string) => [`--${name}`, word ?? count].filter(Boolean).join(" "),
    );
  }, said);
}

/** Beyond so many characters a text is no name with a slip in it. */
const longestName = 40;

/** `Did you mean …?` for the nearest of `known`, where one is near. */
export function suggestion(text: string, known: readonly string[]): string | undefined {
  if (text.length > longestName) return undefined;
  const lower = text.toLowerCase();
  const ranked = known
    .map((name) => ({ name, distance: editDistance(lower, name.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  const holder = lower.length >= 3 && known.find((name) => name.toLowerCase().includes(lower));
  const near = ranked.find(({ name, distance }) => distance <= Math.max(1, name.length / 3));
  const begun = known.find(
    (name) => Math.min(lower.length, name.length) >= 3 && commonStart(lower, name),
  );
  // A part of one name is nearer to it than to another of the same length: gpu to webgpu, not to cpu.
  const nearest = holder || (near?.name ?? begun);
  return nearest && `Did you mean ${nearest}?`;
}

/** Whether one of two texts begins with the other. */
function commonStart(a: string, b: string): boolean {
  return a.startsWith(b) || b.startsWith(a);
}

/** Insertions, deletions, substitutions and swaps of neighbours from `a` to `b`. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const substituted = row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      const swapped =
        a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1] ? before[j - 2]! + 1 : substituted;
      next.push(Math.min(substituted, swapped, row[j]! + 1, next[j - 1]! + 1));
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}

/** Columns of the help. */
const helpWidth = 80;

/** The help of one command. */
export function commandHelp(command: Command): string {
  const required = command.options.filter((option) => option.required && !option.positional);
  const usage =
    placesOf(command) + required.map(({ name, value }) => ` --${name} ${value}`).join("");
  const options = optionsOf(command);
  const indent = options.some(({ short }) => short) ? "    " : "";
  const left = options.map(
    ({ name, short, value }) =>
      `${short ? `-${short}, ` : indent}--${name}${value ? ` ${value}` : ""}`,
  );
  const width = Math.max(...left.map((text) => text.length));
  const lines = options.map(({ help }, i) => wrap(`  ${left[i]!.padEnd(width)}  `, help));
  const paragraphs = command.notes
    .trim()
    .split("\n\n")
    .map((text) => (text.includes("\n  ") ? text : wrap("", text.replaceAll("\n", " "))));
  return `flashfftconv ${command.name}: ${command.summary}

usage: flashfftconv ${command.name}${usage} [options]

options:
${lines.join("\n")}

${paragraphs.join("\n\n")}

${exitCodeHelp}`;
}

/** `text` in lines after `start`, the later ones indented as far. */
function wrap(start: string, text: string): string {
  const lines: string[] = [];
  let line = start;
  for (const word of text.split(" ")) {
    if (line.length + word.length > helpWidth && line.trim() !== "" && line !== start) {
      lines.push(line.trimEnd());
      line = " ".repeat(start.length);
    }
    line += `${word} `;
  }
  return [...lines, line.trimEnd()].join("\n");
}

/** The shape that `plan`, `bench` and `verify` are asked about, as far as it is common to them. */
export interface SharedChoices {
  readonly mode: Mode | undefined;
  readonly dtype: Dtype | undefined;
  readonly period: number | undefined;
  readonly backend: (typeof backends)[number] | undefined;
  readonly threads: number | undefined;
  readonly instructions: (typeof instructionSets)[number] | undefined;
}

/**
 * The values of the options in `shared` that a command may have.
 * @param chosenModes the modes, for a command that takes several.
 */
export function sharedChoices(values: Values, chosenModes?: readonly Mode[]): SharedChoices {
  const mode = chosenModes ? undefined : values.choice("mode", modes);
  if (values.has("period") && !(chosenModes ?? [mode]).includes("circular")) {
    throw new InvalidArgumentError({
      call: values.call,
      requirement: "--period belongs to --mode circular",
      value: `--period with ${values.has("mode") ? `--mode ${values.text("mode")}` : "no --mode"}`,
      remedy: "Add --mode circular, or leave --period out.",
    });
  }
  const backend = values.choice("backend", backends);
  const ofCpu = ["threads", "instructions"].find((name) => values.has(name));
  if (backend === "webgpu" && ofCpu) {
    throw new InvalidArgumentError({
      call: values.call,
      requirement: `--${ofCpu} belongs to --backend cpu`,
      value: `--${ofCpu} with --backend webgpu`,
      remedy: `Leave one of the two out.`,
    });
  }
  return {
    mode,
    dtype: chosenModes ? undefined : values.choice("dtype", dtypes),
    period: values.integer("period", 1, 2 * maxLength),
    backend,
    threads: values.integer("threads", 1, 1024),
    instructions: values.choice("instructions", instructionSets),
  };
}
