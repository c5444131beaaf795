/** Row programs on a GPU: one launch over the rows, and one more for each sum over them. */
import { InvalidArgumentError } from "../errors.ts";
import { rowKernel } from "../kernels/gpu/rows/kernel.ts";
import type { RowSpread } from "../kernels/gpu/rows/spec.ts";
import { isSum, partialName, rowBindings, rowThreads } from "../kernels/gpu/rows/spec.ts";
import { columnsBeside, rowSumsKernel } from "../kernels/gpu/rows/sums.ts";
import type { RowOperand, RowOutput, RowProgram, RowShape } from "../math/row-program.ts";
import { identity } from "../math/row-program.ts";
import { show } from "../show.ts";
import type { GpuLimits, Schedule, ScheduleStep } from "./schedule.ts";

/** Workgroups that share the rows of a program with sums over them: four for each multiprocessor of a large GPU. */
const summingGroups = 528;
/** Most turns that stand one after the other in a kernel's text, and most words that a thread holds of its cells. */
const [mostTurns, mostHeld] = [8, 72];
/** Cells of a flat program that a thread takes. */
const flatTurns = 2;

const powerUpTo = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Every operand of a program once, in inputs and outputs. */
function operandsOf({ leaves, outputs }: RowProgram): RowOperand[] {
  const inputs = [...leaves.values()].flatMap((leaf) =>
    leaf.from === "operand" ? [leaf.operand] : [],
  );
  const all = [...inputs, ...outputs.map((o) => o.operand)];
  return [...new Map(all.map((o) => [identity(o), o])).values()];
}

/** Bytes of each buffer that a program touches. */
function sizesOf(operands: readonly RowOperand[], { rows, columns }: RowShape) {
  const sizes: Record<string, number> = {};
  for (const { name, kind, dtype, stride = columns, offset = 0, period = rows } of operands) {
    const numbers = {
      cell: (Math.min(rows, period) - 1) * stride + columns,
      ...{ column: columns, row: rows, scalar: 1 },
    }[kind];
    const bytes = (dtype === "float16" ? 2 : 4) * (offset + numbers);
    sizes[name] = Math.max(sizes[name] ?? 0, Math.ceil(bytes / 4) * 4);
  }
  return sizes;
}

/** Most neighbouring columns that a thread may take at once: 16 bytes of float32, or of float16 where there is any. */
function widthFor(operands: readonly RowOperand[], columns: number, slow: boolean) {
  const wide = operands.filter(({ kind }) => kind === "cell" || kind === "column");
  const most = wide.some((o) => o.dtype === "float16") && !slow ? 8 : 4;
  const fits = (width: number): boolean =>
    width <= most &&
    [columns, ...wide.flatMap((o) => [o.stride ?? 0, o.offset ?? 0])].every((n) => n % width === 0);
  return ([8, 4, 2] as const).find(fits) ?? 1;
}

/** How threads share rows of so many columns: as few as hold what they need, so that they meet within a subgroup. */
function spreadFor(
  { reductions, outputs, flat }: RowProgram,
  { columns }: RowShape,
  width: RowSpread["width"],
  cells: readonly RowOperand[],
  slow: boolean,
): RowSpread {
  const pieces = Math.ceil(columns / width);
  const sums = outputs.filter((o) => o.how === "columnSum").length;
  const words = cells.reduce((sum, o) => sum + (o.dtype === "float16" ? width / 2 : width), 0);
  const costs = (reductions.length > 0 ? words : 0) + sums * width;
  const most = flat ? flatTurns : Math.max(1, Math.min(mostTurns, Math.floor(mostHeld / costs)));
  const least = flat ? rowThreads : Math.min(32, powerUpTo(pieces));
  const across = Math.min(rowThreads, Math.max(least, powerUpTo(pieces / most)));
  const turns = Math.ceil(pieces / across);
  const whole = !flat && turns * across * width === columns;
  return { width, across, turns, held: turns <= most && !slow, whole };
}

/**
 * The launches of a row program. Names of the schedule's buffers are those of the program's tensors; its work memory has names of
 * its own.
 * @throws InvalidArgumentError where float16 has odd columns, or the device binds too few buffers or too few bytes.
 */
export function rowSchedule(
  program: RowProgram,
  given: RowShape,
  limits: GpuLimits,
): Schedule<string> {
  const refuse = (requirement: string, value: string, remedy: string): never => {
    throw new InvalidArgumentError({ call: "rowSchedule", requirement, value, remedy });
  };
  const { packs = false, slowFma = false, lanes = 1 } = limits;
  const cells = given.rows * given.columns;
  const all = operandsOf(program);
  const width = widthFor(all, program.flat ? cells : given.columns, slowFma);
  if (width === 1 && all.some((o) => o.dtype === "float16"))
    refuse("an even width for float16", show(given.columns), "Use float32, or an even width.");
  // Cells of a flat program go to rows of as many as a workgroup takes.
  const each = rowThreads * flatTurns * width;
  const shape = program.flat ? { rows: Math.ceil(cells / each), columns: each } : given;
  const { rows, columns } = shape;
  const read = new Set(
    [...program.leaves.values()].map((l) => (l.from === "operand" ? identity(l.operand) : "")),
  );
  const inputs = all.filter((o) => o.kind === "cell" && read.has(identity(o)));
  const spread = spreadFor(program, shape, width, inputs, slowFma);
  const kernel = rowKernel(program, spread, { packs, slowFma, lanes });
  if (kernel.bindings.length > limits.bindings)
    refuse(
      `at most ${limits.bindings} buffers in one program on this device`,
      show(kernel.bindings.length),
      "Split the program, or open the device with more maxStorageBuffersPerShaderStage.",
    );
  const sums = program.outputs.filter(isSum);
  const rounds = Math.ceil(rows / (rowThreads / spread.across));
  const groups = sums.length > 0 ? Math.min(rounds, summingGroups) : rounds;
  const share = Math.ceil(rounds / groups);
  const widthOf = ({ how }: RowOutput): number => (how === "total" ? 1 : columns);
  const partials = sums.map((o) => [partialName(o.operand), 4 * groups * widthOf(o)] as const);
  const sizes = { ...sizesOf(all, given), ...Object.fromEntries(partials) };
  const whole = (buffer: string) => {
    const size = sizes[buffer]!;
    if (size > limits.bindingBytes)
      refuse(
        `tensors of at most ${limits.bindingBytes} bytes, which is what this device binds`,
        `${buffer} of ${size} bytes`,
        "Take fewer rows at a time.",
      );
    return { buffer, offset: 0, size };
  };
  const bound = rowBindings(program, width);
  const first: ScheduleStep<string> = {
    ...{ kernel, tiles: groups, parameters: { rows, columns, cells, share } },
    ranges: Object.fromEntries(bound.map(({ name, of }) => [name, whole(of)])),
  };
  const rest = sums.map((output): ScheduleStep<string> => {
    const { operand, accumulate } = output;
    return {
      kernel: rowSumsKernel(accumulate),
      tiles: Math.ceil(widthOf(output) / columnsBeside),
      parameters: { parts: groups, columns: widthOf(output), offset: operand.offset ?? 0 },
      ranges: { partials: whole(partialName(operand)), sums: whole(operand.name) },
    };
  });
  return { steps: [first, ...rest], bytes: Object.fromEntries(partials) };
}
