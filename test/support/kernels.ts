/** Kernels as text, held to a device's limits and compiled without any driver: Dawn's null backend checks WGSL and layouts. */
import { createHash } from "node:crypto";
import { expect } from "vitest";
import { create, globals } from "webgpu";
import type { Kernel } from "../../src/kernels/gpu/kernel.ts";
import type { GpuLimits, Schedule } from "../../src/schedule/schedule.ts";

Object.assign(globalThis, globals);
/** Held on to for as long as its devices live. */
const gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);

/** Devices that kernels are generated for: the default limits of WebGPU, limits as on Apple's, an NVIDIA's. */
export const defaultLimits = "browser default";
const common = { values: 32, alignment: 256, workspaceBytes: 2 ** 28 };
export const deviceProfiles: Readonly<Record<string, GpuLimits>> = {
  [defaultLimits]: {
    ...common,
    ...{ sharedBytes: 16_384, threads: 256, bindingBytes: 2 ** 27, bindings: 8 },
  },
  "Apple-like": {
    ...common,
    ...{ sharedBytes: 32_768, threads: 1024, bindingBytes: 2 ** 30, bindings: 10 },
  },
  NVIDIA: {
    ...common,
    ...{ sharedBytes: 49_152, threads: 1024, bindingBytes: 2_147_483_644, bindings: 16 },
    ...{ packs: true, shuffles: true, lanes: 32 },
  },
};

/** Each kernel of some schedules once. */
export function kernelsOf(schedules: readonly Schedule<string>[]): Kernel[] {
  const all = schedules.flatMap((s) =>
    s.steps.map((step) => [step.kernel.code, step.kernel] as const),
  );
  return [...new Map(all).values()];
}

const layoutEntry = (access: "read" | "read_write", binding: number): GPUBindGroupLayoutEntry => ({
  binding,
  visibility: 4,
  buffer: { type: access === "read" ? "read-only-storage" : "storage" },
});

let opened: Promise<GPUDevice> | undefined;

/** The device that compiles all kernels. */
function nullDevice(): Promise<GPUDevice> {
  const features = ["subgroups", "shader-f16", "chromium-experimental-subgroup-matrix"];
  opened ??= gpu
    .requestAdapter()
    .then((adapter) => adapter!.requestDevice({ requiredFeatures: features as GPUFeatureName[] }));
  return opened;
}

/** Kernels that are compiled already, and those of which pipelines were made: devices of several limits share many. */
const compiled = new Set<string>();
const piped = new Set<string>();

/** Compile kernels; the null backend has the default limits, and holds pipelines to them where `makesPipelines`. */
export async function expectCompiled(
  kernels: readonly Kernel[],
  limits: GpuLimits,
  makesPipelines: boolean,
): Promise<void> {
  const device = await nullDevice();
  for (const { code, bindings } of kernels) {
    expect(bindings.length).toBeLessThanOrEqual(limits.bindings);
    expect(threadsOf(code)).toBeLessThanOrEqual(limits.threads);
    expect(sharedBytesOf(code)).toBeLessThanOrEqual(limits.sharedBytes);
    const kernel = `${bindings.map(({ access }) => access)} ${code}`;
    if (piped.has(kernel) || (compiled.has(kernel) && !makesPipelines)) continue;
    compiled.add(kernel);
    const module = device.createShaderModule({ code });
    const { messages } = await module.getCompilationInfo();
    expect(messages.map((m) => m.message)).toEqual([]);
    if (!makesPipelines) continue;
    piped.add(kernel);
    const entries: GPUBindGroupLayoutEntry[] = [
      { binding: 0, visibility: 4, buffer: { type: "uniform" } },
      ...bindings.map((b, i) => layoutEntry(b.access, i + 1)),
    ];
    const layout = device.createPipelineLayout({
      bindGroupLayouts: [device.createBindGroupLayout({ entries })],
    });
    await device.createComputePipelineAsync({ layout, compute: { module, entryPoint: "main" } });
  }
}

/** Ranges as a device may bind them, a value for each parameter that is a tensor's, and no more work memory than allowed. */
export function expectBound(
  schedules: readonly Schedule<string>[],
  kernels: readonly Kernel[],
  limits: GpuLimits,
): void {
  for (const { parameters } of kernels) expect(parameters!.length).toBeLessThanOrEqual(64);
  for (const { steps, bytes } of schedules) {
    for (const { ranges, kernel, parameters } of steps) {
      for (const [binding, range] of Object.entries(ranges)) {
        expect(range.size, binding).toBeLessThanOrEqual(limits.bindingBytes);
        expect(range.offset % limits.alignment).toBe(0);
      }
      const known = new Set(kernel.parameters);
      expect(kernel.bindings.filter((b) => known.has(b.name) && !(b.name in parameters))).toEqual(
        [],
      );
    }
    const held = Object.values(bytes).reduce<number>((a, b) => a + (b ?? 0), 0);
    expect(held).toBeLessThanOrEqual(limits.workspaceBytes);
  }
}

/** A short hash of the texts of kernels, in their order. */
export function hashOf(kernels: readonly Kernel[]): string {
  const digest = createHash("sha256");
  for (const { code } of kernels) digest.update(code);
  return digest.digest("hex").slice(0, 16);
}

function threadsOf(code: string): number {
  return Number(/@workgroup_size\((\d+)\)/.exec(code)![1]);
}

function sharedBytesOf(code: string): number {
  const sizes: Readonly<Record<string, number>> = {
    ...{ f16: 2, f32: 4, u32: 4, vec2f: 8, vec2u: 8, vec4f: 16, vec4u: 16 },
  };
  const found = code.matchAll(/var<workgroup> \w+: array<(\w+), (\d+)>/g);
  return [...found].reduce((sum, [, type, n]) => sum + sizes[type!]! * Number(n), 0);
}
