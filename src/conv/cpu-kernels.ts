/** A convolution on one backend: its engine, for calls that take turns and for those that do not, and the spectra kept there. */
import type { CpuBackend, Program } from "../backend/cpu/backend.ts";
import type { Block } from "../backend/cpu/memory.ts";
import { CpuResidency } from "../calls/cpu-residency.ts";
import type { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype } from "../dtype.ts";
import type { ProgramSource } from "../kernels/cpu/program-source.ts";
import type { Engine, Transforms } from "./cpu-parts.ts";
import { createEngine } from "./cpu-parts.ts";
import type { Programs } from "./cpu-rows.ts";
import type { Choice } from "./explain.ts";

type Kind = "forward" | "backward";

/** Engine and spectra on one backend. */
export class ConvolutionResidency extends CpuResidency {
  readonly engine: Engine;
  readonly #makeEngine: (threads: number) => Engine;
  readonly #alone: Engine[] = [];
  readonly #kernels = new Map<PreparedKernel, Block>();

  constructor(choice: Choice, transforms: Transforms, backend: CpuBackend, threads: number) {
    super(backend, threads);
    this.#makeEngine = (count) => createEngine(choice, transforms, backend, count);
    this.engine = this.#makeEngine(threads);
  }

  /** An engine of calls that return no promise: on one thread, with jobs that no other call has in hand. */
  alone(index: number): Engine {
    this.#alone[index] ??= this.#makeEngine(1);
    return this.#alone[index];
  }

  #sources(kind: Kind, kernelDtype: Dtype): () => ProgramSource[] {
    return () => this.engine.parts.map(({ source }) => source(kind, kernelDtype));
  }

  /** Programs of all parts, for kernels of a storage type: at once where they are compiled. */
  forward(kernelDtype: Dtype, call: string): readonly Program[] | Promise<readonly Program[]> {
    return this.compile(kernelDtype, this.#sources("forward", kernelDtype), call);
  }

  forwardNow(kernelDtype: Dtype, call: string): readonly Program[] {
    return this.compileNow(kernelDtype, this.#sources("forward", kernelDtype), call);
  }

  /** Both kinds: spectra are made by the forward ones. */
  async backward(kernelDtype: Dtype, call: string): Promise<Programs> {
    const forward = await this.forward(kernelDtype, call);
    const sources = this.#sources("backward", "float32");
    return { forward, backward: await this.compile("backward", sources, call) };
  }

  backwardNow(kernelDtype: Dtype, call: string): Programs {
    const sources = this.#sources("backward", "float32");
    return {
      forward: this.forwardNow(kernelDtype, call),
      backward: this.compileNow("backward", sources, call),
    };
  }

  holds(kernel: PreparedKernel): boolean {
    return this.#kernels.has(kernel);
  }

  spectra(kernel: PreparedKernel): Block {
    return this.#kernels.get(kernel)!;
  }

  /** Channels whose spectra are kept. */
  get channels(): number {
    let sum = 0;
    for (const { channels } of this.#kernels.keys()) sum += channels;
    return sum;
  }

  keep(kernel: PreparedKernel, block: Block): void {
    this.#kernels.set(kernel, block);
    this.blocks.add(block);
  }

  /** Free a kernel's spectra once the calls before have ended. */
  drop(kernel: PreparedKernel): void {
    const block = this.#kernels.get(kernel);
    if (!block) return;
    this.#kernels.delete(kernel);
    this.blocks.delete(block);
    void this.backend.exclusive(() => this.backend.arena.free(block));
  }

  /** Take over the spectra of another residency of the same convolution. */
  takeKernels(from: ConvolutionResidency, call: string): void {
    const { arena } = this.backend;
    for (const [kernel, block] of from.#kernels) {
      const bytes = kernel.channels * this.engine.spectrumBytes;
      const mine = this.backend.lend(bytes, call);
      const source = new Uint8Array(from.backend.arena.buffer, block.address, bytes);
      new Uint8Array(arena.buffer, mine.address, bytes).set(source);
      this.keep(kernel, mine);
    }
  }
}
