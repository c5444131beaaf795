/** The loss of a model on batches, dropout off: added up on the machine, read once. */
import { InvalidArgumentError } from "../errors.ts";
import type { Model } from "../nn/model.ts";
import type { Weights } from "../nn/parameters.ts";
import type { InputSpecs } from "../nn/program.ts";
import { ModelProgram } from "../nn/program.ts";
import { show } from "../show.ts";
import { addLoss } from "./adamw.ts";
import type { LossFunction, MicroBatch } from "./diagnose.ts";

/** A model, and how its loss comes of a micro-batch. */
export interface LossProblem<M, Tree extends Weights, I extends InputSpecs> {
  readonly model: Model<M, Tree>;
  /** Shapes of a micro-batch. */
  readonly inputs: I;
  readonly loss: LossFunction<Tree, I>;
  /** Numbers below which the tokens and labels of inputs must be. */
  readonly vocabulary?: { readonly [Name in keyof I]?: number };
}

/** A program of the loss of a micro-batch, which it adds to a number that stays on the machine: the optimiser's, or one of its own. */
export function lossProgram<M, Tree extends Weights, I extends InputSpecs>(
  { model, inputs, loss }: LossProblem<M, Tree, I>,
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

/**
 * Run a program on a micro-batch.
 * @throws InvalidArgumentError for inputs that lack, and tokens that the vocabulary does not have.
 */
export async function runOn<M, Tree extends Weights, I extends InputSpecs>(
  program: ModelProgram<M>,
  { inputs, vocabulary = {} }: LossProblem<M, Tree, I>,
  batch: MicroBatch<I>,
): Promise<void> {
  for (const name of Object.keys(inputs)) {
    const data = batch[name];
    if (!data) throw badBatch(`batches must have ${Object.keys(inputs).join(", ")}`, "none");
    const most = (vocabulary as Record<string, number>)[name];
    const wrong = most === undefined ? -1 : data.findIndex((token) => token >= most);
    if (wrong >= 0)
      throw badBatch(`${name} must be below ${show(most)}`, `${data[wrong]} at ${wrong}`);
    program.write(name, data);
  }
  await program.run();
}

/** The error for data that a training cannot use. */
export function badBatch(requirement: string, value: string): InvalidArgumentError {
  const remedy = "Correct the data, or the options.";
  return new InvalidArgumentError({ call: "Trainer", requirement, value, remedy });
}

const sumName = "evaluation loss";

/**
 * The mean loss over batches.
 * @example
 * const evaluation = await Evaluation.create({ model, inputs, loss });
 * const held = await evaluation.run(orderedWindows(source, { batch: 8, length: 1024, from: 900_000 }));
 */
export class Evaluation<M, Tree extends Weights, I extends InputSpecs> {
  readonly #problem: LossProblem<M, Tree, I>;
  readonly #program: ModelProgram<M>;

  private constructor(problem: LossProblem<M, Tree, I>, program: ModelProgram<M>) {
    this.#problem = problem;
    this.#program = program;
  }

  static async create<M, Tree extends Weights, I extends InputSpecs>(
    problem: LossProblem<M, Tree, I>,
  ): Promise<Evaluation<M, Tree, I>> {
    return new Evaluation(problem, await lossProgram(problem, "Evaluation.create", sumName));
  }

  async run(
    batches: AsyncIterable<MicroBatch<I>>,
    onBatch: () => void = () => {},
  ): Promise<number> {
    const { model } = this.#problem;
    model.writeState(sumName, Float32Array.of(0));
    let count = 0;
    for await (const batch of batches) {
      await runOn(this.#program, this.#problem, batch);
      count += 1;
      onBatch();
    }
    const [sum = Number.NaN] = await model.readState(sumName);
    if (count > 0) return sum / count;
    throw badBatch("validation must have a batch at least", "none");
  }

  dispose(): void {
    this.#program.dispose();
  }
}
