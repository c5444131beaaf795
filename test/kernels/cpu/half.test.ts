/** Half precision in the generated kernels: every 16-bit pattern through a load and a store, and rounding of ties. */
import { describe, expect, test } from "vitest";
import { fromBfloat16, fromFloat16, toBfloat16, toFloat16 } from "../../../src/dtype.ts";
import type { KernelModule, Statement } from "../../../src/kernels/cpu/ir.ts";
import { printJavaScript } from "../../../src/kernels/cpu/print/javascript.ts";
import { printWasm } from "../../../src/kernels/cpu/print/wasm.ts";
import { Graph } from "../../../src/math/expr.ts";

type Half = "float16" | "bfloat16";
const formats = ["float16", "bfloat16"] as const;
const reference = {
  float16: { read: fromFloat16, write: toFloat16 },
  bfloat16: { read: fromBfloat16, write: toBfloat16 },
};

/** convert(from, to, end): a loop that loads one format and stores another. */
function converter(from: Half | "float32", to: Half | "float32", lanes: 1 | 4): KernelModule {
  const bytes = (f: string): number => (f === "float32" ? 4 : 2);
  const g = new Graph();
  const value = g.load({ pointer: "p", offset: 0 }, from, 0, lanes);
  const body: Statement = {
    op: "loop",
    variable: "p",
    from: "x",
    end: "end",
    step: bytes(from) * lanes,
    also: [{ name: "q", from: "y", step: bytes(to) * lanes }],
    body: [
      {
        op: "block",
        stores: [{ at: { pointer: "q", offset: 0 }, format: to, value, first: 0, last: lanes }],
      },
    ],
    nonempty: true,
  };
  return {
    lanes,
    functions: [{ name: "convert", parameters: ["x", "y", "end"], body: [body], exported: true }],
  };
}

const bytes = 1 << 21;
const half = bytes / 2;
type Convert = (x: number, y: number, end: number) => void;

function open(
  from: Half | "float32",
  to: Half | "float32",
  lanes: 1 | 4,
): { buffer: ArrayBuffer; convert: Convert } {
  const module = converter(from, to, lanes);
  if (lanes === 1) {
    const buffer = new ArrayBuffer(bytes);
    const make = new Function("memory", printJavaScript(module)) as (b: ArrayBuffer) => {
      convert: Convert;
    };
    return { buffer, ...make(buffer) };
  }
  const memory = new WebAssembly.Memory({ initial: bytes / 65_536 });
  const binary = printWasm(module, {
    relaxed: false,
    sharedPages: undefined,
  }) as Uint8Array<ArrayBuffer>;
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(binary), { env: { memory } });
  return { buffer: memory.buffer, convert: exports.convert as Convert };
}

describe.each([1, 4] as const)("%i lane(s)", (lanes) => {
  test.each(formats)("every %s pattern widens exactly", (format) => {
    const { buffer, convert } = open(format, "float32", lanes);
    new Uint16Array(buffer, 0, 65_536).set(Uint16Array.from({ length: 65_536 }, (_, i) => i));
    convert(0, half, 131_072);
    const got = new Float32Array(buffer, half, 65_536);
    for (let i = 0; i < 65_536; i++) {
      const want = Math.fround(reference[format].read(i));
      if (!Object.is(got[i], want)) expect([i, got[i]]).toEqual([i, want]);
    }
  });

  test.each(formats)("%s rounds to nearest, ties to even, through all magnitudes", (format) => {
    const { buffer, convert } = open("float32", format, lanes);
    const { read, write } = reference[format];
    const values: number[] = [
      0,
      -0,
      Infinity,
      -Infinity,
      NaN,
      65_504,
      65_519.99,
      65_520,
      3.4e38,
      -3.4e38,
      1e-45,
    ];
    for (let bits = 0; bits < 0x7c00; bits += 7) {
      const [a, b] = [read(bits), read(bits + 1)];
      const middle = (a + b) / 2;
      values.push(a, middle, -middle, middle * (1 + 2 ** -20), middle * (1 - 2 ** -20));
    }
    while (values.length % 4) values.push(0);
    const input = Float32Array.from(values);
    new Float32Array(buffer, 0, input.length).set(input);
    convert(0, half, 4 * input.length);
    const got = new Uint16Array(buffer, half, input.length);
    input.forEach((x, i) => {
      const want = write(x);
      if (Number.isNaN(x)) expect(read(got[i]!)).toBeNaN();
      else if (got[i] !== want) expect([x, got[i]]).toEqual([x, want]);
    });
  });
});
