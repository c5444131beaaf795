/** `flashfftconv conv` of sound: channels, encodings, clipping, sample rates. */
import { existsSync } from "node:fs";
import { expect, test } from "vitest";
import { SignalFile } from "../../src/cli/signal.ts";
import { oracleForward } from "../../src/math/oracle.ts";
import { createProblem } from "../../src/plan/problem.ts";
import { expectClose } from "../support/close.ts";
import { normal } from "../support/signals.ts";
import { Folder, npy, pcm, random, run, samplesOf, succeed, wav } from "./support.ts";

/** A .wav file of 16 bits and its samples, channel after channel. */
function sound(
  folder: Folder,
  name: string,
  channels: number,
  frames: number,
  seed: number,
  rate = 8000,
) {
  const integers = Array.from(normal(channels * frames, seed), (value) => Math.round(value * 1000));
  const path = folder.write(name, wav({ channels, rate, bits: 16, data: pcm(integers, 16) }));
  const rows = Array.from({ length: channels }, (_, c) =>
    integers.filter((__, i) => i % channels === c).map((value) => value / 32_768),
  );
  return { path, rows };
}

async function output(path: string) {
  const file = await SignalFile.open(path, "test", undefined);
  const samples = new Float32Array(file.count);
  await file.read(samples, "float32");
  await file.close();
  return { shape: file.shape, wav: file.wav!, samples };
}

test.each([
  [1, 1, 1],
  [2, 1, 2],
  [1, 2, 2],
  [2, 2, 2],
  [3, 3, 3],
])("%i channels with %i give %i, full and float32", async (inputs, kernels, outputs) => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", inputs, 700, 1);
  const k = sound(folder, "k.wav", kernels, 300, 2);
  const [record] = await succeed([
    "conv",
    "--input",
    u.path,
    "--kernel",
    k.path,
    "--output",
    folder.file("y.wav"),
  ]);
  const { shape, wav: header, samples } = await output(folder.file("y.wav"));
  expect(shape).toEqual([outputs, 999]);
  expect(header).toMatchObject({ encoding: "float", sampleRate: 8000 });
  const problem = createProblem({ mode: "full", length: 700, kernelLength: 300 }, "test");
  const pick = (rows: readonly number[][]) =>
    Array.from({ length: outputs }, (_, c) => rows[c % rows.length]!).flat();
  const exact = oracleForward(problem, {
    ...{ batch: 1, channels: outputs },
    ...{ u: Float64Array.from(pick(u.rows)), k: Float64Array.from(pick(k.rows)) },
  });
  expectClose(samples, exact, { rowLength: 999, bound: 3e-7 });
  const peak = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(record).toMatchObject({ sampleRate: 8000, bits: "float", peak, gain: 1, shape });
});

test.each([16, 24, 32] as const)(
  "%i bits: an impulse gives the input back, bit for bit",
  async (bits) => {
    const folder = new Folder();
    const integers = Array.from(
      normal(500, 1),
      (value) => Math.round(value * 2 ** (bits - 4)) & ~(bits === 32 ? 0xff : 0),
    );
    const clipped = integers.map((value) =>
      Math.max(-(2 ** (bits - 1)), Math.min(2 ** (bits - 1) - 256, value)),
    );
    const u = folder.write("u.wav", wav({ channels: 1, bits, data: pcm(clipped, bits) }));
    const k = folder.write("k.npy", npy("<f4", [1], Float32Array.of(1)));
    await succeed([
      "conv",
      "--input",
      u,
      "--kernel",
      k,
      "--output",
      folder.file("y.wav"),
      "--bits",
      String(bits),
    ]);
    const [before, after] = [await output(u), await output(folder.file("y.wav"))];
    expect(after.wav.encoding).toBe(bits);
    expectClose(after.samples, Float64Array.from(before.samples), {
      rowLength: 500,
      bound: bits === 16 ? 1e-9 : 3e-7,
    });
  },
);

test("clipping is refused and leaves no file; --normalize and --bits float do not clip", async () => {
  const folder = new Folder();
  const u = folder.write(
    "u.wav",
    wav({ channels: 1, bits: 16, data: pcm([16_384, -8192, 0, 4096], 16) }),
  );
  const k = folder.write("k.npy", npy("<f4", [1], Float32Array.of(4)));
  const argv = ["conv", "--input", u, "--kernel", k, "--output", folder.file("y.wav")];
  const { code, stderr } = await run([...argv, "--bits", "16"]);
  expect(code).toBe(2);
  expect(stderr).toContain("a peak of 2.0000 (6.02 dB)");
  expect(stderr).toContain("--normalize");
  expect(folder.list()).toEqual(["k.npy", "u.wav"]);
  const [record] = await succeed([...argv, "--bits", "16", "--normalize"]);
  expect(record!.peak).toBeCloseTo(2, 5);
  const { samples } = await output(folder.file("y.wav"));
  expectClose(
    samples,
    Float64Array.of(1, -0.5, 0, 0.25).map((v) => v * (1 - 2 ** -15)),
    { rowLength: 4, bound: 1e-4 },
  );
  expect((await run(argv)).code).toBe(0);
  expect((await output(folder.file("y.wav"))).samples[0]).toBeCloseTo(2, 5);
});

test("a NaN is no error in float, but it is told", async () => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 1, 10, 1);
  const k = folder.write("k.npy", npy("<f4", [1], Float32Array.of(Number.NaN)));
  const argv = ["conv", "--input", u.path, "--kernel", k, "--output", folder.file("y.wav")];
  const { code, stdout } = await run(argv);
  expect(code).toBe(0);
  expect(stdout).toContain("10 samples are NaN or infinite");
  expect((await run([...argv, "--bits", "16"])).stderr).toContain("needs finite samples");
});

test("different sample rates are refused, with the remedy", async () => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 1, 100, 1, 44_100);
  const k = sound(folder, "k.wav", 1, 100, 2, 48_000);
  const argv = ["conv", "--input", u.path, "--kernel", k.path, "--output", folder.file("y.wav")];
  const { code, stderr } = await run(argv);
  expect(code).toBe(2);
  expect(stderr).toContain("44,100 Hz");
  expect(stderr).toContain("48,000 Hz");
  expect(stderr).toContain("Resample");
  expect(existsSync(folder.file("y.wav"))).toBe(false);
});

test(".wav in, .npy out: (channels, samples)", async () => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 2, 100, 1);
  const k = random(folder, "k.npy", [20], "float32", 2);
  await succeed([
    "conv",
    "--input",
    u.path,
    "--kernel",
    k.path,
    "--output",
    folder.file("y.npy"),
    "--mode",
    "causal",
  ]);
  expect(samplesOf(folder, "y.npy", "float32").shape).toEqual([2, 100]);
});

test.each(["full", "causal", "same"])("--stream, mode %s: the same sound", async (mode) => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 2, 30_000, 1);
  const k = sound(folder, "k.wav", 1, 900, 2);
  const files = [
    "--input",
    u.path,
    "--kernel",
    k.path,
    "--mode",
    mode,
    "--bits",
    "24",
    "--normalize",
  ];
  await succeed(["conv", ...files, "--output", folder.file("whole.wav")]);
  const [record] = await succeed(["conv", ...files, "--output", folder.file("y.wav"), "--stream"]);
  const [whole, pieces] = [
    await output(folder.file("whole.wav")),
    await output(folder.file("y.wav")),
  ];
  expect(pieces.shape).toEqual(whole.shape);
  expect(pieces.wav).toMatchObject({ encoding: 24, sampleRate: 8000 });
  expectClose(pieces.samples, Float64Array.from(whole.samples), {
    rowLength: whole.shape[1]!,
    bound: 2e-6,
  });
  expect(record).toMatchObject({ streamed: true, shape: whole.shape, bits: 24 });
});

test("a mono input through a stereo kernel, in pieces", async () => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 1, 66_000, 1);
  const k = sound(folder, "k.wav", 2, 50, 2);
  const files = ["--input", u.path, "--kernel", k.path];
  await succeed(["conv", ...files, "--output", folder.file("whole.wav")]);
  await succeed(["conv", ...files, "--output", folder.file("y.wav"), "--stream"]);
  const [whole, pieces] = [
    await output(folder.file("whole.wav")),
    await output(folder.file("y.wav")),
  ];
  expect(pieces.shape).toEqual([2, 66_049]);
  expectClose(pieces.samples, Float64Array.from(whole.samples), { rowLength: 66_049, bound: 6e-7 });
});

test("a long recording is convolved in pieces by itself, and refused where it would clip", async () => {
  const folder = new Folder();
  const frames = 2 ** 20 + 5;
  const samples = Int16Array.from({ length: frames }, (_, n) => (n * 7919) % 2001);
  const data = new Uint8Array(samples.buffer);
  folder.write("u.wav", wav({ channels: 1, rate: 8000, bits: 16, data }));
  folder.write("k.npy", npy("<f4", [3], Float32Array.of(0, 0, 1)));
  folder.write("loud.npy", npy("<f4", [3], Float32Array.of(0, 0, 1000)));
  const argv = [
    "conv",
    "--input",
    folder.file("u.wav"),
    "--output",
    folder.file("y.wav"),
    "--bits",
    "16",
  ];
  const [record] = await succeed([...argv, "--kernel", folder.file("k.npy"), "--mode", "causal"]);
  expect(record).toMatchObject({ streamed: true, length: frames });
  const { samples: delayed } = await output(folder.file("y.wav"));
  expect(delayed.every((x, n) => Math.round(x * 32_768) === (n < 2 ? 0 : samples[n - 2]))).toBe(
    true,
  );
  const clipped = await run([
    ...argv.slice(0, 3),
    "--output",
    folder.file("z.wav"),
    ...argv.slice(5),
    "--kernel",
    folder.file("loud.npy"),
  ]);
  expect(clipped.code).toBe(2);
  expect(clipped.stderr).toContain("--normalize");
  expect(existsSync(folder.file("z.wav"))).toBe(false);
});

test("--stream with anything but sound is refused", async () => {
  const folder = new Folder();
  const u = sound(folder, "u.wav", 1, 100, 1);
  const k = sound(folder, "k.wav", 1, 10, 2);
  const files = ["--input", u.path, "--kernel", k.path, "--stream"];
  for (const more of [
    ["--output", folder.file("y.npy")],
    ["--output", folder.file("y.wav"), "--mode", "circular"],
  ]) {
    const { code, stderr } = await run(["conv", ...files, ...more]);
    expect(code).toBe(2);
    expect(stderr).toContain("--stream takes a .wav file");
  }
});
