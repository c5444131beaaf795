/** Kernels of matrix products: a tile of C for a workgroup, step by step over k; and the sum of partial sums. */
import type { Binding } from "../dialect/wgsl.ts";
import { constants, kernelText, leave, loopHead, when, workgroup } from "../dialect/wgsl.ts";
import type { Kernel } from "../kernel.ts";
import { Text } from "../text.ts";
import { epilogueOf, finished } from "./epilogue.ts";
import { OperandSlices, partsOf, vectorType } from "./operand.ts";
import type { ProductKernel } from "./spec.ts";
import { partialPlane, partialStride, productParameters } from "./spec.ts";
import type { Workers } from "./workers.ts";
import { subgroupWorkers, threadWorkers } from "./workers.ts";

/** Threads of the kernel that adds partial sums. */
export const joinThreads = 256;

/** Which tile, item and part of k a workgroup has: bands of rows, column by column. */
function place(text: Text, { tile, splits }: ProductKernel): void {
  text.constant("number", workgroup);
  text.line(...when("number >= p.tiles", [leave]));
  const values = {
    part: "number / p.each",
    place: "number % p.each",
    in_band: "p.band * p.columns",
    top: "place / in_band * p.band",
    height: "min(p.band, p.rows - top)",
    row: `(top + place % in_band % height) * ${tile.m}u`,
    column: `place % in_band / height * ${tile.n}u`,
    a_origin: "row",
    b_origin: "column",
    first: splits ? "part / p.items * p.share" : "0u",
    last: splits ? "min(first + p.share, p.total)" : "p.total",
  };
  text.line(...constants(values));
}

/** The kernel of a product, or of its partial sums. */
export function productKernel(spec: ProductKernel): Kernel {
  const { tile, sumsBatch, splits } = spec;
  const text = new Text(!spec.machine.slowFma);
  const slices = [new OperandSlices(spec, spec.a), new OperandSlices(spec, spec.b)] as const;
  const workers: Workers = tile.shape
    ? subgroupWorkers(spec, ...slices)
    : threadWorkers(spec, ...slices);
  const load = (step: string): void => {
    text.line("{");
    const k = sumsBatch ? `${step} % p.steps` : step;
    text.line(...constants({ first_k: `${k} * ${tile.k}u` }));
    text.line(...constants({ item: sumsBatch ? `${step} / p.steps` : "result_item" }));
    for (const s of slices) s.load(text);
    text.line("}");
  };
  const stage = (half: string): void => {
    for (const s of slices) {
      text.line("{");
      s.stage(text, half);
      text.line("}");
    }
  };
  place(text, spec);
  text.constant("result_item", splits ? "part % p.items" : "part");
  for (const s of slices) s.begin(text);
  workers.begin(text);
  load("first");
  stage("");
  text.barrier();
  text.loop("step", "first", "step < last", "step++", () => {
    const half = "((step - first) & 1u)";
    const more = "step + 1u < last";
    text.when(more, () => load("(step + 1u)"));
    workers.multiply(text, tile.twice ? half : "");
    if (!tile.twice) text.barrier();
    text.when(more, () => stage(tile.twice ? `(1u - ${half})` : ""));
    text.barrier();
  });
  text.constant("item", "result_item");
  if (splits) text.constant("plane", `part * ${partialPlane(spec)}`);
  workers.end(text);
  const partial: Binding = { name: "scratch", access: "read_write", element: "vec4f" };
  const ending = splits ? { bindings: [partial], functions: [] } : epilogueOf(spec);
  const bindings = [...slices.map((s) => s.binding), ...ending.bindings];
  const code = kernelText({
    bindings,
    parameters: productParameters,
    shared: [...slices.map((s) => s.shared), ...workers.shared],
    functions: [...ending.functions, ...workers.functions],
    threads: tile.threads,
    halves: tile.shape !== undefined,
    matrices: tile.shape !== undefined,
    body: text.lines,
  });
  return { code, bindings, parameters: productParameters, tiles: 1, tilesPerUnit: 1 };
}

/** What the kernel that adds partial sums depends on. */
export type ProductJoin = Pick<ProductKernel, "c" | "epilogue" | "machine" | "tile">;

/** The kernel that adds the partial sums of each cell, in order, and does the epilogue; its tiles are neighbours of C. */
export function joinKernel(spec: ProductJoin): Kernel {
  const { width } = spec.c;
  const text = new Text(!spec.machine.slowFma);
  text.constant("number", `(${workgroup}) * ${joinThreads}u + lane`);
  text.line(...when("number >= p.tiles", [leave]));
  const values = {
    across: `p.n / ${width}u`,
    line: "number / across",
    item: "line / p.m",
    row: "line % p.m",
    column: `number % across * ${width}u`,
    plane: partialPlane(spec),
    start: `item * plane + row * ${partialStride(spec)} + column`,
  };
  text.line(...constants(values));
  const element = vectorType("f32", width);
  text.variable("x", `scratch[start / ${width}u]`);
  text.line(loopHead("s", "1u", "s < p.splits", "s++"));
  text.line(`x += scratch[(start + s * p.items * plane) / ${width}u];`, "}");
  text.line(...finished(spec.c, "row", "column", partsOf("x", width)));
  const ending = epilogueOf({ ...spec, edges: { cells: false, k: false } });
  const bindings: Binding[] = [{ name: "scratch", access: "read", element }, ...ending.bindings];
  const code = kernelText({
    ...{ bindings, parameters: productParameters, functions: ending.functions },
    ...{ threads: joinThreads, body: text.lines },
  });
  const each = { tiles: joinThreads, tilesPerUnit: 1 };
  return { code, bindings, parameters: productParameters, ...each };
}
