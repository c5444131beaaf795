/** Random machines: every number of a description within the range that a file may hold, so that any plan may be chosen. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { deviceRanges } from "../../src/calls/measured.ts";
import { defaultCpu } from "../../src/plan/device.ts";

type Range = readonly [number, number];

/** Numbers of all magnitudes of a range; 0, where it begins there. */
function within([low, high]: Range): fc.Arbitrary<number> {
  const least = low || high * 1e-9;
  const magnitudes = fc
    .double({ min: Math.log(least), max: Math.log(high), noNaN: true })
    .map((x) => Math.min(high, Math.max(least, Math.exp(x))));
  return low === 0 ? fc.oneof({ weight: 9, arbitrary: magnitudes }, fc.constant(0)) : magnitudes;
}

const record = <K extends string>(ranges: Readonly<Record<K, Range>>) =>
  fc.record(
    Object.fromEntries(
      Object.entries<Range>(ranges).map(([name, range]) => [name, within(range)]),
    ) as Record<K, fc.Arbitrary<number>>,
  );

const { prices, butterfly, direct, bandwidth, bytes } = deviceRanges;

/** A description as it stands in a file, which has no bytes for its last memory. */
export const anyDevice: fc.Arbitrary<object> = fc
  .record({
    prices: record(prices),
    butterflySeconds: record(
      Object.fromEntries(Object.keys(defaultCpu.butterflySeconds).map((r) => [r, butterfly])),
    ),
    directSeconds: record({ block: direct, output: direct, tap: direct, loadedTap: direct }),
    levels: fc.array(fc.record({ bytes: within(bytes), bandwidth: within(bandwidth) }), {
      minLength: 3,
      maxLength: 3,
    }),
    last: within(bandwidth),
  })
  .map(({ prices: numbers, levels, last, ...rest }) => ({
    ...{ name: "a random machine", stages: ["butterfly"], matrixFlops: 0, matrixTile: 1 },
    ...{ source: "drawn", ...numbers, ...rest },
    memory: [
      ...levels.toSorted((a, b) => a.bytes - b.bytes).map((m, i) => ({ name: `L${i + 1}`, ...m })),
      { name: "DRAM", bandwidth: last },
    ],
  }));

/** This machine, but for what handing a job to threads takes. */
export const slowDispatch = (dispatchSeconds: number): object => ({
  ...defaultCpu,
  dispatchSeconds,
});

const folder = mkdtempSync(join(tmpdir(), "flashfftconv-devices-"));
let count = 0;

/** While `work` runs, objects are planned with a description; undefined for the defaults. */
export async function withDevice<T>(
  instructions: string,
  device: object | undefined,
  work: () => Promise<T>,
): Promise<T> {
  const before = process.env.FLASHFFTCONV_CACHE;
  const cache = join(folder, String(count++));
  mkdirSync(cache);
  if (device) writeFileSync(join(cache, "device.json"), JSON.stringify({ [instructions]: device }));
  process.env.FLASHFFTCONV_CACHE = cache;
  try {
    return await work();
  } finally {
    process.env.FLASHFFTCONV_CACHE = before;
    rmSync(cache, { recursive: true, force: true });
  }
}
