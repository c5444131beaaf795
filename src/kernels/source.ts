/** A program as backends take it: how to build it, and what it may be shared by. */
import type { KernelModule } from "./ir.ts";

/** Constants that a program reads, shared by all programs whose tables have the same key. */
export interface ConstantTable {
  readonly key: string;
  readonly values: (lanes: 1 | 4) => Float32Array;
}

/** A program that is yet to be built for a vector width. */
export interface ProgramSource {
  /** Equal keys mean equal programs. */
  readonly key: string;
  readonly build: (lanes: 1 | 4) => KernelModule;
  readonly table?: ConstantTable;
}
