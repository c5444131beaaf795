/**
 * The tape: a model's operations in order, traced once. It is one flat list of steps, forward and back, that a backend compiles,
 * binds to memory and replays. Gradients are written as further operations (reverse mode; Griewank and Walther, "Evaluating
 * Derivatives", 2008).
 */
import { InvalidArgumentError } from "../errors.ts";
import type { Step, Work } from "./step.ts";
import type { Storage, TensorRole, TensorShape } from "./tensor.ts";
import { Tensor } from "./tensor.ts";

/** Gradients, or what is known of them: in the order of an operation's inputs or outputs. */
export type Gradients = readonly (Tensor | undefined)[];

/**
 * From gradients of an operation's outputs to those of its inputs. `carried` are the gradients that its inputs have from later
 * operations: a rule that adds one to its own result says so by `takesCarried`.
 */
export type GradientRule = (
  upstream: Gradients,
  carried: Gradients,
  sums: GradientSums,
) => Gradients;

/** What the tape remembers of an operation until gradients are asked for. */
export interface Operation {
  readonly inputs: readonly Tensor[];
  readonly outputs: readonly Tensor[];
  readonly gradient: GradientRule;
  /** The rule's results hold what was carried. */
  readonly takesCarried?: boolean;
  /** Parameters get gradients by it that are none of its inputs. */
  readonly holdsParameters?: boolean;
}

/** How gradients are added up: operations, which stand above the tape. */
export interface GradientSums {
  add(a: Tensor, b: Tensor): Tensor;
  /** target += gradient */
  addTo(target: Tensor, gradient: Tensor): void;
}

/** What a tape is made for. */
export interface TapeOptions {
  /** Storage of activations, and of the copies of weights that products read. */
  readonly storage: "float32" | "float16";
  /** Whether gradients will be asked for: losses then compute them on the way, and dropout acts. */
  readonly training: boolean;
  /** Whether short convolutions add the gradients of their weights to what is there. */
  readonly filtersAdd: boolean;
}

/** A model under trace. Users meet it as `tensor.tape`, in operations of their own. */
export class Tape {
  readonly options: TapeOptions;
  readonly steps: Step[] = [];
  #operations: Operation[] = [];
  /** Tensors that gradients flow to: parameters, and all that depends on one. */
  readonly #differentiable = new Set<Tensor>();
  /** Of parameters: where their gradient is added up, and their copy in float16. */
  readonly #gradients = new Map<Tensor, Tensor>();
  readonly #halves = new Map<Tensor, Tensor>();
  readonly #states = new Map<string, Tensor>();
  readonly #constants = new Map<string, () => Float32Array>();
  readonly #places: string[] = [];
  #streams = 0;

  constructor(options: TapeOptions) {
    this.options = options;
  }

  /** Storage of activations. */
  get storage(): "float32" | "float16" {
    return this.options.storage;
  }

  get training(): boolean {
    return this.options.training;
  }

  /** The place of what is being traced, as `blocks.3.mixer`. */
  get place(): string {
    return this.#places.join(".");
  }

  /** Trace `body` under a name that errors and profiles show. */
  within<T>(name: string, body: () => T): T {
    this.#places.push(name);
    try {
      return body();
    } finally {
      this.#places.pop();
    }
  }

  /** A number that no other random operation of this tape has. */
  nextStream(): number {
    return this.#streams++;
  }

  /** A tensor that a step of an operation will write. */
  tensor(shape: TensorShape, storage: Storage = this.storage): Tensor {
    return new Tensor(this, shape, storage, this.place);
  }

  /** A tensor whose memory the caller or the model's arenas have. */
  outside(shape: TensorShape, storage: Storage, label: string, role: TensorRole): Tensor {
    return new Tensor(this, shape, storage, label, role);
  }

  /** A parameter; one that is `frozen` has no gradient. */
  parameter(shape: TensorShape, label: string, frozen: boolean): Tensor {
    const tensor = this.outside(shape, "float32", label, "parameter");
    if (this.training && !frozen) this.#differentiable.add(tensor);
    return tensor;
  }

  /** A float32 that stays from run to run, by its name: made when first asked for. */
  state(name: string, shape: TensorShape = [], storage: Storage = "float32"): Tensor {
    const found = this.#states.get(name) ?? this.outside(shape, storage, name, "state");
    this.#states.set(name, found);
    return found;
  }

  /** All of them. */
  get states(): ReadonlyMap<string, Tensor> {
    return this.#states;
  }

  /** Numbers that never change, by their name: `fill` makes them once, when the tape is compiled. */
  constant(name: string, shape: TensorShape, fill: () => Float32Array): Tensor {
    this.#constants.set(name, fill);
    return this.state(name, shape);
  }

  get constants(): ReadonlyMap<string, () => Float32Array> {
    return this.#constants;
  }

  /** Part of a tensor's memory under a shape of its own. Gradients flow through views of the whole. */
  view(of: Tensor, shape: TensorShape, offset: number): Tensor {
    const role = of.role === "parameter" ? "value" : of.role;
    const view = new Tensor(this, shape, of.storage, of.label, role, { base: of, offset });
    this.operation({
      inputs: [of],
      outputs: [view],
      gradient: ([d], _, sums) => {
        if (view.size === of.size) return [d && this.view(d, of.shape, 0)];
        if (of.role === "parameter") {
          sums.addTo(this.view(this.gradientOf(of), shape, offset), d!);
          return [undefined];
        }
        throw new InvalidArgumentError({
          call: of.label,
          requirement: "gradients pass views of a whole tensor",
          value: `a slice, (${shape.join(", ")}) of (${of.shape.join(", ")})`,
          remedy: "Slice parameters, or what needs no gradient.",
        });
      },
    });
    return view;
  }

  /** Add a step. */
  step(work: Work, reads: Step["reads"], writes: Step["writes"]): void {
    this.steps.push({ work, reads, writes, place: this.place });
  }

  /** Remember how gradients pass an operation, if any will. */
  operation(operation: Operation): void {
    const { inputs, holdsParameters } = operation;
    if (!holdsParameters && !inputs.some((t) => this.#differentiable.has(t))) return;
    for (const output of operation.outputs) this.#differentiable.add(output);
    this.#operations.push(operation);
  }

  /** Whether a gradient of this tensor is wanted. */
  differentiates(tensor: Tensor): boolean {
    return this.#differentiable.has(tensor);
  }

  /** Where the gradient of a parameter is added up, in float32. */
  gradientOf(parameter: Tensor): Tensor {
    const found =
      this.#gradients.get(parameter) ??
      this.outside(parameter.shape, "float32", parameter.label, "gradient");
    this.#gradients.set(parameter, found);
    return found;
  }

  /** Gradients of parameters, and copies in float16, that steps name. */
  get gradients(): ReadonlyMap<Tensor, Tensor> {
    return this.#gradients;
  }

  get halves(): ReadonlyMap<Tensor, Tensor> {
    return this.#halves;
  }

  /** A tensor as products read it: a parameter's copy in the storage of activations. */
  stored(tensor: Tensor): Tensor {
    if (tensor.role !== "parameter" || this.storage === "float32") return tensor;
    const found =
      this.#halves.get(tensor) ?? this.outside(tensor.shape, "float16", tensor.label, "half");
    this.#halves.set(tensor, found);
    return found;
  }

  /**
   * Where a rule writes the gradient of an input: a parameter's is added to what is there, others get a tensor of their own.
   * `result` is what the rule returns for it.
   */
  sink(input: Tensor, storage: Storage = this.storage): Sink {
    if (input.role === "parameter" && this.differentiates(input)) {
      return { tensor: this.gradientOf(input), accumulate: true, result: undefined };
    }
    const tensor = this.tensor(input.shape, storage);
    return { tensor, accumulate: false, result: tensor };
  }

  /**
   * Trace without remembering operations, random ones with the same numbers each time.
   * @returns what `body` returns, and the operations that it stands for.
   */
  apart<T>(
    body: () => T,
    stream: number = this.#streams,
  ): { readonly result: T; readonly operations: readonly Operation[] } {
    const before = this.#operations;
    const streams = this.#streams;
    this.#operations = [];
    this.#streams = stream;
    try {
      const result = body();
      return { result, operations: this.#operations };
    } finally {
      this.#operations = before;
      this.#streams = Math.max(streams, this.#streams);
    }
  }

  /** The number that the next random operation has. */
  get stream(): number {
    return this.#streams;
  }

  /** Trace the gradients of all parameters, from those of losses. */
  differentiate(seeds: ReadonlyMap<Tensor, Tensor>, sums: GradientSums): void {
    const operations = this.#operations;
    this.#operations = [];
    this.sweep(operations, new Map(seeds), sums);
  }

  /** Pass gradients back through operations, the last first; those of parameters are added up where they lie. */
  sweep(
    operations: readonly Operation[],
    gradients: Map<Tensor, Tensor>,
    sums: GradientSums,
  ): void {
    for (const { inputs, outputs, gradient, takesCarried } of [...operations].reverse()) {
      const upstream = outputs.map((t) => gradients.get(t));
      if (!upstream.some(Boolean)) continue;
      const carried = inputs.map((t) => gradients.get(t));
      const found = gradient(upstream, takesCarried ? carried : [], sums);
      if (found.length !== inputs.length) {
        throw new InvalidArgumentError({
          call: outputs[0]!.label,
          requirement: `a gradient rule returns one entry for each of ${inputs.length} inputs`,
          value: String(found.length),
          remedy: "Return undefined for inputs without a gradient.",
        });
      }
      inputs.forEach((input, i) => {
        const own = found[i];
        if (!own || !this.#differentiable.has(input)) return;
        const before = takesCarried ? undefined : gradients.get(input);
        gradients.set(input, before ? sums.add(before, own) : own);
      });
    }
    for (const [tensor, gradient] of gradients) {
      if (tensor.role === "parameter") sums.addTo(this.gradientOf(tensor), gradient);
    }
  }
}

/** Where a gradient goes. */
export interface Sink {
  readonly tensor: Tensor;
  /** Whether it is added to what is there. */
  readonly accumulate: boolean;
  /** What the rule returns. */
  readonly result: Tensor | undefined;
}
