/** A program as backends take it: how to build it, and what it may be shared by. */
import type { KernelModule } from "./ir.ts";

/** Constants that a program reads, shared by all programs whose tables have the same key. */
export interface ConstantTable {
  readonly key: string;
  /** Numbers. */
  readonly size: number;
  /** Writes them all where programs read them: tables of long transforms are too large to be made twice. */
  readonly write: (table: Float32Array, lanes: 1 | 4) => void;
}

/** A program that is yet to be built for a vector width. */
export interface ProgramSource {
  /** Equal keys mean equal programs. */
  readonly key: string;
  readonly build: (lanes: 1 | 4) => KernelModule;
  readonly table?: ConstantTable;
}
