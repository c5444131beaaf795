/** Training: batches in, losses out, with reports, evaluations and checkpoints on the way. */
import { integer } from "../checks.ts";
import { node } from "../files/node.ts";
import { checkOutput, plainContext, writeWhole } from "../files/output.ts";
import { systemError } from "../files/system-error.ts";
import type { Weights } from "../nn/parameters.ts";
import type { InputSpecs, ModelProgram } from "../nn/program.ts";
import { show } from "../show.ts";
import type { OptimiserFacts } from "./adamw.ts";
import { AdamW } from "./adamw.ts";
import type { LoopState, SaveOptions } from "./checkpoint.ts";
import { loadCheckpoint, saveCheckpoint, saveWeights } from "./checkpoint.ts";
import { lossCurve } from "./curve.ts";
import type { MicroBatch } from "./diagnose.ts";
import { firstNotFinite, NotFiniteError } from "./diagnose.ts";
import { badBatch, Evaluation, lossProgram, runOn } from "./evaluation.ts";
import type { TrainingReport } from "./log.ts";
import { reportLine, TrainingLog } from "./log.ts";
import type { TrainerOptions, TrainingResult } from "./options.ts";
import type { RateSchedule } from "./schedule.ts";
import { rateSchedule } from "./schedule.ts";

/** Names of the files in a training's folder. */
export const trainingFiles = {
  checkpoint: "checkpoint.safetensors",
  best: "best.safetensors",
  log: "log.jsonl",
  curve: "curve.svg",
} as const;

/**
 * A training.
 * @example
 * const trainer = await Trainer.create({ model, inputs, loss, data, steps: 2000, rate: { rate: 1e-3, warmup: 100 } });
 * const { seconds } = await trainer.run();
 */
export class Trainer<M, Tree extends Weights, I extends InputSpecs> {
  readonly #options: TrainerOptions<M, Tree, I>;
  readonly #train: ModelProgram<M>;
  readonly #optimiser: AdamW<M>;
  readonly #rate: RateSchedule;
  readonly #tokens: number;
  #evaluation: Evaluation<M, Tree, I> | undefined;
  readonly #loop: { -readonly [K in keyof LoopState]: LoopState[K] };
  #log: TrainingLog | undefined;
  /** When training went on, where it does. */
  #since: number | undefined;
  /** The report that is under way. */
  #pending: Promise<OptimiserFacts | undefined> = Promise.resolve(undefined);
  #breathed = 0;

  private constructor(
    options: TrainerOptions<M, Tree, I>,
    train: ModelProgram<M>,
    optimiser: AdamW<M>,
    rate: RateSchedule,
  ) {
    const { inputs, seed = 0, tokens } = options;
    const [first] = Object.values(inputs);
    this.#options = options;
    this.#train = train;
    this.#optimiser = optimiser;
    this.#rate = rate;
    this.#tokens = tokens ?? first?.shape.reduce((a, b) => a * b, 1) ?? 0;
    const reported = { step: 0, seconds: 0 };
    this.#loop = { step: 0, position: 0, seed, seconds: 0, reported, best: null };
  }

  /**
   * Compile what a step needs.
   * @throws InvalidArgumentError for numbers out of range, and shapes that do not fit.
   */
  static async create<M, Tree extends Weights, I extends InputSpecs>(
    options: TrainerOptions<M, Tree, I>,
  ): Promise<Trainer<M, Tree, I>> {
    const call = "Trainer.create";
    const { model, steps, microBatches = 1, seed = 0 } = options;
    integer(call, "steps", steps, 1, 2 ** 24 - 1);
    integer(call, "seed", seed, 0, 2 ** 32 - 1);
    for (const name of ["reportEvery", "evaluateEvery", "saveEvery"] as const)
      if (options[name] !== undefined) integer(call, name, options[name], 1, 2 ** 31);
    const rate =
      typeof options.rate === "function" ? options.rate : rateSchedule(options.rate, steps);
    const program = await lossProgram(options, call);
    const optimiser = await AdamW.create(model, { ...options.optimiser, microBatches });
    return new Trainer(options, program, optimiser, rate);
  }

  /** Where the training stands. */
  get loop(): LoopState {
    return { ...this.#loop, seconds: this.#seconds() };
  }

  /** Bytes of activations, their gradients and inputs. */
  get activationBytes(): number {
    return this.#train.activationBytes;
  }

  /**
   * Go on from a checkpoint, with the same bits as the run that wrote it.
   * @throws FileError for a broken file and for a checkpoint of another model: nothing has changed then.
   */
  async resume(path: string = this.#file("checkpoint")): Promise<void> {
    Object.assign(this.#loop, await loadCheckpoint(path, this.#options.model));
  }

  /**
   * Train until the steps are done, or the signal ends it.
   * @throws NotFiniteError, FileError where a disk refuses, BackendError where a device is lost: the last checkpoint stays whole.
   */
  async run(): Promise<TrainingResult> {
    const { steps, signal, folder, data, validation, onProgress } = this.#options;
    const { reportEvery = 10, evaluateEvery = steps, saveEvery = steps } = this.#options;
    await this.#begin();
    const source = data(this.#loop.position)[Symbol.asyncIterator]();
    try {
      if (this.#loop.step === 0 && validation) await this.#report(true);
      this.#since = performance.now();
      while (this.#loop.step < steps && !signal?.aborted) {
        await this.#step(source);
        const { step } = this.#loop;
        onProgress?.("training", step / steps);
        await this.#breathe();
        const due = (every: number): boolean => step === steps || step % every === 0;
        const evaluates = validation !== undefined && due(evaluateEvery);
        if (evaluates || due(reportEvery)) await this.#report(evaluates);
        if (folder !== undefined && step < steps && due(saveEvery)) await this.save();
      }
      await this.#settle();
      this.#pause();
      if (folder !== undefined) await this.save();
    } finally {
      this.#pause();
      await source.return?.();
    }
    const { step, seconds, best } = this.#loop;
    return { step, seconds, best, interrupted: step < steps };
  }

  /**
   * The mean loss over batches without dropout: the held-out part's by default. Where the optimiser keeps an average of the weights,
   * it is the average that is judged.
   */
  async evaluate(batches: () => AsyncIterable<MicroBatch<I>> = this.#heldOut()): Promise<number> {
    const { onProgress, steps } = this.#options;
    this.#evaluation ??= await Evaluation.create(this.#options);
    await this.#swapAverage();
    const share = this.#loop.step / steps;
    try {
      return await this.#evaluation.run(batches(), () => onProgress?.("evaluating", share));
    } finally {
      await this.#swapAverage();
    }
  }

  /** Write a checkpoint: whole, or the one before stays. */
  async save(path: string = this.#file("checkpoint")): Promise<void> {
    await this.#settle();
    this.#pending = this.#optimiser.facts();
    await this.#settle();
    const running = this.#pause();
    await saveCheckpoint(path, this.#options.model, this.#loop, this.#saving());
    await this.#draw();
    if (running) this.#since = performance.now();
  }

  dispose(): void {
    this.#train.dispose();
    this.#optimiser.dispose();
    this.#evaluation?.dispose();
  }

  /** Make the folder, and begin the log or go on with it. */
  async #begin(): Promise<void> {
    const { folder } = this.#options;
    if (folder === undefined) return;
    try {
      node.fs.mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw systemError("Trainer.run", folder, "a folder that can be written to", error);
    }
    // Checked before an hour of work, not behind it.
    for (const name of ["checkpoint", "best"] as const)
      await checkOutput(this.#file(name), "Trainer.run");
    this.#log = TrainingLog.open(this.#file("log"), this.#loop.step, "Trainer.run");
  }

  async #step(source: AsyncIterator<MicroBatch<I>>): Promise<void> {
    const { microBatches = 1 } = this.#options;
    const { position } = this.#loop;
    for (let i = 0; i < microBatches; i++) {
      const { done, value } = await source.next();
      if (done) throw badBatch("data must have batches for all steps", show(position + i));
      this.#sow(position + i);
      await runOn(this.#train, this.#options, value);
    }
    const step = this.#loop.step + 1;
    const fresh = this.#loop.step === this.#loop.reported.step;
    await this.#optimiser.step(step, this.#rate(step), fresh);
    this.#loop.step = step;
    this.#loop.position = position + microBatches;
  }

  /** Let signals and timers have their turn: a step on one thread, of data in memory, never waits for anything. */
  async #breathe(): Promise<void> {
    if (performance.now() - this.#breathed < 50) return;
    await new Promise((resolve) => setTimeout(resolve));
    this.#breathed = performance.now();
  }

  /** The seed of a micro-batch, wherever a run began. */
  #sow(position: number): void {
    const seed = (Math.imul(this.#loop.seed, 0x9e3779b1) + position) >>> 0;
    this.#options.model.writeState("seed", Uint32Array.of(seed));
  }

  /** Report this step: at once where it is evaluated, else as soon as the machine has done it, while it goes on. */
  async #report(evaluates: boolean): Promise<void> {
    await this.#settle();
    const { step, reported: before } = this.#loop;
    const facts = this.#optimiser.facts();
    this.#loop.reported = { step, seconds: before.seconds };
    const told = async (): Promise<OptimiserFacts> => {
      const found = await facts;
      if (found.halted > 0) return found;
      const seconds = this.#seconds();
      this.#loop.reported = { step, seconds };
      const running = evaluates && this.#pause();
      const loss = evaluates ? await this.evaluate() : null;
      if (loss !== null) await this.#judge(loss, step);
      this.#tell(step, found, loss, before, seconds);
      if (running) this.#since = performance.now();
      return found;
    };
    this.#pending = told();
    this.#pending.catch(() => undefined);
    if (evaluates) await this.#settle();
  }

  /**
   * Wait for the report that is under way.
   * @throws NotFiniteError where a step has met a NaN, which is replayed: nothing else runs now.
   */
  async #settle(): Promise<void> {
    const found = await this.#pending;
    if (!found?.halted) return;
    const { model, inputs, loss, data, microBatches = 1 } = this.#options;
    const from = this.#loop.position - (this.#loop.step - found.halted + 1) * microBatches;
    const batches: MicroBatch<I>[] = [];
    for await (const batch of data(from)) if (batches.push(batch) === microBatches) break;
    const run = async (
      program: ModelProgram<M>,
      batch: MicroBatch<I>,
      i: number,
    ): Promise<void> => {
      this.#sow(from + i);
      await runOn(program, this.#options, batch);
    };
    const first = await firstNotFinite(model, inputs, loss, batches, run, this.#train);
    throw new NotFiniteError(found.halted, first);
  }

  /** Keep the weights that the held-out part likes best. */
  async #judge(loss: number, step: number): Promise<void> {
    if (!(loss < (this.#loop.best?.loss ?? Number.POSITIVE_INFINITY))) return;
    this.#loop.best = { loss, step };
    const { folder, model } = this.#options;
    const arena = model.arenas.includes("average") ? "average" : "parameter";
    if (folder !== undefined) await saveWeights(this.#file("best"), model, this.#saving(), arena);
  }

  #tell(
    step: number,
    facts: OptimiserFacts,
    validation: number | null,
    before: LoopState["reported"],
    seconds: number,
  ): void {
    const { microBatches = 1, onReport, roofline, steps } = this.#options;
    const tokens = (step - before.step) * microBatches * this.#tokens;
    const digits = (value: number): number => Number(value.toPrecision(7));
    const report: TrainingReport = {
      step,
      loss: facts.counted > 0 ? digits(facts.loss / facts.counted) : null,
      validation_loss: validation === null ? null : digits(validation),
      tokens_per_second: tokens > 0 ? Math.round(tokens / (seconds - before.seconds)) : null,
      seconds: digits(seconds),
      learning_rate: facts.rate,
      gradient_norm: Number.isFinite(facts.norm) ? digits(facts.norm) : null,
      loss_scale: step > 0 ? facts.scale : 1,
      skipped: facts.skipped,
    };
    this.#log?.add(report);
    onReport?.(report, reportLine(report, { steps, roofline }, seconds / Math.max(1, step)));
  }

  /** Weights and their average change places, where there is one. */
  async #swapAverage(): Promise<void> {
    const { model } = this.#options;
    if (!model.arenas.includes("average")) return;
    const [weights, average] = [await model.read("parameter"), await model.read("average")];
    await model.write(average, "parameter");
    await model.write(weights, "average");
  }

  /** The picture of the log so far. */
  async #draw(): Promise<void> {
    if (!this.#log) return;
    const { title = "", context = plainContext() } = this.#options;
    const text = new TextEncoder().encode(lossCurve(this.#log.reports, { title }));
    const output = await checkOutput(this.#file("curve"), "Trainer.run");
    await writeWhole(output, "Trainer.run", context, (write) => write(text));
  }

  #saving(): SaveOptions {
    const { metadata, context } = this.#options;
    return { ...(metadata && { metadata }), ...(context && { context }) };
  }

  /** Seconds of training so far. */
  #seconds(): number {
    const running = this.#since === undefined ? 0 : performance.now() - this.#since;
    return this.#loop.seconds + running / 1000;
  }

  /** Stop the clock; whether it ran. */
  #pause(): boolean {
    const running = this.#since !== undefined;
    this.#loop.seconds = this.#seconds();
    this.#since = undefined;
    return running;
  }

  #file(name: keyof typeof trainingFiles): string {
    const { folder } = this.#options;
    if (folder !== undefined) return node.path.join(folder, trainingFiles[name]);
    throw badBatch("files of a training need a folder", "none");
  }

  #heldOut(): () => AsyncIterable<MicroBatch<I>> {
    const { validation } = this.#options;
    if (validation) return validation;
    throw badBatch("evaluate needs batches", "none");
  }
}
