/** Output files appear whole or not at all: full disks, failing code, interruptions, links and devices. */
import { spawnSync } from "node:child_process";
import { chmodSync, lstatSync, mkdirSync, statSync, symlinkSync } from "node:fs";
import { hostname } from "node:os";
import { basename } from "node:path";
import { describe, expect, test } from "vitest";
import { type OutputContext, type Pipes, systemPipes } from "../../src/cli/pipes.ts";
import { FileError, InvalidArgumentError } from "../../src/errors.ts";
import { checkOutput, type Disk, systemDisk, writeWhole } from "../../src/files/output.ts";
import { Temporaries } from "../../src/files/temporaries.ts";
import { Folder, npy, run } from "./support.ts";

const call = "flashfftconv conv";
const old = Uint8Array.from([1, 2, 3]);
const content = Uint8Array.from({ length: 1000 }, (_, i) => i % 251);

function contextOf(disk: Disk = systemDisk) {
  const controller = new AbortController();
  const [{ signal }, temporaries] = [controller, new Temporaries()];
  return { controller, signal, disk, temporaries, pipes: systemPipes };
}

/** What a disk says that fails: after `bytes` of writing, or when it is synchronised. */
function failingDisk(code: string, bytes: number): Disk {
  let left = bytes;
  const fail = () => Promise.reject(Object.assign(new Error(`${code}: simulated`), { code }));
  return {
    write: (descriptor, part) => {
      if (left === 0) return fail();
      const taken = part.subarray(0, Math.min(left, part.length));
      left -= taken.length;
      return systemDisk.write(descriptor, taken);
    },
    sync: () => fail(),
  };
}

async function refusal(promise: Promise<unknown>): Promise<FileError> {
  const error = await promise.then(
    () => expect.fail("it succeeded"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FileError);
  return error as FileError;
}

describe("writeWhole", () => {
  test("writes a new file, and nothing else", async () => {
    const folder = new Folder();
    const output = await checkOutput(folder.file("a"), call);
    await writeWhole(output, call, contextOf(), async (write) => {
      await write(content.subarray(0, 10));
      expect(folder.list()).toEqual([
        expect.stringMatching(/^\.flashfftconv-[\w-]+-\d+-[0-9a-f]{8}\.partial$/),
      ]);
      await write(content.subarray(10));
    });
    expect(folder.list()).toEqual(["a"]);
    expect(folder.read("a")).toEqual(content);
  });

  test("replaces a file only at the end, and keeps its permissions", async () => {
    const folder = new Folder();
    chmodSync(folder.write("a", old), 0o640);
    const output = await checkOutput(folder.file("a"), call);
    await writeWhole(output, call, contextOf(), async (write) => {
      await write(content);
      expect(folder.read("a")).toEqual(old);
    });
    expect(folder.read("a")).toEqual(content);
    expect(statSync(folder.file("a")).mode & 0o777).toBe(0o640);
  });

  test("completes writes that the disk takes in parts", async () => {
    const folder = new Folder();
    const slow: Disk = {
      ...systemDisk,
      write: (descriptor, part) => systemDisk.write(descriptor, part.subarray(0, 7)),
    };
    const output = await checkOutput(folder.file("a"), call);
    await writeWhole(output, call, contextOf(slow), (write) => write(content));
    expect(folder.read("a")).toEqual(content);
  });

  test.each([
    ["ENOSPC", 0, "disk that is full"],
    ["ENOSPC", 1, "disk that is full"],
    ["ENOSPC", 999, "disk that is full"],
    ["EDQUOT", 500, "quota"],
    ["EFBIG", 500, "ulimit"],
    ["EIO", 500, "input/output"],
    ["EIO", 1000, "input/output"],
    ["EWEIRD", 500, "EWEIRD: simulated"],
  ])("%s after %i bytes leaves what was there", async (code, bytes, hint) => {
    const folder = new Folder();
    folder.write("a", old);
    for (const name of ["a", "b"]) {
      const output = await checkOutput(folder.file(name), call);
      const context = contextOf(failingDisk(code, bytes));
      const error = await refusal(writeWhole(output, call, context, (write) => write(content)));
      expect(error.message).toContain(hint);
      expect(error.message).toContain(folder.file(name));
      expect(error.parts.call).toBe(call);
      expect(error.parts.remedy).not.toBe("");
      expect(folder.list()).toEqual(["a"]);
      expect(folder.read("a")).toEqual(old);
    }
  });

  test("an error of the producer passes through, and no file is left", async () => {
    const folder = new Folder();
    const output = await checkOutput(folder.file("a"), call);
    const mistake = new InvalidArgumentError({ call, requirement: "r", value: "v", remedy: "m" });
    const writing = writeWhole(output, call, contextOf(), async (write) => {
      await write(content);
      throw mistake;
    });
    await expect(writing).rejects.toBe(mistake);
    expect(folder.list()).toEqual([]);
  });

  test("an interruption removes the unfinished file at once", async () => {
    const folder = new Folder();
    const output = await checkOutput(folder.file("a"), call);
    const context = contextOf();
    const reason = new Error("interrupted");
    const writing = writeWhole(output, call, context, async (write) => {
      await write(content);
      expect(folder.list().length).toBe(1);
      context.controller.abort(reason);
      context.temporaries.remove();
      expect(folder.list()).toEqual([]);
      await write(content);
    });
    await expect(writing).rejects.toBe(reason);
    expect(folder.list()).toEqual([]);
  });

  test("an interruption after the last byte leaves no file either", async () => {
    const folder = new Folder();
    const context = contextOf();
    const output = await checkOutput(folder.file("a"), call);
    const writing = writeWhole(output, call, context, async (write) => {
      await write(content);
      context.controller.abort(new Error("interrupted"));
    });
    await expect(writing).rejects.toThrow("interrupted");
    expect(folder.list()).toEqual([]);
  });

  test("removes the unfinished files of processes that are gone, and no others", async () => {
    const folder = new Folder();
    const named = (machine: string, id: number) =>
      folder.write(`.flashfftconv-${machine}-${id}-0123abcd.partial`, old);
    const { pid: gone } = spawnSync(process.execPath, ["--version"]);
    const machine = hostname()
      .replace(/[^A-Za-z0-9-]/g, "_")
      .slice(0, 64);
    named(machine, gone);
    const kept = [
      named(machine, process.ppid),
      named(`${machine}x`, gone),
      folder.write(".flashfftconv-notes.partial", old),
    ];
    const output = await checkOutput(folder.file("a"), call);
    await writeWhole(output, call, contextOf(), (write) => write(content));
    expect(folder.list()).toEqual([...kept.map((path) => basename(path)), "a"].sort());
  });

  test("says how many unfinished files there are", async () => {
    const folder = new Folder();
    const counts: number[] = [];
    const temporaries = new Temporaries((count) => {
      // Announced before the file is there, until after it is gone: no signal may slip between.
      counts.push(count, folder.list().filter((name) => name.endsWith(".partial")).length);
    });
    const output = await checkOutput(folder.file("a"), call);
    const write = (context: OutputContext) =>
      writeWhole(output, call, context, (take) => take(content));
    await write({ ...contextOf(), temporaries });
    expect(counts).toEqual([1, 0, 0, 0]);
    await refusal(write({ ...contextOf(failingDisk("EIO", 10)), temporaries }));
    expect(counts).toEqual([1, 0, 0, 0, 1, 0, 0, 0]);
  });
});

describe("pipes", () => {
  const one = npy("<f4", [1], Float32Array.of(1));
  const pipes = (input: AsyncIterable<Uint8Array>, isTTY = false): Pipes => ({
    input: () => Object.assign(input, { isTTY }),
    write: () => Promise.resolve(),
    outputIsTTY: isTTY,
  });
  const pieces = async function* (error?: object) {
    yield one.subarray(0, 20);
    if (error) throw Object.assign(new Error("simulated"), error);
    yield one.subarray(20);
  };

  test.each([
    ["a terminal to read from", ["-", "k.npy", "y.npy"], pipes(pieces(), true), 2, "a terminal"],
    ["a terminal to write to", ["k.npy", "k.npy", "-"], pipes(pieces(), true), 2, "a terminal"],
    [
      "a pipe that breaks",
      ["-", "k.npy", "y.npy"],
      pipes(pieces({ syscall: "read", code: "EIO" })),
      ...[3, '"standard input" must be readable; got a path that met an input/output error'],
    ],
    [
      "a full disk for what comes through",
      ["-", "k.npy", "y.npy"],
      pipes(pieces({ syscall: "write", code: "ENOSPC" })),
      ...[3, "must be a folder with room; got a path that is on a disk that is full"],
    ],
    ["nothing", ["-", "k.npy", "y.npy"], pipes(pieces()), 0, ""],
  ] as const)("%s", async (_, files, ends, code, hint) => {
    const folder = new Folder();
    folder.write("k.npy", one);
    const argv = files.map((name) => (name === "-" ? name : folder.file(name)));
    const result = await run(["conv", ...argv], { pipes: ends });
    expect(result.stderr).toContain(hint);
    expect(result.code).toBe(code);
    expect(folder.list()).toEqual(code === 0 ? ["k.npy", "y.npy"] : ["k.npy"]);
  });
});

describe("checkOutput", () => {
  test("a link stays a link: the file that it names is replaced", async () => {
    const folder = new Folder();
    folder.write("target", old);
    symlinkSync(folder.file("target"), folder.file("link"));
    const output = await checkOutput(folder.file("link"), call);
    await writeWhole(output, call, contextOf(), (write) => write(content));
    expect(lstatSync(folder.file("link")).isSymbolicLink()).toBe(true);
    expect(folder.read("target")).toEqual(content);
  });

  test("a link that leads to no file yet: that file is created, and the link stays", async () => {
    const folder = new Folder();
    mkdirSync(folder.file("sub"));
    symlinkSync("sub/hop", folder.file("link"));
    symlinkSync("../target", folder.file("sub/hop"));
    const output = await checkOutput(folder.file("link"), call);
    await writeWhole(output, call, contextOf(), (write) => write(content));
    for (const name of ["link", "sub/hop"])
      expect(lstatSync(folder.file(name)).isSymbolicLink()).toBe(true);
    expect(lstatSync(folder.file("target")).isFile()).toBe(true);
    expect(folder.read("target")).toEqual(content);
    expect(folder.list()).toEqual(["link", "sub", "target"]);
  });

  test("a link into nowhere, or in a circle, is refused", async () => {
    const folder = new Folder();
    symlinkSync(folder.file("none/target"), folder.file("lost"));
    symlinkSync("circle", folder.file("circle"));
    const lost = await refusal(checkOutput(folder.file("lost"), call));
    expect(lost.message).toContain(`${folder.file("none")}" must be a folder`);
    const circle = await refusal(checkOutput(folder.file("circle"), call));
    expect(circle.message).toContain("a link that leads to itself");
    expect(folder.list()).toEqual(["circle", "lost"]);
  });

  test("refuses folders, devices, and folders that are not there", async () => {
    const folder = new Folder();
    mkdirSync(folder.file("sub"));
    expect((await refusal(checkOutput(folder.file("sub"), call))).message).toContain("a folder");
    const nowhere = checkOutput(folder.file("none/a"), call);
    expect((await refusal(nowhere)).message).toContain("does not exist");
    folder.write("file", old);
    const below = checkOutput(folder.file("file/a"), call);
    expect((await refusal(below)).message).toContain("not a folder");
    if (process.platform === "win32") return;
    expect((await refusal(checkOutput("/dev/null", call))).message).toContain("a device");
  });
});
