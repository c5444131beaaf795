/** What `tune` makes of times: of a machine that the model describes, itself; of a busy one, defaults and a word of it. */
import { describe, expect, test } from "vitest";
import { defaultDevice } from "../../src/calls/measured.ts";
import { UnsupportedError } from "../../src/errors.ts";
import type { DeviceSpec } from "../../src/plan/device.ts";
import { defaultCpu } from "../../src/plan/device.ts";
import { measureDevice } from "../../src/tune/cpu.ts";
import { fitDevice, timedRows } from "../../src/tune/fit-cpu.ts";

/** Seconds of a row on a machine whose memories are swept as the model of `fit.ts` has it. */
function rowOn(machine: DeviceSpec, plan: string): number {
  const [points = 0, ...radices] = plan.split(/: |·/).map(Number);
  const stages = radices.reduce((sum, r) => sum + machine.butterflySeconds[r]!, 0);
  // The least row has no memory, and so little arithmetic that its stage does not count.
  const own = machine.rowSeconds + points * (machine.pointSeconds + (points > 16 ? stages : 0));
  const level = points >= 2 ** 23 ? 3 : points >= 2 ** 18 ? 2 : points >= 2 ** 14 ? 1 : 0;
  const bytes = (radices.length + 1) * 4 * points * machine.bytesPerPoint;
  return own + (level ? bytes / machine.memory[level]!.bandwidth : 0);
}

/** The default machine, whose arithmetic takes `factor` times as long. */
function slower(factor: number): DeviceSpec {
  const stages = Object.entries(defaultCpu.butterflySeconds).map(([r, s]) => [r, factor * s]);
  const butterflySeconds: Record<number, number> = Object.fromEntries(stages);
  return { ...defaultCpu, butterflySeconds, pointSeconds: factor * defaultCpu.pointSeconds };
}

const radices = [2, 3, 4, 5, 7] as const;
/** Starting a row is told from its 16 points by the default's speed, which is off on other machines. */
const near = (value: number, expected: number): void =>
  expect(Math.abs(value / expected - 1)).toBeLessThan(0.25);

describe("times of a quiet machine", () => {
  test.each([0.5, 1, 3])("%f times the default's: its own numbers", (factor) => {
    const machine = slower(factor);
    const fit = fitDevice((plan) => rowOn(machine, plan), defaultCpu, {});
    expect(fit).toMatchObject({ defaults: [], doubtful: [], useless: false });
    near(fit.device.pointSeconds, machine.pointSeconds);
    for (const r of radices) near(fit.device.butterflySeconds[r]!, machine.butterflySeconds[r]!);
    near(fit.device.memory[3]!.bandwidth, defaultCpu.memory[3]!.bandwidth);
    // What the third level costs is a few hundredths of its arithmetic.
    if (factor === 1) near(fit.device.memory[2]!.bandwidth, defaultCpu.memory[2]!.bandwidth);
  });

  test("caches have the sizes that the system tells", () => {
    const bytes = { L1: 49_152, L3: 2 ** 28 };
    const { device } = fitDevice((plan) => rowOn(defaultCpu, plan), defaultCpu, bytes);
    expect(device.memory.map((m) => m.bytes)).toEqual([
      ...[49_152, defaultCpu.memory[1]!.bytes, 2 ** 28, Number.POSITIVE_INFINITY],
    ]);
  });
});

/** Times of a machine, some rows of which take longer for the first so many times. */
function disturbed(machine: DeviceSpec, rows: Readonly<Record<string, number>>, times: number) {
  const asked = new Map<string, number>();
  return async (plan: string, what: string): Promise<number> => {
    const before = asked.get(what) ?? 0;
    asked.set(what, before + 1);
    return rowOn(machine, plan) * (before < times ? (rows[what] ?? 1) : 1);
  };
}

describe("times of a busy machine", () => {
  const busy = { "a row of 256 points": 1.6, "radix 7": 4, "sweeps through DRAM": 40 };

  test("what makes no sense is measured again", async () => {
    const quiet = await measureDevice(disturbed(defaultCpu, {}, 0), defaultCpu, {});
    const fit = await measureDevice(disturbed(defaultCpu, busy, 2), defaultCpu, {});
    expect(fit).toEqual(quiet);
    expect(fit.defaults).toEqual([]);
  });

  test("and in the end is the default's, at this machine's speed, by name", async () => {
    const rows = { "radix 3": 0.5, "radix 7": 4, "sweeps through DRAM": 40 };
    const machine = slower(2);
    const fit = await measureDevice(disturbed(machine, rows, 99), defaultCpu, {});
    expect(fit.defaults).toEqual(["radix 3", "radix 7", "DRAM"]);
    for (const r of radices) near(fit.device.butterflySeconds[r]!, machine.butterflySeconds[r]!);
    expect(fit.device.memory[3]!.bandwidth).toBe(defaultCpu.memory[3]!.bandwidth);
  });

  test.each([2, 3, 4, 5, 7])("radix %i never costs a fraction of its operations", (radix) => {
    for (const share of [0.3, 0.6, 0.8]) {
      const what = `radix ${radix}`;
      const plans = new Map(timedRows.map((row) => [row.plan, row.what]));
      const seconds = (plan: string): number =>
        rowOn(defaultCpu, plan) * (plans.get(plan) === what ? share : 1);
      const { device } = fitDevice(seconds, defaultCpu, {});
      for (const r of radices) {
        const usual = defaultCpu.butterflySeconds[r]!;
        expect(device.butterflySeconds[r]!).toBeGreaterThan(0.45 * usual);
      }
    }
  });

  test("a sweep that takes no longer than its arithmetic, or less, is no bandwidth", () => {
    const seconds = (plan: string): number =>
      rowOn(defaultCpu, plan) * (plan.startsWith("8388608") ? 0.1 : 1);
    const { defaults, device } = fitDevice(seconds, defaultCpu, {});
    expect(defaults).toEqual(["DRAM"]);
    expect(device.memory[3]).toEqual(defaultCpu.memory[3]);
  });

  test("where most make no sense, nothing is kept", async () => {
    const rows = { "a row of 256 points": 5 };
    const measured = measureDevice(disturbed(defaultCpu, rows, 99), defaultCpu, {});
    await expect(measured).rejects.toThrow(UnsupportedError);
    await expect(measured).rejects.toThrow(/busy/);
    const slow = measureDevice(async () => 1, defaultDevice("javascript"), {});
    await expect(slow).rejects.toThrow(UnsupportedError);
  });
});
