/** A user's first program, compiled and run against the packed package: answers are checked by hand. */
import { convolve, FlashFFTConv, InvalidArgumentError, UnsupportedError } from "flashfftconv";

function expectClose(actual: ArrayLike<number>, expected: readonly number[]): void {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values`);
  expected.forEach((value, n) => {
    if (!(Math.abs(actual[n]! - value) < 1e-5))
      throw new Error(`${actual[n]} at ${n}, not ${value}`);
  });
}

expectClose(await convolve(Float32Array.of(1, 2, 3), Float32Array.of(1, 0, -1)), [1, 2, 2, -2, -3]);

expectClose(await convolve([1, 2, 3], [1, 1]), [1, 3, 5, 3]);

const conv = await FlashFFTConv.create({ length: 3, kernelLength: 2, threads: 1 });
const kernel = await conv.prepareKernel(Float32Array.of(1, 10, 2, 20));
const u = Float32Array.of(1, 2, 3, 4, 5, 6);
expectClose(await conv.forward(u, kernel), [1, 12, 23, 8, 90, 112]);
const { du, dk } = await conv.backward(Float32Array.of(1, 1, 1, 1, 1, 1), u, kernel);
expectClose(du, [11, 11, 1, 22, 22, 2]);
expectClose(dk, [6, 3, 15, 9]);
await conv.dispose();

const refusal = await FlashFFTConv.create({ length: -1 }).catch((error: unknown) => error);
if (!(refusal instanceof InvalidArgumentError)) throw new Error(`no refusal: ${refusal}`);

// Without the package webgpu, which is optional.
const missing = await FlashFFTConv.create({ length: 3, backend: "webgpu" }).catch(
  (e: unknown) => e,
);
if (!(missing instanceof UnsupportedError)) throw new Error(`a GPU from nowhere: ${missing}`);
console.log("imported, compiled, convolved, refused: as it should be");
