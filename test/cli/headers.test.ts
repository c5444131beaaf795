/**
 * What files and names say reaches a terminal escaped and short: 10,000 headers with bytes changed, control characters put in,
 * fields that are long, numbers that are anything, files cut off.
 */
import { describe, expect, test } from "vitest";
import { bytesOf, concat, Folder, le, npy, npyOf, pcm, run, wav } from "./support.ts";

/** Most bytes of a message. */
const mostBytes = 1024;
/** What a terminal acts on: all controls but ends of lines, and what turns the direction of writing. */
const controls =
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

/** Random numbers that are the same in every run (mulberry32). */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

/** Text of any Latin-1 characters, those of control often. */
function noise(pick: (below: number) => number, length: number): string {
  const often = ["\x1b[2J", "\x07", "\x9b31m", "\r", "\n", "\x00", "\x7f", "'", ",", "{", "}"];
  let text = "";
  while (text.length < length)
    text += pick(2) ? often[pick(often.length)] : String.fromCharCode(pick(256));
  return text.slice(0, length);
}

const data = new Float32Array(8);

/** Headers of .npy files, each of another kind of wrong. */
const npyMutations: readonly ((pick: (below: number) => number) => Uint8Array)[] = [
  (pick) =>
    npyOf(`{'descr': '${noise(pick, pick(2000))}', 'fortran_order': False, 'shape': (8,), }`, data),
  (pick) =>
    npyOf(`{'descr': '<f4', 'fortran_order': False, 'shape': (${noise(pick, pick(500))}), }`, data),
  (pick) =>
    npyOf(
      `{'descr': '<f4', 'fortran_order': False, 'shape': (${Array.from({ length: pick(5000) }, () => pick(10))}), }`,
      data,
    ),
  (pick) =>
    npyOf(`{'descr': '<f4', 'fortran_order': ${noise(pick, pick(300))}, 'shape': (8,), }`, data),
  (pick) => npyOf(noise(pick, pick(60_000)), data),
  (pick) =>
    npyOf(
      `{'descr': ['${noise(pick, pick(3000))}'], 'fortran_order': True, 'shape': (8,), }`,
      data,
      2,
    ),
];

/** Headers of .wav files. */
const wavMutations: readonly ((pick: (below: number) => number) => Uint8Array)[] = [
  (pick) =>
    wav({
      channels: pick(70_000),
      rate: pick(2 ** 32),
      bits: pick(40),
      kind: pick(2 ** 16),
      data: pcm([1, 2], 16),
    }),
  (pick) => {
    const name = noise(pick, 4);
    const before = concat(name, le(pick(2 ** 32), 4), noise(pick, pick(100)));
    return wav({ channels: 1, bits: 16, data: pcm([1, 2], 16), before });
  },
  (pick) => concat("RIFF", le(pick(200), 4), noise(pick, 4), noise(pick, pick(200))),
  (pick) => concat(noise(pick, 4), le(pick(2 ** 32), 4), noise(pick, pick(200))),
];

/** A file of a valid header in which some bytes are others, or which ends early. */
function damaged(pick: (below: number) => number): Uint8Array {
  const whole = pick(2)
    ? npy("<f4", [8], data)
    : wav({ channels: 1, bits: 16, data: bytesOf(data) });
  const bytes = Uint8Array.from(whole);
  for (let i = pick(12); i > 0; i--) bytes[pick(Math.min(bytes.length, 140))] = pick(256);
  return pick(4) ? bytes : bytes.subarray(0, pick(bytes.length));
}

/** Every line that a terminal gets is one message, or one record with a message in it. */
function expectHarmless(text: string): void {
  expect(controls.exec(text)?.[0], JSON.stringify(text)).toBe(undefined);
  for (const line of text.split("\n")) {
    const message = line.startsWith("{") ? JSON.parse(line).error.message : line;
    expect(controls.exec(message)?.[0]).toBe(undefined);
    expect(Buffer.byteLength(message)).toBeLessThanOrEqual(mostBytes);
  }
}

test("10,000 headers", async () => {
  const folder = new Folder();
  const pick = random(1);
  const kinds = [...npyMutations, ...wavMutations, damaged, damaged];
  const codes = new Map<number, number>();
  for (let i = 0; i < 10_000; i++) {
    const file = folder.write("u", kinds[i % kinds.length]!(pick));
    // Where the header is good all the same, the kernel is missing.
    const to = ["--kernel", folder.file("none"), "--output", folder.file("y.wav")];
    const argv = ["conv", "--input", file, ...to];
    const more = [["--json"], ["--dtype", "float32"], []][pick(3)]!;
    const { code, stdout, stderr } = await run([...argv, ...more]);
    codes.set(code, (codes.get(code) ?? 0) + 1);
    expectHarmless(stdout);
    expectHarmless(stderr);
    expect(stderr).not.toContain("an error in flashfftconv itself");
  }
  // Every one is a broken file, or a good one beside a missing one.
  expect([...codes]).toEqual([[3, 10_000]]);
}, 300_000);

describe("names", () => {
  const nasty = [
    "\x1b[2Jevil",
    "\x9b31mred",
    "bell\x07",
    "\u202egpj.exe",
    "line\nbreak",
    "x".repeat(220),
  ];

  test.each(nasty.filter(() => process.platform !== "win32"))("of files: case %#", async (name) => {
    const folder = new Folder();
    const one = npy("<f4", [1], Float32Array.of(1));
    const file = folder.write(name, one);
    const output = folder.file(`${name}.npy`);
    const files = (u: string, y: string) => ["--input", u, "--kernel", file, "--output", y];
    for (const argv of [
      ["conv", ...files(file, output)],
      ["conv", ...files(file, output), "--json"],
      ["conv", ...files(`${file}none`, output)],
      ["conv", ...files(file, `${folder.file("none")}/${name}/y.npy`)],
      ["conv", ...files(file, folder.file(`${name}.txt`))],
    ]) {
      const { stdout, stderr } = await run(argv);
      expect(controls.exec(stdout + stderr)?.[0]).toBe(undefined);
      const isRecord = argv.includes("--json");
      for (const line of [...stderr.split("\n"), ...(isRecord ? [] : stdout.split("\n"))])
        expect(Buffer.byteLength(line)).toBeLessThanOrEqual(mostBytes);
      if (isRecord) expect(JSON.parse(stdout)).toMatchObject({ input: file, output });
    }
  });

  test.each(nasty)("of commands, options and values: case %#", async (name) => {
    const long = name.repeat(50);
    for (const argv of [
      [long],
      ["help", long],
      ["plan", `--${long}`],
      ["plan", `-${long}`],
      ["plan", long],
      ["plan", "--length", long],
      ["plan", "--length", "1", "--mode", long],
      ["plan", "--length", "1", `--json=${long}`],
      ["bench", "--seconds", long],
      ["verify", "--dtype", `${long},${long}`],
    ]) {
      const { code, stdout, stderr } = await run(argv);
      expect(code).toBe(2);
      expectHarmless(stdout + stderr);
    }
  });
});
