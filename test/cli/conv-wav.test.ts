/** `flashfftconv conv` of sound: channels, encodings, clipping, sample rates. */
import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { SignalFile } from "../../src/cli/signal.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { expectClose } from "../support/close.ts";
import { normal } from "../support/signals.ts";
import { bytesOf, Folder, npy, pcm, random, run, samplesOf, succeed, wav } from "./support.ts";

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
  const argv = ["conv", u.path, k.path, folder.file("y.wav")];
  const { code, stderr } = await run(argv);
  expect(code).toBe(2);
  expect(stderr).toContain("44,100 Hz");
  expect(stderr).toContain("48,000 Hz");
  expect(stderr).toContain("Add --resample to bring the kernel to 44,100 Hz.");
  expect(existsSync(folder.file("y.wav"))).toBe(false);
});

/** A response of the sum of tones t ↦ sin(2π f t) under a bell around `centre`, in seconds, sampled from 0 on. */
function response(rate: number, count: number, centre: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const t = i / rate - centre;
    const tones = [310, 1270, 3100].reduce((sum, f) => sum + Math.cos(2 * Math.PI * f * t), 0);
    return (tones / rate) * Math.exp(-((t / 0.004) ** 2));
  });
}

describe("--resample", () => {
  const float = (channels: number, rate: number, samples: Float32Array) =>
    wav({ channels, rate, bits: 32, kind: 3, data: bytesOf(samples) });

  test.each([
    [8000, 44_100],
    [48_000, 44_100],
    [44_100, 48_000],
    [352_800, 48_000],
  ])("a response of %i Hz does to sound of %i Hz what it is", async (from, to) => {
    const folder = new Folder();
    const seconds = 0.06;
    const [taps, frames] = [Math.round(from * seconds), 3000];
    const u = Float32Array.from(normal(frames, 1));
    folder.write("u.wav", float(1, to, u));
    folder.write("k.wav", float(1, from, response(from, taps, seconds / 2)));
    for (const [mode, first, count] of [
      ["causal", 0, frames],
      ["full", 0, frames + Math.ceil((taps * to) / from) - 1],
      ["same", (Math.ceil((taps * to) / from) - 1) >> 1, frames],
    ] as const) {
      const argv = ["conv", folder.file("u.wav"), folder.file("k.wav"), folder.file("y.wav")];
      const [record] = await succeed([...argv, "--mode", mode, "--resample"]);
      expect(record).toMatchObject({ resampledFrom: from, sampleRate: to, mode, streamed: true });
      const { samples } = await output(folder.file("y.wav"));
      expect(samples.length).toBeGreaterThanOrEqual(count);
      // The same response, sampled at the input's rate to begin with.
      const k = Float64Array.from(response(to, Math.ceil((taps * to) / from), seconds / 2));
      const problem = createProblem(
        { mode: "full", length: frames, kernelLength: k.length },
        "test",
      );
      const exact = oracleForward(problem, {
        ...{ batch: 1, channels: 1, u: Float64Array.from(u), k },
      });
      expectClose(samples.slice(0, count), exact.slice(first, first + count), {
        rowLength: count,
        bound: 2e-6,
      });
    }
  });

  test("a response that begins with its loudest sample keeps its gain", async () => {
    const folder = new Folder();
    const [frames, to] = [4000, 44_100];
    const u = Float32Array.from({ length: frames }, (_, i) =>
      Math.sin((2 * Math.PI * 1000 * i) / to),
    );
    folder.write("u.wav", float(1, to, u));
    folder.write("k.wav", float(2, 48_000, Float32Array.of(1, -0.5)));
    const argv = ["conv", folder.file("u.wav"), folder.file("k.wav"), folder.file("y.wav")];
    const [dry] = await succeed([...argv, "--mode", "causal", "--resample", "--mix", "0"]);
    expect(dry).toMatchObject({ mix: 0, resampledFrom: 48_000 });
    const same = await output(folder.file("y.wav"));
    expectClose(same.samples, Float64Array.of(...u, ...u), { rowLength: frames, bound: 1e-6 });
    await succeed([...argv, "--mode", "causal", "--resample"]);
    const { samples } = await output(folder.file("y.wav"));
    // Far from the ends, where the sine begins and ends at once: the input itself, and its half with the other sign.
    for (const [row, gain] of [
      [0, 1],
      [1, -0.5],
    ] as const) {
      const middle = [row * frames + 500, row * frames + frames - 500] as const;
      const exact = Float64Array.from(u.slice(500, frames - 500), (x) => gain * x);
      expectClose(samples.slice(...middle), exact, { rowLength: frames - 1000, bound: 1e-6 });
    }
  });

  test("of a kernel of the input's rate changes nothing", async () => {
    const folder = new Folder();
    const [u, k] = [sound(folder, "u.wav", 1, 500, 1), sound(folder, "k.wav", 1, 30, 2)];
    await succeed(["conv", u.path, k.path, folder.file("a.wav")]);
    const [record] = await succeed(["conv", u.path, k.path, folder.file("b.wav"), "--resample"]);
    expect(record).not.toHaveProperty("resampledFrom");
    expect(folder.read("b.wav")).toEqual(folder.read("a.wav"));
  });

  test.each([
    [{ output: "y.npy" }, [], "--resample takes a .wav file to a .wav file"],
    [{ output: "y.wav" }, ["--mode", "circular"], "in mode full, causal, same"],
    [{ kernel: "k.npy" }, [], "which say their sample rates"],
    [{ kernel: "far.wav" }, [], "whose ratio is at most 256"],
  ] as const)("is refused of %j %j", async (changes, more, hint) => {
    const folder = new Folder();
    sound(folder, "u.wav", 1, 100, 1, 44_100);
    sound(folder, "k.wav", 1, 100, 2, 48_000);
    sound(folder, "far.wav", 1, 100, 2, 100);
    random(folder, "k.npy", [20], "float32", 2);
    const { kernel, output: to } = { kernel: "k.wav", output: "y.wav", ...changes };
    const files = [folder.file("u.wav"), folder.file(kernel), folder.file(to)];
    const { code, stderr } = await run(["conv", ...files, "--resample", ...more]);
    expect(stderr).toContain(hint);
    expect(code).toBe(hint.includes("ratio") ? 1 : 2);
    expect(folder.list()).not.toContain(to);
  });
});

describe("loudness", () => {
  const prepared = () => {
    const folder = new Folder();
    const [u, k] = [sound(folder, "u.wav", 2, 700, 1), sound(folder, "k.wav", 2, 300, 2)];
    return { folder, u, k, files: [u.path, k.path, folder.file("y.wav")] };
  };

  test.each([
    ["full", 0],
    ["causal", 0],
    ["circular", 0],
    ["bidirectional", 0],
    ["same", 0],
    ["full", 1],
    ["same", 1],
  ] as const)("--mix and --gain in mode %s, streamed %i", async (mode, streamed) => {
    const { u, k, files, folder } = prepared();
    const more = ["--mix", "0.3", "--gain", "-6.5", "--mode", mode];
    const [record] = await succeed([
      ...["conv", ...files, ...more, ...(streamed ? ["--stream"] : [])],
    ]);
    expect(record).toMatchObject({ mix: 0.3, gain_db: expect.closeTo(-6.5, 9) });
    const problem = createProblem({ mode, length: 700, kernelLength: 300 }, "test");
    const dry = Float64Array.from(u.rows.flat());
    const wet = oracleForward(problem, {
      ...{ batch: 1, channels: 2, u: dry, k: Float64Array.from(k.rows.flat()) },
    });
    const gain = 10 ** (-6.5 / 20);
    const { outputLength } = problem;
    const exact = wet.map((x, i) => {
      const n = i % outputLength;
      const input = n < 700 ? dry[Math.floor(i / outputLength) * 700 + n]! : 0;
      return gain * (0.3 * x + 0.7 * input);
    });
    const { samples } = await output(folder.file("y.wav"));
    expectClose(samples, exact, { rowLength: outputLength, bound: 6e-7 });
  });

  test("--mix 0 is the input, and --gain raises D too", async () => {
    const folder = new Folder();
    const u = random(folder, "u.npy", [2, 3, 200], "float32", 1);
    const k = random(folder, "k.npy", [200], "float32", 2);
    const skip = random(folder, "d.npy", [3], "float32", 5);
    const files = [u.path, k.path, folder.file("y.npy")];
    await succeed(["conv", ...files, "--mode", "causal", "--mix", "0", "--gain", "6.0206"]);
    const twice = u.exact.map((x) => 10 ** (6.0206 / 20) * x);
    expectClose(samplesOf(folder, "y.npy", "float32").stored, twice, {
      ...{ rowLength: 200, bound: 1e-6 },
    });
    const d = ["--skip", skip.path, "--mode", "causal", "--mix", "0"];
    await succeed(["conv", ...files, ...d, "--gain", "-20"]);
    const exact = u.exact.map((x, i) => 0.1 * (x + x * skip.exact[Math.floor(i / 200) % 3]!));
    expectClose(samplesOf(folder, "y.npy", "float32").stored, exact, {
      ...{ rowLength: 200, bound: 1e-6 },
    });
  });

  test("a peak beyond full scale comes with what to do, and doing it is enough", async () => {
    const folder = new Folder();
    const u = sound(folder, "u.wav", 1, 400, 1);
    const k = folder.write("k.npy", npy("<f4", [2], Float32Array.of(100, 50)));
    const files = [u.path, k, folder.file("y.wav")];
    for (const more of [[], ["--gain", "3"], ["--stream"]]) {
      const { stdout } = await run(["conv", ...files, ...more]);
      const [, gain] =
        /peak \S+ of full scale 1: players will clip it; add --normalize, or --gain (-?[\d.]+)\n/.exec(
          stdout,
        )!;
      const [quieter] = await succeed(["conv", ...files, "--gain", gain!, "--bits", "24"]);
      expect(quieter!.peak).toBeLessThanOrEqual(1);
      expect(quieter!.peak).toBeGreaterThan(0.98);
    }
    const { stdout } = await run(["conv", ...files, "--gain", "-60"]);
    expect(stdout).toMatch(/peak 0\.\d+ of full scale 1\n$/);
  });
});

test("files by position, by letter and by name are the same", async () => {
  const folder = new Folder();
  const [u, k] = [sound(folder, "u.wav", 1, 100, 1).path, sound(folder, "k.wav", 1, 10, 2).path];
  const y = folder.file("y.wav");
  const written: Uint8Array[] = [];
  for (const argv of [
    [u, k, y],
    ["-i", u, "-k", k, "-o", y],
    ["--output", y, "--input", u, "--kernel", k],
    ["-o", y, u, k],
    [u, "--mode", "full", k, "--", y],
  ]) {
    expect((await run(["conv", ...argv])).code).toBe(0);
    written.push(folder.read("y.wav"));
  }
  for (const bytes of written) expect(bytes).toEqual(written[0]);
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
