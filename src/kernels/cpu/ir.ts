/**
 * The small language that kernels are generated in and that each target prints: functions of 32-bit pointers, counted
 * loops, and straight-line blocks whose arithmetic is an expression graph. A block means: every load sees memory as it
 * was before the block's first store, so in-place butterflies need no thought.
 */
import type { Address, Format, Node } from "../../math/expr.ts";
import { operands } from "../../math/expr.ts";

/** An integer (byte pointer or count): a literal, a variable, or arithmetic on them. */
export type Int =
  | number
  | string
  | { readonly op: "add" | "min" | "max"; readonly a: Int; readonly b: Int }
  | { readonly op: "mul"; readonly a: Int; readonly by: number }
  | { readonly op: "div"; readonly a: Int; readonly by: number };

export interface Store {
  readonly at: Address;
  readonly format: Exclude<Format, "splat" | "word">;
  readonly value: Node;
  /** Lanes outside [first, last) stay as they are. */
  readonly first: number;
  readonly last: number;
}

/** A vector variable of a function and what it is set to, behind all loads and stores of its block. */
export interface Register {
  readonly name: string;
  readonly value: Node;
}

export type Statement =
  | { readonly op: "let"; readonly name: string; readonly value: Int }
  | {
      /** while (variable < end) { body; variable += step; and each of `also` += its step } */
      readonly op: "loop";
      readonly variable: string;
      readonly from: Int;
      readonly end: Int;
      readonly step: number;
      readonly also: readonly {
        readonly name: string;
        readonly from: Int;
        readonly step: number;
      }[];
      readonly body: readonly Statement[];
      /** The body runs at least once: no test before the first round. */
      readonly nonempty: boolean;
    }
  | {
      /** Compute these once; later blocks that use the same nodes find them ready. */
      readonly op: "hold";
      readonly nodes: readonly Node[];
    }
  | {
      readonly op: "block";
      readonly stores: readonly Store[];
      /**
       * Compute values in the order in which their nodes were made, even those used once: sums of many terms that
       * share operands then advance together, and few operands are alive at a time.
       */
      readonly ordered?: boolean;
      /** Variables that hold a vector from one block to the next get these values, all at once, after the stores. */
      readonly registers?: readonly Register[];
    }
  /** Copy bytes; the ranges may not overlap. */
  | { readonly op: "copy"; readonly to: Int; readonly from: Int; readonly bytes: Int }
  /** Set bytes to 0. */
  | { readonly op: "clear"; readonly at: Int; readonly bytes: Int }
  | { readonly op: "call"; readonly name: string; readonly arguments: readonly Int[] };

/** A function of a module; parameters and locals are 32-bit integers. */
export interface KernelFunction {
  readonly name: string;
  readonly parameters: readonly string[];
  readonly body: readonly Statement[];
  readonly exported: boolean;
}

/** What a target compiles: functions over one memory. `lanes` is the vector width that the code was generated for. */
export interface KernelModule {
  readonly lanes: 1 | 4;
  readonly functions: readonly KernelFunction[];
}

export function plus(a: Int, b: Int): Int {
  if (a === 0) return b;
  if (b === 0) return a;
  if (typeof a === "number" && typeof b === "number") return a + b;
  return { op: "add", a, b };
}

export function times(a: Int, by: number): Int {
  if (typeof a === "number") return a * by;
  return by === 1 ? a : { op: "mul", a, by };
}

/** A call of a function of the same module. */
export function call(name: string, ...args: readonly Int[]): Statement {
  return { op: "call", name, arguments: args };
}

/** A loop that, as long as nothing else is said, runs at least once. */
export function loop(
  variable: string,
  from: Int,
  end: Int,
  step: number,
  body: readonly Statement[],
  also: readonly { readonly name: string; readonly from: Int; readonly step: number }[] = [],
  nonempty = true,
): Statement {
  return { op: "loop", variable, from, end, step, also, body, nonempty };
}

/** Whether a value is at hand without being computed. */
export function isFree({ op }: Node): boolean {
  return op === "const" || op === "register";
}

/** Nodes below the roots with how often each is used, the roots' own use counted; `held` nodes are not entered. */
export function useCounts(
  roots: readonly Node[],
  held: ReadonlyMap<Node, unknown>,
): Map<Node, number> {
  const uses = new Map<Node, number>();
  const visit = (n: Node): void => {
    if (held.has(n)) return;
    const seen = uses.get(n) ?? 0;
    uses.set(n, seen + 1);
    if (seen === 0) for (const m of operands(n)) visit(m);
  };
  for (const root of roots) visit(root);
  return uses;
}
