/**
 * The backend's memory: one linear memory for all convolutions of a runtime, and a first-fit allocator over it. Freed
 * ranges are merged and used again, so the memory grows to the largest need and stays there.
 */
import { BackendError, UnsupportedError } from "../../errors.ts";
import { show } from "../../show.ts";

/** Linear memory: a WebAssembly.Memory, or an array buffer for kernels in plain JavaScript. */
export interface LinearMemory {
  readonly buffer: ArrayBufferLike;
  /** Grow by pages of 64 KiB. */
  grow(pages: number): void;
}

export const pageBytes = 65_536;
/** Most pages a 32-bit memory has: 4 GiB. */
export const maxPages = 65_536;
/** Most pages of memory that is worth opening: 64 MiB. */
const leastPages = 1024;
/** It must grow by so many to be taken: some runtimes grant a memory that cannot grow. */
const trialPages = 255;

/**
 * A WebAssembly memory of as many pages at most as can be had: some runtimes set aside address space for all of them at once,
 * which containers and batch systems limit. (V8 sets aside 10 GB whatever is asked for, unless it is started with
 * --disable-wasm-trap-handler.)
 * @throws UnsupportedError where none can be had.
 */
export function openWasmMemory(
  shared: boolean,
  call: string,
): { readonly memory: WebAssembly.Memory; readonly pages: number } {
  let cause: unknown;
  for (let pages = maxPages; pages >= leastPages; pages /= 2) {
    try {
      const memory = new WebAssembly.Memory({ initial: 1, maximum: pages, shared });
      memory.grow(trialPages);
      return { memory, pages };
    } catch (error) {
      cause = error;
    }
  }
  throw new UnsupportedError(
    {
      call,
      requirement: "address space for a WebAssembly memory, of which V8 sets aside 10 GB",
      value: `a runtime that grants none (${(cause as Error).message})`,
      remedy:
        "Raise the limit (ulimit -v), start Node with --disable-wasm-trap-handler, or use instructions: 'javascript'.",
    },
    cause,
  );
}

/** An ArrayBuffer that is replaced by a larger copy when it grows. */
export class PlainMemory implements LinearMemory {
  buffer: ArrayBuffer = new ArrayBuffer(pageBytes);

  grow(pages: number): void {
    const larger = new ArrayBuffer(this.buffer.byteLength + pages * pageBytes);
    new Uint8Array(larger).set(new Uint8Array(this.buffer));
    this.buffer = larger;
  }
}

/** Blocks start on cache lines. */
const alignment = 64;
/** Bytes kept free behind every block: vector loads at a row's end may read past it. */
const slack = 64;

/** Bytes of a region with room behind it for vector loads, up to a cache line. */
export const aligned = (bytes: number): number =>
  Math.ceil((bytes + slack) / alignment) * alignment;

/** Bytes of a guard, and the word that fills it: a NaN, so that a sum that reads one is spoiled too. */
const guardBytes = 65_536;
const guardWord = 0x7fc0dead;
let guarded = false;

/** For tests: leave guards between the regions of work memory, and fail the call that writes to one. */
export function guardWorkMemory(on: boolean): void {
  guarded = on;
}

/** The regions of a call's work memory, one after the other. */
export class WorkLayout {
  bytes = 0;
  readonly #guards: number[] = [];

  /** Room for a region; its offset. */
  take(bytes: number): number {
    const at = this.bytes;
    this.bytes += aligned(bytes);
    if (guarded) {
      this.#guards.push(this.bytes);
      this.bytes += guardBytes;
    }
    return at;
  }

  *#guardsIn(memory: LinearMemory, base: number): Iterable<Uint32Array> {
    for (const at of this.#guards) yield new Uint32Array(memory.buffer, base + at, guardBytes / 4);
  }

  /** Write the guards; call it where the layout has been placed. */
  seal(memory: LinearMemory, base: number): void {
    if (this.#guards.length === 0) return;
    for (const guard of this.#guardsIn(memory, base)) guard.fill(guardWord);
  }

  /** @throws Error where a guard has been written to. */
  check(memory: LinearMemory, base: number): void {
    if (this.#guards.length === 0) return;
    let region = 0;
    for (const guard of this.#guardsIn(memory, base)) {
      const at = guard.findIndex((word) => word !== guardWord);
      if (at >= 0)
        throw new Error(`region ${region} of work memory: written ${4 * at} bytes past its end`);
      region++;
    }
  }
}

const sizeOf = (pages: number): string =>
  pages < 16_384 ? `${show(pages / 16)} MiB` : `${show(pages / 16_384)} GiB`;

/** The work memory of calls: one block, which grows to the largest need, and what lies in it. */
export class WorkMemory {
  readonly #arena: Arena;
  #block: Block | undefined;
  #layout: WorkLayout | undefined;
  /** Bytes that the last call which took any has taken so far: turns that only tidy up take none. */
  taken = 0;
  #isNext = true;

  constructor(arena: Arena) {
    this.#arena = arena;
  }

  get bytes(): number {
    return this.#block?.bytes ?? 0;
  }

  /** What is taken from now on is another call's. */
  next(): void {
    this.#isNext = true;
  }

  /** Room for a layout, until the next call of this: where it begins. */
  take(layout: WorkLayout, call: string): number {
    const { bytes } = layout;
    if (!this.#block || this.#block.bytes < bytes) {
      this.free();
      this.#block = this.#arena.allocate(bytes, call);
    }
    this.#layout = layout;
    this.taken = Math.max(this.#isNext ? 0 : this.taken, aligned(bytes));
    this.#isNext = false;
    layout.seal(this.#arena.memory, this.#block.address);
    return this.#block.address;
  }

  /** For tests: see that nobody has written past a region. */
  check(): void {
    if (this.#block) this.#layout?.check(this.#arena.memory, this.#block.address);
  }

  free(): void {
    if (this.#block) this.#arena.free(this.#block);
    this.#block = this.#layout = undefined;
  }
}

/** A range of linear memory. */
export interface Block {
  readonly address: number;
  readonly bytes: number;
}

/** First-fit allocator. Addresses start above 0, so that 0 can mean "none". */
export class Arena {
  readonly memory: LinearMemory;
  readonly #maxPages: number;
  /** Free ranges by address, none adjacent to the next. */
  readonly #free: { address: number; bytes: number }[] = [];
  #end = alignment;
  #floats: Float32Array | undefined;
  #halves: Uint16Array | undefined;
  #used = 0;
  /** Buffers of this memory: a shared memory's earlier ones still show it after growth. */
  #buffers = new WeakSet<ArrayBufferLike>();

  /** An allocator over a memory that may grow to `pages` pages. */
  constructor(memory: LinearMemory, pages: number = maxPages) {
    this.memory = memory;
    this.#maxPages = pages;
    this.#buffers.add(memory.buffer);
  }

  /** Bytes in blocks that are not freed. */
  get used(): number {
    return this.#used;
  }

  /**
   * What to make arrays of. Read it here and nowhere else: a runtime may show a shared memory by another object after
   * other threads have learned of its growth, and `owns` knows those that were read here (seen on Node 24).
   */
  get buffer(): ArrayBufferLike {
    const { buffer } = this.memory;
    this.#buffers.add(buffer);
    return buffer;
  }

  /** Whether a typed array lies in this memory, so that kernels can work on it where it is. */
  owns(buffer: ArrayBufferLike): boolean {
    return this.#buffers.has(buffer);
  }

  /** The whole memory as an array of the kind of `like`. */
  view(like: Float32Array | Uint16Array): Float32Array | Uint16Array {
    const { buffer } = this;
    if (this.#floats?.buffer !== buffer) {
      this.#floats = new Float32Array(buffer);
      this.#halves = new Uint16Array(buffer);
    }
    return like instanceof Float32Array ? this.#floats : this.#halves!;
  }

  /** @throws BackendError when the memory has no room. */
  allocate(bytes: number, call: string): Block {
    const need = Math.ceil((bytes + slack) / alignment) * alignment;
    this.#used += need;
    const hole = this.#free.findIndex((f) => f.bytes >= need);
    if (hole >= 0) {
      const range = this.#free[hole]!;
      const block = { address: range.address, bytes: need };
      range.address += need;
      range.bytes -= need;
      if (range.bytes === 0) this.#free.splice(hole, 1);
      return block;
    }
    const block = { address: this.#end, bytes: need };
    try {
      this.#reserve(this.#end + need);
    } catch (cause) {
      this.#used -= need;
      throw new BackendError(
        {
          call,
          requirement: `${show(need)} more bytes of the backend's memory (${sizeOf(this.#maxPages)} at most)`,
          value: `${show(this.#used)} bytes in use`,
          remedy: "Dispose what is no longer needed, or work on fewer channels at a time.",
        },
        cause,
      );
    }
    this.#end += need;
    return block;
  }

  #reserve(end: number): void {
    const have = this.memory.buffer.byteLength;
    if (end <= have) return;
    if (end > this.#maxPages * pageBytes) throw new RangeError(`${end} bytes exceed the memory`);
    // A quarter more than asked, so that many small requests do not grow the memory one by one.
    const wanted = Math.ceil(Math.max(end - have, have / 4) / pageBytes);
    const least = Math.ceil((end - have) / pageBytes);
    const limit = this.#maxPages - have / pageBytes;
    try {
      this.memory.grow(Math.min(wanted, limit));
    } catch {
      this.memory.grow(least);
    }
    const { buffer } = this.memory;
    if (buffer instanceof ArrayBuffer) this.#buffers = new WeakSet();
    this.#buffers.add(buffer);
  }

  free(block: Block): void {
    this.#used -= block.bytes;
    const at = this.#free.findIndex((f) => f.address > block.address);
    const index = at < 0 ? this.#free.length : at;
    this.#free.splice(index, 0, { ...block });
    for (const i of [index, index - 1]) {
      const a = this.#free[i];
      const b = this.#free[i + 1];
      if (a && b && a.address + a.bytes === b.address) {
        a.bytes += b.bytes;
        this.#free.splice(i + 1, 1);
      }
    }
    const last = this.#free.at(-1);
    if (last && last.address + last.bytes === this.#end) {
      this.#end = last.address;
      this.#free.pop();
    }
  }
}
