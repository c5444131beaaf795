/** Row programs on the CPU, on tensors in the backend's memory: made once for a shape, bound to addresses, run as often as asked. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Jobs } from "../backend/cpu/job.ts";
import { jobKinds, rowsJob } from "../backend/cpu/job.ts";
import { aligned } from "../backend/cpu/memory.ts";
import { rowProgramRecipes } from "../backend/cpu/recipe-row-program.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { RowFunctions } from "../kernels/cpu/function-names.ts";
import { mostRowTensors, rowsSource, totalBytes } from "../kernels/cpu/rows/program.ts";
import type { RowOutput, RowProgram, RowShape } from "../math/row-program.ts";
import { addressed } from "../math/row-program.ts";
import type { Running } from "./cpu-threads.ts";
import { after, blockingSeconds } from "./cpu-threads.ts";
import { deviceFor } from "./measured.ts";

/** Most units of a program, and cells that a unit has at least: so many partial sums whatever the number of threads. */
const mostUnits = 64;
const leastCells = 16_384;

/** Seconds that a cell takes for each tensor and for each operation; more often in plain JavaScript. */
const cellPrice = { tensor: 1.5e-10, operation: 0.8e-10, javascript: 12 } as const;

type RowsJob = Jobs["rows"];

/** A program on a backend, for one shape. */
export class CpuRowProgram {
  readonly program: RowProgram;
  /** Bytes of work memory that `workAt` takes an address of; they carry nothing from run to run. */
  readonly workBytes: number;
  readonly #backend: CpuBackend;
  readonly #compiled: Program;
  readonly #job: RowsJob;
  readonly #seconds: number;
  readonly #columns: number;
  /** Sums that are added up at the end: where they are in a unit's, where they go. */
  #folds: { readonly output: RowOutput; readonly from: number; to: number }[] = [];

  private constructor(
    backend: CpuBackend,
    compiled: Program,
    program: RowProgram,
    { rows, columns }: RowShape,
  ) {
    this.program = program;
    this.#backend = backend;
    this.#compiled = compiled;
    this.#columns = columns;
    const cells = rows * columns;
    // A unit's rows, or its cells where the shape does not matter.
    const most = Math.max(leastCells, 16 * Math.ceil(cells / mostUnits / 16));
    const flat = program.flat ? { rows: Math.ceil(cells / most), columns: most } : undefined;
    const shape = flat ?? { rows, columns };
    const chunk = flat ? 1 : Math.max(Math.ceil(rows / mostUnits), Math.ceil(leastCells / columns));
    const sums = program.outputs.filter((o) => o.how === "columnSum");
    const totals = program.outputs.filter((o) => o.how === "total");
    const sumBytes = sums.length > 0 ? aligned(4 * columns) : 0;
    const bytes = totalBytes * totals.length + sums.length * sumBytes;
    const partialBytes = bytes > 0 ? aligned(bytes) : 0;
    const units = Math.ceil(shape.rows / chunk);
    this.workBytes = units * partialBytes;
    this.#folds = [
      ...totals.map((output, i) => ({ output, from: i * totalBytes, to: 0 })),
      ...sums.map((output, i) => ({
        ...{ output, from: totals.length * totalBytes + i * sumBytes, to: 0 },
      })),
    ];
    const tensors = addressed(program);
    this.#job = {
      ...{ ...rowsJob, ...shape, kind: jobKinds.rows, program: compiled.id, units, chunk },
      lastColumns: flat ? cells - (shape.rows - 1) * shape.columns : columns,
      ...{ tensors: tensors.length, partialBytes, sumBytes },
    };
    tensors.forEach(({ kind, dtype, stride = shape.columns, period = 0 }, i) => {
      const bytes = dtype === "float16" ? 2 : 4;
      const step = kind === "cell" ? stride * bytes : kind === "row" ? bytes : 0;
      this.#set(`s${i}`, step);
      this.#set(`m${i}`, period);
    });
    const { operation, tensor, javascript } = cellPrice;
    const each = operation * program.key.split(";").length + tensor * tensors.length;
    this.#seconds = cells * each * (backend.lanes === 1 ? javascript : 1);
  }

  #set(field: string, value: number): void {
    this.#job[field as keyof RowsJob] = value;
  }

  /**
   * Compile a program for a shape; in the backend's exclusive section, as `run`.
   * @throws InvalidArgumentError for one of more than 16 tensors.
   */
  static async open(
    backend: CpuBackend,
    program: RowProgram,
    shape: RowShape,
    call: string,
  ): Promise<CpuRowProgram> {
    const count = addressed(program).length;
    if (count > mostRowTensors)
      throw new InvalidArgumentError({
        ...{ call, requirement: `at most ${mostRowTensors} tensors in a row program` },
        ...{ value: String(count), remedy: "Cut it in two." },
      });
    addRecipes(rowProgramRecipes);
    return new CpuRowProgram(
      backend,
      await backend.program(rowsSource(program), call),
      program,
      shape,
    );
  }

  /** Fix where the work memory is, in bytes of the backend's memory. */
  workAt(address: number): void {
    this.#job.partials = address;
  }

  /** Fix where tensors are, by their names. */
  bind(addresses: Readonly<Record<string, number>>): void {
    addressed(this.program).forEach(({ name, dtype, offset = 0 }, i) => {
      this.#set(`p${i}`, addresses[name]! + offset * (dtype === "float16" ? 2 : 4));
    });
    for (const fold of this.#folds) {
      const { name, offset = 0 } = fold.output.operand;
      fold.to = addresses[name]! + 4 * offset;
    }
  }

  /** Run it, on up to so many threads. Nothing is made on the way where the caller takes part to the end. */
  run(wanted: number): Running {
    const job = this.#job;
    const backend = this.#backend;
    const threads = Math.min(job.units, backend.threadsFor(wanted));
    const saved = this.#seconds - this.#seconds / threads;
    const { dispatchSeconds } = deviceFor(backend.settings.instructions);
    job.threads = saved > 3 * dispatchSeconds ? threads : 1;
    const blocking = this.#seconds / job.threads < blockingSeconds;
    return after(backend.run(this.#compiled, job, job.threads, blocking), this.#addUp);
  }

  readonly #addUp = (): void => {
    const { partials, partialBytes, units } = this.#job;
    const { fold, foldOnto } = this.#compiled.kernels as unknown as RowFunctions;
    for (const { output, from, to } of this.#folds) {
      const add = output.accumulate ? foldOnto : fold;
      const columns = output.how === "total" ? 1 : this.#columns;
      add(partials + from, partialBytes, to, columns, units);
    }
  };

  /** Give the compiled program back. */
  close(): void {
    this.#backend.releaseProgram(this.#compiled);
  }
}
