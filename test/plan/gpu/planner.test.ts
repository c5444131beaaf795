/** Plans for GPUs: what the cost model chooses, and plans as text. */
import { describe, expect, test } from "vitest";
import { createProblem } from "../../../src/plan/create-problem.ts";
import { defaultGpu } from "../../../src/plan/device.ts";
import { keptBins } from "../../../src/plan/frequencies.ts";
import { keptBlocks } from "../../../src/plan/gpu/kept-blocks.ts";
import {
  digitAt,
  formatPasses,
  gradientValues,
  inPairs,
  mirrored,
  mirrorPlaces,
  parsePasses,
  passLayouts,
  placeOfSlot,
  pointFormat,
  widened,
  workPoints,
} from "../../../src/plan/gpu/passes.ts";
import {
  gradientPlan,
  namedPasses,
  namedPlans,
  passCandidates,
} from "../../../src/plan/gpu/planner.ts";
import type { ProblemOptions } from "../../../src/plan/problem.ts";

const limits = { sharedBytes: 49_152, threads: 1024, values: 32 };
const workload = { batch: 8, channels: 48 };

const cheapest = (options: ProblemOptions) =>
  passCandidates({
    problem: createProblem(options, "test"),
    device: defaultGpu,
    limits,
    workload,
  })[0]!;

describe("kernels shorter than the input", () => {
  const length = 65_536;
  const kernels = [65_536, 16_384, 4096, 1024, 256];

  test("cost less, the shorter the less", () => {
    const seconds = kernels.map((kernelLength) => cheapest({ length, kernelLength }).seconds);
    expect(seconds).toEqual([...seconds].sort((a, b) => b - a));
    expect(seconds[3]! / seconds[0]!).toBeLessThan(1 / 2);
  });

  test("are cut into blocks where whole rows cost more, short ones whatever L", () => {
    expect(cheapest({ length, kernelLength: length }).plan.hop).toBeUndefined();
    for (const longer of [2 ** 16, 2 ** 24]) {
      const { hop, points } = cheapest({ length: longer, kernelLength: 1024 }).plan;
      expect(hop).toBeGreaterThan(1024);
      expect(points).toBeLessThanOrEqual(8192);
    }
  });

  test("stay whole in circular convolutions", () => {
    const problem = createProblem({ length, kernelLength: 16, mode: "circular" }, "test");
    const candidates = passCandidates({ problem, device: defaultGpu, limits, workload });
    expect(candidates.length).toBeGreaterThan(0);
    for (const { plan } of candidates) expect(plan.hop).toBeUndefined();
  });
});

describe("gradients", () => {
  const gpu = { sharedBytes: 49_152, threads: 1024, values: 32 };

  test.each([4096, 16_384, 65_536, 2 ** 20, 2 ** 21])(
    "of %i samples have no more values a thread than registers",
    (length) => {
      const problem = createProblem({ length, dtype: "float16" }, "test");
      const workload = { batch: 16, channels: 768 };
      const all = passCandidates({ problem, device: defaultGpu, limits: gpu, workload });
      const plan = gradientPlan(all[0]!, all, {
        problem,
        device: defaultGpu,
        limits: gpu,
        workload,
      });
      const { points, packing, hop } = all[0]!.plan;
      expect([plan.points, plan.packing, plan.hop]).toEqual([points, packing, hop]);
      expect(parsePasses(formatPasses(plan))).toEqual(plan);
      const last = widened(passLayouts(plan).at(-1)!, gpu.threads);
      expect(last.tilePoints / last.threads).toBeLessThanOrEqual(gradientValues);
    },
  );

  test("that a text names as they are are no plan of their own", () => {
    const problem = createProblem({ length: 1024 }, "test");
    const text = "halves 1024: 8·8·16 ×64 split";
    const named = (plan: string) =>
      namedPlans(plan, { problem, device: defaultGpu, limits: gpu, workload })!;
    const { chosen, gradients } = named(`${text}; gradients ${text}`);
    expect(gradients).toBe(chosen.plan);
    const other = "halves 1024: 4·16·16 ×64 split";
    expect(formatPasses(named(`${text}; gradients ${other}`).gradients)).toBe(other);
  });

  test.each([2048, 8192])("of %i samples keep the plan of other calls", (length) => {
    const problem = createProblem({ length, dtype: "float16" }, "test");
    const workload = { batch: 16, channels: 768 };
    const all = passCandidates({ problem, device: defaultGpu, limits: gpu, workload });
    expect(gradientPlan(all[0]!, all, { problem, device: defaultGpu, limits: gpu, workload })).toBe(
      all[0]!.plan,
    );
  });
});

describe("points between passes", () => {
  const workload = { batch: 8, channels: 16 };

  test.each([2 ** 21, 2 ** 21 + 2 ** 20, 2 ** 22, 2 ** 23, 2 ** 24])(
    "of the cheapest plans of three passes wait in pairs: %i float16 samples",
    (length) => {
      const problem = createProblem({ length, dtype: "float16" }, "test");
      const all = passCandidates({ problem, device: defaultGpu, limits, workload });
      const best = all.find(({ plan }) => plan.passes.length === 3)!;
      const gradients = gradientPlan(best, all, { problem, device: defaultGpu, limits, workload });
      for (const plan of [best.plan, gradients]) {
        expect(pointFormat(plan, "float16")).toBe("pair");
        expect(pointFormat(plan, "bfloat16")).toBe("pair");
        expect(pointFormat(plan, "float32")).toBe("float32");
      }
    },
  );

  test.each([
    ["all even", "8·8 /16 ×64 | 8·8 /16 ×64 | 8·16·16 ×128", "pair"],
    ["one first of a pass", "16·4 /16 ×64 | 8·8 /16 ×64 | 8·16·16 ×128", "float32"],
    ["one last of a pass", "8·8 /16 ×64 | 4·16 /16 ×64 | 8·16·16 ×128", "float32"],
    ["one in gradients", "8·8 /16 ×64 | 8·8 /16 ×64 | 16·8·16 ×64", "float32"],
  ])("by the butterflies of a thread: %s", (_, passes, format) => {
    const plan = parsePasses(`halves 8388608: ${passes}`)!;
    expect(pointFormat(plan, "float16")).toBe(format);
  });
});

describe("frequencies", () => {
  const digits = [8, 8, 8, 4];
  const frequencies = { digits, dropped: [4, 4, 4, 1], period: 2048 };

  test("blocks keep what the phases of their points say", () => {
    const radices = [4, 8, 2, 16, 2];
    const bins = keptBins(frequencies);
    let phases = [0];
    // Halving takes a ring x^M − e^{2πiφ} apart into those of phases φ/2 and (φ + 1)/2; all radices come to halvings.
    for (const [s, r] of radices.entries()) {
      for (let n = r; n > 1; n /= 2) phases = phases.flatMap((p) => [p / 2, (p + 1) / 2]);
      const kept = keptBlocks(frequencies, radices.slice(0, s + 1));
      const expected = phases.map((phase) => {
        for (let f = phase * phases.length; f < 2048; f += phases.length) {
          if (bins[Math.min(Math.round(f), 2048 - Math.round(f))]) return 1;
        }
        return 0;
      });
      expect([...kept]).toEqual(expected);
    }
    expect(phases.length).toBe(2048);
  });

  test.each([
    [
      [4, 4, 16],
      [2, 8, 4, 4],
      [16, 16],
    ],
    [
      [6, 4, 16],
      [12, 32],
      [3, 8, 16],
      [24, 16],
    ],
    [
      [5, 32],
      [10, 16],
      [40, 4],
    ],
  ])("points stand in one order, whatever the radices: %j", (...plans) => {
    // Stage by stage: output `place` of radix r in a block of residues f mod n has those f + n·digit mod n·r.
    const orders = plans.map((radices) => {
      let residues = [0];
      for (const r of radices) {
        const n = residues.length;
        residues = residues.flatMap((f) =>
          Array.from({ length: r }, (_, place) => f + n * digitAt(place, r)),
        );
      }
      return residues;
    });
    for (const order of orders) expect(order).toEqual(orders[0]);
    expect(new Set(orders[0]).size).toBe(orders[0]!.length);
  });

  test("cost less, the fewer are kept", () => {
    const length = 65_536;
    const mode = "circular";
    const droppings = [
      [0, 0],
      [7, 9],
      [12, 14],
    ].map((d) => [...d, 0, 0]);
    const seconds = droppings.map(
      (dropped) =>
        cheapest({ length, mode, frequencies: { digits: [16, 16, 16, 16], dropped } }).seconds,
    );
    expect(seconds[0]).toBeGreaterThan(1.2 * seconds[1]!);
    expect(seconds[1]).toBeGreaterThan(1.1 * seconds[2]!);
  });

  test("take transforms of their own N, never blocks of rows", () => {
    const masked = { length: 1000, kernelLength: 10, frequencies };
    const problem = createProblem(masked, "test");
    const candidates = passCandidates({ problem, device: defaultGpu, limits, workload });
    expect(candidates.length).toBeGreaterThan(0);
    for (const { plan } of candidates) {
      expect(["rows", "neighbours"]).toContain(plan.packing);
      expect([plan.points, plan.hop]).toEqual([2048, undefined]);
    }
  });
});

test("an odd number of columns leaves one without a neighbour", () => {
  const { passes } = parsePasses("halves 640: 8·2 /5 ×5 | 10·4 ×2")!;
  expect(inPairs(passes[0]!, 0)).toBe(false);
});

describe("neighbours", () => {
  const plan = parsePasses("neighbours 4096: 4·8 /16 ×32 | 8·16 ×8")!;

  test("keep R/2 + 1 of R blocks", () => {
    const [first, last] = passLayouts(plan);
    expect([first!.size, first!.rest, first!.tilesPerBlock]).toEqual([2048, 64, 4]);
    expect([last!.blocks, last!.size, last!.rest]).toEqual([17, 128, 1]);
    expect(workPoints(plan)).toBe(17 * 128);
  });

  test("keep frequencies 0 … R/2, and mirrors meet in pairs of blocks", () => {
    const kept = Array.from({ length: 17 }, (_, slot) => digitAt(placeOfSlot(slot, 32), 32));
    expect(kept.sort((a, b) => a - b)).toEqual(Array.from({ length: 17 }, (_, f) => f));
    for (const radix of [2, 8, 12, 20, 32]) {
      mirrorPlaces(radix).forEach((mirror, place) => {
        expect((digitAt(place, radix) + digitAt(mirror, radix)) % radix).toBe(0);
      });
    }
    const { pairs, across } = mirrored({ ...plan.passes[0]!, radices: [16, 4], threads: 64 })!;
    expect(across).toBe(4);
    expect(pairs.flat().sort((a, b) => a - b)).toEqual(Array.from({ length: 16 }, (_, b) => b));
    for (const [a, b] of pairs.slice(1)) expect(mirrorPlaces(16)[a]).toBe(b);
  });

  test.each([
    ["columns of one point", "halves 256: 16 ×1 | 8·2 ×2"],
    ["tiles in turn with 40 values a thread", "halves 5120: 20·4·8·8 ×128 split @4"],
    ["one pass", "neighbours 512: 8·8·8 ×64"],
    ["an odd number of rows", "neighbours 192: 3 /32 ×32 | 8·8 ×8"],
    ["mirrors in two threads", "neighbours 1024: 8·8 /8 ×64 | 16 ×1"],
    ["threads that share no column evenly", "neighbours 2048: 8·8 /16 ×48 | 4·8 ×4"],
    ["an odd last radix", "neighbours 1536: 8·6 /16 ×16 | 32 ×1"],
    ["an odd factor after the first radix", "neighbours 768: 2·3·2 /16 ×16 | 8·8 ×8"],
    ["more rows than have their mirrors listed", "neighbours 262144: 65536·2 /1 ×1 | 2·2 ×1"],
  ])("%s cannot run", (_, text) => {
    expect(parsePasses(text)).toBeUndefined();
  });
});

describe("plans as text", () => {
  test("come back as they were", () => {
    for (const kernelLength of [5000, 100]) {
      const options = { length: 5000, kernelLength };
      const { plan } = cheapest(options);
      expect(parsePasses(formatPasses(plan))).toEqual(plan);
      const problem = createProblem(options, "test");
      const named = namedPasses(formatPasses(plan), {
        problem,
        device: defaultGpu,
        limits,
        workload,
      });
      expect(named).toEqual(cheapest(options));
    }
  });

  test.each([
    ["no room for so many outputs", "halves 128: 8·16 ×8·4 split, hop 158"],
    ["an odd number of outputs", "halves 128: 8·16 ×8·4 split, hop 21"],
    ["no outputs", "halves 128: 8·16 ×8·4 split, hop 0"],
    ["too few points for a row", "halves 128: 8·16 ×8·4 split"],
    ["more threads than a workgroup has", "halves 4096: 2·2·1024 ×2048 split"],
  ])("are refused: %s", (_, text) => {
    const problem = createProblem({ length: 1000, kernelLength: 100 }, "test");
    expect(namedPasses(text, { problem, device: defaultGpu, limits, workload })).toBeUndefined();
  });
});

describe("transforms of one pass", () => {
  test.each([
    [16_384, 256, 4096, "split"],
    [16_896, 256, 8192, "quarter"],
    [49_152, 1024, 16_384, "quarter"],
  ])("%i bytes and %i threads hold %i points", (sharedBytes, threads, points, exchange) => {
    const small = { sharedBytes, threads, values: 32 };
    const best = (length: number) => {
      const problem = createProblem({ length, dtype: "float16" }, "test");
      return passCandidates({ problem, device: defaultGpu, limits: small, workload })[0]!.plan
        .passes;
    };
    expect(best(points).map((p) => p.exchange)).toEqual([exchange]);
    expect(best(2 * points).length).toBeGreaterThan(1);
  });

  test("say by which parts points are exchanged, and only powers of two have such halves", () => {
    const text = "halves 1024: 8·8·16 ×64 quarter @4";
    expect(formatPasses(parsePasses(text)!)).toBe(text);
    expect(parsePasses("halves 640: 20·4·8 ×16·4 quarter")).toBeUndefined();
  });
});
