/**
 * Scales of rows that share a transform. Rounding errors of two rows packed as one complex sequence go to both, so each row
 * is first divided by its norm, to the nearest power of two below, which loses no bit; and a row that is not finite stays
 * out of the transform and comes back as infinity or NaN.
 */
import type { Dtype } from "../../../dtype.ts";
import type { Packing } from "../../../plan/gpu/passes.ts";
import { literal } from "../dialect/wgsl.ts";
import type { Kernel, Machine, ScaleBuffer } from "../kernel.ts";
import { declarations, entry, reduction, rowFunctions } from "../kernel.ts";
import type { Binding, TensorName } from "../storage.ts";
import { tensorBinding, tensorFunctions } from "../storage.ts";
import type { Text } from "../text.ts";

/**
 * What samples are multiplied by before they are squared, as exponents of two: products of two float16 fit into float32 as
 * they are; others need one sum for the large and one for the small (Blue 1978).
 */
const prescales = { float16: [0], bfloat16: [40, -64], float32: [40, -64] } as const;

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

/**
 * The function `scales_of`: sums of squares of two rows → the first one's factor and its inverse, then the second one's. The
 * second's power of two brings its norm as near the first's as one can. A row of zeros has 1 and 0; a row that is not
 * finite has 0 and something that is not finite either.
 */
export function scaleFunctions(dtype: Dtype): readonly string[] {
  const [small, large] = prescales[dtype];
  // Logarithms of squared norms, in steps of 2^-23: a float32's bits are one, nearly. Sums below 2^120 have not overflowed.
  const log = (exponent: number, bits: string): string =>
    `i32(${bits}) - ${(127 + 2 * exponent) * 2 ** 23}`;
  const chosen =
    large === undefined
      ? ["let n = sums.x;", `let log = ${log(small, "bitcast<u32>(n)")};`]
      : [
          "let near = bitcast<u32>(sums.x) < 0x7b800000u;",
          "let n = select(sums.y, sums.x, near);",
          "let bits = bitcast<u32>(n);",
          `let log = select(${log(large, "min(bits, 0x7f7fffffu)")}, ${log(small, "bits")}, near);`,
        ];
  return [
    `struct Norm { square: f32, log: i32 }
fn norm_of(sums: vec2f) -> Norm {
  ${chosen.join("\n  ")}
  return Norm(n, log);
}
fn scale_by(norm: Norm, power: i32) -> vec2f {
  let bits = bitcast<u32>(norm.square);
  if (bits >= 0x7f800000u) { return vec2f(0.0f, norm.square); }
  if (bits == 0u) { return vec2f(1.0f, 0.0f); }
  let p = clamp(power, -126, 126);
  return vec2f(bitcast<f32>(u32(127 - p) << 23u), bitcast<f32>(u32(127 + p) << 23u));
}
fn scales_of(a: vec2f, b: vec2f) -> vec4f {
  let x = norm_of(a);
  let y = norm_of(b);
  let plain = x.square > 0.0f && bitcast<u32>(x.square) < 0x7f800000u;
  let first = x.log >> 24u;
  let apart = ((y.log >> 1u) - (x.log >> 1u) + 0x400000) >> 23u;
  return vec4f(scale_by(x, first), scale_by(y, select(y.log >> 24u, first + apart, plain)));
}`,
  ];
}

/** Threads of a workgroup, and samples that one takes. */
const threads = 256;
const chunk = 8192;
const packing: Packing = "rows";

/** Parts of a row whose squares are summed apart. */
export function normParts(width: number): number {
  return Math.ceil(width / chunk);
}

function kernelText(
  bindings: readonly Binding[],
  functions: readonly string[],
  sum: "vec2f" | "vec4f",
  lanes: number,
  body: readonly string[],
): string {
  return [
    ...(lanes > 1 ? ["enable subgroups;"] : []),
    ...declarations(bindings),
    `var<workgroup> partial: array<${sum}, ${threads / lanes}>;`,
    ...rowFunctions(packing),
    ...functions,
    `@compute @workgroup_size(${threads})`,
    entry,
    "let index = group.y * groups.x + group.x;",
    "let tile = min(index, p.tiles - 1u);",
    `var sum = ${sum}();`,
    ...body,
    "}",
    "",
  ].join("\n");
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
    return paired ? `${f}_pair(${f}_word(${at}))` : `vec2f(${f}_get(${at}), 0.0f)`;
  };
  const step = paired ? 2 : 1;
  const scaled = prescales[dtype].map((e) => `dot(x * ${literal(2 ** e)}, x * ${literal(2 ** e)})`);
  const code = kernelText(bindings, tensors.flatMap(tensorFunctions), "vec2f", lanes, [
    `let unit = tile / ${2 * parts}u;`,
    `let row = select(row_of(unit), partner_of(unit), tile / ${parts}u % 2u == 1u);`,
    `let begin = tile % ${parts}u * ${chunk}u;`,
    `for (var n = begin + lane * ${step}u; n < min(begin + ${chunk}u, ${width}u); n += ${step * threads}u) {`,
    `let x = ${factors.map(read).join(" * ")};`,
    `sum += vec2f(${scaled[0]}, ${scaled[1] ?? "0.0f"});`,
    "}",
    ...reduction(threads, lanes),
    "if (lane == 0u && index < p.tiles) { norms[index] = partial[0]; }",
  ]);
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
  const code = kernelText(bindings, scaleFunctions(dtype), "vec4f", lanes, [
    `for (var n = lane; n < ${parts}u; n += ${threads}u) {`,
    `let at = tile * ${2 * parts}u + n;`,
    `sum += vec4f(norms[at], norms[at + ${parts}u]);`,
    "}",
    ...reduction(threads, lanes),
    "if (lane == 0u && index < p.tiles) {",
    "let found = scales_of(partial[0].xy, partial[0].zw);",
    `${to}[2u * index] = found.xy;`,
    `${to}[2u * index + 1u] = select(vec2f(), found.zw, partner_of(tile) != row_of(tile));`,
    "}",
  ]);
  return { code, bindings, tiles: 1, tilesPerUnit: 1 };
}

/** Bytes of a pair's partial sums, and of its scales. */
export function normBytes(width: number): { readonly norms: number; readonly scales: number } {
  return { norms: 2 * normParts(width) * 8, scales: 2 * 8 };
}
