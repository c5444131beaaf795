/**
 * Buffers of one object on a GPU: they grow, are used again by later calls, and outlive what a caller's encoder still names.
 */
import type { GpuRange } from "../backend/gpu.ts";
import type { WebGpuBackend } from "../backend/webgpu/device.ts";

/** What the names of work memory begin with. */
const scratchName = "scratch ";

/** Named buffers of an object. */
export class OwnBuffers {
  readonly #backend: WebGpuBackend;
  readonly #buffers = new Map<string, GPUBuffer>();
  /** Buffers that commands in a caller's encoder name: nobody knows when these will run. The caller's own among them go as they like. */
  #lent = new WeakSet<GPUBuffer>();
  /** Outgrown ones among them. */
  readonly #retired: GPUBuffer[] = [];
  /** Names of those whose contents outlive a call. */
  readonly #kept = new Set<string>();
  /** Values in a buffer that one call uploads and the next may need again. */
  readonly #uploaded = new Map<string, Float32Array>();

  constructor(backend: WebGpuBackend) {
    this.#backend = backend;
  }

  /** The buffer of that name with room for `bytes`; what was in it may be lost. */
  async get(name: string, bytes: number, call: string): Promise<GPUBuffer> {
    const known = this.#buffers.get(name);
    if (known && known.size >= bytes) return known;
    const buffer = await this.#backend.buffer(bytes, call);
    this.drop(name);
    this.#buffers.set(name, buffer);
    return buffer;
  }

  /** A buffer of that name whose contents last from call to call. */
  async keep(name: string, bytes: number, call: string): Promise<GPUBuffer> {
    const buffer = await this.get(name, bytes, call);
    this.#kept.add(name);
    return buffer;
  }

  /** Give back all buffers whose contents no call to come needs; whether there were any. */
  yieldSpare(): boolean {
    const spare = [...this.#buffers.keys()].filter((name) => !this.#kept.has(name));
    for (const name of spare) this.drop(name);
    return spare.length > 0;
  }

  /** The buffer of that name, if there is one. */
  known(name: string): GPUBuffer | undefined {
    return this.#buffers.get(name);
  }

  /**
   * A buffer that holds these values. Commands in a caller's encoder run after the queue has written all that calls wrote
   * meanwhile, so that what they name is never written again.
   */
  async holding(name: string, values: Float32Array, call: string): Promise<GPUBuffer> {
    const known = this.#buffers.get(name);
    const before = this.#uploaded.get(name);
    if (known && before && sameBits(before, values)) return known;
    if (known && this.#lent.has(known)) this.drop(name);
    const buffer = await this.get(name, values.byteLength, call);
    this.#uploaded.set(name, values.slice());
    this.#backend.write(buffer, 0, values);
    return buffer;
  }

  /** Give back the buffer of that name, now or, where it is lent, with the object. */
  drop(name: string): void {
    const buffer = this.#buffers.get(name);
    if (!buffer) return;
    this.#buffers.delete(name);
    this.#uploaded.delete(name);
    this.retire(buffer);
  }

  /** Give back a buffer that a caller's encoder may name. */
  retire(buffer: GPUBuffer): void {
    if (this.#lent.has(buffer)) this.#retired.push(buffer);
    else this.#backend.release(buffer);
  }

  /** Note that a caller's encoder names these. */
  lend(buffers: Iterable<GPUBuffer>): void {
    for (const buffer of buffers) this.#lent.add(buffer);
  }

  /** Commands in callers' encoders have been submitted: a buffer may go now, it stays alive for those that still run. */
  submitted(): void {
    this.#lent = new WeakSet();
    for (const buffer of this.#retired) this.#backend.release(buffer);
    this.#retired.length = 0;
  }

  /** Work memory of these sizes, kept for calls to come within `most` bytes or what this one needs: larger buffers go. */
  async scratch(
    sizes: readonly number[],
    most: number,
    call: string,
  ): Promise<GpuRange<GPUBuffer>[]> {
    const needs = new Map(sizes.map((bytes, i) => [`${scratchName}${i}`, bytes]));
    this.#makeRoom(needs, most);
    const found: GpuRange<GPUBuffer>[] = [];
    for (const [name, bytes] of needs) found.push({ buffer: await this.get(name, bytes, call) });
    return found;
  }

  get #scratch(): [string, GPUBuffer][] {
    return [...this.#buffers].filter(([name]) => name.startsWith(scratchName));
  }

  #makeRoom(needs: ReadonlyMap<string, number>, most: number): void {
    const held = this.#scratch;
    let total = 0;
    for (const bytes of needs.values()) total += bytes;
    for (const [name, { size }] of held) total += Math.max(0, size - (needs.get(name) ?? 0));
    if (total <= most) return;
    for (const [name, { size }] of held) if (size > (needs.get(name) ?? 0)) this.drop(name);
  }

  /** Bytes of work memory. */
  get scratchBytes(): number {
    return this.#scratch.reduce((sum, [, { size }]) => sum + size, 0);
  }

  /** Bytes of all buffers. */
  get bytes(): number {
    return [...this.#buffers.values()].reduce((sum, { size }) => sum + size, 0);
  }

  /** Give everything back. */
  leave(): void {
    for (const b of [...this.#buffers.values(), ...this.#retired]) this.#backend.release(b);
    this.#buffers.clear();
    this.#retired.length = 0;
    this.#uploaded.clear();
  }
}

/** Whether two arrays hold the same bits. */
function sameBits(a: Float32Array, b: Float32Array): boolean {
  if (a.length !== b.length) return false;
  const [x, y] = [a, b].map((v) => new Uint32Array(v.buffer, v.byteOffset, v.length));
  return x!.every((bits, i) => bits === y![i]);
}
