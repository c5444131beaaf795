/** What a user reads: help, usage errors with suggestions, errors as JSON, exit codes, progress and tables. */
import { readFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { planCommand } from "../../src/cli/commands/plan.ts";
import { Interruption } from "../../src/cli/main.ts";
import { inOptions, suggestion } from "../../src/cli/options.ts";
import { bytes, duration, Progress, table, threeDigits } from "../../src/cli/report.ts";
import { FlashFFTConv } from "../../src/conv/conv.ts";
import { BackendError } from "../../src/errors.ts";
import { normal } from "../support/signals.ts";
import { Folder, npy, run, runJson } from "./support.ts";

const commands = ["conv", "plan", "bench", "tune", "verify", "info", "train", "eval"];
const manifest = new URL("../../package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(manifest, "utf8")) as { version: string };

describe("help", () => {
  test("of the program", async () => {
    const { code, stdout, stderr } = await run(["--help"]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout.replace(version, "VERSION")).toMatchSnapshot();
    for (const command of commands) expect(stdout).toMatch(new RegExp(`^ {2}${command} `, "m"));
    expect((await run(["-h"])).stdout).toBe(stdout);
    expect((await run(["help"])).stdout).toBe(stdout);
  });

  test.each(commands)("of %s", async (command) => {
    const { code, stdout, stderr } = await run([command, "--help"]);
    expect([code, stderr]).toEqual([0, ""]);
    expect(stdout).toMatchSnapshot();
    expect(stdout).toContain("--json");
    expect(stdout).toContain("exit codes:");
    expect((await run(["help", command])).stdout).toBe(stdout);
    // Help is given even beside mistakes and without what is required.
    expect((await run([command, "--nonsense", "-h"])).stdout).toBe(stdout);
  });

  test("fits a terminal of 80 columns, but for examples", async () => {
    for (const command of commands) {
      const { stdout } = await run([command, "--help"]);
      const long = stdout.split("\n").filter((line) => line.length > 80);
      expect(long.filter((line) => !line.startsWith("  flashfftconv "))).toEqual([]);
    }
  });

  test("without arguments goes where errors go", async () => {
    const { code, stdout, stderr } = await run([]);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain("usage: flashfftconv COMMAND");
  });

  test.each(["--version", "-v", "version"])("%s", async (argument) => {
    expect(await run([argument])).toEqual({ code: 0, stdout: `${version}\n`, stderr: "" });
  });
});

describe("usage errors", () => {
  test.each([
    [["convolve"], "Did you mean conv?"],
    [["CONV"], "Did you mean conv?"],
    [["benhc"], "Did you mean bench?"],
    [["xyzzy"], "flashfftconv --help"],
    [["--threads", "2"], "the first argument must be one of"],
    [["help", "paln"], "Did you mean plan?"],
    [["conv", "--inptu", "a"], "Did you mean --input?"],
    [["conv", "--out", "a"], "Did you mean --output?"],
    [["conv", "--INPUT", "a"], "Did you mean --input?"],
    [["conv", "--frobnicate"], "flashfftconv conv --help"],
    [["conv", "-x", "a"], "must be one that this command has; got -x"],
    [["conv", "-i"], "--input needs a value"],
    [["conv", "-i", "-k", "b"], "--input needs a value"],
    [["conv", "-i", "a", "--input", "b"], "may be given once"],
    [["conv", "-o", "y.npy", "u.npy"], "--kernel is required"],
    [
      ["conv", "u.npy", "k.npy", "y.npy", "z.npy"],
      'INPUT KERNEL OUTPUT, in this order; got "z.npy"',
    ],
    [["conv", "u.npy", "", "y.npy"], 'got "" besides'],
    [
      ["conv", "u.npy", "k.npy", "y.npy", "-o", "z.npy"],
      'with --output what stands alone is INPUT KERNEL, in this order; got "y.npy" besides',
    ],
    [["conv", "u.npy", "k.npy", "y.npy", "--gain", "-6dB"], "without a unit"],
    [["conv", "-", "-", "y.npy"], "- may stand for one file that is read"],
    [["conv", "u.npy", "k.npy", "y.npy", "--mix", "1.1"], "--mix must be a number from 0 to 1"],
    [["conv", "u.npy", "k.npy", "y.npy", "--gain", "loud"], "--gain must be a number from -200"],
    [["conv", "u.npy", "k.npy", "y.npy", "--gain", "-3", "--normalize"], "both say how loud"],
    [["conv", "u.npy", "k.npy", "y.npy", "--mix", "0.5", "--pregate", "v.npy"], "without gates"],
    [["conv", "--input"], "--input needs a value"],
    [["conv", "--input", "--kernel", "b"], "--input needs a value"],
    [["conv", "--input="], "--input needs a value"],
    [["conv", "--input", "a", "--input", "b"], "may be given once"],
    [["conv", "--input", "a"], "--kernel is required"],
    [["plan", "64K"], "everything is given by options"],
    [["info", "--backend", "gpu"], "must be one of auto, cpu, webgpu"],
    [["info", "--backend", "gpu"], "Did you mean webgpu?"],
    [["info", "--json=yes"], "--json takes no value"],
    [["plan"], "--length is required"],
    [["plan", "--length", "0"], "from 1 to 16,777,216"],
    [["plan", "--length", "17M"], "from 1 to 16,777,216"],
    [["plan", "--length", "1.5"], "must be an integer"],
    [["plan", "--length", "-5"], "must be an integer"],
    [["plan", "--length", "1e3"], "must be an integer"],
    [["plan", "--length", "NaN"], "must be an integer"],
    [["plan", "--length", "Infinity"], "must be an integer"],
    [["plan", "--length", "1K", "--kernel-length", "0"], "--kernel-length must be an integer"],
    [["plan", "--length", "1K", "--mode", "cuasal"], "Did you mean causal?"],
    [["plan", "--length", "1K", "--dtype", "fp16"], "must be one of float32, float16, bfloat16"],
    [["plan", "--length", "1K", "--dtype", "flaot16"], "Did you mean float16?"],
    [["plan", "--length", "1K", "--period", "2K"], "--period belongs to --mode circular"],
    [["plan", "--length", "1K", "--mode", "circular", "--period", "1000"], "period"],
    [["plan", "--length", "1K", "--mode", "bidirectional", "--kernel-length", "3K"], "2·length"],
    [["plan", "--length", "1K", "--threads", "0"], "--threads must be an integer"],
    [["plan", "--length", "1K", "--instructions", "avx"], "relaxed-simd"],
    [["plan", "--length", "1K", "--backend", "gpu"], "must be one of auto, cpu, webgpu"],
    [["bench", "--backend", "webgpu", "--threads", "2"], "--threads belongs to --backend cpu"],
    [["verify", "--backend", "webgpu", "--instructions", "simd"], "--instructions belongs to"],
    [["verify", "--mode", "causal,ful"], "Did you mean full?"],
    [["verify", "--length", "100,,200"], "must be an integer"],
    [["verify", "--mode", "causal", "--period", "2K"], "--period belongs to --mode circular"],
    [["bench", "--seconds", "0"], "--seconds must be a number from 0.01 to 3,600"],
    [["bench", "--seconds", "1e0"], "--seconds must be a number"],
    [["plan", "--length", "8", "--mode", "bidirectional", "--kernel-length", "3"], "--mode same"],
    [
      ["plan", "--length", "8", "--mode", "bidirectional", "--kernel-length", "3"],
      "flashfftconv plan: --kernel-length must be even and at most 2·length",
    ],
    [["plan", "--length", "8", "--mode", "circular", "--period", "4"], "--period must be an in"],
    [["plan", "--length", "8", "--mode", "circular", "--period", "4"], "Set --period within"],
  ])("%j", async (argv, hint) => {
    const { code, stdout, stderr } = await run(argv);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toContain(hint);
    expect(stderr).toMatch(/^flashfftconv.*: .*; got .*\. .*[.?]\n$/);
  });

  test("what the machine cannot do, in the name of the command", async () => {
    const argv = ["plan", "--length", "1K", "--instructions", "javascript", "--threads", "2"];
    const { code, stderr } = await run(argv);
    expect(code).toBe(1);
    expect(stderr).toMatch(/^flashfftconv plan: threads need .*; got .*\n$/);
    expect(stderr).toContain("Set --threads 1, or leave --instructions at 'auto'");
  });

  test("options of the library are called as the command has them, other words are not", () => {
    const said = [
      [
        "Use instructions: 'auto', or a newer runtime.",
        "Use --instructions auto, or a newer runtime.",
      ],
      ["Leave period out, or set mode: 'circular'.", "Leave --period out, or set --mode circular."],
      [
        "a kernel of the circular mode, of any length",
        "a kernel of the circular mode, of any length",
      ],
      ["--period belongs to --mode circular", "--period belongs to --mode circular"],
      ["mode 'same' of kernelLength 5", "--mode same of --kernel-length 5"],
    ];
    for (const [library, typed] of said) expect(inOptions(library!, planCommand)).toBe(typed);
  });

  test("errors of the library's methods are the command's, in its words", async () => {
    const parts = {
      ...{ call: "conv.prepareKernel", requirement: "64 more bytes", value: "kernelLength 5" },
      remedy: "Dispose what is no longer needed, or set backend: 'webgpu'.",
    };
    const folder = new Folder();
    const u = folder.write("u.npy", npy("<f4", [2], Float32Array.of(1, 2)));
    vi.spyOn(FlashFFTConv, "createFor").mockRejectedValue(new BackendError(parts));
    const { code, stderr } = await run(["conv", u, u, folder.file("y.npy")]);
    vi.restoreAllMocks();
    expect(stderr).toBe(
      "flashfftconv conv: 64 more bytes; got kernelLength 5. Give the process more memory, or set --backend webgpu.\n",
    );
    expect(code).toBe(1);
  });

  test("what is given as --kernel is spoken of as that", async () => {
    const folder = new Folder();
    const [u, k] = [100, 39].map((n) =>
      folder.write(`${n}.npy`, npy("<f4", [n], new Float32Array(n))),
    );
    const argv = ["conv", u!, k!, folder.file("y.npy"), "--mode", "bidirectional"];
    const { code, stderr } = await run(argv);
    expect(code).toBe(2);
    expect(stderr).toContain(
      "the length of --kernel must be even and at most twice that of --input = 200",
    );
    expect(stderr).not.toMatch(/kernelLength|kernel-length/);
  });

  test.each([
    "WebAssembly.Memory(): could not allocate memory",
    "WebAssembly.instantiate(): Out of memory: Cannot allocate Wasm memory for new instance",
    "Array buffer allocation failed",
    "Invalid typed array length: 4294967296",
    "Invalid array length",
  ])("memory that is not there: %s", async (message) => {
    vi.spyOn(FlashFFTConv, "createFor").mockRejectedValue(new RangeError(message));
    const { code, stdout, stderr } = await run(["plan", "--length", "1K"]);
    vi.restoreAllMocks();
    expect([code, stdout]).toEqual([1, ""]);
    expect(stderr).toMatch(/^flashfftconv plan: .* memory; got .*\. Use shorter rows .*\.\n$/);
    expect(stderr).toContain(message);
  });

  test("with --json, as JSON too, with the four parts of every error", async () => {
    const { code, records, stderr } = await runJson(["conv", "--inptu", "a"]);
    expect(code).toBe(2);
    expect(records).toEqual([
      {
        command: "conv",
        error: {
          name: "InvalidArgumentError",
          message: stderr.trimEnd(),
          call: "flashfftconv conv",
          requirement: "the option must be one that this command has",
          value: "--inptu",
          remedy: "Did you mean --input?",
        },
      },
    ]);
  });

  test("with --json and no command", async () => {
    const { code, records } = await runJson([]);
    expect(code).toBe(2);
    expect(records).toMatchObject([{ command: null, error: { value: '"--json"' } }]);
  });

  test("suggestions are near, or there are none", () => {
    expect(suggestion("--modes", ["--mode", "--period"])).toBe("Did you mean --mode?");
    expect(suggestion("kernel", ["input", "kernel-length"])).toBe("Did you mean kernel-length?");
    expect(suggestion("zzz", ["conv", "plan", "tune"])).toBe(undefined);
  });
});

describe("exit codes", () => {
  test("3 for files, as text and as JSON", async () => {
    const folder = new Folder();
    const argv = [
      "conv",
      "--input",
      folder.file("none.npy"),
      "--kernel",
      "k.npy",
      "--output",
      folder.file("y.npy"),
    ];
    const { code, stderr, records } = await runJson(argv);
    expect(code).toBe(3);
    expect(stderr).toContain("none.npy");
    expect(records[0]).toMatchObject({ command: "conv", error: { name: "FileError" } });
  });

  test("that of the interruption, and no word about it", async () => {
    const controller = new AbortController();
    controller.abort(new Interruption("SIGINT", 130));
    const { code, stdout, stderr } = await run(["info"], { signal: controller.signal });
    expect([code, stdout, stderr]).toEqual([130, "", ""]);
  });
});

describe("progress", () => {
  beforeEach(
    () => void vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "performance"] }),
  );
  afterEach(() => void vi.useRealTimers());

  function collect(isTTY: boolean) {
    const written: string[] = [];
    const output = { write: (text: string) => written.push(text), isTTY, columns: 40 };
    return { written, progress: new Progress(output) };
  }

  test("appears after a second, on a terminal, and goes away", () => {
    const { written, progress } = collect(true);
    progress.update("convolving", 0.254);
    vi.advanceTimersByTime(950);
    expect(written).toEqual([]);
    vi.advanceTimersByTime(100);
    expect(written).toEqual(["\r\x1b[Kconvolving 25 %, 1 s"]);
    vi.advanceTimersByTime(2000);
    expect(written.at(-1)).toBe("\r\x1b[Kconvolving 25 %, 3 s");
    progress.clear();
    expect(written.at(-1)).toBe("\r\x1b[K");
    const count = written.length;
    vi.advanceTimersByTime(2000);
    expect(written.length).toBe(count);
  });

  test("is drawn by the work itself where timers do not get a turn, and fits the line", () => {
    const { written, progress } = collect(true);
    progress.update("reading");
    const later = performance.now() + 5000;
    vi.spyOn(performance, "now").mockReturnValue(later);
    progress.update("a long description of what is being done now", 0.5);
    expect(written).toEqual(["\r\x1b[Ka long description of what is being don"]);
    vi.restoreAllMocks();
  });

  test("never appears elsewhere", () => {
    const { written, progress } = collect(false);
    progress.update("convolving", 0.5);
    vi.advanceTimersByTime(10_000);
    progress.update("convolving", 0.6);
    progress.clear();
    expect(written).toEqual([]);
  });

  // The clock of the tests stands still: on a busy machine the work may well take more than a second.
  test("leaves nothing behind it in quick work", async () => {
    const folder = new Folder();
    const u = folder.write("u.npy", npy("<f4", [64], Float32Array.from(normal(64, 1))));
    const argv = ["conv", "--input", u, "--kernel", u, "--output", folder.file("y.npy")];
    const { code, stderr } = await run(argv, { terminalWidth: 80 });
    expect([code, stderr]).toEqual([0, ""]);
  });
});

describe("tables and units", () => {
  test("words to the left, numbers to the right", () => {
    const lines = table(
      ["mode", "L", ""],
      [
        ["causal", "1,000", "ok"],
        ["full", "5", "ABOVE"],
      ],
    );
    expect(lines).toBe("mode        L\ncausal  1,000  ok\nfull        5  ABOVE\n");
  });

  test.each([
    [0.000_012_34, "12.3 ns"],
    [0.012_34, "12.3 µs"],
    [0.9996, "1.00 ms"],
    [12.34, "12.3 ms"],
    [999.4, "999 ms"],
    [1234, "1.23 s"],
    [123_400, "123 s"],
  ])("%f ms is %s", (milliseconds, text) => {
    expect(duration(milliseconds)).toBe(text);
  });

  test("three digits and powers of 1,024", () => {
    expect([threeDigits(0), threeDigits(1234.5), threeDigits(0.001_234)]).toEqual([
      "0",
      "1,235",
      "0.00123",
    ]);
    expect([bytes(0), bytes(1023), bytes(1024), bytes(1.5 * 2 ** 30)]).toEqual([
      "0 B",
      "1023 B",
      "1.0 KiB",
      "1.5 GiB",
    ]);
  });
});
