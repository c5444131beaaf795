/** Calls of short convolutions on a GPU before any device: their schedules, and what recorded ones bind. */
import type { PlannedCall } from "../calls/gpu-turns.ts";
import type { NamedOperand } from "../calls/recorder.ts";
import { checkFlags, checkOptions, integer, known, oneOf } from "../checks.ts";
import { bytesPerSample } from "../dtype.ts";
import type { DepthwiseProblem } from "../plan/depthwise.ts";
import { outputLengthOf, widths } from "../plan/depthwise.ts";
import { DepthwiseScheduler } from "../schedule/depthwise.ts";
import type { DepthwiseGpuCall } from "../schedule/pieces.ts";
import type { BufferName, GpuLimits } from "../schedule/schedule.ts";
import { checkedOutputLength, checkStreams } from "./operands.ts";
import type { DepthwiseRecorderOptions, RecordedDepthwiseCall } from "./options.ts";

/** Buffers of results and of their gradients, in the order in which requests have them. */
export const outputBuffers = ["y", "postgate"] as const;
export const upstreamBuffers = ["dy", "dpostgate"] as const;

/** The same as users name them where there are two. */
const packedNames: Partial<Record<BufferName, string>> = { y: "gated", dy: "dgated" };

/** The schedules of one short convolution. */
export class DepthwiseKernels {
  readonly #problem: DepthwiseProblem;
  readonly #scheduler: DepthwiseScheduler;

  /** `order` as in DepthwiseScheduler. */
  constructor(problem: DepthwiseProblem, limits: GpuLimits, order: readonly number[]) {
    this.#problem = problem;
    this.#scheduler = new DepthwiseScheduler(problem, limits, order);
  }

  planned(way: RecordedDepthwiseCall, call: DepthwiseGpuCall): PlannedCall {
    return { schedule: this.#scheduler[way](call) };
  }

  /**
   * A call to record.
   * @throws InvalidArgumentError for options out of range.
   */
  recorded(
    way: RecordedDepthwiseCall,
    options: DepthwiseRecorderOptions,
    call: string,
  ): DepthwiseGpuCall {
    oneOf(call, "the recorded call", way, ["forward", "backward"]);
    checkOptions(options, call, "options", "Pass { batch: B, length: L }.");
    const backward = way === "backward";
    const flags = backward
      ? (["bias", "state", "dstateOut", "add"] as const)
      : (["bias", "state"] as const);
    known(options, ["batch", "length", ...flags, ...(backward ? [] : ["stateOut"])], call);
    checkFlags(options, flags, call);
    const { stateOut = "none", bias = false, add = false } = options;
    oneOf(call, "stateOut", stateOut, ["none", "apart", "same"]);
    if (options.state || options.dstateOut || stateOut !== "none")
      checkStreams(this.#problem, call);
    checkedOutputLength(this.#problem, options.length, call);
    // A filter of one tap looks at no earlier sample: its state is empty.
    const carries = this.#problem.kernelLength > 1;
    const state = carries && (options.state ?? false);
    return {
      ...{ name: call, bias, add, offsets: {}, state: state || (carries && stateOut === "same") },
      batch: integer(call, "batch", options.batch, 1, 2 ** 31),
      length: options.length,
      stateOut: carries ? stateOut : "none",
      dstateOut: carries && (options.dstateOut ?? false),
    };
  }

  /** What a recorded call binds. */
  operands(way: RecordedDepthwiseCall, call: DepthwiseGpuCall): NamedOperand[] {
    const { channels, kernelLength, dtype, form } = this.#problem;
    const { batch, length, bias, state, stateOut, dstateOut, add } = call;
    const { branches } = widths(form);
    const rows = (positions: number, wide = branches) =>
      wide * batch * channels * positions * bytesPerSample(dtype);
    const [x, history, taps] = [rows(length), rows(kernelLength - 1), 4 * branches * channels];
    const y = rows(outputLengthOf(this.#problem, length), 1);
    const results = branches === 1 ? 1 : 2;
    const named = (
      bytes: number,
      access: NamedOperand["access"],
      ...buffers: BufferName[]
    ): NamedOperand => {
      const [buffer] = buffers as [BufferName];
      const name = (results > 1 && packedNames[buffer]) || buffer;
      return { name, bytes: Math.ceil(bytes / 4) * 4, access, buffers };
    };
    const same = stateOut === "same";
    const inputs = [
      named(x, "read", "x"),
      named(taps * kernelLength, "read", "weight"),
      ...(bias ? [named(taps, "read", "bias")] : []),
      ...(state && !same ? [named(history, "read", "state")] : []),
    ];
    if (way === "forward") {
      return [
        ...inputs,
        ...(same ? [named(history, "read-write", "state", "stateOut")] : []),
        ...(stateOut === "apart" ? [named(history, "write", "stateOut")] : []),
        ...outputBuffers.slice(0, results).map((name) => named(y, "write", name)),
      ];
    }
    const sums = add ? "read-write" : "write";
    return [
      ...inputs,
      ...upstreamBuffers.slice(0, results).map((name) => named(y, "read", name)),
      ...(dstateOut ? [named(history, "read", "dstateOut")] : []),
      named(x, "write", "dx"),
      ...(state ? [named(history, "write", "dstate")] : []),
      named(taps * kernelLength, sums, "dweight"),
      ...(bias ? [named(taps, sums, "dbias")] : []),
    ];
  }
}
