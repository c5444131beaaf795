/** Tests leave the user's cache folder alone, and are left alone by it. */
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname } from "node:path";
import { expect, test } from "vitest";
import { wisdomPath } from "../../src/calls/measured.ts";

test("the folder of tuned numbers is none, here and in child processes", () => {
  expect(existsSync(dirname(wisdomPath()!))).toBe(false);
  expect(wisdomPath()!.startsWith(homedir())).toBe(false);
  const print = "console.log(process.env.FLASHFFTCONV_CACHE)";
  const output = execFileSync(process.execPath, ["-e", print], { encoding: "utf8" });
  expect(output.trim()).toBe(process.env.FLASHFFTCONV_CACHE);
});
