/** Row programs on a GPU: one launch over the rows, and one more for each sum over them. */
import { InvalidArgumentError } from "../errors.ts";
import type { RowSpread } from "../kernels/gpu/rows/kernel.ts";
import {
  columnsBeside,
  isSum,
  partialName,
  rowKernel,
  rowSumsKernel,
  rowThreads,
} from "../kernels/gpu/rows/kernel.ts";
import type { RowOperand, RowOutput, RowProgram, RowShape } from "../math/row-program.ts";
import { show } from "../show.ts";
import type { GpuLimits, Schedule, ScheduleStep } from "./schedule.ts";

/** Workgroups that share the rows of a program with sums over them: four for each multiprocessor of a large GPU. */
const summingGroups = 512;

const powerUpTo = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** Every operand of a program, in inputs and outputs. */
function operandsOf({ leaves, outputs }: RowProgram): RowOperand[] {
  const inputs = [...leaves.values()].flatMap((leaf) =>
    leaf.from === "operand" ? [leaf.operand] : [],
  );
  return [...inputs, ...outputs.map((o) => o.operand)];
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

/** Most neighbouring columns that a thread may take at once. */
function widthFor(operands: readonly RowOperand[], columns: number): RowSpread["width"] {
  const fits = (width: number): boolean =>
    columns % width === 0 &&
    operands.every(({ kind, stride = 0, offset = 0 }) => {
      if (kind === "row" || kind === "scalar") return true;
      return stride % width === 0 && offset % width === 0;
    });
  return fits(4) ? 4 : fits(2) ? 2 : 1;
}

/** A shape of as many cells whose rows are long enough for a workgroup, where a program does not care. */
function reshaped({ flat }: RowProgram, shape: RowShape): RowShape {
  const cells = shape.rows * shape.columns;
  const columns = [1024, 512, 256].find((c) => cells % c === 0);
  return flat && columns !== undefined ? { rows: cells / columns, columns } : shape;
}

/**
 * The launches of a row program.
 * @throws InvalidArgumentError where float16 has odd columns, or the device too few buffers.
 */
export function rowSchedule(
  program: RowProgram,
  shape: RowShape,
  limits: GpuLimits,
): Schedule<string> {
  const { rows, columns } = reshaped(program, shape);
  const all = operandsOf(program);
  const width = widthFor(all, columns);
  const refuse = (requirement: string, value: string, remedy: string): never => {
    throw new InvalidArgumentError({ call: "rowSchedule", requirement, value, remedy });
  };
  if (width === 1 && all.some((o) => o.dtype === "float16"))
    refuse("an even width for float16", show(columns), "Use float32, or an even width.");
  const across = Math.min(rowThreads, powerUpTo(columns / width));
  const spread: RowSpread = { width, across, turns: Math.ceil(columns / (width * across)) };
  const { packs = false, slowFma = false } = limits;
  const kernel = rowKernel(program, spread, { packs, slowFma });
  if (kernel.bindings.length > limits.bindings)
    refuse(
      `at most ${limits.bindings} buffers in one program on this device`,
      show(kernel.bindings.length),
      "Split the program, or open the device with more maxStorageBuffersPerShaderStage.",
    );
  const sums = program.outputs.filter(isSum);
  const atOnce = rowThreads / across;
  const rounds = Math.ceil(rows / atOnce);
  const groups = sums.length > 0 ? Math.min(rounds, summingGroups) : rounds;
  const share = Math.ceil(rounds / groups);
  const parts = groups * atOnce;
  const widthOf = ({ how }: RowOutput): number => (how === "total" ? 1 : columns);
  const partials = sums.map((o) => [partialName(o.operand), 4 * parts * widthOf(o)] as const);
  const sizes = { ...sizesOf(all, { rows, columns }), ...Object.fromEntries(partials) };
  const whole = (buffer: string) => ({ buffer, offset: 0, size: sizes[buffer]! });
  const first: ScheduleStep<string> = {
    ...{ kernel, tiles: groups, parameters: { rows, columns, share } },
    ranges: Object.fromEntries(kernel.bindings.map(({ name }) => [name, whole(name)])),
  };
  const rest = sums.map((output): ScheduleStep<string> => {
    const { operand, accumulate } = output;
    return {
      kernel: rowSumsKernel(accumulate),
      tiles: Math.ceil(widthOf(output) / columnsBeside),
      parameters: { parts, columns: widthOf(output), offset: operand.offset ?? 0 },
      ranges: { partials: whole(partialName(operand)), sums: whole(operand.name) },
    };
  });
  return { steps: [first, ...rest], bytes: Object.fromEntries(partials) };
}
