/**
 * Kernels of the time domain, for few taps. A thread takes runs of consecutive positions of a row, as those of short
 * convolutions do (runs.ts), and holds the samples around them in registers, where all taps meet them; gates, skip
 * term and rounding follow in the same kernel. What is kept of a channel's taps, its "spectrum", are float32 in the order of
 * their lags, so that no kernel knows of modes or of how k is stored.
 */
import type { Dtype } from "../../../dtype.ts";
import { heldTaps } from "../../../plan/device.ts";
import type { Part } from "../../../plan/geometry.ts";
import { kernelText, workgroup } from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import type { Binding, TensorName } from "../storage.ts";
import { tensorBinding, tensorFunctions } from "../storage.ts";
import type { Output } from "../transform/spec.ts";
import type { Walked } from "./runs.ts";
import { RunWriter, upTo } from "./runs.ts";
import type { Lines } from "./samples.ts";
import { cells, storeRun } from "./samples.ts";
import type { FilterSums } from "./sums.ts";
import { storeSums, sumNames } from "./sums.ts";

/** Taps that meet a run at once, and whose gradients are summed at once: with more, they go in blocks of so many. */
export const directTapsAtOnce: number = heldTaps.one;

/** A product of tensors x, filtered: Σ_p w[p]·x[n − (p − ahead)], or, transposed, Σ_p w[p]·x[n + (p − ahead)]. */
export interface LagFilter {
  readonly transposed: boolean;
  readonly factors: readonly TensorName[];
  readonly outputs: readonly Output[];
}

/** Sums of x[m]·g[m + p − ahead] for every p, workgroup by workgroup. */
export interface LagSums {
  readonly x: readonly TensorName[];
  readonly g: readonly TensorName[];
  /** Whether the sums of dy·u, the gradient of the skip weight, are taken on the way. */
  readonly skip: boolean;
}

/** What a kernel of the time domain does with its rows, all of it in one pass over them. */
export interface DirectKernel extends Walked {
  /** Lags of a channel, from −ahead on, without a gap; `p` counts them. */
  readonly taps: number;
  readonly ahead: number;
  /** Float32 from the taps of a channel to those of the next: a multiple of 4. */
  readonly pitch: number;
  /** The kernel's tensors, as it sees them. */
  readonly tensors: readonly Lines[];
  readonly filters: readonly LagFilter[];
  readonly sums?: LagSums | undefined;
  /** Whether every tensor that is written has all positions of a run or none. */
  readonly whole: boolean;
}

/** Blocks in which the gradients of so many taps are summed. */
export const sumBlocks = (taps: number): number => Math.ceil(taps / directTapsAtOnce);

/** Whether a kernel adds a skip term. */
const skips = ({ filters }: DirectKernel): boolean =>
  filters.some(({ outputs }) => outputs.some((o) => o.skipped));

/** A kernel under construction. */
class DirectWriter extends RunWriter {
  readonly spec: DirectKernel;
  readonly #lines: ReadonlyMap<string, Lines>;
  readonly #at = new Map<string, string>();
  /** Names of what is known of the samples around the run at hand. */
  readonly #known = new Map<string, readonly string[]>();

  constructor(spec: DirectKernel) {
    super(spec);
    this.spec = spec;
    this.#lines = new Map(spec.tensors.map((lines) => [lines.name, lines]));
  }

  /** Where the thread's row begins in every tensor. */
  rows(): void {
    for (const [name, lines] of this.#lines) this.#at.set(name, this.at(lines));
  }

  /** Begin a scope of the text where nothing is known of samples. */
  forget(): void {
    this.#known.clear();
  }

  /** The sample `n` positions behind `base`, a multiple of every access, as float32. */
  cell(name: TensorName, base: string, n: number): string {
    const lines = this.#lines.get(name)!;
    const first = Math.floor(n / lines.width) * lines.width;
    const key = `${name} ${base} ${first}`;
    let known = this.#known.get(key);
    if (!known) {
      const load = `${name}_load(${this.#at.get(name)}, ${base} + ${first})`;
      known = cells(this.text, lines, this.text.hold("q", load.replace("+ -", "- ")));
      this.#known.set(key, known);
    }
    return known[n - first]!;
  }

  /** The product of some tensors there. */
  sample(factors: readonly TensorName[], base: string, n: number): string {
    if (factors.length === 1) return this.cell(factors[0]!, base, n);
    const key = `${factors} ${base} ${n}`;
    const known = this.#known.get(key);
    if (known) return known[0]!;
    const product = factors.map((name) => this.cell(name, base, n)).join(" * ");
    const held = this.text.hold("x", product);
    this.#known.set(key, [held]);
    return held;
  }

  /** `count` taps of the thread's channel, from the one that `first` names on, a multiple of 4. */
  taps(first: string, count: number): string[] {
    const { pitch } = this.spec;
    const base = this.text.hold("at", `channel * ${pitch / 4}u + p.taps${first}`);
    const held = upTo(Math.ceil(count / 4)).map((i) =>
      this.text.hold("w", `taps[${base} + ${i}u]`),
    );
    return upTo(count).map((p) => `${held[p >> 2]}.${"xyzw"[p & 3]}`);
  }

  /** Store the filtered samples of a run in every form that is asked for. */
  outputs(outputs: readonly Output[], values: readonly string[]): void {
    for (const { tensor, gates, skipped } of outputs) {
      const stored = values.map((value, r) => {
        const gated = [value, ...gates.map((gate) => this.cell(gate, "n0", r))].join(" * ");
        if (!skipped) return gates.length > 0 ? this.text.hold("y", gated) : value;
        return this.text.hold("y", this.add("skip_value", this.cell(skipped, "n0", r), gated));
      });
      const lines = this.#lines.get(tensor)!;
      storeRun(this.text, lines, this.#at.get(tensor)!, "n0", stored, this.spec.whole);
    }
  }
}

/** The sums of a filter at the positions of a run; `held` are its taps, where the thread holds all of them. */
function filtered(
  w: DirectWriter,
  { factors, transposed }: LagFilter,
  held: readonly string[] | undefined,
): readonly string[] {
  const { taps, ahead, spread } = w.spec;
  const way = transposed ? 1 : -1;
  /** Sums over the taps from one on, which `base` has been moved for. */
  const dot = (weights: readonly string[], base: string, r: number): string => {
    const x = weights.map((_, p) => w.sample(factors, base, r + way * (p - ahead)));
    return w.dot(weights, x);
  };
  if (held) return upTo(spread.run).map((r) => w.text.hold("z", dot(held, "n0", r)));
  const sums = upTo(spread.run).map(() => w.text.fresh("z"));
  return w.summed(sums, "0.0f", taps, directTapsAtOnce, (count) => {
    w.forget();
    const weights = w.taps(" + j / 4u", count);
    const base = `(n0 ${transposed ? "+" : "-"} i32(j))`;
    return (r) => dot(weights, base, r);
  });
}

/**
 * A filter of one tap whose outputs are its own input's, scaled and skipped: the sum of tap and skip weight scales instead, since
 * two products of a sample that cancel would leave their rounding errors.
 */
function joined(
  w: DirectWriter,
  filter: LagFilter,
  held: readonly string[] | undefined,
): { filter: LagFilter; held: readonly string[] | undefined } {
  const { factors, outputs } = filter;
  const [output] = outputs;
  const own = output?.skipped !== undefined && `${factors}` === output.skipped;
  const plain = outputs.length === 1 && output!.gates.length === 0;
  if (w.spec.taps > 1 || !held || !own || !plain) return { filter, held };
  const bare = { tensor: output.tensor, gates: output.gates };
  return {
    filter: { ...filter, outputs: [bare] },
    held: [w.text.hold("w", `${held[0]} + skip_value`)],
  };
}

/** The text of a kernel. */
export function directKernel(spec: DirectKernel): Kernel {
  const { taps, filters, sums, tensors } = spec;
  const w = new DirectWriter(spec);
  const blocks = sums ? sumBlocks(taps) : 1;
  const totals: FilterSums = {
    taps: sums ? upTo(Math.min(taps, directTapsAtOnce)).map((p) => `total${p}`) : [],
    last: sums?.skip ? "total_skip" : undefined,
  };
  for (const total of sumNames(totals)) w.line(`var ${total} = 0.0f;`);
  if (blocks > 1) w.line(`let block = index % ${blocks}u;`);
  w.line(`let tile = index${blocks > 1 ? ` / ${blocks}u` : ""};`);
  let held: readonly string[] | undefined;
  w.walk(
    () => {
      w.rows();
      if (filters.length > 0 && taps <= directTapsAtOnce) held = w.taps("", taps);
      if (skips(spec)) w.line("let skip_value = skip[channel + p.skip];");
    },
    () => {
      for (const given of filters) {
        const { filter, held: weights } = joined(w, given, held);
        w.outputs(filter.outputs, filtered(w, filter, weights));
      }
      if (sums) addProducts(w, sums, totals, blocks);
    },
  );
  if (sums) storeSums(w, [totals], taps, blocks);
  const operands: Binding[] = [
    ...(filters.length > 0 ? [{ name: "taps", access: "read", element: "vec4f" } as const] : []),
    ...(skips(spec) ? [{ name: "skip", access: "read", element: "f32" } as const] : []),
    ...(sums ? [{ name: "sums", access: "read_write", element: "f32" } as const] : []),
  ];
  return w.kernel(tensors, operands, ["period", "taps", "skip"]);
}

/** Add what a run comes to to the thread's sums, of all taps or of a block of them. */
function addProducts(
  w: DirectWriter,
  { x, g }: LagSums,
  { taps, last }: FilterSums,
  blocks: number,
) {
  const base = blocks > 1 ? `(n0 + i32(block * ${directTapsAtOnce}u))` : "n0";
  const run = upTo(w.spread.run);
  const own = run.map((r) => w.sample(x, "n0", r));
  taps.forEach((total, p) => {
    const met = run.map((r) => w.sample(g, base, r + p - w.spec.ahead));
    w.line(`${total} += ${w.dot(own, met)};`);
  });
  if (!last) return;
  const [dy, u] = (["dy", "u"] as const).map((name) => run.map((r) => w.cell(name, "n0", r)));
  w.line(`${last} += ${w.dot(dy!, u!)};`);
}

/** Runs of taps as places in the list of all lags. */
export function lagRuns(part: Part): { index: number; count: number; place: number }[] {
  const { ahead } = part.blocks!;
  return part.taps.map(({ index, count, position }) => ({
    ...{ index, count, place: ahead + position },
  }));
}

/** Threads of a workgroup that lays out taps. */
const layoutThreads = 64;

/** Taps (H, K) as they are given → float32 in the order of their lags, `pitch` of them a channel. */
export function layOutTaps(part: Part, taps: number, pitch: number, dtype: Dtype): Kernel {
  const k = { name: "u", dtype, writes: false, paired: false } as const;
  const bindings: Binding[] = [
    tensorBinding(k),
    { name: "taps", access: "read_write", element: "f32" },
  ];
  const parameters = ["tiles", "u", "taps"];
  const code = kernelText({
    ...{ bindings, parameters, functions: tensorFunctions(k), threads: layoutThreads },
    body: [
      `let index = (${workgroup}) * ${layoutThreads}u + lane;`,
      "if (index >= p.tiles) { return; }",
      `let row = index / ${pitch}u * ${taps}u + p.u;`,
      `let place = index % ${pitch}u;`,
      "var x = 0.0f;",
      ...lagRuns(part).map(
        ({ index, count, place }) =>
          `if (place >= ${place}u && place < ${place + count}u) { x = u_get(row + ${index}u + place - ${place}u); }`,
      ),
      "taps[p.taps + index] = x;",
    ],
  });
  return { code, bindings, parameters, tiles: layoutThreads, tilesPerUnit: pitch };
}
