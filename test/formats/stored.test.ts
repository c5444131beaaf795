/** Tensors of arrays, and the values of stored ones. */
import { describe, expect, test } from "vitest";
import { fromBfloat16, fromFloat16 } from "../../src/dtype.ts";
import { InvalidArgumentError, UnsupportedError } from "../../src/errors.ts";
import { openPyTorch } from "../../src/formats/pytorch.ts";
import { float32Of, tensorOf } from "../../src/formats/stored.ts";
import { goldOf, goldPath, listed, rounded } from "./support.ts";

describe("values", () => {
  test.each([
    ["F64", Float64Array.of(0.1, -1e300, 2), [Math.fround(0.1), -Infinity, 2]],
    ["I64", BigInt64Array.of(-(2n ** 40n), 3n), [-(2 ** 40), 3]],
    ["U64", BigUint64Array.of(2n ** 63n), [2 ** 63]],
    ["I32", Int32Array.of(-5), [-5]],
    ["U32", Uint32Array.of(4e9), [4e9]],
    ["I16", Int16Array.of(-5), [-5]],
    ["U16", Uint16Array.of(65535), [65535]],
    ["I8", Int8Array.of(-5), [-5]],
    ["U8", Uint8Array.of(200), [200]],
  ] as const)("%s becomes float32, and the array says its type", async (dtype, array, values) => {
    const tensor = tensorOf(array, [array.length]);
    expect(tensor.dtype).toBe(dtype);
    expect(Array.from(await float32Of(tensor))).toEqual(values);
  });

  test("all halves, of both kinds", async () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    for (const [dtype, widen] of [
      ["F16", fromFloat16],
      ["BF16", fromBfloat16],
    ] as const) {
      const values = await float32Of(tensorOf(bits, [65536], dtype));
      expect(values.length).toBe(65536);
      expect(bits.every((one, i) => Object.is(values[i], Math.fround(widen(one))))).toBe(true);
    }
  });

  test("a tensor is a part of an array, as long as its shape, of a type that is one", async () => {
    const part = new Float32Array([9, 1, 2, 9]).subarray(1, 3);
    expect(Array.from(await float32Of(tensorOf(part, [2])))).toEqual([1, 2]);
    expect(() => tensorOf(part, [3])).toThrow(InvalidArgumentError);
    expect(() => tensorOf(part, [2], "F99" as never)).toThrow(InvalidArgumentError);
    expect(() => tensorOf(new DataView(new ArrayBuffer(8)), [2])).toThrow(InvalidArgumentError);
    await expect(float32Of(tensorOf(new Uint8Array(2), [2], "F8_E4M3"))).rejects.toBeInstanceOf(
      UnsupportedError,
    );
  });

  test("a difference is seen: zeros, a shift by one, a lost last element", async () => {
    const gold = rounded(goldOf("state.pt").base!);
    const file = await openPyTorch(goldPath("state.pt"));
    const right = await listed(file.tensors.get("base")!);
    expect(right).toEqual(gold);
    const { values } = right;
    for (const wrong of [
      values.map(() => 0),
      [values.at(-1)!, ...values.slice(0, -1)],
      values.slice(0, -1),
    ])
      expect({ ...right, values: wrong }).not.toEqual(gold);
    await file.close();
  });
});
