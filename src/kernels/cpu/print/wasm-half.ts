/**
 * Loads and stores of the storage types in WebAssembly, which has no half-precision instructions: float16 and bfloat16
 * are widened and rounded (to nearest, ties to even) with integer and float operations on four lanes.
 */
import type { Node } from "../../../math/expr.ts";
import type { Store } from "../ir.ts";
import { splatBits as bits, splatFloat as float, op, simd, u32, v128 } from "./wasm-encode.ts";

/** Instructions without immediates. */
const and = simd(v128.and);
const or = simd(v128.or);
const add = simd(v128.i32x4Add);
const greater = simd(v128.i32x4GtS);
const choose = simd(v128.bitselect);

/** Shifts of every lane by so many bits: left, and right without the sign. */
const left = (n: number): number[] => [op.i32Const, n, ...simd(v128.i32x4Shl)];
const right = (n: number): number[] => [op.i32Const, n, ...simd(v128.i32x4ShrU)];

/** What is done with a local. */
const get = (local: number): number[] => [op.localGet, ...u32(local)];
const set = (local: number): number[] => [op.localSet, ...u32(local)];
const tee = (local: number): number[] => [op.localTee, ...u32(local)];

/** What a function that is being printed offers to conversions. */
export interface FunctionText {
  emit(...bytes: readonly number[]): void;
  vectorLocal(): number;
  release(local: number): void;
  /** Push the address that a pointer holds. */
  pointer(name: string): void;
  /** The immediates of a load or store so many bytes on. */
  memory(offset: number): number[];
}

type Load = Node & { op: "load" };

/** Push the four float32 lanes of a load. */
export function loadConverted(p: FunctionText, n: Load): void {
  p.pointer(n.at.pointer);
  const memory = p.memory(n.at.offset);
  if (n.format === "splat" || n.format === "word")
    return p.emit(...simd(v128.load32Splat), ...memory);
  if (n.format === "float32") p.emit(...simd(v128.load), ...memory);
  else {
    p.emit(...simd(v128.load64Zero), ...memory, ...simd(v128.i32x4ExtendLowI16x8U));
    if (n.format === "bfloat16") p.emit(...left(16));
    else widenFloat16(p);
  }
  if (n.first > 0 || n.last < 4) p.emit(...laneMask(n.first, n.last), ...and);
}

/** v128.const with all bits set in lanes [first, last). */
function laneMask(first: number, last: number): number[] {
  const mask = Array.from({ length: 16 }, (_, i) => (i >> 2 >= first && i >> 2 < last ? 255 : 0));
  return [...simd(v128.const), ...mask];
}

/**
 * float16 bits in the low half of each 32-bit lane → float32. The exponent field moves to its place and is scaled by
 * 2^112 in float arithmetic, which renormalises subnormals by itself; infinities and NaNs get their exponent set.
 */
function widenFloat16(p: FunctionText): void {
  const x = p.vectorLocal();
  p.emit(...tee(x), ...bits(0x7fff), ...and, ...left(13));
  p.emit(...float(2 ** 112), ...simd(v128.f32x4Mul));
  p.emit(...get(x), ...bits(0x7fff), ...and, ...bits(0x7bff), ...greater);
  p.emit(...bits(0x7f800000), ...and, ...or);
  p.emit(...get(x), ...bits(0x8000), ...and, ...left(16), ...or);
  p.release(x);
}

/** Store the value that `push` leaves on the stack, rounded to the store's format. */
export function storeConverted(p: FunctionText, s: Store, push: () => void): void {
  const whole = s.first === 0 && s.last === 4;
  if (s.format === "float32") {
    if (whole) {
      p.pointer(s.at.pointer);
      push();
      return p.emit(...simd(v128.store), ...p.memory(s.at.offset));
    }
    return storeLanes(p, s, push, v128.store32Lane, 4);
  }
  const rounded = (): void => {
    push();
    if (s.format === "bfloat16") roundBfloat16(p);
    else roundFloat16(p);
    const lanes = p.vectorLocal();
    p.emit(...tee(lanes), ...get(lanes), ...simd(v128.i16x8NarrowI32x4U));
    p.release(lanes);
  };
  if (!whole) return storeLanes(p, s, rounded, v128.store16Lane, 2);
  p.pointer(s.at.pointer);
  rounded();
  p.emit(...simd(v128.store64Lane), ...p.memory(s.at.offset), 0);
}

function storeLanes(p: FunctionText, s: Store, push: () => void, code: number, size: number): void {
  push();
  const kept = p.vectorLocal();
  p.emit(...set(kept));
  for (let lane = s.first; lane < s.last; lane++) {
    p.pointer(s.at.pointer);
    p.emit(...get(kept), ...simd(code), ...p.memory(s.at.offset + lane * size), lane);
  }
  p.release(kept);
}

/** float32 lanes → bfloat16 bits in 32-bit lanes: add half a unit, less one where the kept part is even; NaN stays NaN. */
function roundBfloat16(p: FunctionText): void {
  const x = p.vectorLocal();
  p.emit(...tee(x), ...right(16), ...bits(1), ...and);
  p.emit(...bits(0x7fff), ...add, ...get(x), ...add, ...right(16));
  p.emit(...bits(0x7fc0), ...get(x), ...get(x), ...simd(v128.f32x4Eq), ...choose);
  p.release(x);
}

/**
 * float32 lanes → float16 bits in 32-bit lanes. Normal results: rebias the exponent and add the rounding increment in
 * integers. Results below 2^−14: adding 0.5 in float arithmetic rounds at 2^−24, the unit of float16 subnormals.
 */
function roundFloat16(p: FunctionText): void {
  const x = p.vectorLocal();
  const magnitude = p.vectorLocal();
  const normal = p.vectorLocal();
  p.emit(...tee(x), ...bits(0x7fffffff), ...and, ...tee(magnitude));
  // normal = (magnitude + 0xfff + odd − (112 << 23)) >> 13
  p.emit(...right(13), ...bits(1), ...and, ...get(magnitude), ...add);
  p.emit(...bits((0xfff - (112 << 23)) >>> 0), ...add, ...right(13), ...set(normal));
  // Below 2^−14: bits of (magnitude + 0.5) less those of 0.5.
  p.emit(...get(magnitude), ...float(0.5), ...simd(v128.f32x4Add));
  p.emit(...float(0.5), ...simd(v128.i32x4Sub));
  p.emit(...get(normal), ...bits(0x38800000), ...get(magnitude), ...greater, ...choose);
  p.emit(...set(normal));
  // From 65,520 on: infinity, or NaN.
  p.emit(...bits(0x7e00), ...bits(0x7c00), ...get(magnitude), ...bits(0x7f800000), ...greater);
  p.emit(...choose, ...get(normal), ...get(magnitude), ...bits(0x477fefff), ...greater, ...choose);
  p.emit(...get(x), ...right(16), ...bits(0x8000), ...and, ...or);
  p.release(x);
  p.release(magnitude);
  p.release(normal);
}
