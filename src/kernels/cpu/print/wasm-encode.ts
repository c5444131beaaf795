/** WebAssembly's binary format, as much of it as the kernels need. Code is arrays of bytes. */

export type Bytes = ArrayLike<number>;

/** Parts one after the other. Code is long: it goes from one place to the next whole, not byte by byte. */
export function joined(...parts: readonly Bytes[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Unsigned LEB128. */
export function u32(n: number): number[] {
  const out: number[] = [];
  let rest = n >>> 0;
  do {
    const byte = rest & 127;
    rest >>>= 7;
    out.push(rest ? byte | 128 : byte);
  } while (rest);
  return out;
}

/** Signed LEB128 of a 32-bit integer. */
export function s32(n: number): number[] {
  const out: number[] = [];
  let rest = n | 0;
  for (;;) {
    const byte = rest & 127;
    rest >>= 7;
    if ((rest === 0 && !(byte & 64)) || (rest === -1 && byte & 64)) return [...out, byte];
    out.push(byte | 128);
  }
}

/** A name; ours are ASCII. An AudioWorklet has no TextEncoder. */
export function name(text: string): number[] {
  return [...u32(text.length), ...Array.from(text, (c) => c.charCodeAt(0))];
}

export function vector(items: readonly Bytes[]): Uint8Array {
  return joined(u32(items.length), ...items);
}

export function section(id: number, body: Bytes): Uint8Array {
  return joined([id], u32(body.length), body);
}

export const i32Type = 0x7f;
export const v128Type = 0x7b;

/** Scalar and control opcodes. */
export const op = {
  block: 0x02,
  loop: 0x03,
  end: 0x0b,
  br: 0x0c,
  brIf: 0x0d,
  call: 0x10,
  select: 0x1b,
  localGet: 0x20,
  localSet: 0x21,
  localTee: 0x22,
  i32Const: 0x41,
  i32LtU: 0x49,
  i32GeU: 0x4f,
  i32Add: 0x6a,
  i32Mul: 0x6c,
  i32DivU: 0x6e,
  empty: 0x40,
} as const;

/** Bulk memory instructions, in memory 0. */
export const memoryCopy: readonly number[] = [0xfc, ...u32(10), 0, 0];
export const memoryFill: readonly number[] = [0xfc, ...u32(11), 0];

/** A SIMD instruction without immediates. */
export function simd(code: number): number[] {
  return [0xfd, ...u32(code)];
}

/** SIMD opcodes (WebAssembly specification, "vector instructions"; 256 and up are relaxed SIMD). */
export const v128 = {
  load: 0x00,
  load64Zero: 0x5d,
  load32Splat: 0x09,
  store: 0x0b,
  const: 0x0c,
  shuffle: 0x0d,
  store16Lane: 0x59,
  store32Lane: 0x5a,
  store64Lane: 0x5b,
  i16x8NarrowI32x4U: 0x86,
  and: 0x4e,
  andnot: 0x4f,
  or: 0x50,
  xor: 0x51,
  bitselect: 0x52,
  f32x4Eq: 0x41,
  f32x4Ne: 0x42,
  f32x4Gt: 0x44,
  i32x4GtS: 0x3b,
  i32x4GtU: 0x3c,
  i32x4ExtendLowI16x8U: 0xa9,
  i32x4Shl: 0xab,
  i32x4ShrS: 0xac,
  i32x4ShrU: 0xad,
  i32x4Add: 0xae,
  i32x4Sub: 0xb1,
  i32x4Mul: 0xb5,
  i32x4Splat: 0x11,
  f32x4Neg: 0xe1,
  f32x4Sqrt: 0xe3,
  f32x4Abs: 0xe0,
  f32x4Add: 0xe4,
  f32x4Sub: 0xe5,
  f32x4Mul: 0xe6,
  f32x4Div: 0xe7,
  f32x4Min: 0xe8,
  f32x4Max: 0xe9,
  f32x4Nearest: 0x6a,
  i32x4TruncSatF32x4S: 0xf8,
  f32x4ConvertI32x4S: 0xfa,
  f32x4ConvertI32x4U: 0xfb,
  relaxedMadd: 0x105,
  relaxedNmadd: 0x106,
} as const;

/** v128.const of four 32-bit patterns. */
export function vectorBits(words: readonly number[]): number[] {
  const out = simd(v128.const);
  for (const w of words) out.push(w & 255, (w >>> 8) & 255, (w >>> 16) & 255, w >>> 24);
  return out;
}

/** v128.const of four equal ones. */
export function splatBits(bits: number): number[] {
  return vectorBits([bits, bits, bits, bits]);
}

const real = new Float32Array(1);
const pattern = new Uint32Array(real.buffer);

/** v128.const of four equal float32 values. */
export function splatFloat(value: number): number[] {
  real[0] = value;
  return splatBits(pattern[0]!);
}
