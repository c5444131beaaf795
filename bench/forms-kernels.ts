/**
 * Kernels of `bench forms`: stages of a transform repeated on a tile that stays on chip, as butterflies in registers, as
 * dense products of subgroup matrices, or by turns. One round goes through all stages that the tile's radices make and ends
 * where it began: thread t holds points t, t + threads, t + 2·threads, … before and after it, or pairs of neighbours likewise.
 *
 * A dense stage takes the r × (points / r) matrix X of its butterflies' inputs, times twiddles, real parts above imaginary
 * ones, and multiplies it from the left with the real form of the DFT, [Re F, −Im F; Im F, Re F]: one kind of product for
 * every radix of which twice is a multiple of the matrices' sides, eight included.
 */

import { literal } from "../src/kernels/gpu/dialect/wgsl.ts";
import type { Value } from "../src/kernels/gpu/text.ts";
import { nodes, Text } from "../src/kernels/gpu/text.ts";
import type { Place, Stage } from "../src/kernels/gpu/transform/tile.ts";
import { stagesOf, sum, Tile } from "../src/kernels/gpu/transform/tile.ts";
import { expandPowers, keptPowers, stageTables } from "../src/kernels/gpu/transform/twiddles.ts";
import { fusedDft, withFactor } from "../src/math/codelet-fused.ts";
import { countOps, Graph } from "../src/math/expr.ts";
import type { PassLayout, PassPlan } from "../src/plan/gpu/passes.ts";
import { passLayouts } from "../src/plan/gpu/passes.ts";

/** What a stage is made of; `mix` begins with butterflies. */
export const forms = ["butterflies", "dense f32", "dense f16", "mix"] as const;
export type Form = (typeof forms)[number];

/** A product of subgroup matrices, M × K times K × N, that an adapter has for float16. */
export interface MatrixShape {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly result: "f32" | "f16";
}

/** How a dense stage multiplies. */
export interface Dense {
  readonly shape: MatrixShape;
  /** Whether results go to the threads at once, or real and imaginary parts one after the other in half the memory. */
  readonly results: "whole" | "split";
  /** Points side by side that a thread takes: with two, a compiler may join their loads and stores. 1 in the mix. */
  readonly neighbours: 1 | 2;
  /** Threads of a subgroup. */
  readonly lanes: number;
}

/** One kernel to write. */
export interface FormSpec {
  readonly form: Form;
  readonly radix: number;
  readonly points: number;
  readonly threads: number;
  /** For all forms but butterflies. */
  readonly dense?: Dense;
}

/** Tiles that differ in their data and their twiddles: blocks that a pass before has left. */
export const tiles = 4;

/** Rounds between two scalings of butterflies, whose values grow: by 2^48 at most. */
const unscaled = 8;

/** The stages of a tile: as many as the radix allows, the rest of the points are columns. */
export function planOf({ radix, points, threads }: FormSpec): PassPlan {
  const radices: number[] = [];
  let columns = points;
  for (; columns % radix === 0; columns /= radix) radices.push(radix);
  const common = { tiles: 1, exchange: "split" } as const;
  const before = { ...common, radices: [tiles], columns: points, threads: 1 };
  const passes = [before, { ...common, radices, columns, threads }];
  return { points: tiles * points, packing: "rows", passes };
}

/** The stages of one transform of a tile. */
export function stagesOfForm(spec: FormSpec): Stage[] {
  const plan = planOf(spec);
  const ends = { first: false, last: false, apart: false };
  return stagesOf(passLayouts(plan)[1]!, stageTables(plan)[1]!, 0, ends);
}

/** The text of a kernel and what its surroundings must know. */
export interface FormKernel {
  readonly code: string;
  /** Stages of a round. */
  readonly stages: number;
  /** By how much a round makes values larger than a unitary transform would. */
  readonly gain: number;
  /** What the entries of the DFT matrix are multiplied with. */
  readonly matrixScale: number;
  readonly sharedBytes: number;
  /** Operations of one point in one stage, as the form computes it. */
  readonly flops: number;
}

/** Operations of a radix-r stage of butterflies for each point, twiddles included; a fused multiply-add counts as two. */
function butterflyFlops(radix: number): number {
  const g = new Graph();
  const value = (name: string) => nodes(g, { re: `${name}r`, im: `${name}i` });
  const powers = keptPowers(radix);
  const kept = powers.map((p) => value(`t${p}`));
  const factors = expandPowers(g, powers, kept, radix);
  const turned = factors.map((t, j) => ({ ...g.cmul(value(`x${j}`), t), factor: 1 }));
  const results = fusedDft(g, turned, 1).map((v) => withFactor(g, v));
  const ops = countOps(results.flatMap(({ re, im }) => [re, im]));
  return (ops.add + ops.sub + ops.mul + 2 * (ops.fma + ops.fnma)) / radix;
}

/** Where the entries (row, butterfly) of a stage's matrix lie in an array. */
interface MatrixLayout {
  readonly columnMajor: boolean;
  readonly stride: number;
}

const orderOf = ({ columnMajor }: MatrixLayout): string =>
  columnMajor ? "col_major" : "row_major";

const offsetIn = ({ columnMajor, stride }: MatrixLayout, row: string, column: string): string =>
  columnMajor ? `${column} * ${stride}u + ${row}` : `${row} * ${stride}u + ${column}`;

/** Fragments of the DFT matrix that a subgroup keeps in registers. */
const mostFragments = 16;

/** How subgroups share a stage's product, or why they cannot. */
interface Shares {
  /** Blocks of rows and of inner dimension, and of columns. */
  readonly rowBlocks: number;
  readonly innerBlocks: number;
  readonly columnBlocks: number;
  /** Subgroups that take the same columns and different rows. */
  readonly rowParts: number;
  readonly columnParts: number;
}

function sharesOf({ radix, points, threads }: FormSpec, dense: Dense): Shares | string {
  const { M, N, K } = dense.shape;
  const side = 2 * radix;
  const butterflies = points / radix;
  if (side % M !== 0 || side % K !== 0 || butterflies % N !== 0)
    return `matrices of ${M}×${N}×${K} do not divide ${side}×${butterflies}×${side}`;
  const rowBlocks = side / M;
  const innerBlocks = side / K;
  const columnBlocks = butterflies / N;
  const subgroups = threads / dense.lanes;
  const mostParts = dense.results === "split" ? rowBlocks / 2 : rowBlocks;
  let rowParts = 1;
  const tooMany = (): boolean => (rowBlocks / rowParts) * innerBlocks > mostFragments;
  while ((tooMany() || subgroups / rowParts > columnBlocks) && 2 * rowParts <= mostParts)
    rowParts *= 2;
  const columnParts = subgroups / rowParts;
  if (columnParts < 1 || columnBlocks % columnParts !== 0)
    return `${subgroups} subgroups do not divide ${rowBlocks}×${columnBlocks} matrices`;
  if (dense.results === "split" && rowBlocks === 1)
    return "one matrix holds real and imaginary parts, which cannot be stored apart";
  return { rowBlocks, innerBlocks, columnBlocks, rowParts, columnParts };
}

/** Writes a kernel. */
class FormWriter {
  readonly spec: FormSpec;
  readonly text = new Text(true);
  readonly pass: PassLayout;
  readonly stages: readonly Stage[];
  readonly tile: Tile;
  readonly #dense: (Dense & { shares: Shares }) | undefined;
  /** Whether each stage of a round is dense; of the mix twice as many where one transform has an odd number of stages. */
  readonly #kinds: readonly boolean[];

  constructor(spec: FormSpec, shares: Shares | undefined) {
    this.spec = spec;
    this.pass = passLayouts(planOf(spec))[1]!;
    this.stages = stagesOfForm(spec);
    const { form, points, threads } = spec;
    // A last stage of radix 1 stands where the first one does: what follows it is an exchange like the others.
    const landing = { radix: 1, size: points, rest: points, each: points / threads, vector: 1 };
    const all = [...this.stages, { ...landing, table: undefined, phase: 0 }];
    this.tile = new Tile(this.text, this.pass, form === "butterflies" ? all : [], 49_152);
    this.#dense = spec.dense && shares && { ...spec.dense, shares };
    const count = this.stages.length;
    const round = form === "mix" && count % 2 === 1 ? 2 * count : count;
    this.#kinds = Array.from(
      { length: round },
      (_, s) => form.startsWith("dense") || (form === "mix" && s % 2 === 1),
    );
  }

  /** The points of a thread between rounds. */
  get #linear(): Place[] {
    const { points, threads, dense } = this.spec;
    const n = dense?.neighbours ?? 1;
    const base = this.tile.held("t", n === 1 ? "t" : `t * ${n}u`);
    return Array.from({ length: points / threads }, (_, j) => {
      return { base, offset: Math.floor(j / n) * n * threads + (j % n) };
    });
  }

  /** The inputs of a stage; rounds begin with a stage whose butterflies' inputs are a thread's own points. */
  #places(stage: number): Place[] {
    if (stage === this.#kinds.length || this.#kinds[stage]) return this.#linear;
    return this.tile.places(this.#stage(stage)).flat();
  }

  #stage(s: number): Stage {
    return this.stages[s % this.stages.length]!;
  }

  /** Layout of inputs, `kind` x, and results, y. Padding keeps threads of a subgroup, and rows of a matrix, in banks apart. */
  #layout(stage: Stage, kind: "x" | "y"): MatrixLayout {
    const { radix, points } = this.spec;
    const { shape, results } = this.#dense!;
    const columnMajor = stage.rest === 1;
    const rows = kind === "y" && results === "split" ? radix : 2 * radix;
    const pad = columnMajor && kind === "y" && shape.result === "f32" ? 4 : 8;
    return { columnMajor, stride: (columnMajor ? rows : points / radix) + pad };
  }

  /** Entries of the longest layout among the stages. */
  #entries(kind: "x" | "y"): number {
    const { radix, points } = this.spec;
    const rows = kind === "y" && this.#dense!.results === "split" ? radix : 2 * radix;
    const sizes = this.#kinds.flatMap((dense, s) => {
      if (!dense) return [];
      const { columnMajor, stride } = this.#layout(this.#stage(s), kind);
      return [stride * (columnMajor ? points / radix : rows)];
    });
    return Math.max(...sizes);
  }

  /** Index of a point's real part; `rows` further on in the matrix stands its imaginary part. */
  #index(stage: Stage, place: Place, layout: MatrixLayout): Place {
    const { size, rest, radix } = stage;
    const single = size === this.spec.points;
    const row = (x: string): string => (single ? `${x} / ${rest}u` : `${x} % ${size}u / ${rest}u`);
    const column = (x: string): string => {
      if (rest === 1) return `${x} / ${radix}u`;
      return single ? `${x} % ${rest}u` : `${x} / ${size}u * ${rest}u + ${x} % ${rest}u`;
    };
    const { columnMajor, stride } = layout;
    return this.tile.apply(
      "i",
      place,
      (x) => offsetIn(layout, `(${row(x)})`, `(${column(x)})`),
      (n) => {
        const q = Math.floor((n % size) / rest);
        const g = Math.floor(n / size) * rest + (n % rest);
        return columnMajor ? g * stride + q : q * stride + g;
      },
    );
  }

  #further({ base, offset }: Place, { columnMajor, stride }: MatrixLayout): Place {
    return { base, offset: offset + this.spec.radix * (columnMajor ? 1 : stride) };
  }

  /** Values times their twiddles, rounded, where the subgroups find them. */
  #giveInputs(s: number, places: readonly Place[], values: readonly Value[]): void {
    const { text, tile } = this;
    const stage = this.#stage(s);
    const layout = this.#layout(stage, "x");
    const first = factorOffset(this.stages, s % this.stages.length, this.spec.points);
    const blocks = this.spec.points / stage.rest;
    const start = tile.held("w", `block * ${blocks}u + ${first}u`);
    values.forEach(({ re, im }, j) => {
      const place = places[j]!;
      const entry = tile.apply(
        "f",
        place,
        (x) => `${x} / ${stage.rest}u`,
        (n) => Math.floor(n / stage.rest),
      );
      const w = text.hold("w", `factors[${start} + ${sum(entry)}]`);
      const at = this.#index(stage, place, layout);
      text.line(`shared_x[${sum(at)}] = f16(fma(-${im}, ${w}.y, ${re} * ${w}.x));`);
      const below = sum(this.#further(at, layout));
      text.line(`shared_x[${below}] = f16(fma(${im}, ${w}.x, ${re} * ${w}.y));`);
    });
    text.line("workgroupBarrier();");
  }

  /** The product: sums of the subgroup's blocks, `store` called for each with its block of rows and its column. */
  #multiply(s: number, store: (acc: string, i: number, column: string) => void): void {
    const { text } = this;
    const { shape, shares } = this.#dense!;
    const { M, N, K, result } = shape;
    const layout = this.#layout(this.#stage(s), "x");
    const each = shares.columnBlocks / shares.columnParts;
    const rows = shares.rowBlocks / shares.rowParts;
    for (let c = 0; c < each; c++) {
      const column = text.hold("c", `(column_part + ${c * shares.columnParts}u) * ${N}u`);
      const sums = Array.from({ length: rows }, () => text.fresh("acc"));
      for (const acc of sums)
        text.line(`var ${acc} = subgroup_matrix_result<${result}, ${N}, ${M}>();`);
      for (let k = 0; k < shares.innerBlocks; k++) {
        const at = offsetIn(layout, `${k * K}u`, column);
        const right = text.hold(
          "x",
          `subgroupMatrixLoad<subgroup_matrix_right<f16, ${N}, ${K}>, ${orderOf(layout)}>(&shared_x, ${at}, ${layout.stride}u)`,
        );
        sums.forEach((acc, i) => {
          const left = `dft_${i}_${k}`;
          text.line(`${acc} = subgroupMatrixMultiplyAccumulate(${left}, ${right}, ${acc});`);
        });
      }
      for (const [i, acc] of sums.entries()) store(acc, i, column);
    }
  }

  /** A dense stage, from values at `from` to values at `to`. */
  #denseStage(
    s: number,
    from: readonly Place[],
    values: readonly Value[],
    to: readonly Place[],
  ): Value[] {
    const { text } = this;
    const { shape, shares, results } = this.#dense!;
    this.#giveInputs(s, from, values);
    const stage = this.#stage(s);
    const layout = this.#layout(stage, "y");
    const split = results === "split";
    const put = (acc: string, i: number, column: string): void => {
      // Blocks of rows are dealt out by turns, so that real and imaginary parts are told apart by i alone.
      const first = i * shares.rowParts * shape.M;
      const row = `(${split ? first % this.spec.radix : first}u + row_part * ${shape.M}u)`;
      const at = offsetIn(layout, row, column);
      text.line(
        `subgroupMatrixStore<${orderOf(layout)}>(&shared_y, ${at}, ${acc}, ${layout.stride}u);`,
      );
    };
    const indices = to.map((place) => this.#index(stage, place, layout));
    const get = (at: Place): string => {
      const read = `shared_y[${sum(at)}]`;
      return text.hold("y", shape.result === "f32" ? read : `f32(${read})`);
    };
    if (!split) {
      this.#multiply(s, put);
      text.line("workgroupBarrier();");
      return indices.map((at) => ({ re: get(at), im: get(this.#further(at, layout)) }));
    }
    const imaginary: [string, number, string][] = [];
    this.#multiply(s, (acc, i, column) => {
      if (i < shares.rowBlocks / shares.rowParts / 2) put(acc, i, column);
      else imaginary.push([acc, i, column]);
    });
    text.line("workgroupBarrier();");
    const re = indices.map(get);
    text.line("workgroupBarrier();");
    for (const sums of imaginary) put(...sums);
    text.line("workgroupBarrier();");
    return indices.map((at, j) => ({ re: re[j]!, im: get(at) }));
  }

  /** All stages of a round, from and to the points of a thread. */
  #round(state: readonly Value[]): Value[] {
    const { tile, spec } = this;
    const byButterfly = (stage: Stage, values: readonly Value[]): Value[][] =>
      Array.from({ length: stage.each }, (_, i) =>
        values.slice(i * stage.radix, (i + 1) * stage.radix),
      );
    const first = this.#kinds[0]
      ? state
      : this.#places(0).map(({ offset }) => state[offset / spec.threads]!);
    if (spec.form === "butterflies") {
      tile.enterLoop();
      return tile.forward(byButterfly(this.#stage(0), first)).flat();
    }
    let values: Value[] = [...first];
    this.#kinds.forEach((dense, s) => {
      const stage = this.#stage(s);
      if (dense) values = this.#denseStage(s, this.#from(s), values, this.#places(s + 1));
      else values = tile.forwardStage(stage, byButterfly(stage, values)).flat();
    });
    return values;
  }

  /** Where the values stand before stage s: where the butterflies before it left them, or where they were asked for. */
  #from(s: number): Place[] {
    return s > 0 && !this.#kinds[s - 1] ? this.#places(s - 1) : this.#places(s);
  }

  /** Fragments of the DFT matrix, and which part of the product a subgroup takes. */
  #prologue(): void {
    if (!this.#dense) return;
    const { text, spec } = this;
    const { shape, shares, lanes } = this.#dense;
    const { M, K } = shape;
    text.line(`let row_part = t / ${lanes}u % ${shares.rowParts}u;`);
    text.line(`let column_part = t / ${lanes * shares.rowParts}u;`);
    const side = 2 * spec.radix;
    for (let i = 0; i < shares.rowBlocks / shares.rowParts; i++) {
      const row = `(${i * shares.rowParts}u + row_part) * ${M * side}u`;
      for (let k = 0; k < shares.innerBlocks; k++)
        text.line(
          `let dft_${i}_${k} = subgroupMatrixLoad<subgroup_matrix_left<f16, ${K}, ${M}>, row_major>(&dft, ${row} + ${k * K}u, ${side}u);`,
        );
    }
  }

  finish(): FormKernel {
    const { text, spec, stages } = this;
    const { radix, points, threads, form } = spec;
    this.#prologue();
    const state = this.#linear.map((place, j) => {
      text.line(`var re${j} = input[group.x % ${tiles}u * ${points}u + ${sum(place)}].x;`);
      text.line(`var im${j} = input[group.x % ${tiles}u * ${points}u + ${sum(place)}].y;`);
      return { re: `re${j}`, im: `im${j}` };
    });
    text.line("for (var i = 0u; i < p.rounds; i++) {");
    // `step` is 0, which no compiler knows: it cannot keep twiddles in registers from one round to the next.
    text.line(`let block = (group.x + i * p.step) % ${tiles}u;`);
    const values = this.#round(state);
    const gain = form === "butterflies" ? Math.sqrt(radix ** stages.length) : 1;
    const assign = (scale: string): void =>
      values.forEach(({ re, im }, j) => {
        text.line(`re${j} = ${re}${scale}; im${j} = ${im}${scale};`);
      });
    assign("");
    if (gain > 1) {
      text.line(`if (i % ${unscaled}u == ${unscaled - 1}u) {`);
      for (const { re, im } of state)
        text.line(
          `${re} *= ${literal(gain ** -unscaled)}; ${im} *= ${literal(gain ** -unscaled)};`,
        );
      text.line("}");
    }
    text.line("}");
    text.line(`if (group.x < ${tiles}u) {`);
    this.#linear.forEach((place, j) => {
      text.line(`output[group.x * ${points}u + ${sum(place)}] = vec2f(re${j}, im${j});`);
    });
    text.line("}");
    const dense = this.#dense;
    const fragments = dense ? [this.#entries("x"), this.#entries("y")] : [0, 0];
    const [x, y] = fragments as [number, number];
    const result = dense?.shape.result ?? "f32";
    const shared = this.tile.shared.stride;
    const code = [
      ...(dense
        ? [
            "enable f16;",
            "enable chromium_experimental_subgroup_matrix;",
            // Which part a subgroup takes is the same for all of its threads; the analysis cannot see it.
            "diagnostic(off, chromium.subgroup_matrix_uniformity);",
          ]
        : []),
      "struct Parameters { rounds: u32, step: u32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      "@group(0) @binding(1) var<storage, read> input: array<vec2f>;",
      "@group(0) @binding(2) var<storage, read_write> output: array<vec2f>;",
      ...(form.startsWith("dense")
        ? []
        : ["@group(0) @binding(3) var<storage, read> twiddles: array<vec4f>;"]),
      ...(dense
        ? [
            "@group(0) @binding(4) var<storage, read> factors: array<vec2f>;",
            "@group(0) @binding(5) var<storage, read> dft: array<f16>;",
            `var<workgroup> shared_x: array<f16, ${x}>;`,
            `var<workgroup> shared_y: array<${result}, ${y}>;`,
          ]
        : [`var<workgroup> shared_x: array<f32, ${shared}>;`]),
      `@compute @workgroup_size(${threads})`,
      "fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) group: vec3u) {",
      ...(dense ? [] : ["let shared_base = 0u;"]),
      ...text.lines,
      "}",
      "",
    ].join("\n");
    const share = this.#kinds.filter(Boolean).length / this.#kinds.length;
    return {
      code,
      stages: this.#kinds.length,
      gain,
      // Unitary; in the mix it takes back what the butterflies before it have grown by.
      matrixScale: form === "mix" ? 1 / radix : 1 / Math.sqrt(radix),
      sharedBytes: dense ? 2 * x + (result === "f32" ? 4 : 2) * y : 4 * shared,
      // Twiddles of a dense stage: a complex product.
      flops: share * (8 * radix + 6) + (1 - share) * butterflyFlops(radix),
    };
  }
}

/** Where the factors of a stage begin in the table of all: one for each sub-block of every tile's blocks. */
export function factorOffset(stages: readonly Stage[], s: number, points: number): number {
  return stages.slice(0, s).reduce((n, { rest }) => n + (tiles * points) / rest, 0);
}

/** Generate a kernel, or say why there is none. */
export function formKernel(spec: FormSpec): FormKernel | string {
  const { radix, points, threads, dense } = spec;
  if (!spec.form.startsWith("dense") && (points / radix) % threads !== 0)
    return `${threads} threads do not divide ${points / radix} butterflies`;
  const shares = dense && sharesOf(spec, dense);
  return typeof shares === "string" ? shares : new FormWriter(spec, shares).finish();
}
