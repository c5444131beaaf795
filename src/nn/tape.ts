/**
 * The tape: a model's operations in order, traced once. It is one flat list of steps, forward and back, that a backend compiles,
 * binds to memory and replays. Gradients are written as further operations (reverse mode; Griewank and Walther, "Evaluating
 * Derivatives", 2008).
 */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { StepWork } from "./step.ts";
import type { Storage, TensorRole, TensorShape } from "./tensor.ts";
import { misshapen, sizeOf, storageBytes } from "./tensor.ts";

/** A value of a model: row-major, of one shape and storage. Operations make them; none is computed until the tape runs. */
export class TapeTensor {
  readonly tape: Tape;
  readonly shape: TensorShape;
  readonly storage: Storage;
  readonly role: TensorRole;
  /** Where it comes from, as errors name it: the path of a parameter, or the place of the operation. */
  readonly label: string;
  /** The tensor whose memory this one is part of, and the bytes before it there. */
  readonly base: TapeTensor | undefined;
  readonly offset: number;

  constructor(
    tape: Tape,
    shape: TensorShape,
    storage: Storage,
    label: string,
    role: TensorRole = "value",
    within?: { readonly base: TapeTensor; readonly offset: number },
  ) {
    this.tape = tape;
    this.shape = shape;
    this.storage = storage;
    this.role = role;
    this.label = label;
    this.base = within?.base;
    this.offset = within?.offset ?? 0;
  }

  /** How many numbers it has. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Bytes that it takes. */
  get bytes(): number {
    return this.size * storageBytes[this.storage];
  }

  /** The tensor whose memory it lies in: itself, where it is no part of another. */
  get owner(): TapeTensor {
    return this.base?.owner ?? this;
  }

  /** Bytes before it in its owner's memory. */
  get start(): number {
    return this.base ? this.base.start + this.offset : 0;
  }

  /** Length of the last dimension. */
  get width(): number {
    return this.shape.at(-1) ?? 1;
  }

  /** How many rows of that length it has. */
  get rows(): number {
    return this.width === 0 ? 0 : this.size / this.width;
  }

  /** The same numbers under another shape. */
  reshape(...shape: number[]): TapeTensor {
    if (sizeOf(shape) !== this.size) {
      throw misshapen("reshape", `${this.label} has ${show(this.size)} numbers`, shape);
    }
    return this.tape.view(this, shape, 0);
  }

  /** Items [from, to) of the first dimension, in the same memory. */
  slice(from: number, to: number): TapeTensor {
    const [first = 1, ...rest] = this.shape;
    if (!(from >= 0 && from < to && to <= first)) {
      throw misshapen("slice", `0 ≤ from < to ≤ ${show(first)} in ${this.label}`, [from, to]);
    }
    const offset = from * sizeOf(rest) * storageBytes[this.storage];
    return this.tape.view(this, [to - from, ...rest], offset);
  }
}

/** Work on tensors, by the names that the work has for them. A tensor that is both read and written has both entries. */
export interface Step {
  readonly work: StepWork;
  readonly reads: Readonly<Record<string, TapeTensor>>;
  readonly writes: Readonly<Record<string, TapeTensor>>;
  /** Where in the model, for errors and profiles. */
  readonly place: string;
}

/** Gradients, or what is known of them: in the order of an operation's inputs or outputs. */
export type TapeGradients = readonly (TapeTensor | undefined)[];

/**
 * From gradients of an operation's outputs to those of its inputs. `carried` are the gradients that its inputs have from later
 * operations: a rule that adds one to its own result says so by `takesCarried`.
 */
export type GradientRule = (
  upstream: TapeGradients,
  carried: TapeGradients,
  sums: GradientSums,
) => TapeGradients;

/** What the tape remembers of an operation until gradients are asked for. */
export interface TapeOperation {
  readonly inputs: readonly TapeTensor[];
  readonly outputs: readonly TapeTensor[];
  readonly gradient: GradientRule;
  /** The rule's results hold what was carried. */
  readonly takesCarried?: boolean;
  /** Parameters get gradients by it that are none of its inputs. */
  readonly holdsParameters?: boolean;
}

/** How gradients are added up: operations, which stand above the tape. */
export interface GradientSums {
  add(a: TapeTensor, b: TapeTensor): TapeTensor;
  /** target += gradient */
  addTo(target: TapeTensor, gradient: TapeTensor): void;
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
  #operations: TapeOperation[] = [];
  /** Tensors that gradients flow to: parameters, and all that depends on one. */
  readonly #differentiable = new Set<TapeTensor>();
  /** Of parameters: where their gradient is added up, and their copy in float16. */
  readonly #gradients = new Map<TapeTensor, TapeTensor>();
  readonly #halves = new Map<TapeTensor, TapeTensor>();
  readonly #states = new Map<string, TapeTensor>();
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
  tensor(shape: TensorShape, storage: Storage = this.storage): TapeTensor {
    return new TapeTensor(this, shape, storage, this.place);
  }

  /** A tensor whose memory the caller or the model's arenas have. */
  outside(shape: TensorShape, storage: Storage, label: string, role: TensorRole): TapeTensor {
    return new TapeTensor(this, shape, storage, label, role);
  }

  /** A parameter; one that is `frozen` has no gradient. */
  parameter(shape: TensorShape, label: string, frozen: boolean): TapeTensor {
    const tensor = this.outside(shape, "float32", label, "parameter");
    if (this.training && !frozen) this.#differentiable.add(tensor);
    return tensor;
  }

  /** A float32 that stays from run to run, by its name: made when first asked for. */
  state(name: string, shape: TensorShape = [], storage: Storage = "float32"): TapeTensor {
    const found = this.#states.get(name) ?? this.outside(shape, storage, name, "state");
    this.#states.set(name, found);
    return found;
  }

  /** All of them. */
  get states(): ReadonlyMap<string, TapeTensor> {
    return this.#states;
  }

  /** Numbers that never change, by their name: `fill` makes them once, when the tape is compiled. */
  constant(name: string, shape: TensorShape, fill: () => Float32Array): TapeTensor {
    this.#constants.set(name, fill);
    return this.state(name, shape);
  }

  get constants(): ReadonlyMap<string, () => Float32Array> {
    return this.#constants;
  }

  /** Part of a tensor's memory under a shape of its own. Gradients flow through views of the whole. */
  view(of: TapeTensor, shape: TensorShape, offset: number): TapeTensor {
    const role = of.role === "parameter" ? "value" : of.role;
    const view = new TapeTensor(this, shape, of.storage, of.label, role, { base: of, offset });
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
  step(work: StepWork, reads: Step["reads"], writes: Step["writes"]): void {
    this.steps.push({ work, reads, writes, place: this.place });
  }

  /** Remember how gradients pass an operation, if any will. */
  operation(operation: TapeOperation): void {
    const { inputs, holdsParameters } = operation;
    if (!holdsParameters && !inputs.some((t) => this.#differentiable.has(t))) return;
    for (const output of operation.outputs) this.#differentiable.add(output);
    this.#operations.push(operation);
  }

  /** Whether a gradient of this tensor is wanted. */
  differentiates(tensor: TapeTensor): boolean {
    return this.#differentiable.has(tensor);
  }

  /** Where the gradient of a parameter is added up, in float32. */
  gradientOf(parameter: TapeTensor): TapeTensor {
    const found =
      this.#gradients.get(parameter) ??
      this.outside(parameter.shape, "float32", parameter.label, "gradient");
    this.#gradients.set(parameter, found);
    return found;
  }

  /** Gradients of parameters, and copies in float16, that steps name. */
  get gradients(): ReadonlyMap<TapeTensor, TapeTensor> {
    return this.#gradients;
  }

  get halves(): ReadonlyMap<TapeTensor, TapeTensor> {
    return this.#halves;
  }

  /** A tensor as products read it: a parameter's copy in the storage of activations. */
  stored(tensor: TapeTensor): TapeTensor {
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
  sink(input: TapeTensor, storage: Storage = this.storage): Sink {
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
  ): { readonly result: T; readonly operations: readonly TapeOperation[] } {
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
  differentiate(seeds: ReadonlyMap<TapeTensor, TapeTensor>, sums: GradientSums): void {
    const operations = this.#operations;
    this.#operations = [];
    this.sweep(operations, new Map(seeds), sums);
  }

  /** Pass gradients back through operations, the last first; those of parameters are added up where they lie. */
  sweep(
    operations: readonly TapeOperation[],
    gradients: Map<TapeTensor, TapeTensor>,
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
  readonly tensor: TapeTensor;
  /** Whether it is added to what is there. */
  readonly accumulate: boolean;
  /** What the rule returns. */
  readonly result: TapeTensor | undefined;
}
