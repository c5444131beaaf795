/** Problems and convolutions out of what the user asked for. */
import { FlashFFTConv } from "../conv/conv.ts";
import type { Dtype } from "../dtype.ts";
import { createProblem } from "../plan/create-problem.ts";
import type { Problem, ProblemOptions } from "../plan/problem.ts";
import { defined, type SharedChoices } from "./options.ts";

/** Options of a problem, each of which may be undefined. */
type Maybe<T> = { readonly [K in keyof T]: T[K] | undefined };

/**
 * A checked problem.
 * @throws InvalidArgumentError naming `call`.
 */
export function problemOf(
  options: Maybe<Omit<ProblemOptions, "length">> & { readonly length: number },
  call: string,
  longest?: number,
): Problem {
  return createProblem(defined(options) as ProblemOptions, call, longest);
}

/** Where to compute, and how. */
export type ComputeChoice = Pick<SharedChoices, "backend" | "threads" | "instructions">;

/** The backend that an object computes on. */
export function backendOf({ device }: Pick<FlashFFTConv<Dtype>, "device">): "cpu" | "webgpu" {
  return device ? "webgpu" : "cpu";
}

/**
 * The object that convolves such problems, planned for this many rows.
 * @throws UnsupportedError or BackendError naming `call`.
 */
export function openConv(
  problem: Problem,
  batch: number,
  channels: number,
  { backend, threads, instructions }: ComputeChoice,
  call: string,
): Promise<FlashFFTConv<Dtype>> {
  const { mode, length, kernelLength, dtype } = problem;
  const period = mode === "circular" ? problem.period : undefined;
  const options = {
    ...{ mode, length, kernelLength, dtype, batch, channels },
    ...defined({ period, backend, threads, instructions }),
  };
  return FlashFFTConv.createFor(options, call);
}
