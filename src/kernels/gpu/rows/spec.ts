/** What a kernel of a row program depends on besides the program, and what it binds. */
import type { RowOperand, RowOutput, RowProgram } from "../../../math/row-program.ts";
import type { Binding } from "../dialect/wgsl.ts";
import type { Machine } from "../kernel.ts";

/** Threads of a workgroup. */
export const rowThreads = 256;

/** How a kernel goes over its rows. */
export interface RowSpread {
  /** Neighbouring columns that a thread takes at once. */
  readonly width: 1 | 2 | 4 | 8;
  /** Threads that share a row: a power of two. */
  readonly across: number;
  /** Times that they go along it. */
  readonly turns: number;
  /** Whether the turns stand one after the other in the text, and cells of several passes in registers. */
  readonly held: boolean;
  /** Whether all turns of all threads have columns. */
  readonly whole: boolean;
}

/** The part of a device that texts depend on. */
export type RowMachine = Pick<Machine, "packs" | "slowFma" | "lanes">;

/** Where the sums of a result wait for the second kernel. */
export const partialName = (operand: RowOperand): string => `partial_${operand.name}`;

/** Whether an output is a sum over rows, which a second kernel finishes. */
export const isSum = ({ how }: Pick<RowOutput, "how">): boolean => how !== "store";

/** Columns side by side in one element of a buffer. */
export const isWide = ({ kind }: Pick<RowOperand, "kind">): boolean =>
  kind === "cell" || kind === "column";

/** A binding and the buffer of the program that it is of. */
export interface BoundBuffer extends Binding {
  readonly of: string;
}

/** The bindings of a program's kernel: its buffers, then the sums of its workgroups. */
export function rowBindings({ buffers, outputs }: RowProgram, width: number): BoundBuffer[] {
  const written = new Set(outputs.filter((o) => !isSum(o)).map((o) => o.operand.name));
  const used = buffers.filter(({ name, reads }) => reads || written.has(name));
  const element = (b: (typeof used)[number]): string => {
    // Scalars of both types may lie in one buffer.
    if (!isWide(b)) return b.kind === "scalar" || b.dtype === "uint32" ? "u32" : "f32";
    const count = b.dtype === "float16" ? width / 2 : Math.min(4, width);
    const type = b.dtype === "float16" ? "u" : "f";
    return count === 1 ? `${type}32` : `vec${count}${type}`;
  };
  const bound = used.map((b, i): BoundBuffer => {
    const access = written.has(b.name) ? "read_write" : "read";
    return { name: `t${i}`, of: b.name, element: element(b), access };
  });
  const sums = outputs.filter(isSum).map(
    ({ operand }, i): BoundBuffer => ({
      ...{ name: `sums${i}`, of: partialName(operand), element: "f32", access: "read_write" },
    }),
  );
  return [...bound, ...sums];
}
