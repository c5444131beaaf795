/**
 * One tile on chip: which points each thread holds at each stage, the butterflies, and the exchanges between stages. A stage of
 * radix r takes blocks of S points apart into r sub-blocks of S' = S/r. Butterfly g lies in block ⌊g/S'⌋ at position g mod S'; its
 * input q stands q·S' further on, as does its output of digit `digitAt(q, r)`.
 */
import type { Scaled } from "../../../math/codelet-fused.ts";
import { fusedDft, turn, withFactor } from "../../../math/codelet-fused.ts";
import type { Complex } from "../../../math/expr.ts";
import { Graph } from "../../../math/expr.ts";
import type { Mirrored, PassLayout } from "../../../plan/gpu/passes.ts";
import { digitAt, inPairs, isPower, mirrored } from "../../../plan/gpu/passes.ts";
import { choice, constant, floats } from "../dialect/wgsl.ts";
import type { Text, Value } from "../text.ts";
import { Branches, nodes, partText, printValues, valueIn, vectorOf } from "../text.ts";
import type { SharedLayout } from "./shared-memory.ts";
import {
  folded,
  foldedText,
  foldOf,
  padded,
  paddedText,
  place,
  sharedLayout,
} from "./shared-memory.ts";
import type { TileSums } from "./tile-sums.ts";
import { addUp } from "./tile-sums.ts";
import type { StageTable } from "./twiddles.ts";
import { expandPowers } from "./twiddles.ts";

/** Numbers of one stage in one tile. */
export interface Stage {
  readonly radix: number;
  /** Points of a block and of a sub-block, within the tile. */
  readonly size: number;
  readonly rest: number;
  /** Butterflies of a thread. */
  readonly each: number;
  /** Neighbouring butterflies that a thread takes together. */
  readonly vector: number;
  /** Where its twiddles are; undefined where the whole transform is one block and they are constants. */
  readonly table: StageTable | undefined;
  /** The phase of that one block, as a fraction of a turn. */
  readonly phase: number;
  /** Where neighbours are taken apart, at the last of several stages: how blocks are shared, so that mirrors meet. */
  readonly mirrored?: Mirrored | undefined;
}

/** A number base + offset: `base` is text that depends on the thread, `offset` a constant. */
export interface Place {
  readonly base: string;
  readonly offset: number;
}

/** Where a butterfly's first input stands in the tile, and which block it belongs to. */
interface Butterfly {
  readonly at: Place;
  readonly block: Place;
}

/** Which half of a block's points: known, or the text of a condition for the second one, where it depends on the thread. */
type Half = 0 | 1 | string;

/** Text of base + offset. */
export function sum({ base, offset }: Place): string {
  if (offset < 0) return `${base} - ${-offset}u`;
  return offset === 0 ? base : `${base} + ${offset}u`;
}

/** The code of a tile. The thread's number in its tile is `t`; shared memory is `shared_x`, from `shared_base` on. */
export class Tile {
  readonly text: Text;
  readonly pass: PassLayout;
  readonly stages: readonly Stage[];
  readonly shared: SharedLayout;
  /** Words that may wait in registers while points are exchanged. */
  readonly ahead = 32;
  /** Every size is a power of two: base and offset share no bits, so maps of bits satisfy f(base + offset) = f(base) + f(offset). */
  readonly #additive: boolean;
  readonly #held = new Map<string, string>();
  #busy = false;

  constructor(text: Text, pass: PassLayout, stages: readonly Stage[], sharedBytes: number) {
    this.text = text;
    this.pass = pass;
    this.stages = stages;
    this.shared = sharedLayout(pass, stages, sharedBytes);
    this.#additive = isPower(pass.tilePoints) && isPower(pass.threads) && isPower(pass.rest);
  }

  /** `text` held in a name, once for each text. */
  held(prefix: string, text: string): string {
    const name = this.#held.get(text) ?? (/^\w+$/.test(text) ? text : this.text.hold(prefix, text));
    this.#held.set(text, name);
    return name;
  }

  /** A map of places, applied to base and offset apart where that is the same. */
  apply(
    prefix: string,
    place: Place,
    f: (text: string) => string,
    number: (n: number) => number,
  ): Place {
    if (this.#additive)
      return { base: this.held(prefix, f(place.base)), offset: number(place.offset) };
    return { base: this.held(prefix, f(this.held("p", sum(place)))), offset: 0 };
  }

  /** Butterfly i of this thread. */
  butterfly(stage: Stage, i: number): Butterfly {
    const { size, rest, vector } = stage;
    if (stage.mirrored) return this.#mirroredButterfly(stage, stage.mirrored, i);
    const step = vector * this.pass.threads;
    const turn = Math.floor(i / vector) * step;
    const lane = i % vector;
    const first = this.held("t", vector === 1 ? "t" : `t * ${vector}u`);
    if (rest % step === 0) {
      const block = Math.floor(turn / rest);
      const at = { base: first, offset: (turn % rest) + lane + block * size };
      return { at, block: { base: "0u", offset: block } };
    }
    if (step % rest === 0 && rest % vector === 0) {
      const block = this.held("b", rest === 1 ? first : `${first} / ${rest}u`);
      const place =
        rest === 1 ? `${block} * ${size}u` : `${block} * ${size}u + ${first} % ${rest}u`;
      const blocks = turn / rest;
      const at = { base: this.held("p", place), offset: lane + blocks * size };
      return { at, block: { base: block, offset: blocks } };
    }
    const g = this.held("g", sum({ base: first, offset: turn + lane }));
    const block = this.held("b", `${g} / ${rest}u`);
    const at = this.held("p", `${block} * ${size}u + ${g} % ${rest}u`);
    return { at: { base: at, offset: 0 }, block: { base: block, offset: 0 } };
  }

  /** Butterfly i of a thread that takes blocks by twos, each with its mirror. */
  #mirroredButterfly({ size, rest }: Stage, { pairs, across }: Mirrored, i: number): Butterfly {
    const column = this.held("t", `t % ${rest}u`);
    const first = across * (i >> 1);
    const at = (block: string): Place => ({
      base: this.held("p", `${block} * ${size}u + ${column}`),
      offset: 0,
    });
    if (across === 1) {
      const block = pairs[first]![i & 1]!;
      return { at: { base: column, offset: block * size }, block: { base: "0u", offset: block } };
    }
    // Pair n is that of places n + h and 5h - 1 - n, h the highest power of two in n.
    const pair = this.held("b", `t / ${rest}u`);
    const second = i % 2 === 1;
    const text = (): string => {
      if (first > 0) {
        const [low, high] = pairs[first]!;
        return second ? `${high}u - ${pair}` : `${pair} + ${low}u`;
      }
      const power = this.held("h", `1u << firstLeadingBit(max(${pair}, 1u))`);
      const none = second ? "1u" : "0u";
      const others = second ? `5u * ${power} - 1u - ${pair}` : `${pair} + ${power}`;
      return choice(`${pair} == 0u`, none, others);
    };
    const block = this.held("b", text());
    return { at: at(block), block: { base: block, offset: 0 } };
  }

  /** Places in the tile of this thread's points at a stage, by butterfly and input. */
  places(stage: Stage): Place[][] {
    return Array.from({ length: stage.each }, (_, i) => {
      const { at } = this.butterfly(stage, i);
      return Array.from({ length: stage.radix }, (_, q) => ({
        base: at.base,
        offset: at.offset + q * stage.rest,
      }));
    });
  }

  /** A place of the tile → the point's position in its block of the transform. `column` is text: the tile's first column. */
  position(place: Place, column: string): Place {
    const { columns, rest } = this.pass;
    if (columns === 1) return place;
    const spread = this.apply(
      "n",
      place,
      (x) => `(${x} / ${columns}u) * ${rest}u + ${x} % ${columns}u + ${column}`,
      (n) => Math.floor(n / columns) * rest + (n % columns),
    );
    return spread;
  }

  /** Index in shared memory, at the boundary after stage `boundary`. */
  #shared(place: Place, boundary: number): string {
    const pad = this.shared.pads[boundary]!;
    const half = foldOf(this.pass, this.stages[boundary]!);
    const at = (x: string): string => {
      const point = half === undefined ? x : this.held("f", foldedText(x, half));
      return `${paddedText(point, pad)} + shared_base`;
    };
    return sum(this.apply("a", place, at, (n) => padded(folded(n, half), pad)));
  }

  /** Loads what a stage needs of its table, by butterfly: text that stands before an exchange hides the loads behind it. */
  loadTwiddles(stage: Stage): Value[][] {
    const { table } = stage;
    if (!table) return [];
    return Array.from({ length: stage.each }, (_, i) => {
      const { block } = this.butterfly(stage, i);
      const index = this.held("w", `${block.base} + block * ${table.local}u`);
      let name = "";
      return table.powers.map((_, p): Value => {
        if (p % 2 === 1) return valueIn(name, "zw");
        const offset = table.offset + (p / 2) * table.blocks + block.offset;
        name = this.text.hold("w", `twiddles[${sum({ base: index, offset })}]`);
        return valueIn(name);
      });
    });
  }

  /** Whether a stage's table is small enough to wait in registers. */
  #early(s: number): boolean {
    const stage = this.stages[s]!;
    const words = stage.table ? 2 * stage.each * stage.table.powers.length : 0;
    return words <= this.ahead;
  }

  /** The factors of one block for all are constants: input j is turned by j times this many (4·radix)ths. */
  #turns(stage: Stage): number {
    return Math.round(4 * stage.phase);
  }

  /** The factors of a butterfly of a stage with a table, one for each input. */
  #factors(
    g: Graph,
    { table, radix }: Stage,
    loaded: readonly Value[] = [],
  ): Complex[] | undefined {
    const kept = loaded.map((v) => nodes(g, v));
    return table && expandPowers(g, table.powers, kept, radix);
  }

  /** A forward stage: twiddles, then butterflies. */
  forwardStage(
    stage: Stage,
    values: readonly Value[][],
    twiddles: Value[][] = this.loadTwiddles(stage),
  ): Value[][] {
    const { radix } = stage;
    return values.map((inputs, i) => {
      const g = new Graph();
      const given = inputs.map((v) => ({ ...nodes(g, v), factor: 1 }));
      const t = this.#factors(g, stage, twiddles[i]);
      const x = given.map((v, j) =>
        t ? { ...g.cmul(v, t[j]!), factor: 1 } : turn(g, v, this.#turns(stage) * j, 4 * radix),
      );
      const y = fusedDft(g, x, 1).map((v) => withFactor(g, v));
      return printValues(
        this.text,
        y.map((_, q) => y[digitAt(q, radix)]!),
      );
    });
  }

  /** An inverse stage: butterflies, then conjugate twiddles. */
  #inverseStage(
    stage: Stage,
    values: readonly Value[][],
    twiddles: Value[][] = this.loadTwiddles(stage),
  ): Value[][] {
    const { radix } = stage;
    return values.map((inputs, i) => {
      const g = new Graph();
      const t = this.#factors(g, stage, twiddles[i]);
      const x = new Array<Scaled>(radix);
      inputs.forEach((v, q) => {
        x[digitAt(q, radix)] = { ...nodes(g, v), factor: 1 };
      });
      const y = fusedDft(g, x, -1).map((v, j) =>
        t
          ? g.cmulConj(withFactor(g, v), t[j]!)
          : withFactor(g, turn(g, v, -this.#turns(stage) * j, 4 * radix)),
      );
      return printValues(this.text, y);
    });
  }

  /**
   * Forward through all stages, from values at the first stage's places to values at the last one's. `ahead` writes loads
   * that what follows needs, before the last exchange.
   */
  forward(values: Value[][], ahead?: () => void): Value[][] {
    const stage = this.forwardStage.bind(this);
    return this.#through([...this.stages.keys()], stage, values, ahead);
  }

  /** Backward through all stages, from values at the last stage's places to values at the first one's; `ahead` as above. */
  inverse(values: Value[][], ahead?: () => void): Value[][] {
    const stage = this.#inverseStage.bind(this);
    return this.#through([...this.stages.keys()].reverse(), stage, values, ahead);
  }

  #through(
    order: readonly number[],
    butterflies: (stage: Stage, values: readonly Value[][], twiddles?: Value[][]) => Value[][],
    values: Value[][],
    ahead?: () => void,
  ): Value[][] {
    let twiddles: Value[][] | undefined;
    return order.reduce((before, s, n) => {
      const v = butterflies(this.stages[s]!, before, twiddles);
      const next = order[n + 1];
      if (next === undefined) return v;
      twiddles = this.#early(next) ? this.loadTwiddles(this.stages[next]!) : undefined;
      if (n === order.length - 2) ahead?.();
      return this.#exchange(v, s, next);
    }, values);
  }

  /** Values at one stage's places → the same points at another's. */
  #exchange(values: readonly Value[][], from: number, to: number): Value[][] {
    const move = this.#mover(values, from, to);
    if (this.pass.exchange === "whole")
      return move((v) => vectorOf(v)).map((row) => row.map((x) => valueIn(x)));
    const re = move((v) => partText(v.re));
    const im = move((v) => partText(v.im));
    return re.map((row, i) => row.map((x, q) => ({ re: x, im: im[i]![q]! })));
  }

  /** Indices in shared memory of this thread's points at a stage. */
  #indices(stage: number, boundary: number): string[][] {
    return this.places(this.stages[stage]!).map((row) => row.map((p) => this.#shared(p, boundary)));
  }

  /** Waits until all threads have read what shared memory had before. */
  #begin(): void {
    if (this.#busy) this.text.barrier();
    this.#busy = true;
  }

  /** Moves what `of` takes of each value, all points at once or one half of every block after the other; returns names by place. */
  #mover(
    values: readonly Value[][],
    from: number,
    to: number,
  ): (of: (v: Value) => string) => string[][] {
    const { text } = this;
    const boundary = Math.min(from, to);
    const source = this.#indices(from, boundary);
    const target = this.#indices(to, boundary);
    const sourceHalves = this.#halves(from, boundary);
    const targetHalves = this.#halves(to, boundary);
    const rounds = this.pass.exchange === "quarter" ? ([0, 1] as const) : ([0] as const);
    return (of) => {
      const got = targetHalves.map((row) =>
        row.map((half) => {
          const name = text.fresh("x");
          return typeof half === "string" ? text.variable(name, "0.0f") : name;
        }),
      );
      for (const round of rounds) {
        this.#begin();
        this.#inHalf(
          sourceHalves,
          round,
          (i, q) => `shared_x[${source[i]![q]}] = ${of(values[i]![q]!)};`,
        );
        this.text.barrier();
        this.#inHalf(targetHalves, round, (i, q) => {
          const element = `shared_x[${target[i]![q]}]`;
          const declared = typeof targetHalves[i]![q] === "string";
          return declared ? `${got[i]![q]} = ${element};` : constant(got[i]![q]!, element);
        });
      }
      return got;
    };
  }

  /** The half of each of this thread's points at a stage; the first where there are none. */
  #halves(stage: number, boundary: number): Half[][] {
    const half = foldOf(this.pass, this.stages[boundary]!);
    const s = this.stages[stage]!;
    return this.places(s).map((row, i) =>
      row.map(({ base }, q) => {
        if (half === undefined) return 0;
        const of = (t: number): number => Math.floor(place(this.pass, s, t, i, q) / half) % 2;
        const first = of(0);
        const same = Array.from({ length: this.pass.threads }, (_, t) => of(t) === first);
        if (!same.includes(false)) return first as 0 | 1;
        return this.held("h", `${base} / ${half}u % 2u == 1u`);
      }),
    );
  }

  /** Writes what the points of one half need; where that depends on the thread, under one condition for all alike. */
  #inHalf(halves: readonly Half[][], round: 0 | 1, line: (i: number, q: number) => string): void {
    const branches = new Branches();
    halves.forEach((row, i) => {
      row.forEach((half, q) => {
        if (typeof half === "string") branches.add(round === 1 ? half : `!${half}`, line(i, q));
        else if (half === round) this.text.line(line(i, q));
      });
    });
    this.text.line(...branches.lines);
  }

  /** Sums of numbers over the tile's threads. Where they have elements of their own, an exchange lies between any two. */
  sums(values: readonly string[], shape: TileSums): string[] {
    const { first } = shape;
    const whole = this.pass.exchange === "whole";
    const at = (index: string): string =>
      `shared_x[${index} + ${first === 0 ? "" : `${first}u + `}shared_base]`;
    return addUp(this.text, values, shape, {
      put: (index, x) => this.text.line(`${at(index)} = ${whole ? floats([x, "0.0f"]) : x};`),
      get: (index) => `${at(index)}${whole ? ".x" : ""}`,
      claim: () => {
        if (this.#busy && first === 0) this.text.barrier();
      },
      meet: () => {
        this.text.barrier();
        this.#busy = first === 0;
      },
    });
  }

  /** Forget held names and start as busy: code that follows is in another scope and may run again. */
  enterLoop(): void {
    this.#busy = true;
  }
}

/**
 * Stages of a pass, and at which ends neighbours go together, two by two, where they can. `apart`: points hold neighbours of one
 * row, which the last stage takes apart.
 */
export function stagesOf(
  pass: PassLayout,
  tables: readonly (StageTable | undefined)[],
  phase: number,
  together: { readonly first: boolean; readonly last: boolean; readonly apart: boolean },
): Stage[] {
  let size = pass.tilePoints;
  return pass.radices.map((radix, s) => {
    const here = size;
    size /= radix;
    const each = pass.tilePoints / (pass.threads * radix);
    const last = s === pass.radices.length - 1;
    const end = (s === 0 && together.first) || (last && together.last);
    return {
      ...{ radix, size: here, rest: size, each },
      vector: end && inPairs(pass, s) ? 2 : 1,
      table: tables[s],
      phase,
      mirrored: together.apart && last ? mirrored(pass) : undefined,
    };
  });
}
