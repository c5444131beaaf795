/** Not only the plan that the planner likes best on this machine: all that it may choose on another give right answers. */
import { describe, expect, test } from "vitest";
import { type FlashFFTConvOptions, InvalidArgumentError } from "../../src/index.ts";
import { describeBackends } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs } from "../support/cases.ts";

/** At most this many candidates of a problem, spread over the whole list from cheapest to dearest. */
const tried = 5;

const problems: readonly FlashFFTConvOptions[] = [
  { length: 3 },
  { length: 100 },
  { length: 1024 },
  { length: 1000, mode: "circular" },
  { length: 2187, mode: "circular", dtype: "float16" },
  { length: 5000, mode: "full", kernelLength: 333 },
  { length: 16_384, mode: "same", dtype: "bfloat16" },
];

/** Too long for every plan in plain JavaScript, which compiles each for longer than it runs and so takes half of those above. */
const longProblems: readonly FlashFFTConvOptions[] = [
  { length: 40_000, mode: "bidirectional" },
  { length: 65_536 },
  { length: 300_000, kernelLength: 100_000 },
];

describe("every candidate of the planner", () => {
  describeBackends(
    "computes the same",
    (open, { options: { instructions } }) => {
      const all =
        instructions === "javascript"
          ? problems.filter((_, n) => n % 2 === 0)
          : [...problems, ...longProblems];
      test.each(all)("$length samples", async (options) => {
        using first = await open(options);
        const { candidates } = first.explain();
        const gates = { pregate: true, postgate: true };
        const inputs = drawInputs(first.problem, { batch: 2, channels: 2, ...gates }, 5);
        const step = Math.max(1, (candidates.length - 1) / (tried - 1));
        for (let index = 0; index < candidates.length; index += step) {
          const { plan } = candidates[Math.round(index)]!;
          using conv = await open({ ...options, plan });
          expect(conv.explain().chosen.plan).toBe(plan);
          await checkForward(conv, inputs).catch((cause) => {
            throw new Error(`plan ${plan}`, { cause });
          });
          await checkBackward(conv, inputs).catch((cause) => {
            throw new Error(`plan ${plan}`, { cause });
          });
        }
      });

      test("a plan that there is not is refused", async () => {
        const plans = [
          "",
          "nonsense",
          "64: 4·4",
          "1000000: 10·10·10·10·10·10",
          "1024: 4 /3 | 4·4·4",
        ];
        for (const plan of [...plans, 5 as never, null as never]) {
          await expect(open({ length: 1000, plan })).rejects.toThrow(InvalidArgumentError);
        }
      });
    },
    { instructions: ["simd", "javascript"] },
  );
});
