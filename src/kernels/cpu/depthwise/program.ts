/**
 * Short depthwise convolutions → functions. Samples pass through a window of float32 in work memory: zeros, carried state
 * and half precision are dealt with while it is filled, so that the filters see nothing but consecutive float32. Where
 * data are float32 and no edge is near, the filters read the user's samples themselves.
 */
import { exported } from "../function-names.ts";
import type { KernelFunction, KernelModule } from "../ir.ts";
import type { ProgramSource } from "../program-source.ts";
import type { DepthwiseSpec, Frame } from "./addressing.ts";
import {
  cellOffset,
  eachCell,
  filterParameters,
  filterWalk,
  frame,
  rows,
  storeCell,
} from "./addressing.ts";
import { formCode } from "./forms.ts";
import { gradientFunctions } from "./gradients.ts";
import { walk } from "./loops.ts";

/** {name}(windows…, taps…, biases…, outputs…, count, width): filters and what stands behind them. */
function filterFunction(f: Frame, name: "filter" | "direct", window: number): KernelFunction {
  const { form, dtype } = f.spec.problem;
  const outputs = Array.from({ length: f.outputs }, (_, o) => `y${o}`);
  const filters = { window, branches: Array.from({ length: f.branches }, (_, b) => b) };
  const pointers = outputs.map((y) => rows(f, y, f.output, dtype));
  const { forward } = formCode(form);
  return exported(
    name,
    [...filterParameters(filters), ...outputs, "count", "width"],
    filterWalk(f, filters, pointers, false, (g, cell, z, stored) =>
      forward(g, z).map((y, o) => storeCell(f, outputs[o]!, f.output, dtype, cell, y, stored)),
    ),
  );
}

/** {name}(x, s, count, width): samples widened into a window; the last vector may write beyond its end. */
function fillFunction(f: Frame, name: "fill" | "fillUpstream", position: number): KernelFunction {
  const { problem, lanes } = f.spec;
  const { layout, dtype } = problem;
  const block = eachCell((g, cell) => {
    const offset = cellOffset(f, dtype, position, cell);
    const x = g.load({ pointer: "xp", offset }, dtype, 0, lanes);
    return [storeCell(f, "s", f.window, "float32", cell, x, lanes)];
  });
  const pointers = [rows(f, "x", position, dtype), rows(f, "s", f.window, "float32")];
  const shape = layout === "BHL" ? { rows: 8, vectors: 1 } : { rows: 1, vectors: 4 };
  const body = walk({ layout, lanes, ...shape, pointers, overrun: true, block });
  return exported(name, ["x", "s", "count", "width"], body);
}

/** zero(s, count, width): zeros in a window; the last vector may write beyond its end. */
function zeroFunction(f: Frame): KernelFunction {
  const { lanes } = f.spec;
  const block = eachCell((g, cell) => [
    storeCell(f, "s", f.window, "float32", cell, g.constant(0), lanes),
  ]);
  const pointers = [rows(f, "s", f.window, "float32")];
  const { layout } = f.spec.problem;
  const body = walk({ layout, lanes, rows: 1, vectors: 1, pointers, overrun: true, block });
  return exported("zero", ["s", "count", "width"], body);
}

/** All functions of a program. */
function buildDepthwise(spec: DepthwiseSpec): KernelModule {
  const f = frame(spec);
  const { layout, dtype } = spec.problem;
  const shared = [zeroFunction(f), fillFunction(f, "fill", f.input)];
  if (spec.kind === "backward") {
    const upstream = fillFunction(f, "fillUpstream", f.output);
    return { lanes: spec.lanes, functions: [...shared, upstream, ...gradientFunctions(f)] };
  }
  const filters = [filterFunction(f, "filter", f.window)];
  // Float32 in place: in layout BHL it lies as it does in a window.
  if (dtype === "float32" && layout === "BLH") filters.push(filterFunction(f, "direct", f.input));
  return { lanes: spec.lanes, functions: [...shared, ...filters] };
}

/**
 * The program of a problem: H belongs to it only in layout BLH, where rows lie H samples apart, and padding not at all.
 */
export function depthwiseSource(spec: Omit<DepthwiseSpec, "lanes">): ProgramSource {
  const { layout, form, dtype, kernelLength, channels } = spec.problem;
  const text = { layout, form, dtype, kernelLength, channels: layout === "BLH" ? channels : 0 };
  return {
    key: JSON.stringify(["depthwise", spec.kind, text]),
    build: (lanes) => buildDepthwise({ ...spec, lanes }),
  };
}
