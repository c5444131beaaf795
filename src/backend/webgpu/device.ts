/**
 * WebGPU: a device, compiled kernels, buffers that are counted, commands and what goes wrong with them. The files of this
 * folder are the only ones that call the WebGPU API.
 */
import { BackendError, UnsupportedError } from "../../errors.ts";
import type { Kernel } from "../../kernels/gpu/kernel.ts";
import type { GpuLimits, Schedule } from "../../schedule/schedule.ts";
import type { GpuDeviceBackend, GpuRanges } from "../gpu.ts";
import { outOfMemory, storageBuffer, usage } from "./buffers.ts";
import type { CommandTarget, Pipelines } from "./compiled.ts";
import { WebGpuSchedule } from "./compiled.ts";
import { findGpu } from "./find-gpu.ts";
import { findTraits, matrixTraits } from "./traits.ts";

type Traits = Awaited<ReturnType<typeof findTraits>>;

/** A kernel that is compiled or being compiled, and how many hold it. */
interface Compiled {
  readonly made: Promise<GPUComputePipeline>;
  holders: number;
}

/** Who has buffers that no call at hand needs. */
export interface Hoard {
  /** Give them back; whether there were any. */
  yieldIdle(): boolean;
}

/**
 * Kernels that nobody holds any more and that are kept, the latest: objects of one shape that come and go compile nothing. Where a
 * processor plays the GPU one takes 1 to 6 MB.
 */
const mostSpared = 16;

/** Limits that we ask for as far as an adapter goes. */
const wantedLimits = [
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxStorageBufferBindingSize",
  "maxBufferSize",
  "maxStorageBuffersPerShaderStage",
] as const;

/**
 * Features of devices that the library opens, where they are there: kernels use subgroups, and their matrices in half precision;
 * timestamps are for programs that take `device` for kernels of their own, and `info` tells of them. Half precision is stored with
 * pack2x16float, which all devices have.
 */
const wantedFeatures = [
  "shader-f16",
  "subgroups",
  "timestamp-query",
  "chromium-experimental-subgroup-matrix",
] as const;

/** A GPU opened for convolutions, shared by all objects that use it. */
export class WebGpuBackend implements GpuDeviceBackend<GPUBuffer, CommandTarget> {
  readonly device: GPUDevice;
  /** Name of the adapter, as its driver gives it. */
  readonly name: string;
  /** What its measured numbers are kept under. */
  readonly key: string;
  /** What the adapter says of itself; of one that the library opened, more than its device knows. */
  readonly info: GPUAdapterInfo | undefined;
  /** By their text, those that nobody holds in the order in which they were spared. */
  readonly #pipelines = new Map<string, Compiled>();
  readonly #hoards = new Set<Hoard>();
  #buffers = 0;
  #bytes = 0;
  #lost: string | undefined;
  /** The first error of what was made since the last `flush`. */
  #noted: Promise<GPUError | null> = Promise.resolve(null);

  readonly #traits: Traits;

  private constructor(device: GPUDevice, info: GPUAdapterInfo | undefined, traits: Traits) {
    this.device = device;
    this.#traits = traits;
    this.info = info;
    this.name = adapterName(info);
    this.key = adapterKey(info);
    void device.lost.then((info) => {
      this.#lost = `${info.reason}: ${info.message}`;
    });
  }

  /**
   * Open the adapter of the runtime, or use the caller's device.
   * @throws UnsupportedError where there is no adapter.
   */
  static async open(device: GPUDevice | undefined, call: string): Promise<WebGpuBackend> {
    if (device) {
      const traits = await findTraits(device);
      return new WebGpuBackend(device, device.adapterInfo, traits);
    }
    const gpu = await findGpu(call);
    const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) {
      throw new UnsupportedError({
        call,
        requirement: "backend 'webgpu' needs a graphics adapter",
        value: "none that WebGPU can use",
        remedy: "Check the driver (Vulkan, Metal or Direct3D 12), or use backend: 'cpu'.",
      });
    }
    const requiredLimits: Record<string, number> = {};
    for (const name of wantedLimits) requiredLimits[name] = adapter.limits[name];
    const requiredFeatures = (wantedFeatures as readonly GPUFeatureName[]).filter((f) =>
      adapter.features.has(f),
    );
    const opened = await adapter
      .requestDevice({ requiredLimits, requiredFeatures })
      .catch((cause: unknown) => {
        throw new BackendError(
          {
            call,
            requirement: `a device of the adapter ${adapterName(adapter.info)}`,
            value: String((cause as Error)?.message ?? cause).trim(),
            remedy: "Free the GPU, check its driver, or use backend: 'cpu'.",
          },
          cause,
        );
      });
    return new WebGpuBackend(opened, adapter.info, await findTraits(opened));
  }

  /**
   * Whether a processor plays the GPU. Such drivers compile a kernel of 16 values a thread for seconds, one of 8 for a tenth
   * of that, and run either slowly.
   */
  get isSoftware(): boolean {
    const info = this.device.adapterInfo as { isFallbackAdapter?: boolean } | undefined;
    return info?.isFallbackAdapter === true || /swiftshader|llvmpipe|basic render/i.test(this.name);
  }

  /** What schedules may use of the device. */
  limits(workspaceBytes: number): GpuLimits {
    const { limits } = this.device;
    return {
      ...this.#traits,
      ...matrixTraits(this.device, this.info, this.#traits.lanes),
      slowFma: this.isSoftware,
      sharedBytes: limits.maxComputeWorkgroupStorageSize,
      threads: Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX),
      values: this.isSoftware ? 8 : 32,
      bindingBytes: Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize),
      bindings: limits.maxStorageBuffersPerShaderStage,
      alignment: limits.minStorageBufferOffsetAlignment,
      workspaceBytes,
    };
  }

  /** Whether the device is gone. */
  get isLost(): boolean {
    return this.#lost !== undefined;
  }

  /** Buffers that are alive, and their bytes. */
  get held(): { readonly buffers: number; readonly bytes: number } {
    return { buffers: this.#buffers, bytes: this.#bytes };
  }

  /** Kernels that are compiled. */
  get compiled(): number {
    return this.#pipelines.size;
  }

  /** Whom to ask for memory where there is none left, until `left`. */
  joined(hoard: Hoard): void {
    this.#hoards.add(hoard);
  }

  left(hoard: Hoard): void {
    this.#hoards.delete(hoard);
  }

  /** A storage buffer of zeros, counted until `release`. */
  async buffer(bytes: number, call: string): Promise<GPUBuffer> {
    const buffer = await this.gift(bytes, call);
    this.#buffers++;
    this.#bytes += buffer.size;
    return buffer;
  }

  /** A storage buffer of zeros that becomes the caller's. */
  async gift(bytes: number, call: string): Promise<GPUBuffer> {
    this.#alive(call);
    try {
      return await storageBuffer(this.device, bytes, call);
    } catch (error) {
      // What other objects keep for their next calls is worth less than this one.
      const fits = bytes <= this.device.limits.maxBufferSize;
      const freed = fits && [...this.#hoards].filter((hoard) => hoard.yieldIdle()).length > 0;
      if (!freed) throw error;
      return storageBuffer(this.device, bytes, call);
    }
  }

  release(buffer: GPUBuffer): void {
    this.#buffers--;
    this.#bytes -= buffer.size;
    buffer.destroy();
  }

  /** Copy bytes to a buffer; lengths that are no multiple of four bytes are padded with zeros. */
  write(buffer: GPUBuffer, offset: number, view: ArrayBufferView): void {
    const stored = new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength);
    // Dawn in Node dies of memory that threads share.
    const bytes = stored.buffer instanceof ArrayBuffer ? stored : stored.slice();
    const whole = bytes.length - (bytes.length % 4);
    const { queue } = this.device;
    if (whole > 0) queue.writeBuffer(buffer, offset, bytes.subarray(0, whole));
    if (whole < bytes.length) {
      const rest = new Uint8Array(4);
      rest.set(bytes.subarray(whole));
      queue.writeBuffer(buffer, offset + whole, rest);
    }
  }

  /** Read bytes [offset, offset + into.byteLength) of a buffer. */
  async read(
    buffer: GPUBuffer,
    offset: number,
    into: ArrayBufferView,
    call: string,
  ): Promise<void> {
    const { device } = this;
    const chunk = Math.min(1 << 28, device.limits.maxBufferSize);
    const target = new Uint8Array(into.buffer as ArrayBuffer, into.byteOffset, into.byteLength);
    for (let at = 0; at < target.length; at += chunk) {
      const bytes = Math.min(chunk, target.length - at);
      const size = Math.ceil(bytes / 4) * 4;
      const staging = device.createBuffer({ size, usage: usage.mapRead | usage.copyTo });
      try {
        const encoder = device.createCommandEncoder();
        encoder.copyBufferToBuffer(buffer, offset + at, staging, 0, size);
        device.queue.submit([encoder.finish()]);
        await staging.mapAsync(1);
        target.set(new Uint8Array(staging.getMappedRange(), 0, bytes), at);
        staging.unmap();
      } catch (cause) {
        throw this.#failure(call, cause);
      } finally {
        staging.destroy();
      }
    }
  }

  /** Hold a compiled kernel, made once for each text. */
  #hold(kernel: Kernel, call: string): Compiled {
    let found = this.#pipelines.get(kernel.code);
    if (!found) {
      const made = this.#compile(kernel, call);
      found = { made, holders: 0 };
      this.#pipelines.set(kernel.code, found);
      made.catch(() => this.#pipelines.delete(kernel.code));
    }
    found.holders++;
    return found;
  }

  /** Compile every kernel of a schedule at once; they stay until `spare`. */
  async compile(schedule: Schedule<string>, call: string): Promise<Pipelines> {
    const kernels = [...new Set(schedule.steps.map((s) => s.kernel))];
    const held = kernels.map((kernel) => this.#hold(kernel, call));
    try {
      const made = await Promise.all(held.map((h) => h.made));
      return new Map(kernels.map((kernel, i) => [kernel, made[i]!]));
    } catch (error) {
      this.#spare(kernels);
      throw error;
    }
  }

  /** Nobody needs these any more where they came from. */
  spare(pipelines: Pipelines): void {
    this.#spare(pipelines.keys());
  }

  #spare(kernels: Iterable<Kernel>): void {
    for (const { code } of kernels) {
      const found = this.#pipelines.get(code);
      if (!found || --found.holders > 0) continue;
      this.#pipelines.delete(code);
      this.#pipelines.set(code, found);
    }
    const spared = [...this.#pipelines].filter(([, { holders }]) => holders === 0);
    for (const [code] of spared.slice(0, Math.max(0, spared.length - mostSpared)))
      this.#pipelines.delete(code);
  }

  async #compile(kernel: Kernel, call: string): Promise<GPUComputePipeline> {
    const { device } = this;
    this.#alive(call);
    const entries: GPUBindGroupLayoutEntry[] = [
      { binding: 0, visibility: 4, buffer: { type: "uniform" } },
      ...kernel.bindings.map(
        (b, i): GPUBindGroupLayoutEntry => ({
          binding: i + 1,
          visibility: 4,
          buffer: { type: b.access === "read" ? "read-only-storage" : "storage" },
        }),
      ),
    ];
    const layout = device.createPipelineLayout({
      bindGroupLayouts: [device.createBindGroupLayout({ entries })],
    });
    try {
      const module = device.createShaderModule({ code: kernel.code });
      return await device.createComputePipelineAsync({
        layout,
        compute: { module, entryPoint: "main" },
      });
    } catch (cause) {
      throw this.#failure(call, cause);
    }
  }

  /** Compile every kernel of a schedule and upload its parameters; until `forget`. */
  async prepare(
    schedule: Schedule<string>,
    call: string,
    tables: GpuRanges<GPUBuffer> = {},
  ): Promise<WebGpuSchedule> {
    const pipelines = await this.compile(schedule, call);
    const compiled = new WebGpuSchedule(this.device, schedule, pipelines, tables);
    this.#buffers++;
    this.#bytes += compiled.parameters.size;
    return compiled;
  }

  /** Submit commands; errors of validation and memory are thrown. */
  async submit(record: (encoder: GPUCommandEncoder) => void, call: string): Promise<void> {
    const { device } = this;
    await this.checked(() => {
      const encoder = device.createCommandEncoder();
      record(encoder);
      device.queue.submit([encoder.finish()]);
    }, call);
  }

  /** Run what uses the device; errors of validation and memory are thrown. */
  async checked(work: () => void, call: string): Promise<void> {
    this.#alive(call);
    const { device } = this;
    device.pushErrorScope("validation");
    device.pushErrorScope("out-of-memory");
    let scopes: Promise<GPUError | null>[] = [];
    try {
      work();
    } catch (cause) {
      // An encoder that only looks like one.
      throw this.#failure(call, cause);
    } finally {
      // Both scopes are closed before anything is awaited: calls of other objects open theirs meanwhile.
      scopes = [device.popErrorScope(), device.popErrorScope()];
    }
    const [memory, validation] = await Promise.all(scopes);
    if (memory) throw outOfMemory(call, 0, memory.message);
    if (validation) throw this.#failure(call, validation);
    this.#alive(call);
  }

  /** Make objects of the device at once; what is wrong with them is thrown by the next `flush`. */
  noted<T>(work: () => T): T {
    this.device.pushErrorScope("validation");
    try {
      return work();
    } finally {
      const scope = this.device.popErrorScope().catch(() => null);
      this.#noted = Promise.all([this.#noted, scope]).then(([before, now]) => before ?? now);
    }
  }

  /** Submit encoders; errors of all that was recorded, and of what was made for it, are thrown. */
  async flush(encoders: readonly GPUCommandEncoder[], call: string): Promise<void> {
    const noted = this.#noted;
    this.#noted = Promise.resolve(null);
    const submission = this.checked(
      () => this.device.queue.submit(encoders.map((e) => e.finish())),
      call,
    );
    const [made, submitted] = await Promise.allSettled([noted, submission]);
    // What was made wrong is why commands fail.
    if (made.status === "fulfilled" && made.value) throw this.#failure(call, made.value);
    if (submitted.status === "rejected") throw submitted.reason;
  }

  #alive(call: string): void {
    if (this.#lost !== undefined) throw this.#failure(call, undefined);
  }

  #failure(call: string, cause: unknown): BackendError {
    const lost = this.#lost !== undefined;
    return new BackendError(
      {
        call,
        requirement: lost ? "a GPU device that is alive" : "a command that the GPU device accepts",
        value: lost ? `a lost one (${this.#lost})` : String((cause as Error)?.message ?? cause),
        remedy: lost
          ? "Create a new FlashFFTConv object, with a new device where you gave one."
          : "Check that your buffers and encoder are of conv.device, neither destroyed, mapped nor finished; if so, please report it: with these lengths, options and this adapter.",
      },
      cause,
    );
  }
}

/** Browsers of before 2025 do not say whose a device is. */
export function adapterName(info: GPUAdapterInfo | undefined): string {
  if (!info) return "an adapter without a name";
  const name = info.device || [info.vendor, info.architecture].join(" ").trim();
  // Some name the chip in one, some in the other.
  return info.description ? `${name} (${info.description})` : name;
}

/** The chip, not its driver, which changes; the description where there is no more than that. */
export function adapterKey(info: GPUAdapterInfo | undefined): string {
  const { vendor, architecture, device, description } = info ?? {};
  return ["webgpu", vendor, architecture, device || description].filter(Boolean).join(" ");
}
