/** The program as users run it: built, in a process of its own, with signals, full disks and closed pipes. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  cpSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeSync,
} from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, test } from "vitest";
import { encode } from "../../src/dtype.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { oracleForward } from "../../src/reference/convolution.ts";
import { expectClose } from "../support/close.ts";
import { normal } from "../support/signals.ts";
import { bytesOf, Folder, npy, readNpy, wav } from "./support.ts";

const program = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));
const posix = test.skipIf(process.platform === "win32");

beforeAll(() => {
  if (!existsSync(program)) throw new Error(`${program} is not there: run 'npm run build' first`);
});

interface Ended {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Wait for a process, collecting what it prints. */
function ended(child: ChildProcess): Promise<Ended> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout?.on("data", (data: Buffer) => stdout.push(data));
  child.stderr?.on("data", (data: Buffer) => stderr.push(data));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      const [out, err] = [stdout, stderr].map((parts) => Buffer.concat(parts).toString());
      resolve({ code, signal, stdout: out!, stderr: err! });
    });
  });
}

function start(argv: readonly string[]): ChildProcess {
  return spawn(process.execPath, [program, ...argv], { stdio: ["ignore", "pipe", "pipe"] });
}

/** Run a line of the shell, in which "$FLASHFFTCONV" is the program. */
function shell(line: string, env: Record<string, string> = {}): Promise<Ended> {
  const command = `exec 2>&1; FLASHFFTCONV() { "${process.execPath}" "${program}" "$@"; }; ${line}`;
  return ended(spawn("bash", ["-c", command], { env: { ...process.env, ...env } }));
}

/** A .npy file of zeros that takes no room on the disk. */
function sparse(folder: Folder, name: string, shape: readonly number[]): string {
  const header = npy("<f4", shape, new Uint8Array(0));
  const descriptor = openSync(folder.file(name), "w");
  writeSync(descriptor, header);
  ftruncateSync(descriptor, header.length + 4 * shape.reduce((a, b) => a * b, 1));
  closeSync(descriptor);
  return folder.file(name);
}

test("is a program that Node runs", async () => {
  expect(readFileSync(program, "utf8")).toMatch(/^#!\/usr\/bin\/env node\n/);
  const { version } = JSON.parse(
    readFileSync(new URL("../../package.json", import.meta.url), "utf8"),
  );
  expect(await ended(start(["--version"]))).toEqual({
    code: 0,
    signal: null,
    stdout: `${version}\n`,
    stderr: "",
  });
});

test("convolves, with threads, and ends", async () => {
  const folder = new Folder();
  const [u, k] = [encode(normal(6 * 5000, 1), "float32"), encode(normal(3 * 700, 2), "float32")];
  const input = folder.write("u.npy", npy("<f4", [2, 3, 5000], u));
  const kernel = folder.write("k.npy", npy("<f4", [3, 700], k));
  const files = ["--input", input, "--kernel", kernel, "--output", folder.file("y.npy")];
  const { code, stdout, stderr } = await ended(start(["conv", ...files, "--threads", "2"]));
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toContain("2 × 3 × 5,699");
  const problem = createProblem({ mode: "full", length: 5000, kernelLength: 700 }, "test");
  const exact = oracleForward(problem, {
    ...{ batch: 2, channels: 3, u: Float64Array.from(u), k: Float64Array.from(k) },
  });
  expectClose(new Float32Array(readNpy(folder.read("y.npy")).data), exact, {
    rowLength: 5699,
    bound: 6e-7,
  });
  expect(folder.list()).toEqual(["k.npy", "u.npy", "y.npy"]);
});

describe("interruptions", () => {
  posix.each([
    ["SIGINT", 130],
    ["SIGTERM", 143],
    ["SIGHUP", 129],
  ] as const)("%s while the output is written: exit code %i and no file", async (signal, code) => {
    const folder = new Folder();
    const input = sparse(folder, "u.npy", [256, 1_048_576]);
    const kernel = sparse(folder, "k.npy", [1000]);
    const old = folder.write("y.npy", Uint8Array.of(1, 2, 3));
    const child = start(["conv", "--input", input, "--kernel", kernel, "--output", old]);
    const end = ended(child);
    const unfinished = () => folder.list().some((name) => name.endsWith(".partial"));
    while (!unfinished() && child.exitCode === null)
      await new Promise((later) => setTimeout(later, 2));
    expect(unfinished()).toBe(true);
    child.kill(signal);
    expect(await end).toEqual({ code, signal: null, stdout: "", stderr: "" });
    expect(folder.list()).toEqual(["k.npy", "u.npy", "y.npy"]);
    expect(folder.read("y.npy")).toEqual(Uint8Array.of(1, 2, 3));
  });

  posix(
    "SIGKILL leaves an unfinished file, which the next output into that folder removes",
    async () => {
      const folder = new Folder();
      const input = sparse(folder, "u.npy", [256, 1_048_576]);
      const kernel = sparse(folder, "k.npy", [1000]);
      const child = start(["conv", input, kernel, folder.file("y.npy")]);
      const end = ended(child);
      const unfinished = () => folder.list().filter((name) => name.endsWith(".partial"));
      while (unfinished().length === 0 && child.exitCode === null)
        await new Promise((later) => setTimeout(later, 2));
      child.kill("SIGKILL");
      expect((await end).signal).toBe("SIGKILL");
      expect(unfinished().length).toBe(1);
      expect(await ended(start(["conv", kernel, kernel, folder.file("z.npy")]))).toMatchObject({
        ...{ code: 0, stderr: "" },
      });
      expect(folder.list()).toEqual(["k.npy", "u.npy", "z.npy"]);
    },
  );

  posix("SIGINT in the midst of a long computation ends it at once", async () => {
    const child = start(["verify", "--length", "4M", "--mode", "full", "--batch", "8"]);
    const end = ended(child);
    await new Promise((later) => setTimeout(later, 700));
    child.kill("SIGINT");
    const { signal, stdout } = await end;
    // Nothing has to be tidied up, so the signal does what it does to any program, in the midst of what it does;
    // a shell reports 130.
    expect([signal, stdout]).toEqual(["SIGINT", ""]);
  });

  posix("a shell sees 130", async () => {
    const { stdout } = await shell(
      `"${process.execPath}" "${program}" verify --length 4M --batch 8 & sleep 0.7; kill -INT $!; wait $!; echo "code $?"`,
    );
    expect(stdout).toContain("code 130");
  });
});

describe("pipes", () => {
  const prepared = () => {
    const folder = new Folder();
    const samples = Float32Array.from(normal(2 * 3000, 1));
    const taps = Float32Array.from(normal(700, 2));
    const float = { rate: 8000, bits: 32, kind: 3 } as const;
    folder.write("u.wav", wav({ ...float, channels: 2, data: bytesOf(samples) }));
    folder.write("k.wav", wav({ ...float, channels: 1, data: bytesOf(taps) }));
    folder.write("u.npy", npy("<f4", [2, 3000], samples));
    folder.write("k.npy", npy("<f4", [700], taps));
    return folder;
  };
  const inside = (folder: Folder, line: string) => shell(`cd "${folder.path}"; ${line}`);

  posix.each([
    ["wav", "FLASHFFTCONV conv u.wav k.wav - > y.wav"],
    ["wav", "cat u.wav | FLASHFFTCONV conv - k.wav - | cat > y.wav"],
    ["wav", "cat k.wav | FLASHFFTCONV conv -i u.wav -k - -o - --stream > y.wav"],
    ["wav", "FLASHFFTCONV conv - k.wav y.wav < u.wav"],
    ["npy", "cat u.npy | FLASHFFTCONV conv - k.npy - > y.npy"],
    ["npy", "cat u.npy | FLASHFFTCONV conv --input - --kernel k.npy --output=- --json > y.npy"],
  ])("%s: %s", async (kind, line) => {
    const folder = prepared();
    const whole = `FLASHFFTCONV conv u.${kind} k.${kind} whole.${kind} ${line.includes("--stream") ? "--stream" : ""}`;
    expect((await inside(folder, whole)).code).toBe(0);
    const { code, stdout } = await inside(folder, line);
    expect(code).toBe(0);
    // The shell's standard error is here, where messages are.
    if (line.includes("--json")) expect(JSON.parse(stdout)).toMatchObject({ output: "-" });
    else expect(stdout).toContain("mode full\n");
    expect(folder.read(`y.${kind}`)).toEqual(folder.read(`whole.${kind}`));
    expect(folder.list().filter((name) => name.endsWith(".partial"))).toEqual([]);
  });

  posix.each([
    ["0", [0, 0]],
    ["2 GiB", [0x7fff_f024, 0x7fff_f000]],
    ["4 GiB", [0xffff_ffff, 0xffff_ffff]],
  ] as const)("sound whose writer did not know how long it was: %s", async (_, [riff, size]) => {
    const folder = prepared();
    const bytes = folder.read("u.wav");
    new DataView(bytes.buffer).setUint32(4, riff, true);
    new DataView(bytes.buffer).setUint32(40, size, true);
    // And it ends within a frame.
    folder.write("open.wav", Uint8Array.of(...bytes, 1, 2, 3));
    const lines = [
      "FLASHFFTCONV conv u.wav k.wav whole.wav > /dev/null",
      "cat open.wav | FLASHFFTCONV conv - k.wav y.wav > /dev/null",
      "! FLASHFFTCONV conv open.wav k.wav z.wav",
    ];
    const { code } = await inside(folder, lines.join(" && "));
    expect(code).toBe(0);
    expect(folder.read("y.wav")).toEqual(folder.read("whole.wav"));
  });

  posix("sound that a pipe cut short is refused", async () => {
    const folder = prepared();
    const line = "head -c 2000 u.wav | FLASHFFTCONV conv - k.wav -";
    const { code, stdout } = await inside(folder, line);
    expect([code, stdout]).toEqual([3, expect.stringContaining("must not be cut short")]);
  });

  posix("errors leave the standard output alone, also with --json", async () => {
    const folder = prepared();
    const line = "FLASHFFTCONV conv u.wav none.wav - --json > out 2> err; echo $?";
    expect((await inside(folder, line)).stdout).toBe("3\n");
    expect(folder.read("out").length).toBe(0);
    const [record, ...rest] = Buffer.from(folder.read("err")).toString().split("\n");
    expect(JSON.parse(record!)).toMatchObject({ command: "conv", error: { name: "FileError" } });
    expect(rest).toEqual([""]);
  });

  posix("a reader that leaves early ends the work", async () => {
    const folder = prepared();
    sparse(folder, "long.npy", [64, 1_048_576]);
    const line = 'FLASHFFTCONV conv long.npy k.npy - | head -c 10 > /dev/null; echo "$PIPESTATUS"';
    expect((await inside(folder, line)).stdout).toBe("141\n");
  });

  test.skipIf(!existsSync("/dev/full"))("a standard output that takes no more", async () => {
    const { code, stdout } = await inside(
      prepared(),
      "FLASHFFTCONV conv u.wav k.wav - > /dev/full",
    );
    expect(code).toBe(3);
    expect(stdout).toContain("the standard output cannot be written");
  });
});

test("--resample without the package says what to install", () => {
  const folder = new Folder();
  // The program where no packages are beside it.
  cpSync(new URL("../../dist", import.meta.url), folder.file("dist"), { recursive: true });
  copyFileSync(new URL("../../package.json", import.meta.url), folder.file("package.json"));
  const silence = bytesOf(new Float32Array(100));
  for (const [name, rate] of [
    ["u.wav", 44_100],
    ["k.wav", 48_000],
  ] as const)
    folder.write(name, wav({ channels: 1, rate, bits: 32, kind: 3, data: silence }));
  const argv = ["conv", "u.wav", "k.wav", "y.wav", "--resample"];
  const { status, stderr } = spawnSync(
    process.execPath,
    [folder.file("dist/cli/bin.js"), ...argv],
    {
      ...{ cwd: folder.path, encoding: "utf8" },
    },
  );
  expect(stderr).toMatch(
    /^flashfftconv conv: --resample needs the package (\S+); got none beside flashfftconv\. Install it there \(npm install \1\)/,
  );
  expect([status, folder.list().includes("y.wav")]).toEqual([1, false]);
});

describe("a disk that takes no more", () => {
  posix("at the limit of a file's size", async () => {
    const folder = new Folder();
    const input = sparse(folder, "u.npy", [4, 100_000]);
    const kernel = sparse(folder, "k.npy", [1000]);
    const { code, stdout } = await shell(
      `ulimit -f 512; FLASHFFTCONV conv --input "${input}" --kernel "${kernel}" --output "${folder.file("y.npy")}"`,
    );
    expect(stdout).toContain("y.npy");
    expect(stdout).toContain("must be writable");
    expect(code).toBe(3);
    expect(folder.list()).toEqual(["k.npy", "u.npy"]);
  });

  test.skipIf(!existsSync("/dev/full"))("for the standard output", async () => {
    for (const line of ["FLASHFFTCONV info", "FLASHFFTCONV --help", "FLASHFFTCONV conv --json"]) {
      const { code, stdout } = await shell(`${line} > /dev/full`);
      expect(stdout).toContain("the standard output cannot be written");
      expect(code).toBe(3);
    }
  });
});

describe.skipIf(process.platform !== "linux")("a machine without a graphics driver", () => {
  const none = { VK_DRIVER_FILES: "/nonexistent", VK_ICD_FILENAMES: "/nonexistent" };
  const missing = /needs a graphics adapter; got none .*\. Check the driver/;

  test("info says that it has no GPU, and why", async () => {
    const { code, stdout } = await shell("FLASHFFTCONV info 2>/dev/null", none);
    expect(stdout).toMatch(new RegExp(`webgpu +no: .*--backend webgpu ${missing.source}`));
    expect(code).toBe(0);
  });

  test("--backend webgpu is refused", async () => {
    const { code, stdout } = await shell("FLASHFFTCONV plan --length 1K --backend webgpu", none);
    expect(stdout).toMatch(new RegExp(`flashfftconv plan: --backend webgpu ${missing.source}`));
    expect(code).toBe(1);
  });
});

posix("a reader that leaves early is no error to speak of", async () => {
  const { code, stdout } = await shell(
    'FLASHFFTCONV verify --length 64 | true; echo "codes $PIPESTATUS"',
  );
  expect(stdout).toBe("codes 141\n");
  expect(code).toBe(0);
});

test("progress stays off what is not a terminal", async () => {
  const { code, stderr } = await ended(start(["bench", "--length", "1K", "--seconds", "0.7"]));
  expect([code, stderr]).toEqual([0, ""]);
});
