/** Slices of A and B on their way: from storage to a thread's registers, and from there to the memory that a workgroup shares. */
import type { SharedArray } from "../dialect/wgsl.ts";
import { choice, halfType, halvesOf, unpackHalves, zero } from "../dialect/wgsl.ts";
import type { Binding } from "../storage.ts";
import type { Text } from "../text.ts";
import type { ProductKernel, ProductOperand } from "./spec.ts";

/** Elements behind each row of shared float16, so that eight rows of 16 bytes lie in different banks. */
const halfPadding = 8;
/** The same behind rows of float32, whose transposed stores go down the columns. */
const floatPadding = 4;

/** Numbers side by side that threads read at once. */
export const quad = 4;

/** Names of the parts of a vector; a number has itself. */
export const partsOf = (name: string, parts: number): string[] =>
  parts === 1 ? [name] : [..."xyzw"].slice(0, parts).map((part) => `${name}.${part}`);

/** The type of so many words or float32. */
export const vectorType = (scalar: "u32" | "f32", parts: number): string =>
  parts === 1 ? scalar : `vec${parts}${scalar[0]}`;

/** One operand's slices of a kernel. */
export class OperandSlices {
  readonly operand: ProductOperand;
  readonly #spec: ProductKernel;
  /** Cells of the tile along the operand's own side. */
  readonly #side: number;
  /** Accesses of a stored row of a slice, of all of it, and of a thread. */
  readonly #across: number;
  readonly #count: number;

  constructor(spec: ProductKernel, operand: ProductOperand) {
    const { tile } = spec;
    this.operand = operand;
    this.#spec = spec;
    this.#side = operand.name === "a" ? tile.m : tile.n;
    this.#across = (operand.alongK ? tile.k : this.#side) / operand.width;
    this.#count = (this.#side * tile.k) / operand.width / tile.threads;
  }

  /** Words, or float32, of an access. */
  get #parts(): number {
    const { dtype, width } = this.operand;
    return dtype === "float32" ? width : Math.ceil(width / 2);
  }

  get #element(): string {
    return vectorType(this.operand.dtype === "float32" ? "f32" : "u32", this.#parts);
  }

  get binding(): Binding {
    return { name: this.operand.name, access: "read", element: this.#element };
  }

  /** Elements from row to row in shared memory, rows along `alongK` or along k. */
  get stride(): number {
    const { tile } = this.#spec;
    if (!tile.shape) return this.#side + floatPadding;
    return (this.operand.alongK ? tile.k : this.#side) + halfPadding;
  }

  /** Whether rows in shared memory run along k: those of matrices lie as they are stored, those of threads never do. */
  get rowsAlongK(): boolean {
    return this.#spec.tile.shape !== undefined && this.operand.alongK;
  }

  /** Elements of a slice in shared memory. */
  get sharedCount(): number {
    return this.stride * (this.rowsAlongK ? this.#side : this.#spec.tile.k);
  }

  /**
   * Elements of a slice that lie in one element of shared memory: an access as it came from storage, stored whole and aligned for all
   * to see, where it may stay as it is; else a number.
   */
  get unit(): number {
    const { alongK, dtype, width } = this.operand;
    if (this.#spec.tile.shape) return width;
    return !alongK && dtype === "float32" && width === quad ? quad : 1;
  }

  get shared(): SharedArray {
    const { shape, twice } = this.#spec.tile;
    const count = (this.sharedCount / this.unit) * (twice ? 2 : 1);
    const alone = shape ? halfType : "f32";
    const element = this.unit > 1 ? this.#element : alone;
    return { name: `shared_${this.operand.name}`, element, count };
  }

  /** Row and place in it of a thread's access `i`, both in a slice as stored: numbers that few threads share, and constants. */
  #place(i: number): { readonly row: string; readonly access: string } {
    const { threads } = this.#spec.tile;
    const across = this.#across;
    const name = this.operand.name;
    if (threads % across === 0)
      return { row: `${name}_row + ${i * (threads / across)}u`, access: `${name}_access` };
    const turns = across / threads;
    return { row: `${Math.floor(i / turns)}u`, access: `lane + ${(i % turns) * threads}u` };
  }

  /** What a thread knows before the first step; `origin` is the tile's first cell along the operand's side. */
  begin(text: Text): void {
    const { name, width } = this.operand;
    const across = this.#across;
    const { threads } = this.#spec.tile;
    text.constant(`${name}_line`, `lane / ${across}u`);
    // Eight threads store 128 bytes at once: those of rows so far apart that all lie in different banks.
    const eights = across < 8 && (threads / across) % 8 === 0;
    const apart = this.rowsAlongK && width === 8 && eights ? 8 / across : 1;
    const spread = `${name}_line / 8u * 8u + ${name}_line % ${apart}u * ${across}u + ${name}_line % 8u / ${apart}u`;
    text.constant(`${name}_row`, apart > 1 ? spread : `${name}_line`);
    text.constant(`${name}_access`, `lane % ${this.#across}u`);
    for (let i = 0; i < this.#count; i++) text.variable(`${name}_held${i}`, zero(this.#element));
  }

  /** Load a thread's part of the slice at `step`, item and first k of which have names. */
  load(text: Text): void {
    const { name, alongK, width, dtype } = this.operand;
    const { edges } = this.#spec;
    const side = name === "a" ? "p.m" : "p.n";
    for (let i = 0; i < this.#count; i++) {
      const { row, access } = this.#place(i);
      const along = width === 1 ? `(${access})` : `(${access}) * ${width}u`;
      let cell = `${name}_origin + ${alongK ? row : along}`;
      let k = `first_k + ${alongK ? along : row}`;
      const inside = `${k} < p.k`;
      // Cells over the edge are never stored: what is there instead is any cell.
      if (edges.cells) cell = `min(${cell}, ${side} - ${alongK ? 1 : width}u)`;
      if (edges.k) k = `min(${k}, p.k - ${alongK ? width : 1}u)`;
      const [line, place] = alongK ? [cell, k] : [k, cell];
      const index = `item * p.${name}_batch + (${line}) * p.${name}_stride + (${place}) / ${width}u`;
      let value = `${name}[${index}]`;
      if (dtype === "float16" && width === 1) {
        const at = text.hold("at", index);
        value = `${name}[${at} >> 1u] >> ((${at} & 1u) * 16u)`;
      }
      if (edges.k) value = choice(inside, value, zero(this.#element));
      text.line(`${name}_held${i} = ${value};`);
    }
  }

  /** Put what a thread holds into shared memory, in the half that `half` numbers where there are two. */
  stage(text: Text, half: string): void {
    const { name, alongK, width, dtype } = this.operand;
    const { shape } = this.#spec.tile;
    const { unit } = this;
    // Down the columns where the stored rows run along k and the shared ones do not.
    const turned = alongK && !this.rowsAlongK;
    for (let i = 0; i < this.#count; i++) {
      const { row, access } = this.#place(i);
      const start = turned
        ? `(${access}) * ${width * this.stride}u + ${row}`
        : `(${row}) * ${this.stride / unit}u + (${access}) * ${width / unit}u`;
      const at = text.hold("at", this.from(half, start));
      const held = `${name}_held${i}`;
      if (unit > 1) {
        text.line(`shared_${name}[${at}] = ${held};`);
        continue;
      }
      const elements = partsOf(held, this.#parts).flatMap((word) => {
        if (dtype === "float32") return [word];
        const pair = text.hold("h", shape ? halvesOf(word) : unpackHalves(word));
        return [`${pair}.x`, `${pair}.y`].slice(0, width);
      });
      elements.forEach((element, e) => {
        const offset = e * (turned ? this.stride : 1);
        text.line(`shared_${name}[${at}${offset ? ` + ${offset}u` : ""}] = ${element};`);
      });
    }
  }

  /** An index of shared memory in the half that `half` numbers. */
  from(half: string, index: string): string {
    return half ? `${half} * ${this.sharedCount / this.unit}u + ${index}` : index;
  }
}
