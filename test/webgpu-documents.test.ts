/** What README, the guides and the examples show of WebGPU, run as a user would run it, in the packed package. */
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { onGpu } from "./support/backends.ts";
import {
  documents,
  expectAsPromised,
  programsIn,
  runPrograms,
  userFolder,
} from "./support/guides.ts";

const root = fileURLToPath(new URL("..", import.meta.url));

describe.skipIf(!onGpu)("documents on WebGPU", { timeout: 300_000 }, () => {
  let folder: string;
  beforeAll(() => {
    folder = userFolder(["webgpu"]);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each(documents.filter((document) => programsIn(document, true).length > 0))(
    "programs of %s",
    (document) => {
      const programs = programsIn(document, true);
      expectAsPromised(programs, runPrograms(folder, programs, true));
    },
  );

  /** Run the example, on the driver of this process or on another. */
  const example = (env: NodeJS.ProcessEnv = process.env) =>
    spawnSync(process.execPath, ["--no-warnings", "examples/webgpu.js"], {
      ...{ cwd: root, encoding: "utf8", timeout: 150_000, env },
    });

  test("examples/webgpu.js: the right answer", () => {
    const { status, stdout, stderr } = example();
    if (status !== 0) throw new Error(`exit code ${status}: ${stderr}`);
    expect(Number(/relative error of the result: (\S+)/.exec(stdout)![1])).toBeLessThan(1e-6);
  });

  test("examples/webgpu.js says in a sentence that there is no adapter", () => {
    const { status, stderr } = example({ ...process.env, VK_DRIVER_FILES: "/no/driver" });
    expect(stderr).toMatch(/FlashFFTConv.create: .*needs a graphics adapter; got none/);
    expect(stderr).not.toMatch(/^ +at .*\.js:/m);
    expect(status).toBe(1);
  });
});
