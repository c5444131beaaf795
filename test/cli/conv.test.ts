/** `flashfftconv conv` from file to file, against the float64 oracle; what it refuses, and that it then leaves nothing. */
import { describe, expect, test } from "vitest";
import { slicesOf } from "../../src/cli/row-slices.ts";
import { type Dtype, decode, encode } from "../../src/dtype.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { type Mode, modes } from "../../src/plan/problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { expectClose } from "../support/close.ts";
import { impulse, normal } from "../support/signals.ts";
import {
  bytesOf,
  descrOf,
  Folder,
  npy,
  pcm,
  random,
  run,
  samplesOf,
  succeed,
  wav,
} from "./support.ts";

describe("npy", () => {
  test.each(
    modes.flatMap((mode) =>
      (["float32", "float16", "bfloat16"] as const).map((dtype) => [mode, dtype] as const),
    ),
  )("%s in %s, (B, H, L)", async (mode: Mode, dtype: Dtype) => {
    const folder = new Folder();
    const [batch, channels, length] = [2, 3, 500];
    const kernelLength = mode === "bidirectional" ? 2 * length : 120;
    const u = random(folder, "u.npy", [batch, channels, length], dtype, 1);
    const k = random(folder, "k.npy", [channels, kernelLength], "float32", 2);
    const period = mode === "circular" ? ["--period", "600"] : [];
    const [record] = await succeed([
      ...["conv", "--input", u.path, "--kernel", k.path, "--output", folder.file("y.npy")],
      ...["--mode", mode, ...period],
    ]);
    const problem = createProblem(
      { mode, length, kernelLength, dtype, ...(period.length > 0 && { period: 600 }) },
      "test",
    );
    const { outputLength } = problem;
    const y = samplesOf(folder, "y.npy", dtype);
    expect([y.descr, y.shape]).toEqual([descrOf[dtype], [batch, channels, outputLength]]);
    const exact = oracleForward(problem, { batch, channels, u: u.exact, k: k.exact });
    expectClose(y.stored, exact, { rowLength: outputLength, bound: 3e-7, dtype });
    expect(record).toMatchObject({
      command: "conv",
      mode,
      length,
      kernelLength,
      dtype,
      shape: y.shape,
    });
    expect(folder.list()).toEqual(["k.npy", "u.npy", "y.npy"]);
  });

  test("full by default, in the rank of the input", async () => {
    const folder = new Folder();
    const u = random(folder, "u.npy", [300], "float32", 1);
    const k = random(folder, "k.npy", [50], "float16", 2);
    await succeed([
      "conv",
      "--input",
      u.path,
      "--kernel",
      k.path,
      "--output",
      folder.file("y.npy"),
    ]);
    const y = samplesOf(folder, "y.npy", "float32");
    expect(y.shape).toEqual([349]);
    const problem = createProblem({ mode: "full", length: 300, kernelLength: 50 }, "test");
    const exact = oracleForward(problem, { batch: 1, channels: 1, u: u.exact, k: k.exact });
    expectClose(y.stored, exact, { rowLength: 349, bound: 3e-7 });
  });

  test("both gates and D", async () => {
    const folder = new Folder();
    const shape = [2, 3, 400];
    const u = random(folder, "u.npy", shape, "float32", 1);
    const pregate = random(folder, "v.npy", shape, "float16", 3);
    const postgate = random(folder, "w.npy", shape, "float32", 4);
    const skip = random(folder, "d.npy", [3], "float32", 5);
    const k = random(folder, "k.npy", [3, 400], "float32", 2);
    const gates = ["--pregate", pregate.path, "--postgate", postgate.path, "--skip", skip.path];
    const files = ["--input", u.path, "--kernel", k.path, "--output", folder.file("y.npy")];
    await succeed(["conv", ...files, ...gates, "--mode", "causal"]);
    const exact = oracleForward(createProblem({ length: 400 }, "test"), {
      ...{ batch: 2, channels: 3, u: u.exact, k: k.exact },
      ...{ pregate: pregate.exact, postgate: postgate.exact, skip: skip.exact },
    });
    expectClose(samplesOf(folder, "y.npy", "float32").stored, exact, {
      rowLength: 400,
      bound: 3e-7,
    });
  });

  test.each([false, true])("one kernel for all channels, with D: %s", async (withSkip) => {
    const folder = new Folder();
    const u = random(folder, "u.npy", [2, 3, 200], "float32", 1);
    const k = random(folder, "k.npy", [200], "float32", 2);
    const skip = random(folder, "d.npy", [3], "float32", 5);
    const options = withSkip ? ["--skip", skip.path] : [];
    const files = ["--input", u.path, "--kernel", k.path, "--output", folder.file("y.npy")];
    await succeed(["conv", ...files, "--mode", "same", ...options]);
    const exact = oracleForward(createProblem({ mode: "same", length: 200 }, "test"), {
      ...{
        batch: 2,
        channels: 3,
        u: u.exact,
        k: Float64Array.of(...k.exact, ...k.exact, ...k.exact),
      },
      ...(withSkip && { skip: skip.exact }),
    });
    const y = samplesOf(folder, "y.npy", "float32");
    expect(y.shape).toEqual([2, 3, 200]);
    expectClose(y.stored, exact, { rowLength: 200, bound: 3e-7 });
  });

  test.each([[[100]], [[1, 100]], [[2, 1, 100]]])(
    "one input row %j for all kernels",
    async (shape) => {
      const folder = new Folder();
      const batch = shape.length === 3 ? 2 : 1;
      const u = random(folder, "u.npy", shape, "float32", 1);
      const k = random(folder, "k.npy", [3, 100], "float32", 2);
      const files = ["--input", u.path, "--kernel", k.path, "--output", folder.file("y.npy")];
      await succeed(["conv", ...files, "--mode", "causal"]);
      const rows = Array.from({ length: batch }, (_, b) => [
        ...u.exact.subarray(b * 100, b * 100 + 100),
      ]);
      const repeated = Float64Array.from(rows.flatMap((row) => [...row, ...row, ...row]));
      const problem = createProblem({ length: 100 }, "test");
      const exact = oracleForward(problem, { batch, channels: 3, u: repeated, k: k.exact });
      const y = samplesOf(folder, "y.npy", "float32");
      expect(y.shape).toEqual(shape.length === 3 ? [2, 3, 100] : [3, 100]);
      expectClose(y.stored, exact, { rowLength: 100, bound: 3e-7 });
    },
  );

  test("'<u2' stays '<u2', and --dtype converts", async () => {
    const folder = new Folder();
    const bits = encode(normal(200, 1), "bfloat16");
    const u = folder.write("u.npy", npy("<u2", [200], bits));
    const one = folder.write("k.npy", npy("<f4", [1], Float32Array.of(1)));
    const files = ["--input", u, "--kernel", one, "--output", folder.file("y.npy")];
    await succeed(["conv", ...files, "--dtype", "bfloat16"]);
    const same = samplesOf(folder, "y.npy", "bfloat16");
    expect([same.descr, same.stored]).toEqual(["<u2", bits]);
    const wide = folder.write("w.npy", npy("<f8", [200], normal(200, 1)));
    await succeed(["conv", "--input", wide, ...files.slice(2), "--dtype", "float16"]);
    const narrow = samplesOf(folder, "y.npy", "float16");
    expect(narrow.descr).toBe("<f2");
    expectClose(narrow.stored, decode(encode(normal(200, 1), "float16"), "float16"), {
      rowLength: 200,
      bound: 6e-7,
      dtype: "float16",
    });
  });

  test("the output may be the input", async () => {
    const folder = new Folder();
    const u = random(folder, "u.npy", [64], "float32", 1);
    const two = folder.write("k.npy", npy("<f4", [1], Float32Array.of(2)));
    await succeed(["conv", "--input", u.path, "--kernel", two, "--output", u.path]);
    expectClose(
      samplesOf(folder, "u.npy", "float32").stored,
      u.exact.map((value) => 2 * value),
      {
        rowLength: 64,
        bound: 3e-7,
      },
    );
    expect(folder.list()).toEqual(["k.npy", "u.npy"]);
  });

  test("a NaN stays in its row", async () => {
    const folder = new Folder();
    const samples = Float32Array.from(normal(3 * 100, 1));
    samples[150] = Number.NaN;
    const u = folder.write("u.npy", npy("<f4", [3, 100], samples));
    const k = random(folder, "k.npy", [100], "float32", 2);
    const files = ["--input", u, "--kernel", k.path, "--output", folder.file("y.npy")];
    await succeed(["conv", ...files]);
    const { stored } = samplesOf(folder, "y.npy", "float32");
    expect(
      [0, 1, 2].map((row) => [...stored.subarray(row * 199, row * 199 + 199)].some(Number.isNaN)),
    ).toEqual([false, true, false]);
  });
});

describe("slices", () => {
  const arrangement = (batch: number, channels: number, length: number, kernelLength: number) => ({
    ...{ batch, channels, length, kernelLength, repeatInput: false, repeatKernel: false },
    ...{ shownBatch: batch, shownChannels: channels, outputShape: () => [] },
  });

  test.each([
    [1, 1, 1000, 1000],
    [7, 5, 1000, 100],
    [100, 64, 65_536, 65_536],
    [3, 300, 1_048_576, 1_048_576],
    [2, 3, 16_777_216, 16_777_216],
    [50_000, 1, 4096, 4096],
  ])("of %i × %i × %i cover every row once, in order", (batch, channels, length, taps) => {
    const slices = slicesOf(arrangement(batch, channels, length, taps), length, false);
    let next = 0;
    for (const slice of slices) {
      expect(slice.firstRow).toBe(next);
      expect(slice.firstRow).toBe(slice.batchFirst * channels + slice.channelFirst);
      expect(slice.channelCount === channels || slice.batchCount === 1).toBe(true);
      const rows = slice.batchCount * slice.channelCount;
      expect(rows === 1 || rows * (2 * length + taps) <= 2 ** 24).toBe(true);
      next += rows;
    }
    expect(next).toBe(batch * channels);
  });

  test("many of them give the same numbers as one", async () => {
    const folder = new Folder();
    const [batch, channels, length] = [2, 5, 2_097_152];
    const samples = new Float32Array(batch * channels * length);
    const taps = new Float32Array(channels * length);
    // Impulses: row r answers at its own place with its own size, everywhere else zero.
    for (let r = 0; r < batch * channels; r++) samples[r * length + 10 * r] = r + 1;
    for (let h = 0; h < channels; h++) taps[h * length + h] = 1;
    const u = folder.write("u.npy", npy("<f4", [batch, channels, length], samples));
    const k = folder.write("k.npy", npy("<f4", [channels, length], taps));
    const files = ["--input", u, "--kernel", k, "--output", folder.file("y.npy")];
    await succeed(["conv", ...files, "--mode", "causal"]);
    const { stored } = samplesOf(folder, "y.npy", "float32");
    for (let r = 0; r < batch * channels; r++) {
      const row = Float64Array.from(stored.subarray(r * length, (r + 1) * length));
      expectClose(Float32Array.from(row), impulse(length, 10 * r + (r % channels), r + 1), {
        rowLength: length,
        bound: 6e-7,
      });
    }
  });
});

describe("refusals", () => {
  const prepared = () => {
    const folder = new Folder();
    random(folder, "u.npy", [2, 3, 100], "float32", 1);
    random(folder, "k.npy", [3, 40], "float32", 2);
    random(folder, "odd.npy", [39], "float32", 2);
    random(folder, "k4.npy", [4, 40], "float32", 2);
    random(folder, "k3.npy", [1, 3, 40], "float32", 2);
    random(folder, "gate.npy", [3, 100], "float32", 3);
    random(folder, "skip.npy", [3], "float32", 3);
    random(folder, "skip2.npy", [2], "float32", 3);
    folder.write("u.wav", wav({ channels: 1, bits: 16, data: pcm([1, 2, 3], 16) }));
    folder.write("f8.npy", npy("<f8", [100], normal(100, 1)));
    return folder;
  };

  test.each([
    ["an output without an ending", { output: "y" }, 2, "must end in .wav or .npy"],
    ["an output of another kind", { output: "y.mp3" }, 2, "must end in .wav or .npy"],
    ["a .wav output of a .npy input", { output: "y.wav" }, 2, "sample rate"],
    ["--bits for .npy", { bits: "16" }, 2, "--bits belongs to .wav"],
    ["--normalize for .npy", { normalize: true }, 2, "--normalize belongs to .wav"],
    [
      "--bits that do not exist",
      { input: "u.wav", output: "y.wav", bits: "8" },
      2,
      "16, 24, 32, float",
    ],
    ["a folder that is not there", { output: "none/y.npy" }, 3, "does not exist"],
    ["as many kernels as fit nothing", { kernel: "k4.npy" }, 2, "4 rows for 3 channels"],
    ["a kernel with a batch", { kernel: "k3.npy" }, 2, "(K) or (H, K)"],
    ["a gate of another shape", { pregate: "gate.npy" }, 2, "[2, 3, 100]"],
    ["a postgate of the input's length in mode full", { postgate: "u.npy" }, 2, "[2, 3, 139]"],
    ["D in mode full", { skip: "skip.npy" }, 2, "--mode causal"],
    ["D of too few channels", { skip: "skip2.npy", mode: "causal" }, 2, "shape (3)"],
    [
      "an odd kernel in mode bidirectional",
      { kernel: "odd.npy", mode: "bidirectional" },
      2,
      "even",
    ],
    ["a period without mode circular", { period: "200" }, 2, "--mode circular"],
    ["a period below the length", { mode: "circular", period: "99" }, 2, "period"],
    [
      "half precision of a .wav file",
      { input: "u.wav", kernel: "f8.npy", dtype: "float16" },
      2,
      "float32",
    ],
    ["float64 without --dtype", { input: "f8.npy" }, 3, "--dtype float32"],
    ["float64 taps without --dtype", { kernel: "f8.npy" }, 3, "--dtype float32"],
    ["no input", { input: "none.npy" }, 3, "does not exist"],
    ["no gate", { pregate: "none.npy" }, 3, "none.npy"],
  ] as const)("%s", async (_, changes, code, hint) => {
    const folder = prepared();
    const before = folder.list();
    const options = { input: "u.npy", kernel: "k.npy", output: "y.npy", ...changes };
    const files = ["input", "kernel", "output", "pregate", "postgate", "skip"];
    const argv = Object.entries(options).flatMap(([name, value]) => {
      if (value === true) return [`--${name}`];
      return [`--${name}`, files.includes(name) ? folder.file(value) : value];
    });
    const result = await run(["conv", ...argv]);
    expect(result.stderr).toContain(hint);
    expect([result.code, result.stdout]).toEqual([code, ""]);
    expect(folder.list()).toEqual(before);
  });

  test("a recording that is too long says how long it may be", async () => {
    const folder = new Folder();
    const samples = new Int16Array(2 ** 24 + 1);
    folder.write("u.wav", wav({ channels: 1, rate: 48_000, bits: 16, data: bytesOf(samples) }));
    folder.write("k.npy", npy("<f4", [1], Float32Array.of(1)));
    const files = ["--input", folder.file("u.wav"), "--kernel", folder.file("k.npy")];
    const { code, stderr } = await run(["conv", ...files, "--output", folder.file("y.npy")]);
    expect(code).toBe(2);
    expect(stderr).toContain("16,777,216 samples (349 s at 48,000 Hz)");
  });
});
