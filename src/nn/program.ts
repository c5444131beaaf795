/** Programs: a traced model with its memory, compiled once and run as often as asked. */
import { InvalidArgumentError } from "../errors.ts";
import type { CompiledSteps, ModelMachine, Region } from "./machine.ts";
import { neededSteps, planMemory } from "./memory.ts";
import type { Model } from "./model.ts";
import { fromHalves } from "./model.ts";
import { lossScale } from "./operations/loss.ts";
import { gradientSums } from "./operations/sums.ts";
import type { Mapped, Weights } from "./parameters.ts";
import type { Step, TapeTensor } from "./tape.ts";
import { Tape } from "./tape.ts";
import type { Storage, TensorShape } from "./tensor.ts";

/** An input of a program: tokens (`uint32`) or numbers. */
export interface InputSpec {
  readonly shape: TensorShape;
  readonly storage: "uint32" | "float32" | "float16";
}

/** Inputs by name. */
export type InputSpecs = Readonly<Record<string, InputSpec>>;

/** The inputs as tensors. */
export type InputTensors<I extends InputSpecs> = { readonly [Name in keyof I]: TapeTensor };

/** What a traced function returns, by name: what can be read after a run. */
export type Outputs = Readonly<Record<string, TapeTensor>>;

/** How a program is traced. */
export interface ProgramOptions {
  /** Outputs whose gradients are added up, with all parameters' gradients as the result: scalars from losses. */
  readonly losses?: readonly string[];
  /** Whether dropout acts. Programs with losses train. */
  readonly training?: boolean;
}

/** A step of a profile. */
export interface StepTime {
  readonly place: string;
  readonly work: string;
  readonly milliseconds: number;
}

type Typed = Float32Array | Uint32Array | Uint16Array;

/** A compiled function of a model's parameters and of inputs. */
export class ModelProgram<M = unknown> {
  readonly #machine: ModelMachine<M>;
  readonly #compiled: CompiledSteps;
  readonly #owned: readonly M[];
  readonly #place: (tensor: TapeTensor) => Region<M>;
  readonly #inputs: ReadonlyMap<string, TapeTensor>;
  readonly #outputs: Outputs;
  readonly #steps: readonly Step[];
  /** Bytes of activations, gradients of activations and inputs. */
  readonly activationBytes: number;

  private constructor(
    machine: ModelMachine<M>,
    compiled: CompiledSteps,
    owned: readonly M[],
    place: (tensor: TapeTensor) => Region<M>,
    inputs: ReadonlyMap<string, TapeTensor>,
    outputs: Outputs,
    steps: readonly Step[],
    activationBytes: number,
  ) {
    this.#machine = machine;
    this.#compiled = compiled;
    this.#owned = owned;
    this.#place = place;
    this.#inputs = inputs;
    this.#outputs = outputs;
    this.#steps = steps;
    this.activationBytes = activationBytes;
  }

  /** Trace, plan memory, compile, bind. */
  static async compile<M, Tree extends Weights, I extends InputSpecs>(
    model: Model<M, Tree>,
    inputs: I,
    body: (parameters: Mapped<Tree, TapeTensor>, inputs: InputTensors<I>, tape: Tape) => Outputs,
    { losses = [], training = losses.length > 0 }: ProgramOptions = {},
    call = "Program.compile",
  ): Promise<ModelProgram<M>> {
    const { machine } = model;
    const { storage, filtersAdd } = machine;
    const tape = new Tape({ storage, training, filtersAdd });
    const given = new Map<string, TapeTensor>();
    for (const [name, { shape, storage: kind }] of Object.entries(inputs))
      given.set(name, tape.outside(shape, kind, name, "input"));
    const tensors = Object.fromEntries(given) as InputTensors<I>;
    const outputs = body(model.tensors(tape), tensors, tape);
    if (losses.length > 0) {
      const seeds = new Map(losses.map((name) => [outputs[name]!, lossScale(tape)]));
      tape.differentiate(seeds, gradientSums);
    }
    const kept = new Set(Object.values(outputs));
    const steps = neededSteps(tape.steps, kept);
    const plan = planMemory(steps, kept);
    const owned: M[] = [];
    try {
      const allocate = async (bytes: number): Promise<M> => {
        const memory = await machine.allocate(bytes, call);
        owned.push(memory);
        return memory;
      };
      const slots: M[] = [];
      for (const bytes of plan.slots) slots.push(await allocate(bytes));
      const inputMemory = new Map<TapeTensor, M>();
      for (const tensor of given.values()) inputMemory.set(tensor, await allocate(tensor.bytes));
      const placed = await model.reserve(tape, call);
      const place = (tensor: TapeTensor): Region<M> => {
        const { owner, start, bytes } = tensor;
        const at = (memory: M, before = 0): Region<M> => ({
          ...{ memory, offset: before + start, bytes },
        });
        if (owner.role === "value") return at(slots[plan.slotOf.get(owner)!]!);
        if (owner.role === "input") return at(inputMemory.get(owner)!);
        const { memory, offset } = placed(owner);
        return at(memory, offset);
      };
      const compiled = await machine.compile(steps, place, call);
      const inputBytes = [...given.values()].reduce((sum, t) => sum + t.bytes, 0);
      const bytes = plan.slots.reduce((sum, b) => sum + b, inputBytes + compiled.scratchBytes);
      return new ModelProgram(machine, compiled, owned, place, given, outputs, steps, bytes);
    } catch (error) {
      for (const memory of owned) machine.free(memory);
      throw error;
    }
  }

  /** Kernels or jobs of a run. */
  get launches(): number {
    return this.#compiled.launches;
  }

  /**
   * Copy an input to the machine.
   * @throws InvalidArgumentError for names and sizes that the program does not have.
   */
  write(name: string, data: Typed): void {
    const tensor = this.#inputs.get(name);
    if (!tensor || data.byteLength !== tensor.bytes || bitsOf(data) !== tensor.storage) {
      throw new InvalidArgumentError({
        call: "program.write",
        requirement: tensor
          ? `${name} takes ${tensor.size} numbers, ${tensor.storage}`
          : `an input of the program: ${[...this.#inputs.keys()].join(", ")}`,
        value: tensor ? `${data.length}, ${bitsOf(data)}` : name,
        remedy: "Pass the arrays that the program was compiled for.",
      });
    }
    this.#machine.write(this.#place(tensor), data);
  }

  /** Run all steps once, on what the inputs hold now. */
  run(): void | Promise<void> {
    return this.#compiled.run();
  }

  /** How long each step takes by itself: where in the model it is, what it does. Gradients that are being added up are lost. */
  async profile(rounds = 4): Promise<readonly StepTime[]> {
    const milliseconds = await this.#compiled.profile(rounds);
    return this.#steps.map(({ place, work }, i) => {
      const way = "way" in work ? ` ${work.way}` : "";
      return { place, work: work.kind + way, milliseconds: milliseconds[i]! };
    });
  }

  /** The numbers of an output, after the runs so far. */
  async read(name: string): Promise<Float32Array> {
    return readTensor(this.#machine, this.#place(this.#outputs[name]!), this.#outputs[name]!);
  }

  dispose(): void {
    this.#compiled.dispose();
    for (const memory of this.#owned) this.#machine.free(memory);
  }
}

function bitsOf(data: Typed): Storage {
  if (data instanceof Float32Array) return "float32";
  return data instanceof Uint32Array ? "uint32" : "float16";
}

/** A tensor's numbers as float32. */
export async function readTensor<M>(
  machine: ModelMachine<M>,
  region: Region<M>,
  { size, storage }: Pick<TapeTensor, "size" | "storage">,
): Promise<Float32Array> {
  if (storage !== "float16") {
    const data = new Float32Array(size);
    await machine.read(region, data);
    return data;
  }
  const bits = new Uint16Array(size);
  await machine.read(region, bits);
  return fromHalves(bits);
}
