/**
 * A convolution's place on one backend: its engine, compiled programs, and the spectra kept there. An object moves to
 * another seat when it is first asked to lend arrays and its backend's memory cannot.
 */
import type { CpuBackend, CpuUser, Program } from "../backend/cpu/backend.ts";
import type { Block } from "../backend/cpu/memory.ts";
import type { PreparedKernel } from "../calls/prepared.ts";
import type { Dtype } from "../dtype.ts";
import type { Engine } from "./cpu-parts.ts";

/** Programs of all parts, in their order. */
type CompiledPrograms = readonly Program[];

/** Engine, programs and spectra on one backend. */
export class CpuResidency implements CpuUser {
  /** Work memory that the last call took. */
  workspaceBytes = 0;
  readonly engine: Engine;
  readonly kernels: Map<PreparedKernel, Block> = new Map();
  readonly lent: Block[] = [];
  /** By storage of the kernel. */
  readonly #forward = new Map<Dtype, CompiledPrograms>();
  #backward: CompiledPrograms | undefined;

  constructor(engine: Engine) {
    this.engine = engine;
    engine.backend.retain(this);
  }

  get threads(): number {
    return this.engine.threads;
  }

  get backend(): CpuBackend {
    return this.engine.backend;
  }

  /** The forward programs, if they are compiled. */
  forwardNow(kernelDtype: Dtype): CompiledPrograms | undefined {
    return this.#forward.get(kernelDtype);
  }

  /** Call inside the backend's exclusive section, as the others that compile. */
  async forward(kernelDtype: Dtype, call: string): Promise<CompiledPrograms> {
    const found = this.#forward.get(kernelDtype);
    if (found) return found;
    const programs = await this.#compile("forward", kernelDtype, call);
    this.#forward.set(kernelDtype, programs);
    return programs;
  }

  async backward(call: string): Promise<CompiledPrograms> {
    this.#backward ??= await this.#compile("backward", "float32", call);
    return this.#backward;
  }

  async #compile(
    kind: "forward" | "backward",
    kernelDtype: Dtype,
    call: string,
  ): Promise<CompiledPrograms> {
    const { parts, backend } = this.engine;
    const programs: Program[] = [];
    try {
      for (const { source } of parts) {
        programs.push(await backend.program(source(kind, kernelDtype), call));
      }
    } catch (error) {
      for (const p of programs) backend.releaseProgram(p);
      throw error;
    }
    return programs;
  }

  /** Take over the spectra of another seat of the same convolution. */
  takeKernels(from: CpuResidency, call: string): void {
    for (const [kernel, block] of from.kernels) {
      const bytes = kernel.channels * this.engine.spectrumBytes;
      const mine = this.backend.lend(bytes, call);
      const source = new Uint8Array(from.backend.arena.memory.buffer, block.address, bytes);
      new Uint8Array(this.backend.arena.memory.buffer, mine.address, bytes).set(source);
      this.kernels.set(kernel, mine);
    }
  }

  /** Give everything back once the calls before have ended. */
  leave(): void {
    const { backend } = this;
    void backend.exclusive(() => {
      for (const block of [...this.kernels.values(), ...this.lent]) backend.arena.free(block);
      for (const p of [...this.#forward.values(), this.#backward ?? []].flat()) {
        backend.releaseProgram(p);
      }
      backend.release(this);
    });
  }
}
