/**
 * Scales of rows that share a transform. Rounding errors of two rows packed as one complex sequence go to both, so each row
 * is first divided by its norm, to the nearest power of two below, which loses no bit; and a row that is not finite stays
 * out of the transform and comes back as infinity or NaN.
 */
import type { Dtype } from "../../../dtype.ts";
import type { Packing } from "../../../plan/gpu/passes.ts";
import type { Binding } from "../dialect/wgsl.ts";
import {
  choice,
  constant,
  constants,
  floats,
  kernelText,
  literal,
  loopHead,
  variable,
  workgroup,
  zero,
} from "../dialect/wgsl.ts";
import { scaleFunctions } from "../dialect/wgsl-functions.ts";
import type { Kernel, Machine, ScaleBuffer } from "../kernel.ts";
import { parameterNames, reduction, rowFunctions } from "../kernel.ts";
import type { TensorName } from "../storage.ts";
import { tensorBinding, tensorFunctions } from "../storage.ts";
import type { Text } from "../text.ts";

/**
 * What samples are multiplied by before they are squared, as exponents of two: products of two float16 fit into float32 as
 * they are; others need one sum for the large and one for the small (Blue 1978).
 */
export const prescales = { float16: [0], bfloat16: [40, -64], float32: [40, -64] } as const;

/** Sums that the norm of a row needs. */
export function accumulators(dtype: Dtype): number {
  return prescales[dtype].length;
}

/** Sums of squares of samples, by prescale; the names of the sums. */
export function squares(dtype: Dtype, text: Text, samples: readonly (string | 0)[]): string[] {
  return prescales[dtype].map((exponent) => {
    let sum = "0.0f";
    for (const x of samples) {
      if (x === 0) continue;
      const y = exponent === 0 ? x : text.hold("q", `${x} * ${literal(2 ** exponent)}`);
      sum = text.hold("q", text.fuses ? `fma(${y}, ${y}, ${sum})` : `${y} * ${y} + ${sum}`);
    }
    return sum;
  });
}

/** Threads of a workgroup, and samples that one takes. */
const threads = 256;
const chunk = 8192;
const packing: Packing = "rows";

/** Parts of a row whose squares are summed apart. */
export function normParts(width: number): number {
  return Math.ceil(width / chunk);
}

/** A kernel that adds up a vector of each thread: `terms` come to the thread's `sum`, and those of all to `partial[0]`, for `store`. */
function summing(
  bindings: readonly Binding[],
  functions: readonly string[],
  element: "vec2f" | "vec4f",
  lanes: number,
  terms: readonly string[],
  store: readonly string[],
): string {
  return kernelText({
    ...{ bindings, parameters: parameterNames, threads, shuffles: lanes > 1 },
    shared: [{ name: "partial", element, count: threads / lanes }],
    functions: [...rowFunctions(packing), ...functions],
    body: [
      ...constants({ index: workgroup, tile: "min(index, p.tiles - 1u)" }),
      variable("sum", zero(element)),
      ...terms,
      ...reduction(threads, lanes),
      ...store,
    ],
  });
}

/** Sums of squares of parts of rows: a tile for each part of each row of a pair, to `norms`. */
export function partialNorms(
  factors: readonly TensorName[],
  width: number,
  dtype: Dtype,
  { lanes = 1 }: Pick<Machine, "lanes">,
): Kernel {
  const paired = width % 2 === 0;
  const tensors = factors.map((name) => ({ name, dtype, writes: false, paired }));
  const bindings: Binding[] = [
    ...tensors.map(tensorBinding),
    { name: "norms", access: "read_write", element: "vec2f" },
  ];
  const parts = normParts(width);
  const read = (f: TensorName): string => {
    const at = `row * ${width}u + n + p.${f}`;
    return paired ? `${f}_pair(${f}_word(${at}))` : floats([`${f}_get(${at})`, "0.0f"]);
  };
  const step = paired ? 2 : 1;
  const scaled = prescales[dtype].map((e) => `dot(x * ${literal(2 ** e)}, x * ${literal(2 ** e)})`);
  const code = summing(
    ...([bindings, tensors.flatMap(tensorFunctions), "vec2f", lanes] as const),
    [
      ...constants({
        unit: `tile / ${2 * parts}u`,
        row: choice(`tile / ${parts}u % 2u == 1u`, "partner_of(unit)", "row_of(unit)"),
        begin: `tile % ${parts}u * ${chunk}u`,
      }),
      loopHead(
        ...(["n", `begin + lane * ${step}u`, `n < min(begin + ${chunk}u, ${width}u)`] as const),
        `n += ${step * threads}u`,
      ),
      constant("x", factors.map(read).join(" * ")),
      `sum += ${floats([scaled[0]!, scaled[1] ?? "0.0f"])};`,
      "}",
    ],
    ["if (lane == 0u && index < p.tiles) { norms[index] = partial[0]; }"],
  );
  return { code, bindings, tiles: 1, tilesPerUnit: 2 * parts };
}

/** Partial sums of squares → scales: a tile for each pair. */
export function rowScales(
  width: number,
  dtype: Dtype,
  to: ScaleBuffer,
  { lanes = 1 }: Pick<Machine, "lanes">,
): Kernel {
  const bindings: Binding[] = [
    { name: "norms", access: "read", element: "vec2f" },
    { name: to, access: "read_write", element: "vec2f" },
  ];
  const parts = normParts(width);
  const second = choice("partner_of(tile) != row_of(tile)", "found.zw", zero("vec2f"));
  const code = summing(
    ...([bindings, scaleFunctions(prescales[dtype]), "vec4f", lanes] as const),
    [
      loopHead("n", "lane", `n < ${parts}u`, `n += ${threads}u`),
      constant("at", `tile * ${2 * parts}u + n`),
      `sum += vec4f(norms[at], norms[at + ${parts}u]);`,
      "}",
    ],
    [
      "if (lane == 0u && index < p.tiles) {",
      constant("found", "scales_of(partial[0].xy, partial[0].zw)"),
      `${to}[2u * index] = found.xy;`,
      `${to}[2u * index + 1u] = ${second};`,
      "}",
    ],
  );
  return { code, bindings, tiles: 1, tilesPerUnit: 1 };
}

/** Bytes of a pair's partial sums, and of its scales. */
export function normBytes(width: number): { readonly norms: number; readonly scales: number } {
  return { norms: 2 * normParts(width) * 8, scales: 2 * 8 };
}
