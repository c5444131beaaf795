/**
 * Kernel language → WebAssembly. Values used more than once live in locals; loads are printed where they are first
 * needed, except that a block's loads from memory that it also writes come before its first store.
 */
import type { Node, Shuffle } from "../../../math/expr.ts";
import type { Int, KernelFunction, KernelModule, Statement, Store } from "../ir.ts";
import { isFree, useCounts } from "../ir.ts";
import {
  i32Type,
  joined,
  memoryCopy,
  memoryFill,
  name,
  op,
  s32,
  section,
  simd,
  splatBits,
  splatFloat,
  u32,
  v128,
  v128Type,
  vector,
  vectorBits,
} from "./wasm-encode.ts";
import type { FunctionText } from "./wasm-half.ts";
import { loadConverted, storeConverted } from "./wasm-half.ts";

/** How the module is printed. */
export interface WasmTarget {
  /** Fused multiply-add (relaxed SIMD): a·b + c with one rounding. */
  readonly relaxed: boolean;
  /** The imported memory is shared; its limit in 64-KiB pages. */
  readonly sharedPages: number | undefined;
}

const arithmetic = {
  add: v128.f32x4Add,
  sub: v128.f32x4Sub,
  mul: v128.f32x4Mul,
  div: v128.f32x4Div,
  min: v128.f32x4Min,
  max: v128.f32x4Max,
} as const;

const shuffle = (lanes: readonly number[]): readonly number[] => [
  ...simd(v128.shuffle),
  ...lanes.flatMap((lane) => [0, 1, 2, 3].map((i) => 4 * lane + i)),
];
const shuffles: Record<Shuffle, readonly number[]> = {
  low32: shuffle([0, 4, 1, 5]),
  high32: shuffle([2, 6, 3, 7]),
  low64: shuffle([0, 1, 4, 5]),
  high64: shuffle([2, 3, 6, 7]),
};

/** Prints one function. */
class FunctionPrinter implements FunctionText {
  readonly code: number[] = [];
  readonly #integers = new Map<string, number>();
  readonly #types: number[] = [];
  /** v128 locals not in use now. */
  readonly #free: number[] = [];
  readonly #held = new Map<Node, number>();
  readonly #registers = new Map<string, number>();
  readonly #parameters: number;
  readonly #target: WasmTarget;
  readonly #functions: ReadonlyMap<string, number>;

  constructor(source: KernelFunction, target: WasmTarget, functions: ReadonlyMap<string, number>) {
    this.#target = target;
    this.#functions = functions;
    this.#parameters = source.parameters.length;
    for (const p of source.parameters) this.#integers.set(p, this.#integers.size);
    for (const s of source.body) this.#statement(s);
  }

  get body(): Uint8Array {
    const locals = vector(this.#types.map((t) => [1, t]));
    return joined(u32(locals.length + this.code.length + 1), locals, this.code, [op.end]);
  }

  emit(...bytes: readonly number[]): void {
    for (const b of bytes) this.code.push(b);
  }

  newLocal(type: number): number {
    this.#types.push(type);
    return this.#parameters + this.#types.length - 1;
  }

  vectorLocal(): number {
    return this.#free.pop() ?? this.newLocal(v128Type);
  }

  release(local: number): void {
    this.#free.push(local);
  }

  #variable(name: string): number {
    let index = this.#integers.get(name);
    if (index === undefined) {
      index = this.newLocal(i32Type);
      this.#integers.set(name, index);
    }
    return index;
  }

  #register(name: string): number {
    let local = this.#registers.get(name);
    if (local === undefined) {
      local = this.newLocal(v128Type);
      this.#registers.set(name, local);
    }
    return local;
  }

  integer(value: Int): void {
    if (typeof value === "number") return this.emit(op.i32Const, ...s32(value));
    if (typeof value === "string") return this.emit(op.localGet, ...u32(this.#variable(value)));
    this.integer(value.a);
    if (value.op === "mul" || value.op === "div") {
      return this.emit(op.i32Const, ...s32(value.by), value.op === "mul" ? op.i32Mul : op.i32DivU);
    }
    this.integer(value.b);
    if (value.op === "add") return this.emit(op.i32Add);
    // min and max: both values again, compared, then select.
    this.integer(value.a);
    this.integer(value.b);
    this.emit(value.op === "min" ? op.i32LtU : op.i32GeU, op.select);
  }

  #statement(s: Statement): void {
    if (s.op === "let") {
      this.integer(s.value);
      return this.emit(op.localSet, ...u32(this.#variable(s.name)));
    }
    if (s.op === "call") {
      for (const a of s.arguments) this.integer(a);
      return this.emit(op.call, ...u32(this.#functions.get(s.name)!));
    }
    if (s.op === "copy") {
      for (const part of [s.to, s.from, s.bytes]) this.integer(part);
      return this.emit(...memoryCopy);
    }
    if (s.op === "clear") {
      for (const part of [s.at, 0, s.bytes]) this.integer(part);
      return this.emit(...memoryFill);
    }
    if (s.op === "block") return this.#block(s);
    if (s.op === "hold") return this.#hold(s.nodes);
    const variable = this.#variable(s.variable);
    const end = this.newLocal(i32Type);
    this.integer(s.from);
    this.emit(op.localSet, ...u32(variable));
    this.integer(s.end);
    this.emit(op.localSet, ...u32(end));
    for (const a of s.also) {
      this.integer(a.from);
      this.emit(op.localSet, ...u32(this.#variable(a.name)));
    }
    this.emit(op.block, op.empty);
    if (!s.nonempty) {
      this.emit(op.localGet, ...u32(variable), op.localGet, ...u32(end), op.i32GeU, op.brIf, 0);
    }
    this.emit(op.loop, op.empty);
    for (const inner of s.body) this.#statement(inner);
    for (const a of s.also) this.#advance(this.#variable(a.name), a.step);
    this.#advance(variable, s.step);
    this.emit(op.localGet, ...u32(variable), op.localGet, ...u32(end), op.i32LtU, op.brIf, 0);
    this.emit(op.end, op.end);
  }

  #advance(local: number, step: number): void {
    this.emit(
      op.localGet,
      ...u32(local),
      op.i32Const,
      ...s32(step),
      op.i32Add,
      op.localSet,
      ...u32(local),
    );
  }

  /** Memory operand: alignment hint 0 (any address), constant offset. */
  memory(offset: number): number[] {
    return [0, ...u32(offset)];
  }

  pointer(name: string): void {
    this.emit(op.localGet, ...u32(this.#variable(name)));
  }

  /**
   * A block in the order in which its nodes were made: shared values go to locals as they come, loads wait for their
   * first use, stores follow as soon as their value can be had. Depth-first order instead keeps half-done sums alive
   * and costs 24 spills in the middle block (V8 13.6, x64). In an ordered block all arithmetic comes where it was made,
   * not only what is shared.
   */
  #block({ stores, ordered, registers = [] }: Statement & { op: "block" }): void {
    const roots = [...stores, ...registers].map((s) => s.value);
    const left = useCounts(roots, this.#held);
    const shared = new Set(
      [...left]
        .filter(([n, uses]) => !isFree(n) && (uses > 1 || (ordered && n.op !== "load")))
        .map(([n]) => n),
    );
    const locals = new Map<Node, number>();
    const value = (n: Node): void => {
      const held = this.#held.get(n);
      if (held !== undefined) return this.emit(op.localGet, ...u32(held));
      if (!shared.has(n)) return this.#compute(n, value);
      if (!locals.has(n)) define(n);
      const local = locals.get(n)!;
      this.emit(op.localGet, ...u32(local));
      left.set(n, left.get(n)! - 1);
      if (left.get(n) === 0) this.release(local);
    };
    const define = (n: Node): void => {
      this.#compute(n, value);
      const local = this.vectorLocal();
      this.emit(op.localSet, ...u32(local));
      locals.set(n, local);
    };
    const nodes = [...left.keys()].sort((a, b) => a.id - b.id);
    const loads = new Set(nodes.filter((n) => n.op === "load"));
    const byValue = new Map<Node, Store[]>();
    for (const s of stores) byValue.set(s.value, [...(byValue.get(s.value) ?? []), s]);
    const store = (s: Store): void => {
      for (const n of loads) {
        if (n.op === "load" && n.at.pointer === s.at.pointer && !locals.has(n)) {
          shared.add(n);
          define(n);
        }
      }
      storeConverted(this, s, () => value(s.value));
    };
    for (const n of nodes) {
      if (shared.has(n) && n.op !== "load" && !locals.has(n)) define(n);
      for (const s of byValue.get(n) ?? []) store(s);
    }
    for (const s of stores) if (this.#held.has(s.value)) store(s);
    for (const r of registers) value(r.value);
    for (const { name } of [...registers].reverse())
      this.emit(op.localSet, ...u32(this.#register(name)));
  }

  /** Held values are leaves or few: each gets a local of its own for the rest of the function. */
  #hold(nodes: readonly Node[]): void {
    for (const n of nodes) {
      const local = this.#held.get(n) ?? this.newLocal(v128Type);
      this.#compute(n, () => {});
      this.emit(op.localSet, ...u32(local));
      this.#held.set(n, local);
    }
  }

  #compute(n: Node, value: (n: Node) => void): void {
    switch (n.op) {
      case "const":
        return this.emit(...splatFloat(n.value));
      case "load":
        return loadConverted(this, n);
      case "neg":
        value(n.a);
        return this.emit(...simd(v128.f32x4Neg));
      case "nearest":
        value(n.a);
        return this.emit(...simd(v128.f32x4Nearest));
      case "pow2":
        value(n.a);
        return this.#powerOfTwo();
      case "sqrt":
        value(n.a);
        return this.emit(...simd(v128.f32x4Sqrt));
      case "exponent":
        value(n.a);
        this.emit(op.i32Const, 23, ...simd(v128.i32x4ShrU), ...splatBits(255), ...simd(v128.and));
        this.emit(...splatBits(-127), ...simd(v128.i32x4Add));
        return this.emit(...simd(v128.f32x4ConvertI32x4S));
      case "fraction":
        value(n.a);
        this.emit(...splatBits(0x7fffff), ...simd(v128.and));
        return this.emit(...splatFloat(1), ...simd(v128.or));
      case "word":
        return this.emit(...splatBits(n.value));
      case "counter":
        this.pointer(n.name);
        this.emit(...simd(v128.i32x4Splat));
        this.emit(...vectorBits([0, 1, 2, 3].map((i) => n.ahead + (n.counts ? i : 0))));
        return this.emit(...simd(v128.i32x4Add));
      case "register":
        return this.emit(op.localGet, ...u32(this.#register(n.name)));
      case "float":
        value(n.a);
        return this.emit(...simd(v128.f32x4ConvertI32x4U));
      case "uniform":
        value(n.a);
        this.emit(op.i32Const, 8, ...simd(v128.i32x4ShrU), ...simd(v128.f32x4ConvertI32x4S));
        return this.emit(...splatFloat(2 ** -24), ...simd(v128.f32x4Mul));
      case "hash":
        return this.#hash(n.a, n.b, value);
      case "add":
      case "sub":
      case "mul":
      case "div":
      case "min":
      case "max":
        value(n.a);
        value(n.b);
        return this.emit(...simd(arithmetic[n.op]));
      case "fma":
      case "fnma":
        return this.#fused(n, value);
      case "select":
        value(n.b);
        value(n.c);
        value(n.a);
        return this.emit(...splatFloat(0), ...simd(v128.f32x4Gt), ...simd(v128.bitselect));
      default:
        value(n.a);
        value(n.b);
        return this.emit(...shuffles[n.op]);
    }
  }

  /** Integers as floats → powers of two: the exponent is set, the fraction is zero. */
  #powerOfTwo(): void {
    this.emit(...simd(v128.i32x4TruncSatF32x4S), ...splatBits(127), ...simd(v128.i32x4Add));
    this.emit(op.i32Const, 23, ...simd(v128.i32x4Shl));
  }

  /** The finaliser of MurmurHash3 over key ^ index, with the key added once more half-way. */
  #hash(a: Node, b: Node, value: (n: Node) => void): void {
    const [key, x] = [this.vectorLocal(), this.vectorLocal()];
    const get = (local: number): number[] => [op.localGet, ...u32(local)];
    const mixed = (by: number): void => {
      this.emit(op.localTee, ...u32(x), ...get(x), op.i32Const, by);
      this.emit(...simd(v128.i32x4ShrU), ...simd(v128.xor));
    };
    value(a);
    this.emit(op.localTee, ...u32(key));
    value(b);
    this.emit(...simd(v128.xor));
    mixed(16);
    this.emit(...splatBits(0x85ebca6b), ...simd(v128.i32x4Mul));
    this.emit(...get(key), ...simd(v128.i32x4Add));
    mixed(13);
    this.emit(...splatBits(0xc2b2ae35), ...simd(v128.i32x4Mul));
    mixed(16);
    this.release(key);
    this.release(x);
  }

  #fused(n: Node & { op: "fma" | "fnma" }, value: (n: Node) => void): void {
    if (this.#target.relaxed) {
      value(n.a);
      value(n.b);
      value(n.c);
      return this.emit(...simd(n.op === "fma" ? v128.relaxedMadd : v128.relaxedNmadd));
    }
    value(n.c);
    value(n.a);
    value(n.b);
    this.emit(...simd(v128.f32x4Mul), ...simd(n.op === "fma" ? v128.f32x4Add : v128.f32x4Sub));
  }
}

/** The binary of a module that imports its memory as "env"."memory". */
export function printWasm(module: KernelModule, target: WasmTarget): Uint8Array {
  const { functions } = module;
  const index = new Map(functions.map((f, i) => [f.name, i] as const));
  const types = [...new Set(functions.map((f) => f.parameters.length))];
  const typeSection = vector(
    types.map((n) => [0x60, ...u32(n), ...new Array<number>(n).fill(i32Type), 0]),
  );
  const limits = target.sharedPages === undefined ? [0, 0] : [3, 0, ...u32(target.sharedPages)];
  const imports = vector([[...name("env"), ...name("memory"), 2, ...limits]]);
  const declared = vector(functions.map((f) => u32(types.indexOf(f.parameters.length))));
  const exported = functions.filter((f) => f.exported);
  const exports = vector(exported.map((f) => [...name(f.name), 0, ...u32(index.get(f.name)!)]));
  const code = vector(functions.map((f) => new FunctionPrinter(f, target, index).body));
  return joined(
    [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    section(1, typeSection),
    section(2, imports),
    section(3, declared),
    section(7, exports),
    section(10, code),
  );
}
