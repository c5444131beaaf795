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
export function threadWorkers(spec: ProductKernel, a: OperandSlices, b: OperandSlices): Workers {
  const { m, n, k, rows, columns } = spec.tile;
  const downs = upTo(m / rows / quad).map((i) => i * rows * quad);
  const alongs = upTo(n / columns / quad).map((i) => i * columns * quad);
  const each = (visit: (i: number, j: number, sum: string) => void): void => {
    for (const i of downs.flatMap((down) => upTo(quad).map((r) => down + r)))
      for (const j of alongs) visit(i, j, `sum${i}_${j}`);
  };
  const quadOf = (text: Text, half: string, of: OperandSlices, offset: number): string => {
    const { unit, stride, operand } = of;
    const place = operand.name === "a" ? "down" : "along";
    const index = `step_k * ${stride / unit}u + ${place} / ${unit}u + ${offset / unit}u`;
    const at = text.hold("at", of.from(half, index));
    const element = (i: number): string => `shared_${operand.name}[${at} + ${i}u]`;
    return text.hold("q", unit > 1 ? element(0) : floats(upTo(quad).map(element)));
  };
  return {
    shared: [],
    functions: [],
    begin(text) {
      text.constant("down", `lane / ${columns}u * ${quad}u`);
      text.constant("along", `lane % ${columns}u * ${quad}u`);
      each((_, __, sum) => text.variable(sum, zero("vec4f")));
    },
    multiply(text, half) {
      text.loop("step_k", "0u", `step_k < ${k}u`, "step_k++", () => {
        const left = downs.flatMap((i) => partsOf(quadOf(text, half, a, i), quad));
        const right = alongs.map((j) => quadOf(text, half, b, j));
        let at = 0;
        each((_, __, sum) => {
          const x = left[Math.floor(at / alongs.length)]!;
          const y = right[at++ % alongs.length];
          const fused = `fma(${floats(upTo(quad).map(() => x))}, ${y}, ${sum})`;
          text.line(`${sum} = ${spec.machine.slowFma ? `${sum} + ${x} * ${y}` : fused};`);
        });
      });
    },
    end(text) {
      each((i, j, sum) => {
        const [row, column] = [`row + down + ${i}u`, `column + along + ${j}u`];
        const at = `plane + (${row}) * ${partialStride(spec)} + ${column}`;
        if (spec.splits) text.line(`scratch[(${at}) / ${quad}u] = ${sum};`);
        else text.line(...finished(spec.c, row, column, partsOf(sum, quad)));
      });
    },
  };
}

/** Subgroups: each has a part of the tile in matrices of the shape that the device multiplies. */
export function subgroupWorkers(spec: ProductKernel, a: OperandSlices, b: OperandSlices): Workers {
  const { m, n, k, rows, columns, threads, strip: wanted = 1 } = spec.tile;
  const shape = spec.tile.shape!;
  const lanes = threads / rows / columns;
  const [downs, alongs] = [upTo(m / rows / shape.m), upTo(n / columns / shape.n)];
  // Matrices of a row that go through shared memory at once, in quads; with two more, half a subgroup stores to different banks.
  const strip = Math.min(alongs.length, wanted);
  const across = (strip * shape.n) / quad;
  const stripStride = across + 2;
  const each = (visit: (i: number, j: number, sum: string) => void): void => {
    for (const i of downs) for (const j of alongs) visit(i, j, `sum${i}_${j}`);
  };
  const factor = (text: Text, half: string, of: OperandSlices, number: number, at: number) => {
    const { rowsAlongK, operand, unit } = of;
    const left = operand.name === "a";
    const cells = left ? `(down + ${number * shape.m}u)` : `(along + ${number * shape.n}u)`;
    const stride = of.stride / unit;
    const index = rowsAlongK
      ? `${cells} * ${stride}u + ${at / unit}u`
      : `${at * stride}u + ${cells} / ${unit}u`;
    const from = { array: `shared_${operand.name}`, at: of.from(half, index) };
    const lies = { ...from, stride: `${stride}u`, byColumns: rowsAlongK !== left };
    return text.hold("f", matrices.load(left ? "left" : "right", shape, lies));
  };
  const cell = [`row + cell / ${across}u`, `column + cell % ${across}u * ${quad}u`] as const;
  const finishStrip = [
    barrier,
    loopHead("cell", "worker", `cell < ${shape.m * across}u`, `cell += ${lanes}u`),
    constant("x", `shared_c[first + cell / ${across}u * ${stripStride}u + cell % ${across}u]`),
    ...finished(spec.c, ...cell, partsOf("x", quad)),
    "}",
    barrier,
  ];
  const parameters = ["item", "first", "worker", "row", "column"].map((name) => `${name}: u32`);
  const count = rows * columns * shape.m * stripStride;
  return {
    shared: spec.splits ? [] : [{ name: "shared_c", element: "vec4f", count }],
    functions: spec.splits
      ? []
      : [longFunction("finish_strip", parameters.join(", "), undefined, finishStrip)],
    begin(text) {
      text.constant("subgroup", `lane / ${lanes}u`);
      text.constant("down", `subgroup / ${columns}u * ${m / rows}u`);
      text.constant("along", `subgroup % ${columns}u * ${n / columns}u`);
      each((_, __, sum) => text.line(matrices.zeros(sum, shape)));
    },
    multiply(text, half) {
      for (let at = 0; at < k; at += shape.k) {
        const left = downs.map((i) => factor(text, half, a, i, at));
        for (const j of alongs) {
          const right = factor(text, half, b, j, at);
          for (const i of downs) text.line(matrices.multiply(`sum${i}_${j}`, left[i]!, right));
        }
      }
    },
    end(text) {
      if (!spec.splits) text.constant("strip", `subgroup * ${shape.m * stripStride}u`);
      each((i, j, sum) => {
        const row = `row + down + ${i * shape.m}u`;
        const part = spec.splits ? 0 : j % strip;
        const column = `column + along + ${(j - part) * shape.n}u`;
        const stride = spec.splits ? `${partialStride(spec)} / ${quad}u` : `${stripStride}u`;
        const at = spec.splits
          ? `(plane + (${row}) * ${partialStride(spec)} + ${column}) / ${quad}u`
          : `strip + ${(part * shape.n) / quad}u`;
        const array = spec.splits ? "scratch" : "shared_c";
        text.line(matrices.store(sum, { array, at, stride }));
        if (!spec.splits && part === strip - 1)
          text.line(`finish_strip(item, strip, lane % ${lanes}u, ${row}, ${column});`);
      });
    },
  };
}
