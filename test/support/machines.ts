/** Machines of the backends under test, and what programs give on them beside float64. */
import { expect } from "vitest";
import type { ModelMachine } from "../../src/nn/machine.ts";
import { Model } from "../../src/nn/model.ts";
import { openMachine } from "../../src/nn/open-machine.ts";
import type { Mapped, Weight, Weights } from "../../src/nn/parameters.ts";
import { listWeights } from "../../src/nn/parameters.ts";
import type { InputSpecs, InputTensors, Outputs } from "../../src/nn/program.ts";
import { ModelProgram } from "../../src/nn/program.ts";
import type { Tape, TapeTensor } from "../../src/nn/tape.ts";
import { sizeOf } from "../../src/nn/tensor.ts";
import { relativeError } from "../../src/reference/convolution.ts";
import { normalSource } from "../../src/reference/random.ts";
import { onGpu } from "./backends.ts";
import { Float64Machine } from "./float64-machine.ts";

/** A machine's name and how to open it. */
export interface MachineUnderTest {
  readonly name: string;
  readonly tolerance: number;
  open(): Promise<ModelMachine>;
}

/** What this process tests. */
export const machinesUnderTest: readonly MachineUnderTest[] = onGpu
  ? [
      { name: "webgpu", tolerance: 1e-5, open: () => openMachine({ backend: "webgpu" }) },
      {
        name: "webgpu, mixed",
        tolerance: 4e-3,
        open: () => openMachine({ backend: "webgpu", precision: "mixed" }),
      },
    ]
  : [
      { name: "cpu × 1", tolerance: 1e-5, open: () => openMachine({ backend: "cpu", threads: 1 }) },
      { name: "cpu × 2", tolerance: 1e-5, open: () => openMachine({ backend: "cpu", threads: 2 }) },
      {
        name: "cpu:javascript",
        tolerance: 1e-5,
        open: () => openMachine({ backend: "cpu", instructions: "javascript", threads: 1 }),
      },
    ];

/** A function of parameters and inputs, with numbers for both. */
export interface Case<Tree extends Weights = Weights, I extends InputSpecs = InputSpecs> {
  readonly weights: Tree;
  readonly inputs: I;
  readonly values: Readonly<Record<keyof I, Float32Array | Uint32Array>>;
  /** With an output `loss` that is differentiated. */
  readonly body: (p: Mapped<Tree, TapeTensor>, inputs: InputTensors<I>, tape: Tape) => Outputs;
}

/** Weights of unit scale. */
export function drawn(shape: readonly number[], seed: number, scale = 1): Weight {
  const normal = normalSource(seed);
  return { shape, data: Float32Array.from({ length: sizeOf(shape) }, () => scale * normal()) };
}

/** Outputs of a program, and gradients of the parameters by their paths. */
export interface Found {
  readonly outputs: Readonly<Record<string, Float32Array>>;
  readonly gradients: ReadonlyMap<string, Float32Array>;
}

/** Run a case once. */
export async function runCase<T extends Weights, I extends InputSpecs>(
  machine: ModelMachine,
  { weights, inputs, values, body }: Case<T, I>,
): Promise<Found> {
  const model = await Model.create(machine, weights);
  const names: string[] = [];
  const program = await ModelProgram.compile(
    model,
    inputs,
    (p, tensors, tape) => {
      const outputs = body(p, tensors, tape);
      names.push(...Object.keys(outputs));
      return outputs;
    },
    { losses: ["loss"] },
  );
  try {
    for (const name in values) program.write(name, values[name]);
    await program.run();
    const outputs: Record<string, Float32Array> = {};
    for (const name of names) outputs[name] = await program.read(name);
    return { outputs, gradients: await model.read("gradient") };
  } finally {
    program.dispose();
    model.dispose();
  }
}

/** Compare with float64: outputs and all gradients, each relative to its own size or, where that is tiny, to the largest. */
export function expectClose(found: Found, exact: Found, tolerance: number): void {
  for (const name in exact.outputs) {
    const error = relativeError(found.outputs[name]!, exact.outputs[name]!);
    expect(error, `output ${name}`).toBeLessThanOrEqual(tolerance);
  }
  const norm = (x: Float32Array): number => Math.hypot(...x);
  const largest = Math.max(...[...exact.gradients.values()].map(norm));
  for (const [path, expected] of exact.gradients) {
    const actual = found.gradients.get(path)!;
    const apart = norm(actual.map((x, i) => x - expected[i]!));
    expect(
      apart / Math.max(norm(expected), 0.01 * largest),
      `gradient of ${path}`,
    ).toBeLessThanOrEqual(tolerance);
  }
}

/** The loss of a case in float64, with one number of one parameter replaced. */
async function lossWith(given: Case, path: string, index: number, value: number): Promise<number> {
  const weights = listWeights(given.weights);
  const { data } = weights.get(path)!;
  const before = data[index]!;
  data[index] = value;
  try {
    const machine = new Float64Machine();
    const model = await Model.create(machine, given.weights);
    const program = await ModelProgram.compile(model, given.inputs, given.body, { training: true });
    for (const name in given.values) program.write(name, given.values[name]!);
    await program.run();
    await program.read("loss");
    return machine.exact[0]!;
  } finally {
    data[index] = before;
  }
}

/** Compare gradients in float64 with central differences at some of each parameter's numbers. */
export async function expectDifferences(given: Case, exact: Found, each = 2): Promise<void> {
  const step = 2 ** -7;
  for (const [path, { data, frozen }] of listWeights(given.weights)) {
    if (frozen) continue;
    const gradient = exact.gradients.get(path)!;
    const scale = Math.max(...gradient.map(Math.abs), 1e-3);
    for (let i = 0; i < each; i++) {
      const index = Math.floor(((i + 0.5) / each) * data.length);
      const [high, low] = [Math.fround(data[index]! + step), Math.fround(data[index]! - step)];
      const difference =
        ((await lossWith(given, path, index, high)) - (await lossWith(given, path, index, low))) /
        (high - low);
      expect(Math.abs(difference - gradient[index]!) / scale, `${path}[${index}]`).toBeLessThan(
        2e-3,
      );
    }
  }
}
