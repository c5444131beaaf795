/** Models on a machine: a tree of parameters in one arena, with gradients, copies in float16 and states beside it. */
import { decode, encode } from "../dtype.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { ModelMachine, Region } from "./machine.ts";
import type { ArenaPlace, Mapped, Weights } from "./parameters.ts";
import { layOutArena, mapWeights } from "./parameters.ts";
import type { Tape, TapeTensor } from "./tape.ts";
import type { ArenaName } from "./tensor.ts";
import { storageBytes } from "./tensor.ts";

/** The label of a tensor that is a whole arena. */
export const wholeArena = "";

/** What states begin with, where that is not 0. */
const initialStates: Readonly<Record<string, number>> = { "loss scale": 1 };

/** Parameters of the shape of `Tree`, on a machine. */
export class Model<M = unknown, Tree extends Weights = Weights> {
  readonly machine: ModelMachine<M>;
  /** Numbers of each arena: all parameters, each from a multiple of `arenaRow` on. */
  readonly size: number;
  readonly #tree: Tree;
  readonly #places: ReadonlyMap<string, ArenaPlace>;
  readonly #arenas = new Map<ArenaName, M>();
  readonly #states = new Map<string, Region<M>>();

  private constructor(machine: ModelMachine<M>, tree: Tree) {
    const { places, size } = layOutArena(tree);
    this.machine = machine;
    this.#tree = tree;
    this.#places = places;
    this.size = size;
  }

  /** Copy weights to a machine. The arrays stay the caller's. */
  static async create<M, Tree extends Weights>(
    machine: ModelMachine<M>,
    tree: Tree,
    call = "Model.create",
  ): Promise<Model<M, Tree>> {
    const model = new Model(machine, tree);
    await model.arena("parameter", call);
    model.#upload();
    return model;
  }

  /** The parameters as tensors of a tape: a weight that the tree has twice is one tensor. */
  tensors(tape: Tape): Mapped<Tree, TapeTensor> {
    const made = new Map<object, TapeTensor>();
    return mapWeights(this.#tree, (weight, path) => {
      const tensor = made.get(weight) ?? tape.parameter(weight.shape, path, weight.frozen ?? false);
      made.set(weight, tensor);
      return tensor;
    });
  }

  /** Paths and places of all parameters. */
  get places(): ReadonlyMap<string, ArenaPlace> {
    return this.#places;
  }

  /** The memory of an arena, of zeros when first asked for; the copies in float16 begin as the parameters. */
  async arena(name: ArenaName, call: string): Promise<M> {
    const found = this.#arenas.get(name);
    if (found !== undefined) return found;
    const each = name === "half" ? 2 : 4;
    const memory = await this.machine.allocate(each * this.size, call);
    this.#arenas.set(name, memory);
    if (name === "half") this.#upload();
    return memory;
  }

  /** The arenas that there are. */
  get arenas(): readonly ArenaName[] {
    return [...this.#arenas.keys()];
  }

  /** Make room for what a tape names; where each of its lasting tensors is. */
  async reserve(tape: Tape, call: string): Promise<(owner: TapeTensor) => Region<M>> {
    if (tape.gradients.size > 0) await this.arena("gradient", call);
    if (tape.halves.size > 0) await this.arena("half", call);
    for (const [name, tensor] of tape.states) await this.#state(name, tensor, tape, call);
    return ({ role, label, bytes, storage }) => {
      if (role === "state") return this.#states.get(label)!;
      const memory = this.#arenas.get(role as ArenaName)!;
      const offset = label === wholeArena ? 0 : this.#places.get(label)!.offset;
      return { memory, offset: offset * storageBytes[storage], bytes };
    };
  }

  async #state(name: string, { bytes, size }: TapeTensor, tape: Tape, call: string): Promise<void> {
    if (this.#states.has(name)) return;
    const memory = await this.machine.allocate(bytes, call);
    const region = { memory, offset: 0, bytes };
    this.#states.set(name, region);
    const begin = tape.constants.get(name)?.() ?? initialStates[name];
    if (begin === undefined) return;
    const data = typeof begin === "number" ? new Float32Array(size).fill(begin) : begin;
    this.machine.write(region, data);
  }

  /** Write a state that some program has: a float32, or a uint32. */
  writeState(name: string, data: Float32Array | Uint32Array): void {
    const region = this.#states.get(name);
    if (region) this.machine.write(region, data);
  }

  /** The numbers of a state; none where no program has it. */
  async readState(name: string): Promise<Float32Array> {
    const region = this.#states.get(name);
    const data = new Float32Array((region?.bytes ?? 0) / 4);
    if (region) await this.machine.read(region, data);
    return data;
  }

  #region(name: ArenaName): Region<M> {
    const each = name === "half" ? 2 : 4;
    return { memory: this.#arenas.get(name)!, offset: 0, bytes: each * this.size };
  }

  /** The numbers of an arena by the parameters' paths. */
  async read(name: Exclude<ArenaName, "half"> = "parameter"): Promise<Map<string, Float32Array>> {
    const all = new Float32Array(this.size);
    await this.machine.read(this.#region(name), all);
    const named = [...this.#places].map(([path, { offset, weight }]) => {
      return [path, all.slice(offset, offset + weight.data.length)] as const;
    });
    return new Map(named);
  }

  /**
   * Replace the numbers of an arena; parameters that are not named stay as they are in the tree.
   * @throws InvalidArgumentError for paths and sizes that the model does not have.
   */
  async write(
    values: ReadonlyMap<string, Float32Array>,
    name: Exclude<ArenaName, "half"> = "parameter",
  ): Promise<void> {
    const call = "model.write";
    for (const [path, data] of values) {
      const place = this.#places.get(path);
      if (place && place.weight.data.length === data.length) continue;
      throw new InvalidArgumentError({
        call,
        requirement: place
          ? `${path} has ${place.weight.data.length} numbers`
          : "a parameter of the model",
        value: place ? String(data.length) : path,
        remedy: "Write the parameters of a model of this configuration.",
      });
    }
    await this.arena(name, call);
    if (name === "parameter") {
      for (const [path, data] of values) this.#places.get(path)!.weight.data.set(data);
      this.#upload();
      return;
    }
    const all = new Float32Array(this.size);
    for (const [path, data] of values) all.set(data, this.#places.get(path)!.offset);
    this.machine.write(this.#region(name), all);
  }

  /** Copy the tree's numbers, and their float16, to the machine. */
  #upload(): void {
    const all = new Float32Array(this.size);
    for (const { offset, weight } of this.#places.values()) all.set(weight.data, offset);
    this.machine.write(this.#region("parameter"), all);
    if (this.#arenas.has("half"))
      this.machine.write(this.#region("half"), encode(all, "float16") as Uint16Array);
  }

  dispose(): void {
    for (const memory of this.#arenas.values()) this.machine.free(memory);
    for (const { memory } of this.#states.values()) this.machine.free(memory);
    this.#arenas.clear();
    this.#states.clear();
  }
}

/** float16 as float32. */
export function fromHalves(bits: Uint16Array): Float32Array {
  return Float32Array.from(decode(bits, "float16"));
}
