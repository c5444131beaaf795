/**
 * FlashFFTConv's calls on a GPU before any device: their schedules, the tables these read, and what recorded ones bind. `B` is
 * a buffer of the device.
 */
import type { GpuRanges } from "../backend/gpu.ts";
import type { NamedOperand } from "../calls/recorder.ts";
import { checkFlags, checkOptions, integer, known, oneOf } from "../checks.ts";
import { bytesPerSample } from "../dtype.ts";
import type { GpuCandidate, GpuPlans } from "../plan/gpu/choose.ts";
import type { PassPlan } from "../plan/gpu/passes.ts";
import type { Problem } from "../plan/problem.ts";
import { DirectScheduler } from "../schedule/direct.ts";
import type {
  BufferName,
  CallScheduler,
  GpuCall,
  GpuLimits,
  Schedule,
} from "../schedule/schedule.ts";
import { Scheduler } from "../schedule/transform.ts";
import { checkSkip } from "./operands.ts";
import type { ConvRecorderOptions, RecordedConvCall } from "./options.ts";

/** The scheduler of a plan: a transform's, or, where there is none, that of the time domain. */
export function schedulerFor(
  problem: Problem,
  { part, plan: keeper }: GpuCandidate,
  plan: PassPlan | undefined,
  limits: GpuLimits,
): CallScheduler {
  return plan && keeper
    ? new Scheduler({ problem, part, plan, keeper, limits })
    : new DirectScheduler(problem, part, limits);
}

/** The schedules of one convolution and its gradients. */
export class ConvolutionKernels<B> {
  readonly #problem: Problem;
  readonly #forward: CallScheduler;
  /** The same, or one with another plan for the same spectra. */
  readonly #backward: CallScheduler;
  readonly #tables = new Map<CallScheduler, GpuRanges<B>>();

  constructor(problem: Problem, { chosen, gradients }: GpuPlans, limits: GpuLimits) {
    this.#problem = problem;
    this.#forward = schedulerFor(problem, chosen, chosen.plan, limits);
    this.#backward =
      gradients === chosen.plan ? this.#forward : schedulerFor(problem, chosen, gradients, limits);
  }

  /** Bytes that a binding must span: those of a transform, or of a channel's taps. */
  get transformBytes(): number {
    return this.#forward.transformBytes;
  }

  /** Bytes of what is kept of a channel's kernel. */
  get spectrumBytes(): number {
    return this.#forward.spectrumBytes;
  }

  /** Put what kernels read besides operands on the device; names differ from plan to plan. */
  async upload(
    upload: (name: string, values: Float32Array | Uint32Array) => Promise<B>,
  ): Promise<void> {
    for (const scheduler of new Set([this.#forward, this.#backward])) {
      const ranges: [string, { buffer: B }][] = [];
      for (const [name, values] of Object.entries(scheduler.tables())) {
        const own = scheduler === this.#forward ? name : `${name} of gradients`;
        ranges.push([name, { buffer: await upload(own, values) }]);
      }
      this.#tables.set(scheduler, Object.fromEntries(ranges));
    }
  }

  /** A call's schedule, and the tables it reads. */
  planned(way: RecordedConvCall, call: GpuCall): { schedule: Schedule; tables: GpuRanges<B> } {
    const scheduler = way === "backward" ? this.#backward : this.#forward;
    const schedule =
      way === "prepareKernel"
        ? scheduler.spectra(call.channels, call.taps!, call.offsets.k ?? 0)
        : scheduler[way](call);
    return { schedule, tables: this.#tables.get(scheduler) ?? {} };
  }

  /**
   * A call to record.
   * @throws InvalidArgumentError for options out of range.
   */
  recorded(way: RecordedConvCall, options: ConvRecorderOptions, call: string): GpuCall {
    oneOf(call, "the recorded call", way, ["prepareKernel", "forward", "backward"]);
    checkOptions(options, call, "options", "Pass { batch: B, channels: H }.");
    const flags = way === "backward" ? ([...operandFlags, "add"] as const) : operandFlags;
    const names = way === "prepareKernel" ? [] : ["batch", "kernel", ...flags];
    known(options, ["channels", ...names], call);
    checkFlags(options, flags, call);
    const {
      kernel = "taps",
      pregate = false,
      postgate = false,
      skip = false,
      add = false,
    } = options;
    oneOf(call, "kernel", kernel, ["taps", "spectrum"]);
    if (skip) checkSkip(this.#problem, call, "Leave skip out.");
    return {
      batch: way === "prepareKernel" ? 1 : integer(call, "batch", options.batch, 1, 2 ** 31),
      channels: integer(call, "channels", options.channels, 1, 2 ** 31),
      ...{ pregate, postgate, skip, add, offsets: {} },
      taps: kernel === "taps" ? "float32" : undefined,
    };
  }

  /** What a recorded call binds. */
  operands(way: RecordedConvCall, call: GpuCall): NamedOperand[] {
    const { length, outputLength, kernelLength, dtype } = this.#problem;
    const { batch, channels, pregate, postgate, skip, taps, add } = call;
    const each = batch * channels * bytesPerSample(dtype);
    const sizes: Partial<Record<BufferName, number>> = {
      ...{ u: each * length, pregate: each * length, du: each * length, dpregate: each * length },
      ...{ y: each * outputLength, dy: each * outputLength },
      ...{ postgate: each * outputLength, dpostgate: each * outputLength },
      ...{ k: 4 * channels * kernelLength, dk: 4 * channels * kernelLength },
      ...{ skip: 4 * channels, dskip: 4 * channels, spectrum: channels * this.spectrumBytes },
    };
    const named = (access: NamedOperand["access"], ...names: (BufferName | false)[]) =>
      names.flatMap((name): NamedOperand[] => {
        if (!name) return [];
        const bytes = Math.ceil(sizes[name]! / 4) * 4;
        return [{ name, bytes, access, buffers: [name] }];
      });
    if (way === "prepareKernel") return [...named("read", "k"), ...named("write", "spectrum")];
    const inputs = named(
      "read",
      ...(["u", taps ? "k" : "spectrum", pregate && "pregate"] as const),
      ...([postgate && "postgate", skip && "skip"] as const),
    );
    if (way === "forward") return [...inputs, ...named("write", "y")];
    return [
      ...named("read", "dy"),
      ...inputs,
      ...named("write", "du", pregate && "dpregate", postgate && "dpostgate"),
      ...named(add ? "read-write" : "write", "dk", skip && "dskip"),
    ];
  }
}

const operandFlags = ["pregate", "postgate", "skip"] as const;
