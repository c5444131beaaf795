/** Row programs in the CPU backend's memory: compiled once for a shape, run any number of times on tensors that lie there. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import { addRecipes } from "../backend/cpu/executor.ts";
import type { Jobs } from "../backend/cpu/job.ts";
import { jobKinds, rowsJob } from "../backend/cpu/job.ts";
import { aligned, WorkLayout } from "../backend/cpu/memory.ts";
import { rowProgramRecipes } from "../backend/cpu/recipe-row-program.ts";
import { InvalidArgumentError } from "../errors.ts";
import type { RowFunctions } from "../kernels/cpu/function-names.ts";
import {
  elementBytes,
  mostRowTensors,
  rowsSource,
  totalBytes,
} from "../kernels/cpu/rows/program.ts";
import type { RowProgram, RowShape } from "../math/row-program.ts";
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

/** A program that is ready to run on one shape. */
export interface CpuRows {
  readonly program: Program;
  readonly layout: WorkLayout;
  readonly job: RowsJob;
  /** Fields of the job that are addresses of tensors, and bytes before what they point at. */
  readonly places: readonly {
    readonly field: keyof RowsJob;
    readonly name: string;
    readonly before: number;
  }[];
  readonly folds: readonly Fold[];
  /** Adds up the sums of all units. */
  readonly end: () => void;
  readonly seconds: number;
}

/** Sums of a program: where they lie among those of a unit, how many columns there are, where they go. */
interface Fold {
  readonly from: number;
  readonly columns: number;
  readonly name: string;
  readonly before: number;
  readonly accumulate: boolean;
  to: number;
}

/** The job of a program on a shape but for addresses, and where sums lie in a unit's part of work memory. */
function planned(program: RowProgram, { rows, columns }: RowShape) {
  const cells = rows * columns;
  // A unit's rows, or its cells where the shape does not matter.
  const most = Math.max(leastCells, 16 * Math.ceil(cells / mostUnits / 16));
  const flat = program.flat ? { rows: Math.ceil(cells / most), columns: most } : undefined;
  const shape = flat ?? { rows, columns };
  const chunk = flat ? 1 : Math.max(Math.ceil(rows / mostUnits), Math.ceil(leastCells / columns));
  const sumBytes = aligned(4 * columns);
  let partialBytes = 0;
  const folds: Fold[] = [];
  for (const how of ["total", "columnSum"] as const)
    for (const { operand, accumulate } of program.outputs.filter((o) => o.how === how)) {
      const { name, offset = 0 } = operand;
      const [size, bytes] = how === "total" ? [1, totalBytes] : [columns, sumBytes];
      folds.push({
        from: partialBytes,
        columns: size,
        name,
        before: 4 * offset,
        accumulate,
        to: 0,
      });
      partialBytes += bytes;
    }
  const job = {
    ...{ ...shape, chunk, units: Math.ceil(shape.rows / chunk), sumBytes, partialBytes },
    lastColumns: cells - (shape.rows - 1) * shape.columns,
  };
  return { job: flat ? job : { ...job, lastColumns: columns }, folds };
}

/**
 * Compile a program for a shape and up to so many threads. Call it, and `runRows`, in the backend's turn (`exclusive`).
 * @throws InvalidArgumentError for a program of more than 16 tensors.
 */
export async function compileRows(
  backend: CpuBackend,
  source: RowProgram,
  shape: RowShape,
  threads: number,
  call: string,
): Promise<CpuRows> {
  const tensors = addressed(source);
  if (tensors.length > mostRowTensors)
    throw new InvalidArgumentError({
      ...{ call, requirement: `at most ${mostRowTensors} tensors in a row program` },
      ...{ value: String(tensors.length), remedy: "Cut it in two." },
    });
  addRecipes(rowProgramRecipes);
  const program = await backend.program(rowsSource(source), call);
  const { job: plan, folds } = planned(source, shape);
  const price = backend.lanes === 1 ? cellPrice.javascript : 1;
  const operations = source.key.split(";").length;
  const each = price * (cellPrice.operation * operations + cellPrice.tensor * tensors.length);
  const seconds = each * shape.rows * shape.columns;
  const crew = Math.min(plan.units, backend.threadsFor(threads));
  const { dispatchSeconds } = deviceFor(backend.settings.instructions);
  const saves = seconds - seconds / crew > 3 * dispatchSeconds;
  const job: RowsJob = {
    ...{ ...rowsJob, ...plan, kind: jobKinds.rows, program: program.id },
    ...{ tensors: tensors.length, threads: saves ? crew : 1 },
  };
  const places = tensors.map((operand, i) => {
    const { name, kind, stride = plan.columns, offset = 0, period = 0 } = operand;
    const bytes = elementBytes(operand);
    job[`s${i}`] = kind === "cell" ? stride * bytes : kind === "row" ? bytes : 0;
    job[`m${i}`] = period;
    return { field: `p${i}` as const, name, before: offset * bytes };
  });
  const layout = new WorkLayout();
  layout.take(plan.units * plan.partialBytes);
  const end = (): void => {
    const { fold, foldOnto } = program.kernels as unknown as RowFunctions;
    for (const { from, to, columns, accumulate } of folds) {
      const add = accumulate ? foldOnto : fold;
      add(job.partials + from, job.partialBytes, to, columns, job.units);
    }
  };
  return { program, layout, job, places, folds, end, seconds };
}

/** Run a program on tensors at addresses by name; a promise where other threads, or a pause for other tasks, make it last. */
export function runRows(
  backend: CpuBackend,
  { program, layout, job, places, folds, end, seconds }: CpuRows,
  addresses: Readonly<Record<string, number>>,
  call: string,
): Running {
  job.partials = backend.workspace(layout, call);
  for (const { field, name, before } of places) job[field] = addresses[name]! + before;
  for (const fold of folds) fold.to = addresses[fold.name]! + fold.before;
  const blocking = seconds / job.threads < blockingSeconds;
  return after(backend.run(program, job, job.threads, blocking), end);
}
