/** Programs on the CPU: steps are jobs of the backend's threads and calls of convolutions, in its one memory. */
import type { CpuBackend } from "../backend/cpu/backend.ts";
import type { Block } from "../backend/cpu/memory.ts";
import { lendingBackend, openCpuFor } from "../calls/cpu-open.ts";
import { compileProduct, runProduct } from "../calls/cpu-product.ts";
import { compileRows, runRows } from "../calls/cpu-row-program.ts";
import type { Running } from "../calls/cpu-threads.ts";
import { inSteps } from "../calls/cpu-threads.ts";
import type { RuntimeOptions } from "../calls/runtime.ts";
import { FlashFFTConv } from "../conv/conv.ts";
import { FlashHyenaProjections } from "../depthwise/projections.ts";
import type { GatherProblem } from "../schedule/gather.ts";
import type { CompiledSteps, ModelMachine, Region } from "./machine.ts";
import type { Operator } from "./operators.ts";
import { Operators } from "./operators.ts";
import type { ConvolutionStep, FilterStep } from "./step.ts";
import type { Step, TapeTensor } from "./tape.ts";

/** A step that is ready: what it does each time. */
type Ready = () => Running;

async function profiled(ready: readonly Ready[], rounds: number): Promise<readonly number[]> {
  const milliseconds: number[] = [];
  for (const run of ready) {
    const begin = performance.now();
    for (let i = 0; i < rounds; i++) await run();
    milliseconds.push((performance.now() - begin) / rounds);
  }
  return milliseconds;
}

/** The CPU for programs, in float32. */
export class CpuMachine implements ModelMachine<Block> {
  readonly storage = "float32";
  readonly filtersAdd = false;
  readonly name: string;
  readonly #backend: CpuBackend;
  readonly #threads: number;
  readonly #operators: Operators;

  /** @throws UnsupportedError for what the runtime lacks. */
  constructor(options: RuntimeOptions, call: string) {
    const { backend, threads } = openCpuFor(options, call);
    // Convolutions work on arrays of a memory that is shared where they lie; others they copy.
    this.#backend = lendingBackend(backend, call);
    this.#threads = threads;
    this.#operators = new Operators({ ...options, backend: "cpu" }, (object) => {
      // An object that lends arrays moves to the memory that is lent.
      if (object instanceof FlashFFTConv) object.allocateInput(1, 1);
    });
    this.name = `cpu: ${this.#backend.settings.instructions}, ${threads} thread(s)`;
    this.#backend.retain(this);
  }

  /** Threads that it was asked to use. */
  get threads(): number {
    return this.#threads;
  }

  /** Work memory that its last step took. */
  get workspaceBytes(): number {
    return this.#backend.workspaceBytes;
  }

  async allocate(bytes: number, call: string): Promise<Block> {
    const block = this.#backend.lend(bytes, call);
    new Uint8Array(this.#backend.arena.buffer, block.address, bytes).fill(0);
    return block;
  }

  free(block: Block): void {
    this.#backend.arena.free(block);
  }

  write({ memory, offset }: Region<Block>, data: ArrayBufferView): void {
    const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    new Uint8Array(this.#backend.arena.buffer).set(bytes, memory.address + offset);
  }

  async read({ memory, offset }: Region<Block>, into: ArrayBufferView): Promise<void> {
    const from = new Uint8Array(
      this.#backend.arena.buffer,
      memory.address + offset,
      into.byteLength,
    );
    new Uint8Array(into.buffer, into.byteOffset, into.byteLength).set(from);
  }

  async compile(
    steps: readonly Step[],
    place: (tensor: TapeTensor) => Region<Block>,
    call: string,
  ): Promise<CompiledSteps> {
    const ready: Ready[] = [];
    for (const step of steps) ready.push(await this.#prepared(step, place, call));
    return {
      launches: ready.length,
      scratchBytes: 0,
      run: () => inSteps(0, ready.length, 1, (i) => ready[i]!()),
      profile: (rounds) => profiled(ready, rounds),
      dispose() {},
    };
  }

  async #prepared(
    { work, reads, writes }: Step,
    place: (tensor: TapeTensor) => Region<Block>,
    call: string,
  ): Promise<Ready> {
    const backend = this.#backend;
    const named = Object.entries({ ...reads, ...writes });
    const addresses = Object.fromEntries(
      named.map(([name, tensor]) => {
        const { memory, offset } = place(tensor);
        return [name, memory.address + offset];
      }),
    );
    const inTurn = async <T>(compile: () => Promise<T>): Promise<T> => backend.exclusive(compile);
    const during = "program.run";
    switch (work.kind) {
      case "product": {
        const product = await inTurn(() =>
          compileProduct(backend, work.problem, this.#threads, call),
        );
        const at = addresses as Parameters<typeof runProduct>[2];
        return () => backend.exclusive(() => runProduct(backend, product, at, during));
      }
      case "rows": {
        const rows = await inTurn(() =>
          compileRows(backend, work.program, work.shape, this.#threads, call),
        );
        return () => backend.exclusive(() => runRows(backend, rows, addresses, during));
      }
      case "gather":
      case "scatterAdd": {
        return () => backend.exclusive(() => gathered(work, backend.arena.buffer, addresses));
      }
      default:
        return this.#convolution(work, reads, writes, addresses, call);
    }
  }

  /** A call of a convolution's object on arrays of this memory. */
  async #convolution(
    work: ConvolutionStep | FilterStep,
    reads: Step["reads"],
    writes: Step["writes"],
    addresses: Readonly<Record<string, number>>,
    call: string,
  ): Promise<Ready> {
    const object = await this.#operators.get(work, call);
    const given = new CallArrays(this.#backend, reads, writes, addresses);
    return () => given.run((arrays) => callOf(object, work, arrays));
  }

  dispose(): void {
    this.#operators.dispose();
    this.#backend.release(this);
  }
}

/** Rows of a table by number, or their sum into it: a copy or a sum for each row, which one thread does as fast as memory goes. */
function gathered(
  { kind, rows, columns, entries }: GatherProblem,
  memory: ArrayBufferLike,
  at: Readonly<Record<string, number>>,
): void {
  const ids = new Uint32Array(memory, at.ids, rows);
  const table = new Float32Array(memory, at.table, entries * columns);
  const cells = new Float32Array(memory, kind === "gather" ? at.y : at.dy, rows * columns);
  for (let r = 0; r < rows; r++) {
    const [from, to] = [r * columns, ids[r]! * columns];
    if (kind === "gather") cells.set(table.subarray(to, to + columns), from);
    else for (let c = 0; c < columns; c++) table[to + c]! += cells[from + c]!;
  }
}

type Arrays = Readonly<Record<string, Float32Array>>;

/** Shapes that short convolutions take their batch from. */
interface Shaped {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** The call of a step. */
function callOf(object: Operator, work: ConvolutionStep | FilterStep, a: Arrays): Promise<unknown> {
  const { batch, channels, length } = work;
  const rows = (data: Float32Array, wide = 1): Shaped => ({
    ...{ data, shape: [batch, wide * channels, length] },
  });
  const pick = (...names: string[]) =>
    Object.fromEntries(names.filter((name) => a[name]).map((name) => [name, a[name]!]));
  if (object instanceof FlashFFTConv) {
    const k = { data: a.k!, shape: [channels, a.k!.length / channels] };
    const gates = Object.fromEntries(
      Object.entries(pick("pregate", "postgate")).map(([name, data]) => [name, rows(data)]),
    );
    if (work.way === "forward") {
      return object.forward(rows(a.u!), k, { ...gates, out: rows(a.y!) } as never);
    }
    const out = pick("du", "dk", "dpregate", "dpostgate");
    return object.backward(rows(a.dy!), rows(a.u!), k, { ...gates, out } as never);
  }
  const bias = pick("bias");
  if (object instanceof FlashHyenaProjections) {
    const x = rows(a.x!, 3);
    if (work.way === "forward") {
      const out = { gated: rows(a.gated!), postgate: rows(a.postgate!) };
      return object.forward(x, a.weight!, { ...bias, out } as never);
    }
    const upstream = { dgated: rows(a.dgated!), dpostgate: rows(a.dpostgate!) };
    const out = pick("dx", "dweight", "dbias");
    return object.backward(upstream, x, a.weight!, { ...bias, out } as never);
  }
  const x = rows(a.x!);
  if (work.way === "forward") {
    return object.forward(x, a.weight!, { ...bias, out: rows(a.y!) } as never);
  }
  const out = pick("dx", "dweight", "dbias");
  return object.backward(rows(a.dy!), x, a.weight!, { ...bias, out } as never);
}

/** The arrays of a step's tensors: in the backend's memory where that can be lent, copies where it cannot. */
class CallArrays {
  readonly #backend: CpuBackend;
  readonly #outputs: readonly string[];
  readonly #places: readonly (readonly [string, number, number])[];
  #buffer: ArrayBufferLike | undefined;
  #arrays: Arrays = {};

  constructor(
    backend: CpuBackend,
    reads: Step["reads"],
    writes: Step["writes"],
    addresses: Readonly<Record<string, number>>,
  ) {
    this.#backend = backend;
    this.#outputs = Object.keys(writes);
    this.#places = Object.entries({ ...reads, ...writes }).map(
      ([name, { size }]) => [name, addresses[name]!, size] as const,
    );
  }

  #views(): Arrays {
    const { buffer } = this.#backend.arena;
    if (this.#buffer === buffer) return this.#arrays;
    this.#buffer = buffer;
    this.#arrays = Object.fromEntries(
      this.#places.map(([name, address, size]) => [name, new Float32Array(buffer, address, size)]),
    );
    return this.#arrays;
  }

  run(call: (arrays: Arrays) => Promise<unknown>): Running {
    const views = this.#views();
    if (this.#backend.settings.shared) return call(views).then(() => {});
    const copies = Object.fromEntries(
      Object.entries(views).map(([name, view]) => [name, view.slice()]),
    );
    return call(copies).then(() => {
      const now = this.#views();
      for (const name of this.#outputs) now[name]!.set(copies[name]!);
    });
  }
}
