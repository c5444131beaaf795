/**
 * `npm run bench -- COMMAND`
 *
 *   cpu           ours against the peers, and against itself: threads, gates, backward, growth
 *   short         short depthwise convolutions against plain JavaScript
 *   plans         the chosen plan against every other candidate, on twenty shapes
 *   webgpu        ours on the GPU against the time of copying, PyTorch, flash-fft-conv and ThunderKittens; short kernels
 *                 and masked frequencies against whole ones; short ones against Conv1d; beside FlashAttention-2
 *   sync          one row at a time, without promises, against pffft-wasm
 *   threads       two threads over one, for many shapes; the verdicts are on minima: run it on a quiet machine
 *   sparse        frequency-sparse convolutions against dense ones
 *   forms         one stage of a transform on a GPU: butterflies, subgroup matrices, both by turns
 *   recording     the processor's time to record calls, on Dawn's null backend; with --device twelve layers on a GPU too
 *   models        steps of models on a GPU: forward, training, memory, where the time goes
 *   products      matrix products on the CPU against a loop of the same instructions in registers, and XNNPACK; with --device
 *                 on a GPU, beside PyTorch's
 *   partial       kernels shorter than the input: time over K, work memory over L
 *   table FILE    the tables of docs/speed.md from a file of records
 *   plot FILE…    the figure from a file of records; of kernels shorter than the input, a GPU's may follow the CPU's
 *
 * Options: --json FILE (append one record a line), --svg FILE, --quick, --only PATTERN, --threads 1,2, --markdown, --device.
 * Bars that are missed are data: the exit code is 0. A wrong answer is an error.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, loadavg } from "node:os";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { FlashFFTConv } from "../src/index.ts";
import { judge, type Verdict } from "./bars.ts";
import { cpuGroups, type Group, partialGroups, planShapes } from "./cases.ts";
import { type FormRecord, formsTable, runForms } from "./forms.ts";
import { gpuPlot, gpuTable } from "./gpu-report.ts";
import { type Effort, fullEffort, measure, quickEffort } from "./harness.ts";
import { runModelsGpu } from "./models-gpu.ts";
import { candidatePlans, instructionsInUse, openOurs } from "./ours.ts";
import { isPartial, partialPlot, partialTable } from "./partial.ts";
import { plot } from "./plot.ts";
import { runProductsCpu } from "./products-cpu.ts";
import { runProductsGpu } from "./products-gpu.ts";
import { runRecording } from "./recording.ts";
import {
  appendRecords,
  type BenchRecord,
  createRecord,
  describeMachine,
  type Machine,
  type Measured,
  readRecords,
} from "./records.ts";
import { runShort, shortGroups } from "./short.ts";
import { runSparse, sparseGroups } from "./sparse.ts";
import { syncGroups, threadGroups } from "./sync.ts";
import { header, machineLine, markdownTable, recordLine, verdictLine } from "./table.ts";
import { closeTorch } from "./torch.ts";
import { openTorchGpu } from "./torch-gpu.ts";
import type { GpuRecord } from "./webgpu.ts";
import {
  caseName,
  copyBandwidth,
  gpuCases,
  gpuKeptCases,
  gpuPartialCases,
  gpuSparseCases,
  runGpuCase,
  wholeKernel,
} from "./webgpu.ts";
import { attentionName, gpuAttentionCases, runGpuAttention } from "./webgpu-attention.ts";
import { gpuDefaultCases, runGpuDefaults } from "./webgpu-defaults.ts";
import { gpuShortCases, runGpuShort, shortName } from "./webgpu-short.ts";
import { type Contender, createWorkload, Oracle, type Shape } from "./workload.ts";

const usage =
  "npm run bench -- cpu | webgpu | short | plans | partial | sync | threads | sparse | forms | recording | products | models | table FILE | plot FILE…  [--json FILE] [--svg FILE] [--quick] [--only PATTERN] [--threads 1,2] [--markdown] [--device]";

const measurements = ["cpu", "short", "plans", "partial", "sync", "threads", "sparse"] as const;

function isMeasurement(command: string | undefined): command is (typeof measurements)[number] {
  return measurements.some((m) => m === command);
}

const load = (): string => loadavg()[0]!.toFixed(2);

/** Collects records, prints each and writes it at once: a run cut short keeps what it measured. */
class Report {
  readonly records: BenchRecord[] = [];
  readonly notes = new Set<string>();
  /** What else kept the machine busy when the run began. */
  readonly load: string = load();
  readonly #file: string | undefined;
  readonly #silent: boolean;

  constructor(file: string | undefined, silent: boolean) {
    this.#file = file;
    this.#silent = silent;
    if (!silent) console.log(header());
  }

  add(records: readonly BenchRecord[]): void {
    this.records.push(...records);
    if (this.#file !== undefined) appendRecords(this.#file, records);
    if (!this.#silent) for (const record of records) console.log(recordLine(record));
  }
}

/** The contenders of a group that can take part, measured; their answers are given back afterwards. */
async function runGroup(
  group: Group,
  effort: Effort,
  machine: Machine,
  report: Report,
): Promise<void> {
  const workload = createWorkload(
    group.shape,
    [...group.contenders.keys()].some((key) => /^(gated|backward)/.test(key)),
  );
  const opened = new Map<string, Contender>();
  try {
    for (const [key, open] of group.contenders) {
      const contender = await open(workload);
      if (typeof contender === "string")
        report.notes.add(`${key.replace(/ \d+$/, "")}: ${contender}`);
      else opened.set(key, contender);
    }
    const timings = await measure([...opened.values()], new Oracle(workload), workload, effort);
    const find = (key: string | undefined): Measured | undefined => {
      const contender = key === undefined ? undefined : opened.get(key);
      return contender && { contender, timing: timings.get(contender)! };
    };
    const records = [];
    for (const { case: name, ours, peer, as } of group.comparisons) {
      const [mine, theirs] = [find(ours), find(peer)];
      if (!mine || (peer !== undefined && !theirs)) continue;
      const compared = theirs && { name: as ?? theirs.contender.name, timing: theirs.timing };
      records.push(createRecord(name, workload, mine, compared, machine));
    }
    report.add(records);
  } finally {
    for (const contender of opened.values()) await contender.dispose();
  }
}

/** Every candidate is tried alone and briefly; so many of the fastest then meet the chosen one. */
const finalists = 4;
const screening: Effort = { warmUpMs: 30, roundMs: 3, rounds: 5, contenderMs: 100 };

/** Every candidate of a shape, tried; the record is the chosen one against the fastest. */
async function runPlans(
  shape: Shape,
  effort: Effort,
  machine: Machine,
  report: Report,
): Promise<void> {
  const workload = createWorkload(shape, false);
  const oracle = new Oracle(workload);
  const time = async (plans: readonly string[], how: Effort): Promise<Measured[]> => {
    const opened: Contender[] = [];
    try {
      for (const plan of plans) opened.push(await openOurs(workload, { threads: 1, plan }));
      const timings = await measure(opened, oracle, workload, how);
      return [...timings].map(([contender, timing]) => ({ contender, timing }));
    } finally {
      for (const contender of opened) await contender.dispose();
    }
  };
  const { chosen, candidates } = await candidatePlans(workload, 1);
  const tried: { plan: string; ms: number }[] = [];
  for (const { plan } of candidates) {
    const [alone] = await time([plan], screening);
    tried.push({ plan, ms: alone!.timing.minMs });
  }
  tried.sort((a, b) => a.ms - b.ms);
  const fastest = tried.slice(0, finalists).map(({ plan }) => plan);
  const final = await time([...new Set([chosen, ...fastest])], effort);
  final.sort((a, b) => a.timing.medianMs - b.timing.medianMs);
  const mine = final.find(({ contender }) => contender.plan === chosen)!;
  const best = { name: final[0]!.contender.plan!, timing: final[0]!.timing };
  report.add([createRecord("plans", workload, mine, best, machine)]);
}

function writeFile(file: string, content: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
}

function parseThreads(list: string | undefined): number[] {
  const threads = list?.split(",").map(Number) ?? [1, availableParallelism()];
  if (!threads.every((n) => Number.isInteger(n) && n >= 1)) {
    throw new Error(`bench: --threads must list integers from 1 on, as in 1,2; got ${list}`);
  }
  return [...new Set(threads)].sort((a, b) => a - b);
}

/** The records, if they are a GPU's. */
function ofGpu(records: readonly object[]): GpuRecord[] | undefined {
  const [first] = records;
  return first && "floor_ms" in first ? (records as GpuRecord[]) : undefined;
}

/** The CPU's records as tables, for docs/speed.md. */
function cpuTable(records: readonly BenchRecord[], verdicts: readonly Verdict[]): string {
  return (isPartial(records) ? partialTable : markdownTable)(records, verdicts);
}

/** The figure of some files' records. */
function plotOf(files: readonly (readonly BenchRecord[])[]): string {
  const gpu = files.flatMap((records) => ofGpu(records) ?? []);
  const cpu = files.flatMap((records) => (ofGpu(records) ? [] : records));
  const short = gpu.length > 0 && gpu.every((r) => r.peer === wholeKernel);
  if (isPartial(cpu) || short) return partialPlot(cpu, gpu);
  return gpu.length > 0 ? gpuPlot(gpu) : plot(cpu);
}

/** Progress on a terminal. */
function progress(done: number, all: number, name: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\u001b[K${done + 1}/${all} ${name}\r`);
}

/** Cases on the GPU that the library opens; each is printed, and written at once. */
async function runGpu(only: RegExp, quick: boolean, json: string | undefined): Promise<void> {
  using opened = await FlashFFTConv.create({ length: 64, backend: "webgpu" });
  const device = opened.device!;
  const software = /swiftshader|llvmpipe/i.test(opened.explain().device.name);
  const torch = openTorchGpu();
  console.log(opened.explain().device.name);
  if (typeof torch === "string") console.log(`no peers: ${torch}`);
  const bytes = software ? 2 ** 22 : 2 ** 30;
  const bandwidth = await copyBandwidth(device, bytes);
  console.log(`copy: ${(bandwidth / 1e9).toFixed(0)} GB/s`);
  const adapter = opened.explain().device.name;
  const run = { device, bandwidth, torch, adapter, rounds: quick ? 3 : 7, mostBytes: 2 * bytes };
  try {
    const long = [
      ...gpuCases(quick),
      ...(quick ? [] : [...gpuKeptCases(), ...gpuPartialCases(), ...gpuSparseCases()]),
    ];
    const jobs = [
      ...long.map((c) => ({ name: caseName(c), measured: () => runGpuCase(c, run) })),
      ...(quick ? [] : gpuAttentionCases()).map((c) => ({
        ...{ name: attentionName(c), measured: () => runGpuAttention(c, run) },
      })),
      ...(quick ? [] : gpuDefaultCases()).map((c) => ({
        ...{ name: `${caseName(c)}, default limits`, measured: () => runGpuDefaults(c, run) },
      })),
      ...(quick ? [] : gpuShortCases()).map((c) => ({
        ...{ name: shortName(c), measured: () => runGpuShort(c, run) },
      })),
    ];
    for (const { measured } of jobs.filter(({ name }) => only.test(name))) {
      const records = await measured();
      for (const r of records) {
        const type = r.peer_dtype && r.peer_dtype !== r.dtype ? `${r.peer_dtype}, ` : "";
        const time = `${r.ratio} × ${r.peer} (${type}${r.peer_ms} ms)`;
        const wrong = `${r.peer} (${type}wrong, relative error ${r.peer_rel_error})`;
        const peer = r.peer ? (r.ratio === null ? wrong : time) : "";
        const own = `${r.ours_ms} ms, ${r.over_floor} × floor, error ${r.rel_error}`;
        console.log(`${r.case}  ${own}  ${peer}  [${r.plan}]`);
      }
      if (json !== undefined) appendRecords(json, records);
    }
  } finally {
    if (typeof torch !== "string") torch.close();
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      json: { type: "string" },
      svg: { type: "string" },
      only: { type: "string", default: "" },
      threads: { type: "string" },
      quick: { type: "boolean", default: false },
      markdown: { type: "boolean", default: false },
      device: { type: "boolean", default: false },
    },
  });
  const [command, ...files] = positionals;
  const [file] = files;
  if (command === "table" && file) {
    const records = readRecords(file);
    const gpu = ofGpu(records);
    const [first] = records as readonly object[];
    if (first && "suite" in first)
      console.log(formsTable(records as readonly object[] as FormRecord[]));
    else console.log(gpu ? gpuTable(gpu) : cpuTable(records, judge(records)));
  } else if (command === "plot" && file) {
    const svg = plotOf(files.map(readRecords));
    if (values.svg === undefined) console.log(svg);
    else writeFile(values.svg, svg);
  } else if (command === "webgpu") {
    await runGpu(new RegExp(values.only), values.quick, values.json);
  } else if (command === "forms") {
    await runForms(new RegExp(values.only), values.quick, values.json);
  } else if (command === "recording") {
    await runRecording(values.quick, values.device, values.json);
  } else if (command === "models") {
    await runModelsGpu(new RegExp(values.only), values.json);
  } else if (command === "products" && values.device) {
    await runProductsGpu(new RegExp(values.only), values.quick, values.json);
  } else if (command === "products") {
    const pattern = new RegExp(values.only);
    await runProductsCpu(parseThreads(values.threads), pattern, values.quick, values.json);
  } else if (isMeasurement(command)) {
    const threads = parseThreads(values.threads);
    const machine = describeMachine(await instructionsInUse());
    const report = new Report(values.json, values.markdown);
    const effort = values.quick ? quickEffort : fullEffort;
    const pattern = new RegExp(values.only);
    const grouped = (groups: typeof cpuGroups) => () =>
      groups(threads, values.quick).map((group) => ({
        name: group.name,
        run: () => runGroup(group, effort, machine, report),
      }));
    const kinds = {
      cpu: grouped(cpuGroups),
      partial: grouped(partialGroups),
      sync: grouped((_, quick) => syncGroups(quick)),
      threads: grouped((counts, quick) => {
        const several = counts.filter((n) => n > 1);
        return threadGroups(several.length > 0 ? several : [2], quick);
      }),
      short: () =>
        shortGroups(threads, values.quick).map((group) => ({
          name: group.name,
          run: async () => report.add(await runShort(group, effort, machine)),
        })),
      sparse: () =>
        sparseGroups(threads, values.quick).map((group) => ({
          name: group.name,
          run: async () => report.add(await runSparse(group, effort, machine)),
        })),
      plans: () =>
        planShapes(values.quick).map((shape) => ({
          name: `plans ${shape.mode} B=${shape.batch} H=${shape.channels} L=${shape.length}`,
          run: () => runPlans(shape, effort, machine, report),
        })),
    };
    const jobs = kinds[command]();
    const chosen = jobs.filter(({ name }) => pattern.test(name));
    for (const [index, { name, run }] of chosen.entries()) {
      progress(index, chosen.length, name);
      await run();
    }
    finish(report, values, command === "cpu");
  } else {
    throw new Error(`bench: unknown command; ${usage}`);
  }
}

/** What ends a run: verdicts, who was missing, how busy the machine was, the figure. */
function finish(
  report: Report,
  values: { markdown: boolean; svg?: string | undefined },
  everyBar: boolean,
): void {
  const { records, notes } = report;
  const [first] = records;
  if (!first) throw new Error("bench: no case matches --only");
  const verdicts = judge(records).filter(({ met }) => everyBar || met !== undefined);
  if (values.markdown) console.log(cpuTable(records, verdicts));
  else console.log(`\n${verdicts.map(verdictLine).join("\n")}`);
  console.log(`\n${machineLine(first)} Load average ${report.load} before, ${load()} after.`);
  for (const note of notes) console.log(`note: ${note}`);
  if (values.svg !== undefined || records.some((record) => record.case === "causal")) {
    const svg = values.svg ?? "output/bench.svg";
    writeFile(svg, plotOf([records]));
    console.log(`figure: ${svg}`);
  }
}

try {
  await main();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  closeTorch();
}
