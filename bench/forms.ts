/**
 * `npm run bench -- forms`: which form a stage of a transform should take on this adapter. One stage is twiddles, DFTs of
 * one radix across a tile that stays on chip, and the exchange that brings the points to where the next stage wants them;
 * kernels repeat stages, so that device memory does not count: times are differences between many rounds and few. Every
 * kernel is checked against float64 first; what an adapter cannot run is reported with the reason.
 */

import { adapterName } from "../src/backend/webgpu/device.ts";
import { findGpu } from "../src/backend/webgpu/find-gpu.ts";
import { twiddleValues } from "../src/kernels/gpu/transform/twiddles.ts";
import { relativeError } from "../src/reference/convolution.ts";
import { exactAnswer, factorValues, inputValues, matrixValues } from "./forms-data.ts";
import type { Dense, Form, FormKernel, FormSpec, MatrixShape } from "./forms-kernels.ts";
import { formKernel, forms, planOf, tiles } from "./forms-kernels.ts";
import { readBytes, timedSubmission } from "./gpu-device.ts";
import { appendRecords, round } from "./records.ts";
import { markdown } from "./table.ts";
import { median } from "./webgpu.ts";

/** A record: one line of JSON. `ps` is picoseconds for each point and stage; null, with a reason, where there is none. */
export interface FormRecord {
  readonly suite: "forms";
  readonly form: Form;
  readonly radix: number;
  readonly points: number;
  readonly threads: number | null;
  /** M×N×K of the products, and how threads and results meet. */
  readonly shape: string | null;
  readonly results: Dense["results"] | null;
  readonly neighbours: Dense["neighbours"] | null;
  readonly ps: number | null;
  readonly ps_min: number | null;
  readonly rel_error_stage: number | null;
  readonly tflops: number | null;
  readonly workgroup_bytes: number | null;
  readonly groups: number | null;
  readonly rounds: number | null;
  readonly reason: string | null;
  readonly adapter: string;
  readonly node: string;
}

/** Radix and points of a tile. */
type Case = readonly [radix: number, points: number];

const cases: readonly Case[] = [
  [16, 4096],
  [16, 2048],
  [8, 4096],
  [8, 2048],
  [32, 4096],
  [32, 2048],
  [64, 4096],
];

/** How long to measure. */
interface Effort {
  readonly few: number;
  readonly many: number;
  /** Milliseconds that a launch of many rounds should take. */
  readonly launchMs: number;
  readonly samples: number;
  /** Whether every number of threads is tried. */
  readonly every: boolean;
}

const fullEffort: Effort = { few: 8, many: 40, launchMs: 12, samples: 7, every: true };
const quickEffort: Effort = { few: 1, many: 9, launchMs: 1, samples: 3, every: false };

/** Rounds of the check: two, so that threads have met the same memory twice. */
const checkedRounds = 2;
/** Wrong answers have no speed. Largest relative errors of a stage. */
const largestError = { float32: 1e-6, float16: 2e-3 } as const;
const mostGroups = 65_535;
/** An idle GPU runs at a fraction of its clock, also after a second of compiling. */
const wakingMs = 300;

/** What Dawn says of an adapter beyond the standard. */
interface DawnInfo {
  readonly subgroupMatrixConfigs?: Iterable<
    Omit<MatrixShape, "result"> & {
      readonly componentType: string;
      readonly resultComponentType: string;
    }
  >;
}

/** An adapter, opened for the forms. */
interface Opened {
  readonly device: GPUDevice;
  readonly name: string;
  /** Products of float16 matrices, largest first. */
  readonly shapes: readonly MatrixShape[];
  /** Threads of a subgroup; a reason where it cannot multiply matrices. */
  readonly lanes: number | string;
}

const neededFeatures = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];

async function open(): Promise<Opened> {
  const gpu = await findGpu("bench forms");
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) throw new Error("bench forms: there is no adapter");
  const { info } = adapter;
  const present = neededFeatures.filter((f) => adapter.features.has(f));
  const device = await adapter.requestDevice({
    requiredFeatures: present as GPUFeatureName[],
    requiredLimits: {
      maxComputeWorkgroupStorageSize: adapter.limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: adapter.limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupSizeX: adapter.limits.maxComputeWorkgroupSizeX,
    },
  });
  const missing = neededFeatures.filter((f) => !present.includes(f));
  const { subgroupMinSize: least, subgroupMaxSize: most } = info;
  const reason =
    missing.length > 0
      ? `the adapter has no ${missing.join(", ")}`
      : least !== most && `subgroups have ${least} to ${most} threads`;
  const shapes = [...((info as DawnInfo).subgroupMatrixConfigs ?? [])]
    .filter(({ componentType }) => componentType === "f16")
    .map(({ M, N, K, resultComponentType }) => {
      return { M, N, K, result: resultComponentType as MatrixShape["result"] };
    })
    .sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  return { device, name: adapterName(info), shapes, lanes: reason || most };
}

/** Kernels of a case that are worth trying, and reasons why a form has none. */
function specsOf(
  [radix, points]: Case,
  form: Form,
  { shapes, lanes }: Opened,
): FormSpec[] | string {
  const common = { form, radix, points };
  const threads = (values: readonly number[]): number[] =>
    [...new Set(values.map((v) => Math.max(v, radix)))].map((v) => points / v);
  if (form === "butterflies")
    return threads(radix <= 16 ? [radix, 16, 32] : [radix]).map((t) => ({ ...common, threads: t }));
  if (typeof lanes === "string") return lanes;
  const result = form === "dense f16" ? "f16" : "f32";
  const wanted = shapes.filter((s) => s.result === result || form === "mix");
  if (wanted.length === 0) return `the adapter has no product of float16 with ${result} results`;
  // Smaller matrices move more bytes for each operation; how much that matters is asked of one radix.
  const [first] = wanted;
  const volume = (s: MatrixShape): number => s.M * s.N * s.K;
  const smaller = wanted.filter((s) => volume(s) < volume(first!)).slice(0, 1);
  const largest = wanted.filter((s) => volume(s) === volume(first!));
  const tried = radix === 16 && form !== "mix" ? [...largest, ...smaller] : largest;
  return tried.flatMap((shape) =>
    (shape.result === "f16" ? (["whole"] as const) : (["split", "whole"] as const)).flatMap(
      (results) =>
        (form === "mix" || shape !== first ? ([1] as const) : ([1, 2] as const)).flatMap(
          (neighbours) =>
            (form === "mix" ? threads([16]) : [points / 8, points / 16]).map((t) => {
              return { ...common, threads: t, dense: { shape, results, neighbours, lanes } };
            }),
        ),
    ),
  );
}

/** Of kernels that differ in threads alone, the one with the most: a software adapter compiles it soonest. */
function fewest(specs: readonly FormSpec[]): FormSpec[] {
  const found = new Map<string, FormSpec>();
  for (const spec of specs.toSorted((a, b) => a.threads - b.threads))
    found.set(JSON.stringify(spec.dense), spec);
  return [...found.values()];
}

/** A kernel that answers right. */
interface Candidate {
  readonly spec: FormSpec;
  readonly kernel: FormKernel;
  readonly pipeline: GPUComputePipeline;
  readonly error: number;
  readonly group: (rounds: number) => GPUBindGroup;
  groups: number;
}

const usage = { storage: 0x80, uniform: 0x40, copyTo: 0x8, copyFrom: 0x4 } as const;

/** The buffers of a case, and parameters. */
class Buffers {
  readonly #device: GPUDevice;
  readonly #all = new Map<string, GPUBuffer>();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  #kept(name: string, kind: number, values: () => Float32Array | Uint16Array | Uint32Array) {
    let buffer = this.#all.get(name);
    if (!buffer) {
      const data = values();
      buffer = this.#device.createBuffer({ size: data.byteLength, usage: kind | usage.copyTo });
      this.#device.queue.writeBuffer(buffer, 0, data as Float32Array<ArrayBuffer>);
      this.#all.set(name, buffer);
    }
    return buffer;
  }

  output(points: number): GPUBuffer {
    return this.#kept("output", usage.storage | usage.copyFrom, () => {
      return new Float32Array(2 * tiles * points);
    });
  }

  /** The bindings of a kernel. */
  bind(
    spec: FormSpec,
    { matrixScale }: FormKernel,
    pipeline: GPUComputePipeline,
    rounds: number,
  ): GPUBindGroup {
    const { radix, points, form, dense } = spec;
    const { storage, uniform } = usage;
    const buffers: [number, GPUBuffer][] = [
      [0, this.#kept(`rounds ${rounds}`, uniform, () => Uint32Array.of(rounds, 0))],
      [1, this.#kept("input", storage, () => inputValues(points))],
      [2, this.output(points)],
    ];
    if (!form.startsWith("dense"))
      buffers.push([3, this.#kept("twiddles", storage, () => twiddleValues(planOf(spec)))]);
    if (dense) {
      buffers.push([4, this.#kept("factors", storage, () => factorValues(spec))]);
      const matrix = () => matrixValues(radix, matrixScale);
      buffers.push([5, this.#kept(`matrix ${matrixScale}`, storage, matrix)]);
    }
    const entries = buffers.map(([binding, buffer]) => ({ binding, resource: { buffer } }));
    return this.#device.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries });
  }

  destroy(): void {
    for (const buffer of this.#all.values()) buffer.destroy();
  }
}

/** Milliseconds of one launch. */
async function launch(device: GPUDevice, candidate: Candidate, rounds: number): Promise<number> {
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(candidate.pipeline);
  pass.setBindGroup(0, candidate.group(rounds));
  pass.dispatchWorkgroups(candidate.groups);
  pass.end();
  return timedSubmission(device, encoder);
}

/** A kernel written and compiled, or why there is none. */
async function compiled(
  { device }: Opened,
  spec: FormSpec,
): Promise<Pick<Candidate, "spec" | "kernel" | "pipeline"> | string> {
  const kernel = formKernel(spec);
  if (typeof kernel === "string") return kernel;
  const { maxComputeWorkgroupStorageSize: room, maxComputeInvocationsPerWorkgroup: threads } =
    device.limits;
  if (kernel.sharedBytes > room)
    return `asks for ${kernel.sharedBytes} bytes of workgroup memory, the adapter has ${room}`;
  if (spec.threads > threads) return `asks for ${spec.threads} threads, the adapter has ${threads}`;
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code: kernel.code });
  const pending = device.createComputePipelineAsync({
    layout: "auto",
    compute: { module, entryPoint: "main" },
  });
  // The scope has the module's error, which the pipeline's repeats.
  const scope = device.popErrorScope();
  const pipeline = await pending.catch((error: unknown) => String(error));
  await scope;
  if (typeof pipeline === "string") return `does not compile: ${pipeline}`;
  return { spec, kernel, pipeline };
}

/** A compiled kernel that answers right, or how wrong it is. */
async function checked(
  { device }: Opened,
  { spec, kernel, pipeline }: Pick<Candidate, "spec" | "kernel" | "pipeline">,
  buffers: Buffers,
): Promise<Candidate | string> {
  const bound = new Map<number, GPUBindGroup>();
  const group = (rounds: number): GPUBindGroup => {
    const found = bound.get(rounds) ?? buffers.bind(spec, kernel, pipeline, rounds);
    bound.set(rounds, found);
    return found;
  };
  const candidate = { spec, kernel, pipeline, error: 0, group, groups: tiles };
  await launch(device, candidate, checkedRounds);
  const stages = checkedRounds * kernel.stages;
  const output = buffers.output(spec.points);
  const stored = new Float32Array(await readBytes(device, output, output.size));
  const answer = stored.map((v) => v / kernel.gain ** checkedRounds);
  const error = relativeError(answer, exactAnswer(spec, stages)) / Math.sqrt(stages);
  const most = largestError[spec.dense ? "float16" : "float32"];
  return error < most ? { ...candidate, error } : `answers wrong, relative error ${error} a stage`;
}

/** The kernels of a case, checked and then timed by turns. */
async function runCase(which: Case, opened: Opened, effort: Effort): Promise<FormRecord[]> {
  const { device, name } = opened;
  const [radix, points] = which;
  const buffers = new Buffers(device);
  const blank: Omit<FormRecord, "form" | "reason"> = {
    ...{ suite: "forms", radix, points, threads: null, shape: null, results: null },
    neighbours: null,
    ...{ ps: null, ps_min: null, rel_error_stage: null, tflops: null, workgroup_bytes: null },
    ...{ groups: null, rounds: null, adapter: name, node: process.version },
  };
  const described = ({ form, threads, dense }: FormSpec) => {
    const { M, N, K, result } = dense?.shape ?? {};
    const shape = dense ? `${M}×${N}×${K} f16→${result}` : null;
    const { results = null, neighbours = null } = dense ?? {};
    return { ...blank, form, threads, shape, results, neighbours };
  };
  const unable: FormRecord[] = [];
  const able: Candidate[] = [];
  let taken: ReadonlyMap<Candidate, number[]>;
  try {
    const specs: FormSpec[] = [];
    for (const form of forms) {
      const found = specsOf(which, form, opened);
      if (typeof found === "string") unable.push({ ...blank, form, reason: found });
      else specs.push(...(effort.every ? found : fewest(found)));
    }
    const kernels = await Promise.all(specs.map((spec) => compiled(opened, spec)));
    for (const [i, kernel] of kernels.entries()) {
      const candidate =
        typeof kernel === "string" ? kernel : await checked(opened, kernel, buffers);
      if (typeof candidate === "string")
        unable.push({ ...described(specs[i]!), reason: candidate });
      else able.push(candidate);
    }
    taken = await time(device, able, effort);
  } finally {
    buffers.destroy();
  }
  const records = [...taken].map(([c, ms]): FormRecord => {
    const work = points * c.groups * (effort.many - effort.few) * c.kernel.stages;
    const times = ms.map((t) => (t * 1e9) / work);
    const ps = median(times);
    return {
      ...described(c.spec),
      ...{ ps: round(ps), ps_min: round(times[0]!), rel_error_stage: round(c.error) },
      ...{ tflops: round(c.kernel.flops / ps), workgroup_bytes: c.kernel.sharedBytes },
      ...{ groups: c.groups, rounds: times.length, reason: null },
    };
  });
  return [...records.sort((a, b) => a.ps! - b.ps!), ...unable];
}

/** Milliseconds of many rounds less those of few, of each candidate, sorted. */
async function time(
  device: GPUDevice,
  candidates: readonly Candidate[],
  { few, many, launchMs, samples }: Effort,
): Promise<Map<Candidate, number[]>> {
  for (const candidate of candidates) {
    for (let ms = 0; ms < launchMs && candidate.groups < mostGroups; ) {
      ms = await launch(device, candidate, many);
      const wanted = Math.min(16, Math.max(1, launchMs / ms));
      candidate.groups = Math.min(mostGroups, Math.ceil(candidate.groups * wanted));
    }
  }
  for (const start = performance.now(); performance.now() - start < wakingMs; )
    for (const candidate of candidates) await launch(device, candidate, few);
  const taken = candidates.map((candidate) => ({
    ...{ candidate, least: Number.POSITIVE_INFINITY, times: [] as number[] },
  }));
  for (let sample = 0; sample < samples; sample++) {
    // Every other turn runs backwards, so that nobody always follows the same neighbour.
    for (const entry of sample % 2 === 0 ? taken : taken.toReversed()) {
      entry.least = Math.min(entry.least, await launch(device, entry.candidate, few));
      entry.times.push(await launch(device, entry.candidate, many));
    }
  }
  return new Map(
    taken.map(({ candidate, least, times }) => {
      return [candidate, times.map((ms) => ms - least).sort((a, b) => a - b)];
    }),
  );
}

const nameOf = ([radix, points]: Case): string => `radix ${radix} of ${points}`;

function lineOf(r: FormRecord): string {
  const pairs = r.neighbours === 2 && "pairs";
  const how = [r.threads && `${r.threads} threads`, r.shape, r.results, pairs];
  const title = `${nameOf([r.radix, r.points])}  ${r.form.padEnd(11)}  ${how.filter(Boolean).join(", ")}`;
  if (r.ps === null) return `${title}: not run, ${r.reason}`;
  const error = `error ${r.rel_error_stage!.toExponential(1)} a stage`;
  return `${title}: ${r.ps} ps (least ${r.ps_min}), ${error}, ${r.tflops} TFLOP/s, ${r.workgroup_bytes} bytes`;
}

/** The fastest kernel of each form, a row for each case. */
export function formsTable(records: readonly FormRecord[]): string {
  const [first] = records;
  if (!first) return "No records.";
  const keys = [...new Map(records.map((r) => [nameOf([r.radix, r.points]), r])).entries()];
  const rows = keys.map(([name, { radix, points }]) => {
    const here = records.filter((r) => r.radix === radix && r.points === points);
    return [
      name,
      ...forms.map((form) => {
        const ran = here.filter((r) => r.form === form && r.ps !== null);
        const best = ran.sort((a, b) => a.ps! - b.ps!)[0];
        return best ? `${best.ps} (${best.rel_error_stage!.toExponential(1)})` : "–";
      }),
    ];
  });
  return [
    `Picoseconds for each point and stage, medians, of the fastest kernel of a form; relative error of a stage. ${first.adapter}, Node ${first.node}.`,
    markdown(["stages", ...forms], rows),
  ].join("\n\n");
}

/** Measure; cases are printed, and written, one by one. Returns the records. */
export async function runForms(
  only: RegExp,
  quick: boolean,
  json: string | undefined,
): Promise<readonly FormRecord[]> {
  const opened = await open();
  console.log(opened.name);
  const records: FormRecord[] = [];
  try {
    for (const which of cases.filter((c) => only.test(nameOf(c)))) {
      const found = await runCase(which, opened, quick ? quickEffort : fullEffort);
      for (const record of found) console.log(lineOf(record));
      if (json !== undefined) appendRecords(json, found);
      records.push(...found);
    }
  } finally {
    opened.device.destroy();
  }
  console.log(`\n${formsTable(records)}`);
  const wrong = records.filter(({ reason }) => reason?.startsWith("answers wrong"));
  if (wrong.length > 0) throw new Error(`bench forms: ${wrong.length} kernels answer wrong`);
  return records;
}
