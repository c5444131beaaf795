/** Learning rates over the steps of a training: pure functions, so that a resumed run goes on where it was. */
import { known, oneOf } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";

/** Shapes of a schedule behind its warm-up: what is left of the rate at a share `s` of the way. */
const shapes: Readonly<Record<RateShape, (s: number) => number>> = {
  constant: () => 1,
  linear: (s) => 1 - s,
  cosine: (s) => 0.5 * (1 + Math.cos(Math.PI * s)),
};

/** Names of the schedules. */
export type RateShape = "constant" | "linear" | "cosine";
export const rateShapes = Object.keys(shapes) as readonly RateShape[];

/** How the learning rate goes. */
export interface RateOptions {
  /** The highest rate: that of parameters whose group multiplies it with 1. */
  readonly rate: number;
  /** `cosine` by default. */
  readonly shape?: RateShape;
  /** Steps in which the rate rises from nothing in a straight line; 0 by default. */
  readonly warmup?: number;
  /** The rate at the end, and behind it; 0 by default. */
  readonly lowest?: number;
  /** Steps until the lowest rate, the warm-up's included; by default all of the training's. */
  readonly until?: number;
}

/** The rate of each step, the first of which is step 1. */
export type RateSchedule = (step: number) => number;

/**
 * A schedule of learning rates.
 * @param steps the training's steps.
 * @throws InvalidArgumentError for numbers out of range.
 * @example
 * const rate = rateSchedule({ rate: 1e-3, warmup: 100, lowest: 1e-4 }, 2000);
 * rate(50); // 5e-4
 */
export function rateSchedule(options: RateOptions, steps: number): RateSchedule {
  const call = "rateSchedule";
  known(options, ["rate", "shape", "warmup", "lowest", "until"], call);
  const { rate, shape = "cosine", warmup = 0, lowest = 0, until = steps } = options;
  oneOf(call, "shape", shape, rateShapes);
  for (const [name, value, low] of [
    ...([
      ["rate", rate, 0],
      ["warmup", warmup, 0],
    ] as const),
    ...([
      ["lowest", lowest, 0],
      ["until", until, warmup],
    ] as const),
  ]) {
    if (value >= low && value < Number.POSITIVE_INFINITY) continue;
    throw new InvalidArgumentError({
      call,
      requirement: `${name} must be a number from ${show(low)} on`,
      value: show(value),
      remedy: `Set ${name} within that range.`,
    });
  }
  return (step) => {
    if (step <= warmup) return (rate * step) / warmup;
    const share = until > warmup ? Math.min(1, (step - warmup) / (until - warmup)) : 1;
    return shape === "constant" ? rate : lowest + (rate - lowest) * shapes[shape](share);
  };
}
