/** What is passed wrong, and the errors that it meets. */
import { expect } from "vitest";
import { type ErrorParts, FlashFFTConvError, InvalidArgumentError } from "../../src/index.ts";

/** The error that `action` throws or rejects with: typed, its four parts filled and in its message. */
export async function refusal(action: () => unknown): Promise<ErrorParts & { message: string }> {
  let thrown: unknown;
  try {
    await action();
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(InvalidArgumentError);
  const { parts, message } = thrown as InvalidArgumentError;
  for (const part of [parts.call, parts.requirement, parts.value, parts.remedy]) {
    expect(part.trim()).not.toBe("");
    expect(message).toContain(part);
  }
  return { ...parts, message };
}

/** Anything at all, where the types would not let it pass. */
export const any = (value: unknown): never => value as never;

/** Expect the typed error of `call`. */
export async function refused(action: () => unknown, call: string, what: string): Promise<string> {
  let thrown: unknown = new Error(`${call} took ${what}`);
  try {
    await action();
  } catch (error) {
    thrown = error;
  }
  if (!(thrown instanceof FlashFFTConvError)) throw new Error(`${call}, ${what}: ${thrown}`);
  expect(thrown.parts.call, what).toBe(call);
  return thrown.message;
}

/** What options are not. */
export const notOptions: readonly (readonly [string, unknown])[] = [
  ["null", null],
  ["a number", 3],
  ["NaN", Number.NaN],
  ["a string", "fast"],
  ["an empty string", ""],
  ["false", false],
  ["a function", () => ({})],
  ["an array", []],
  ["an array of options", [{}]],
  ["a Map", new Map([["length", 8]])],
  ["a Set", new Set()],
  ["a Date", new Date(0)],
  ["an ArrayBuffer", new ArrayBuffer(8)],
  ["a typed array", new Float32Array(8)],
  ["a promise", Promise.resolve({})],
  ["an error", new Error("options")],
];

/** What samples are not. An array that is empty is no row, wherever rows must be. */
export const notSamples: readonly (readonly [string, unknown])[] = [
  ...notOptions.filter(([name]) => name !== "a typed array"),
  ["zero", 0],
  ["true", true],
  ["an empty object", {}],
  ["an object without samples", { data: null, shape: [1, 1, 8] }],
  ["numbers with a shape", { data: [1, 2], shape: [1, 1, 2] }],
  ["a DataView", new DataView(new ArrayBuffer(8))],
  ["a Float64Array", new Float64Array(8)],
  ["no samples", new Float32Array(0)],
];

/** What an encoder is not; only undefined stands for none. */
export const notEncoders: readonly (readonly [string, unknown])[] = [
  ...notOptions,
  ["an empty object", {}],
  ["a foreign object", { beginComputePass() {} }],
];

/** What sizes are not. */
export const integers: readonly unknown[] = [null, 0, -1, 1.5, Number.NaN, "2", {}, []];

/** Values of options that no object takes. */
export const badRuntime: Readonly<Record<string, readonly unknown[]>> = {
  backend: [null, "gpu", 0, ""],
  device: [null, 0, "gpu", {}, []],
  workspaceBytes: [...integers, 1024],
  batch: integers,
  channels: integers,
  // Those too that a GPU has no use for.
  threads: integers,
  instructions: [null, "avx", 0, ""],
  workerUrl: [null, 3, {}],
};

/** Values that no problem has. */
export const badProblem: Readonly<Record<string, readonly unknown[]>> = {
  mode: [null, "valid", 0, []],
  dtype: [null, "float64", 0],
  kernelLength: integers,
  frequencies: [
    ...[null, 0, "band", [], {}, new Map([["band", [0, 0.1]]]), { low: 0, high: 0.1 }],
    ...[
      { band: [0, 0.1], digits: [4, 4], dropped: [0, 1] },
      { band: [0, 0.1], low: 0 },
    ],
    ...[{ band: ["0", "0.1"] }, { band: [null, 0.1] }, { band: [0, null] }, { band: "01" }],
    ...[{ band: [0] }, { band: { 0: 0, 1: 0.1 } }, { band: [0, 0.1], period: null }],
    ...[{ digits: [4, 8], dropped: [0, 1], droped: [0, 1] }, { digits: [4, 8] }],
    ...[
      { digits: [4, "8"], dropped: [0, 1] },
      { digits: [4, 8], dropped: [0, null] },
    ],
    ...[{ digits: [4, 8], dropped: [0, 1], period: 64 }, { dropped: [0, 1] }],
  ],
};

/** Values that no short convolution has. */
export const badShort: Readonly<Record<string, readonly unknown[]>> = {
  ...{ kernelLength: [...integers, 257], dtype: badProblem.dtype!, layout: [null, "LBH", 0] },
  padding: [null, "valid", [1], ["1", 0], [0, -1], { 0: 1, 1: 1, length: 2 }],
};
