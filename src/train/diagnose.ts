/** Which number of a model was the first that is none: a replay of a step that keeps every value. */
import { FlashFFTConvError } from "../errors.ts";
import type { Model } from "../nn/model.ts";
import type { Mapped, Weights } from "../nn/parameters.ts";
import type { InputSpecs, InputTensors } from "../nn/program.ts";
import { ModelProgram } from "../nn/program.ts";
import type { Tape, TapeTensor } from "../nn/tape.ts";
import { show } from "../show.ts";

/** Numbers of a micro-batch, by the names of the inputs. */
export type MicroBatch<I extends InputSpecs> = {
  readonly [Name in keyof I]: Float32Array | Uint32Array | Uint16Array;
};

/** What a training computes: the loss of a micro-batch, which is to become small. Several are added up by `add`. */
export type LossFunction<Tree extends Weights, I extends InputSpecs> = (
  parameters: Mapped<Tree, TapeTensor>,
  inputs: InputTensors<I>,
  tape: Tape,
) => TapeTensor;

/** A loss or a gradient that is no finite number: training stopped before it touched the weights. */
export class NotFiniteError extends FlashFFTConvError {
  override readonly name = "NotFiniteError";
  /** The step. */
  readonly step: number;
  /** What was not finite first, in words. */
  readonly first: string;

  constructor(step: number, first: string) {
    super({
      call: "Trainer.run",
      requirement: "losses and gradients must be finite",
      value: `NaN or an infinity at step ${show(step)}, first in ${first}`,
      remedy: "Lower the learning rate, lengthen the warm-up, or look at the batch of this step.",
    });
    this.step = step;
    this.first = first;
  }
}

const allFinite = (values: Float32Array): boolean => values.every(Number.isFinite);

/**
 * Where a step on some micro-batches leaves the finite numbers: in a parameter, in an operation on the way forward, or in gradients
 * alone. Every value of a forward pass has memory of its own here, so this may need much more of it than training.
 * @param run runs a program on a micro-batch, as training does.
 * @param trains the program that training runs.
 * @returns in words: `the result of blocks.3.mixer`.
 */
export async function firstNotFinite<M, Tree extends Weights, I extends InputSpecs>(
  model: Model<M, Tree>,
  inputs: I,
  loss: LossFunction<Tree, I>,
  batches: readonly MicroBatch<I>[],
  run: (program: ModelProgram<M>, batch: MicroBatch<I>, index: number) => Promise<void>,
  trains: ModelProgram<M>,
): Promise<string> {
  for (const [path, values] of await model.read())
    if (!allFinite(values)) return `parameter ${path}`;
  const labels = new Map<string, string>();
  const program = await ModelProgram.compile(
    model,
    inputs,
    (parameters, given, tape) => {
      const outputs: Record<string, TapeTensor> = { loss: loss(parameters, given, tape) };
      tape.steps.forEach(({ writes, place, work }, i) => {
        for (const [name, tensor] of Object.entries(writes)) {
          if (tensor.role !== "value") continue;
          const key = `${i} ${name}`;
          outputs[key] = tensor;
          labels.set(key, `the result of ${place || tensor.label || work.kind}`);
        }
      });
      return outputs;
    },
    { training: true },
    "Trainer.run",
  );
  try {
    for (const [index, batch] of batches.entries()) {
      await run(program, batch, index);
      for (const [key, label] of labels) if (!allFinite(await program.read(key))) return label;
    }
  } finally {
    program.dispose();
  }
  // The way back alone: parameters that are used last have their gradients first.
  await model.write(new Map(), "gradient");
  for (const [index, batch] of batches.entries()) await run(trains, batch, index);
  const wrong = [...(await model.read("gradient"))].filter(([, values]) => !allFinite(values));
  await model.write(new Map(), "gradient");
  const last = wrong.at(-1)?.[0];
  return last ? `the gradient of ${last}` : "the sum of all gradients' squares";
}
