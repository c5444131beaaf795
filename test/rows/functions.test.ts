/** Elementary functions where they run: over wide ranges on every backend against float64. */
import { expect, test } from "vitest";
import type { Graph, Node } from "../../src/math/expr.ts";
import { cos, erf, exp, log, sigmoid, sin, tanh } from "../../src/math/functions.ts";
import { RowBuilder } from "../../src/math/row-program.ts";
import { erf64 } from "../support/activations64.ts";
import { describeBackends, onCpu, onGpu } from "../support/backends.ts";
import { tensor } from "../support/row-operations.ts";
import { runOnCpu, runOnGpu, valuesOf } from "../support/row-programs.ts";

const count = 20_001;
const between = (from: number, to: number): number[] =>
  Array.from({ length: count }, (_, i) => Math.fround(from + ((to - from) * i) / (count - 1)));
const magnitudes = between(-125, 127.9).map((e) => Math.fround(2 ** e));

/** A function, its definition, where it is tried, and the size that errors are relative to at least. */
type Case = readonly [
  name: string,
  build: (g: Graph, x: Node) => Node,
  exact: (x: number) => number,
  points: readonly number[],
  floor: number,
];

const cases: readonly Case[] = [
  ["exp", exp, Math.exp, between(-87, 88), 0],
  ["log", log, Math.log, magnitudes, 0],
  ["log near 1", log, Math.log, between(0.5, 2), 0],
  ["sigmoid", sigmoid, (x) => 1 / (1 + Math.exp(-x)), between(-80, 80), 0],
  ["tanh", tanh, Math.tanh, between(-3, 3), 0],
  ["tanh far away", tanh, Math.tanh, between(-100, 100), 0],
  ["sin", sin, Math.sin, between(-1e4, 1e4), 1],
  ["cos", cos, Math.cos, between(-1e4, 1e4), 1],
  ["erf", erf, erf64, between(-6, 6), 0],
  ["sqrt", (g, x) => g.sqrt(x), Math.sqrt, magnitudes, 0],
];

/** WGSL divides and takes roots to 2.5 units in the last place. */
const bound = onGpu ? 5e-7 : 2e-7;

describeBackends(
  "functions",
  (_, configuration) => {
    test.each(cases)("%s", async (_name, build, exact, points, floor) => {
      const b = new RowBuilder();
      const x = b.input({ name: "x", kind: "cell", dtype: "float32" });
      b.store({ name: "y", kind: "cell", dtype: "float32" }, build(b.g, x));
      const shape = { rows: 1, columns: count };
      const tensors = {
        x: tensor(Float64Array.from(points)),
        y: tensor(new Float64Array(count)),
      };
      const program = b.finish();
      const found = onGpu
        ? await runOnGpu(program, shape, tensors)
        : await runOnCpu(onCpu(configuration), program, shape, tensors, 1);
      const y = valuesOf(found.y!, tensors.y);
      const error = (got: (i: number) => number): number =>
        points.reduce((worst, p, i) => {
          const want = exact(p);
          const size = Math.max(Math.abs(want), floor) || 1;
          return Math.max(worst, Math.abs(got(i) - want) / size);
        }, 0);
      expect(error((i) => y[i]!)).toBeLessThan(bound);
      expect(error((i) => y[Math.min(count - 1, i + 1)]!)).toBeGreaterThan(10 * bound);
    });
  },
  { threads: 1 },
);
