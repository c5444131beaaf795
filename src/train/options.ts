/** What a training is told, and what it tells. */
import type { WriteContext } from "../files/output.ts";
import type { Weights } from "../nn/parameters.ts";
import type { InputSpecs } from "../nn/program.ts";
import type { AdamWOptions } from "./adamw.ts";
import type { LoopState } from "./checkpoint.ts";
import type { MicroBatch } from "./diagnose.ts";
import type { LossProblem } from "./evaluation.ts";
import type { TrainingReport } from "./log.ts";
import type { RateOptions, RateSchedule } from "./schedule.ts";

/** What is trained, on what, for how long. */
export interface TrainerOptions<M, Tree extends Weights, I extends InputSpecs>
  extends LossProblem<M, Tree, I> {
  /** Micro-batches, from a number of them on: the same ones whenever it is asked, so that a resumed run goes on where it was. */
  readonly data: (from: number) => AsyncIterable<MicroBatch<I>>;
  /** Micro-batches of the held-out part. */
  readonly validation?: () => AsyncIterable<MicroBatch<I>>;
  readonly steps: number;
  readonly rate: RateOptions | RateSchedule;
  /** Micro-batches whose gradients make a step; 1 by default. */
  readonly microBatches?: number;
  readonly optimiser?: Omit<AdamWOptions, "microBatches">;
  /** What dropout is drawn from; 0 by default. */
  readonly seed?: number;
  /** Steps between reports, which are the only times that anything is read back; 10 by default. */
  readonly reportEvery?: number;
  /** Steps between evaluations; at the end alone by default. */
  readonly evaluateEvery?: number;
  /** Steps between checkpoints; at the end alone by default. */
  readonly saveEvery?: number;
  /** Where checkpoint.safetensors, best.safetensors, log.jsonl and curve.svg go; nothing is written by default. */
  readonly folder?: string;
  /** Texts for whoever reads the weights: the model's configuration, say. */
  readonly metadata?: Readonly<Record<string, string>>;
  readonly title?: string;
  /** Aborted, it ends the run behind the step that is under way, with a checkpoint. */
  readonly signal?: AbortSignal;
  /** Called with each report, and the same on one line. */
  readonly onReport?: (report: TrainingReport, line: string) => void;
  /** Called after each step and evaluated batch. */
  readonly onProgress?: (what: string, share: number) => void;
  /** Tokens of a micro-batch, for rates; by default the numbers of its first input. */
  readonly tokens?: number;
  /** Tokens each second that the machine could do at best, where that is known. */
  readonly roofline?: number;
  readonly context?: WriteContext;
}

/** How a run ended. */
export interface TrainingResult {
  readonly step: number;
  readonly seconds: number;
  readonly best: LoopState["best"];
  /** Whether the signal ended it. */
  readonly interrupted: boolean;
}
