/** Problems from options: checks, defaults, and what follows from both. */
import { checkOptions, integer, oneOf } from "../checks.ts";
import type { Dtype } from "../dtype.ts";
import { dtypes } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import { createFrequencies } from "./frequencies.ts";
import { onePart } from "./geometry.ts";
import type { Problem, ProblemOptions } from "./problem.ts";
import { maxLength, modes } from "./problem.ts";

/**
 * Check the options and fill in what follows from them. What comes of it cannot be written to.
 * @param longest L may not exceed this; a stream's may be any.
 * @throws InvalidArgumentError naming `call`.
 */
export function createProblem<D extends Dtype = "float32">(
  options: ProblemOptions<D>,
  call: string,
  longest: number = maxLength,
): Problem<D> {
  checkOptions(options, call, "options", "Pass { length: L }.");
  const { mode = "causal", dtype = "float32" as D } = options;
  oneOf(call, "mode", mode, modes);
  oneOf(call, "dtype", dtype, dtypes);
  const length = integer(call, "length", options.length, 1, longest);
  const { kernelLength = mode === "bidirectional" ? 2 * length : length } = options;
  integer(call, "kernelLength", kernelLength, 1, 2 * maxLength);
  if (mode === "bidirectional" && (kernelLength % 2 !== 0 || kernelLength > 2 * length)) {
    throw new InvalidArgumentError({
      call,
      requirement: `kernelLength must be even and at most 2·length = ${show(2 * length)} in the bidirectional mode`,
      value: show(kernelLength),
      remedy:
        "Lay 2R taps out circularly (tap 2R−j reaches j samples ahead), padded with zeros, or use mode 'same'.",
    });
  }
  if (options.period !== undefined && mode !== "circular") {
    throw new InvalidArgumentError({
      call,
      requirement: "period belongs to the circular mode",
      value: `period ${show(options.period)} with mode ${show(mode)}`,
      remedy: "Leave period out, or set mode: 'circular'.",
    });
  }
  const least = Math.max(length, kernelLength);
  const { period = mode === "circular" ? least : 0 } = options;
  if (mode === "circular") integer(call, "period", period, least, 2 * maxLength);
  const outputLength = mode === "full" ? length + kernelLength - 1 : length;
  const problem = { mode, length, kernelLength, period, dtype, outputLength };
  if (options.frequencies === undefined) return Object.freeze(problem);
  const [whole] = onePart(problem);
  const needs = { period, positions: whole!.positions };
  const frequencies = createFrequencies(options.frequencies, needs, call);
  return Object.freeze({ ...problem, frequencies });
}
