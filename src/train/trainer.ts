/** Training: batches in, losses out, with reports, evaluations and checkpoints on the way. */
import { integer } from "../checks.ts";
import { InvalidArgumentError } from "../errors.ts";
import { node } from "../files/node.ts";
import { checkOutput, plainContext, writeWhole } from "../files/output.ts";
import { systemError } from "../files/system-error.ts";
import type { Weights } from "../nn/parameters.ts";
import type { InputSpecs } from "../nn/program.ts";
import { ModelProgram } from "../nn/program.ts";
import { show } from "../show.ts";
import type { OptimiserFacts } from "./adamw.ts";
import { AdamW, addLoss } from "./adamw.ts";
import type { LoopState, SaveOptions } from "./checkpoint.ts";
import { loadCheckpoint, saveCheckpoint, saveWeights } from "./checkpoint.ts";
import { lossCurve } from "./curve.ts";
import type { LossFunction, MicroBatch } from "./diagnose.ts";
import { firstNotFinite, NotFiniteError } from "./diagnose.ts";
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
  #evaluation: ModelProgram<M> | undefined;
  readonly #loop: { -readonly [K in keyof LoopState]: LoopState[K] };
  #log: TrainingLog | undefined;
  /** When training went on, where it does. */
  #since: number | undefined;
  #pending: Promise<void> = Promise.resolve();

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
  async evaluate(batches: () => AsyncIterable<MicroBatch> = this.#heldOut()): Promise<number> {
    const { model, onProgress } = this.#options;
    const name = "evaluation loss";
    this.#evaluation ??= await lossProgram(this.#options, "Trainer.evaluate", name);
    await this.#swapAverage();
    model.writeState(name, Float32Array.of(0));
    let count = 0;
    for await (const batch of batches()) {
      await this.#runOn(this.#evaluation, batch);
      count += 1;
      onProgress?.("evaluating", this.#loop.step / this.#options.steps);
    }
    const [sum = Number.NaN] = await model.readState(name);
    await this.#swapAverage();
    if (count > 0) return sum / count;
    throw this.#lacking("validation must have a batch at least", "none");
  }

  /** Write a checkpoint: whole, or the one before stays. */
  async save(path: string = this.#file("checkpoint")): Promise<void> {
    await this.#settle();
    await this.#checked(this.#optimiser.facts());
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

  async #step(source: AsyncIterator<MicroBatch>): Promise<void> {
    const { microBatches = 1 } = this.#options;
    const { position } = this.#loop;
    for (let i = 0; i < microBatches; i++) {
      const { done, value } = await source.next();
      if (done) throw this.#lacking("data must have batches for all steps", show(position + i));
      this.#sow(position + i);
      await this.#runOn(this.#train, value);
    }
    const step = this.#loop.step + 1;
    const fresh = this.#loop.step === this.#loop.reported.step;
    await this.#optimiser.step(step, this.#rate(step), fresh);
    this.#loop.step = step;
    this.#loop.position = position + microBatches;
  }

  /** The seed of a micro-batch, wherever a run began. */
  #sow(position: number): void {
    const seed = (Math.imul(this.#loop.seed, 0x9e3779b1) + position) >>> 0;
    this.#options.model.writeState("seed", Uint32Array.of(seed));
  }

  async #runOn(program: ModelProgram<M>, batch: MicroBatch): Promise<void> {
    const { inputs, vocabulary = {} } = this.#options;
    for (const name of Object.keys(inputs)) {
      const data = batch[name];
      if (!data) throw this.#lacking(`batches must have ${Object.keys(inputs).join(", ")}`, "none");
      const most = (vocabulary as Record<string, number>)[name];
      const wrong = most === undefined ? -1 : data.findIndex((token) => token >= most);
      if (wrong >= 0)
        throw this.#lacking(`${name} must be below ${show(most)}`, `${data[wrong]} at ${wrong}`);
      program.write(name, data);
    }
    await program.run();
  }

  /** Report this step: at once where it is evaluated, else as soon as the machine has done it, while it goes on. */
  async #report(evaluates: boolean): Promise<void> {
    await this.#settle();
    const { step, reported: before } = this.#loop;
    const facts = this.#optimiser.facts();
    this.#loop.reported = { step, seconds: before.seconds };
    const told = async (): Promise<void> => {
      const found = await this.#checked(facts);
      const seconds = this.#seconds();
      this.#loop.reported = { step, seconds };
      const running = evaluates && this.#pause();
      const loss = evaluates ? await this.evaluate() : null;
      if (loss !== null) await this.#judge(loss, step);
      this.#tell(step, found, loss, before, seconds);
      if (running) this.#since = performance.now();
    };
    this.#pending = told();
    this.#pending.catch(() => undefined);
    if (evaluates) await this.#settle();
  }

  /** Wait for the report that is under way. */
  async #settle(): Promise<void> {
    await this.#pending;
  }

  /** @throws NotFiniteError where a step has met a NaN. */
  async #checked(facts: Promise<OptimiserFacts>): Promise<OptimiserFacts> {
    const found = await facts;
    if (found.halted === 0) return found;
    const { model, inputs, loss, data, microBatches = 1 } = this.#options;
    const from = this.#loop.position - (this.#loop.step - found.halted + 1) * microBatches;
    const batches: MicroBatch[] = [];
    for await (const batch of data(from)) if (batches.push(batch) === microBatches) break;
    const run = async (program: ModelProgram<M>, batch: MicroBatch, i: number): Promise<void> => {
      this.#sow(from + i);
      await this.#runOn(program, batch);
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
    throw this.#lacking("files of a training need a folder", "none");
  }

  #heldOut(): () => AsyncIterable<MicroBatch> {
    const { validation } = this.#options;
    if (validation) return validation;
    throw this.#lacking("evaluate needs batches", "none");
  }

  #lacking(requirement: string, value: string): InvalidArgumentError {
    const remedy = "Correct the options of the Trainer, or its data.";
    return new InvalidArgumentError({ call: "Trainer", requirement, value, remedy });
  }
}

/** A program of the loss of a micro-batch, which it adds to a number that stays on the machine. */
function lossProgram<M, Tree extends Weights, I extends InputSpecs>(
  { model, inputs, loss }: Pick<TrainerOptions<M, Tree, I>, "model" | "inputs" | "loss">,
  call: string,
  sum?: string,
): Promise<ModelProgram<M>> {
  const body: LossFunction<Tree, I> = (parameters, given, tape) => {
    const own = loss(parameters, given, tape);
    addLoss(tape, own, sum);
    return own;
  };
  const outputs = (...given: Parameters<typeof body>) => ({ loss: body(...given) });
  return ModelProgram.compile(model, inputs, outputs, sum ? {} : { losses: ["loss"] }, call);
}
