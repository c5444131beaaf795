/** What `tune` keeps is read back; a file that is anything else never stands in the way. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { deviceFor, keepDevice } from "../../src/conv/wisdom.ts";
import { FileError } from "../../src/errors.ts";
import { defaultCpu } from "../../src/plan/device.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "flashfftconv-wisdom-"));
  vi.stubEnv("FLASHFFTCONV_CACHE", join(folder, "cache"));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

const measured = { ...defaultCpu, name: "measured", rowSeconds: 1e-7 };

test("a description is kept and read back, for its instruction set alone", () => {
  expect(keepDevice("simd", measured)).toBe(join(folder, "cache", "device.json"));
  expect(deviceFor("simd")).toEqual(measured);
  expect(deviceFor("relaxed-simd")).toBe(defaultCpu);
  expect(readdirSync(join(folder, "cache"))).toEqual(["device.json"]);
});

test("a description from before there were prices in the time domain gets them, scaled", () => {
  const usual = deviceFor("simd");
  const { directSeconds, ...old } = measured;
  keepDevice("simd", { ...old, pointSeconds: 2 * usual.pointSeconds });
  const scaled = Object.entries(usual.directSeconds!).map(([name, s]) => [name, 2 * s]);
  expect(deviceFor("simd").directSeconds).toEqual(Object.fromEntries(scaled));
  expect(directSeconds).toBeDefined();
});

const { pointSeconds: _, ...incomplete } = measured;
test.each([
  "",
  "{",
  "null",
  "[]",
  "5",
  '{"simd": null}',
  '{"simd": "fast"}',
  JSON.stringify({ simd: incomplete }),
  JSON.stringify({ simd: { ...measured, rowSeconds: -1 } }),
  JSON.stringify({ simd: { ...measured, loopSeconds: Number.NaN } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: undefined } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: { 4: "fast" } } }),
  JSON.stringify({ simd: { ...measured, directSeconds: { block: 1e-6 } } }),
  JSON.stringify({ simd: { ...measured, memory: [] } }),
  JSON.stringify({ simd: { ...measured, memory: [null] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bytes: 1, bandwidth: 0 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bandwidth: 1e-300 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [{ name: "L1", bandwidth: 1e300 }] } }),
  JSON.stringify({ simd: { ...measured, memory: [...measured.memory].reverse() } }),
  JSON.stringify({ simd: { ...measured, pointSeconds: 0 } }),
  JSON.stringify({ simd: { ...measured, generalFlops: 1e-9 } }),
  JSON.stringify({ simd: { ...measured, rowSeconds: 1e9 } }),
  JSON.stringify({ simd: { ...measured, butterflySeconds: { 4: 1e300 } } }),
])("a file that holds %j leaves the defaults", (content) => {
  const fallback = deviceFor("simd");
  const name = join(folder, "device.json");
  vi.stubEnv("FLASHFFTCONV_CACHE", folder);
  writeFileSync(name, content);
  expect(deviceFor("simd")).toBe(fallback);
});

test("a folder that cannot be written to is a FileError that says how to name another", () => {
  const blocked = join(folder, "file");
  writeFileSync(blocked, "");
  vi.stubEnv("FLASHFFTCONV_CACHE", blocked);
  expect(() => keepDevice("simd", measured)).toThrow(FileError);
  expect(() => keepDevice("simd", measured)).toThrow(/FLASHFFTCONV_CACHE/);
});
