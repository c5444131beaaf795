/** Who multiplies: threads that hold cells of C in registers, or subgroups that multiply matrices. One interface, so that a kernel has either. */
import type { SharedArray } from "../dialect/wgsl.ts";
import {
  barrier,
  constant,
  floats,
  longFunction,
  loopHead,
  matrices,
  zero,
} from "../dialect/wgsl.ts";
import type { Text } from "../text.ts";
import { finished } from "./epilogue.ts";
import type { OperandSlices } from "./operand.ts";
import { partsOf, quad } from "./operand.ts";
import type { ProductKernel } from "./spec.ts";
import { partialStride } from "./spec.ts";

/** The multiplying part of a kernel. */
export interface Workers {
  readonly shared: readonly SharedArray[];
  readonly functions: readonly string[];
  /** Where the worker stands, and its cells, which begin as zeros. */
  begin(text: Text): void;
  /** The products of one step, whose slices lie in the half that `half` numbers where there are two. */
  multiply(text: Text, half: string): void;
  /** All cells go to `finish`, or to partial sums from `plane` on. */
  end(text: Text): void;
}

const upTo = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Threads: each has quads of cells a whole row of threads apart, so that neighbours read neighbouring banks. */
export class ThreadWorkers implements Workers {
  readonly shared: readonly SharedArray[] = [];
  readonly functions: readonly string[] = [];
  readonly #spec: ProductKernel;
  readonly #a: OperandSlices;
  readonly #b: OperandSlices;
  readonly #down: readonly number[];
  readonly #along: readonly number[];

  constructor(spec: ProductKernel, a: OperandSlices, b: OperandSlices) {
    const { m, n, rows, columns } = spec.tile;
    this.#spec = spec;
    this.#a = a;
    this.#b = b;
    this.#down = upTo(m / rows / quad).map((i) => i * rows * quad);
    this.#along = upTo(n / columns / quad).map((i) => i * columns * quad);
  }

  begin(text: Text): void {
    const { columns } = this.#spec.tile;
    text.constant("down", `lane / ${columns}u * ${quad}u`);
    text.constant("along", `lane % ${columns}u * ${quad}u`);
    for (const i of this.#down)
      for (const r of upTo(quad))
        for (const j of this.#along) text.variable(`sum${i + r}_${j}`, zero("vec4f"));
  }

  multiply(text: Text, half: string): void {
    const { tile, machine } = this.#spec;
    const quadOf = (slices: OperandSlices, place: string, offset: number): string => {
      const { name } = slices.operand;
      const { unit } = slices;
      const index = `step_k * ${slices.stride / unit}u + ${place} / ${unit}u + ${offset / unit}u`;
      const at = text.hold("at", slices.from(half, index));
      const alone = upTo(quad).map((c) => `shared_${name}[${at} + ${c}u]`);
      return text.hold("q", unit > 1 ? `shared_${name}[${at}]` : floats(alone));
    };
    text.loop("step_k", "0u", `step_k < ${tile.k}u`, "step_k++", () => {
      const left = this.#down.map((i) => quadOf(this.#a, "down", i));
      const right = this.#along.map((j) => quadOf(this.#b, "along", j));
      this.#down.forEach((i, at) => {
        partsOf(left[at]!, quad).forEach((x, r) => {
          this.#along.forEach((j, of) => {
            const sum = `sum${i + r}_${j}`;
            const product = `${x} * ${right[of]}`;
            const fused = `fma(${floats(upTo(quad).map(() => x))}, ${right[of]}, ${sum})`;
            text.line(`${sum} = ${machine.slowFma ? `${sum} + ${product}` : fused};`);
          });
        });
      });
    });
  }

  end(text: Text): void {
    const { c, splits } = this.#spec;
    for (const i of this.#down)
      for (const r of upTo(quad))
        for (const j of this.#along) {
          const [row, column] = [`row + down + ${i + r}u`, `column + along + ${j}u`];
          const sum = `sum${i + r}_${j}`;
          if (splits) {
            const at = `plane + (${row}) * ${partialStride(this.#spec)} + ${column}`;
            text.line(`scratch[(${at}) / ${quad}u] = ${sum};`);
          } else text.line(...finished(c, row, column, partsOf(sum, quad)));
        }
  }
}

/** Subgroups: each has a part of the tile in matrices of the shape that the device multiplies. */
export class SubgroupWorkers implements Workers {
  readonly functions: readonly string[];
  readonly shared: readonly SharedArray[];
  readonly #spec: ProductKernel;
  readonly #a: OperandSlices;
  readonly #b: OperandSlices;
  /** Matrices of a subgroup's part, down and along; along, those that go through shared memory at once. */
  readonly #down: number;
  readonly #along: number;
  readonly #strip: number;
  readonly #lanes: number;

  constructor(spec: ProductKernel, a: OperandSlices, b: OperandSlices) {
    const { m, n, rows, columns, shape, threads, strip } = spec.tile;
    this.#spec = spec;
    this.#a = a;
    this.#b = b;
    this.#down = m / rows / shape!.m;
    this.#along = n / columns / shape!.n;
    this.#strip = Math.min(this.#along, strip ?? 1);
    this.#lanes = threads / rows / columns;
    const subgroups = rows * columns;
    this.shared = spec.splits
      ? []
      : [{ name: "shared_c", element: "vec4f", count: subgroups * shape!.m * this.#stripStride }];
    this.functions = spec.splits ? [] : [this.#finishStrip()];
  }

  /** Quads of a strip's row in shared memory; with two more, half a subgroup stores four rows to different banks. */
  get #stripStride(): number {
    return (this.#strip * this.#spec.tile.shape!.n) / quad + 2;
  }

  /** A subgroup's cells in shared memory, to `finish`. */
  #finishStrip(): string {
    const { shape } = this.#spec.tile;
    const across = (this.#strip * shape!.n) / quad;
    const [down, along] = [`cell / ${across}u`, `cell % ${across}u`];
    return longFunction(
      "finish_strip",
      "item: u32, first: u32, worker: u32, row: u32, column: u32",
      undefined,
      [
        barrier,
        loopHead("cell", "worker", `cell < ${shape!.m * across}u`, `cell += ${this.#lanes}u`),
        constant("x", `shared_c[first + ${down} * ${this.#stripStride}u + ${along}]`),
        ...finished(
          this.#spec.c,
          `row + ${down}`,
          `column + ${along} * ${quad}u`,
          partsOf("x", quad),
        ),
        "}",
        barrier,
      ],
    );
  }

  begin(text: Text): void {
    const { m, n, rows, columns, shape } = this.#spec.tile;
    text.constant("subgroup", `lane / ${this.#lanes}u`);
    text.constant("down", `subgroup / ${columns}u * ${m / rows}u`);
    text.constant("along", `subgroup % ${columns}u * ${n / columns}u`);
    for (const i of upTo(this.#down))
      for (const j of upTo(this.#along)) text.line(matrices.zeros(`sum${i}_${j}`, shape!));
  }

  multiply(text: Text, half: string): void {
    const { k, shape } = this.#spec.tile;
    const factor = (slices: OperandSlices, place: string, cell: number, at: number): string => {
      const { rowsAlongK, operand, unit } = slices;
      const stride = slices.stride / unit;
      const cells = `(${place} + ${cell}u)`;
      const index = rowsAlongK
        ? `${cells} * ${stride}u + ${at / unit}u`
        : `${at * stride}u + ${cells} / ${unit}u`;
      const side = operand.name === "a" ? "left" : "right";
      const byColumns = rowsAlongK === (side === "right");
      const from = {
        array: `shared_${operand.name}`,
        at: slices.from(half, index),
        stride: `${stride}u`,
      };
      return text.hold("f", matrices.load(side, shape!, { ...from, byColumns }));
    };
    for (let at = 0; at < k; at += shape!.k) {
      const left = upTo(this.#down).map((i) => factor(this.#a, "down", i * shape!.m, at));
      for (const j of upTo(this.#along)) {
        const right = factor(this.#b, "along", j * shape!.n, at);
        for (const i of upTo(this.#down))
          text.line(matrices.multiply(`sum${i}_${j}`, left[i]!, right));
      }
    }
  }

  end(text: Text): void {
    const { splits, tile } = this.#spec;
    const { shape } = tile;
    if (!splits) text.constant("strip", `subgroup * ${shape!.m * this.#stripStride}u`);
    for (const i of upTo(this.#down))
      for (const j of upTo(this.#along)) {
        const row = `row + down + ${i * shape!.m}u`;
        if (splits) {
          const stride = partialStride(this.#spec);
          const cell = `plane + (${row}) * ${stride} + column + along + ${j * shape!.n}u`;
          const to = {
            array: "scratch",
            at: `(${cell}) / ${quad}u`,
            stride: `${stride} / ${quad}u`,
          };
          text.line(matrices.store(`sum${i}_${j}`, to));
          continue;
        }
        const part = j % this.#strip;
        const at = `strip + ${(part * shape!.n) / quad}u`;
        const to = { array: "shared_c", at, stride: `${this.#stripStride}u` };
        text.line(matrices.store(`sum${i}_${j}`, to));
        if (part < this.#strip - 1) continue;
        const column = `column + along + ${(j - part) * shape!.n}u`;
        text.line(`finish_strip(item, strip, lane % ${this.#lanes}u, ${row}, ${column});`);
      }
  }
}
