/** Models on a GPU: forward and training steps, their memory, and where the time of a step goes. */
import { appendFileSync } from "node:fs";
import { hyenaDNAs } from "../src/models/hyena-dna.ts";
import type { HyenaLMConfig, HyenaLMOf } from "../src/models/hyena-lm.ts";
import { hyenaLM, hyenaLMLoss, hyenaLMs, hyenaLMWeights } from "../src/models/hyena-lm.ts";
import { GpuMachine } from "../src/nn/gpu-machine.ts";
import { Model } from "../src/nn/model.ts";
import type { Weight } from "../src/nn/parameters.ts";
import { mapWeights } from "../src/nn/parameters.ts";
import type { StepTime } from "../src/nn/program.ts";
import { ModelProgram } from "../src/nn/program.ts";
import { AdamW } from "../src/train/adamw.ts";

/** A model's step, measured. */
export interface ModelRecord {
  readonly case: string;
  readonly batch: number;
  readonly length: number;
  readonly forward_ms: number;
  readonly step_ms: number;
  readonly step_min_ms: number;
  readonly tokens_per_second: number;
  /** Milliseconds of the processor to record and submit a step. */
  readonly host_ms: number;
  readonly launches: number;
  readonly gigabytes: number;
  readonly losses: readonly number[];
  readonly adapter: string;
  readonly node: string;
}

/** A model, and the batches that it is measured with: tokens, and those of a sequence. */
interface ModelCase {
  readonly name: string;
  readonly config: HyenaLMConfig;
  readonly shapes: readonly (readonly [batch: number, length: number])[];
}

const dna = hyenaDNAs["medium-160k"];
const cases: readonly ModelCase[] = [
  {
    name: "language model 768 × 12",
    config: { ...hyenaLMs.gpt2, maxLength: 32_768 },
    shapes: [
      [32, 2048],
      [8, 8192],
      [2, 32_768],
    ],
  },
  {
    name: "characters 256 × 6",
    config: { ...hyenaLMs.characters, width: 256, inner: 1024, vocabulary: 256, dropout: 0 },
    shapes: [[64, 1024]],
  },
  { name: "HyenaDNA 256 × 8", config: { ...dna, maxLength: 131_072 }, shapes: [[1, 131_072]] },
  {
    name: "HyenaDNA 256 × 8, recomputed",
    config: { ...dna, maxLength: 1_048_576, recompute: true },
    shapes: [[1, 1_048_576]],
  },
];

/** Small ones for software drivers. */
const tiny: readonly ModelCase[] = [
  {
    name: "language model 64 × 2",
    config: { ...hyenaLMs.gpt2, width: 64, inner: 128, layers: 2, maxLength: 128, vocabulary: 512 },
    shapes: [[2, 128]],
  },
];

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[values.length >> 1]!;

/** The times of a profile that are of one kind of work in one part of a block, the longest first. */
function summary(times: readonly StepTime[]): string {
  const sums = new Map<string, { count: number; ms: number }>();
  for (const { place, work, milliseconds } of times) {
    const key = `${work.padEnd(22)} ${place.replace(/blocks\.\d+/, "block")}`;
    const { count, ms } = sums.get(key) ?? { count: 0, ms: 0 };
    sums.set(key, { count: count + 1, ms: ms + milliseconds });
  }
  return [...sums]
    .toSorted(([, a], [, b]) => b.ms - a.ms)
    .slice(0, 24)
    .map(
      ([key, { count, ms }]) =>
        `    ${ms.toFixed(2).padStart(8)} ms ${String(count).padStart(4)} × ${key}`,
    )
    .join("\n");
}

/** Weights quickly: one drawn row of numbers, again and again. */
function quickWeights(config: HyenaLMConfig): HyenaLMOf<Weight> {
  const small = { ...config, vocabulary: 8, layers: 1 };
  const drawn = hyenaLMWeights({ ...small, maxLength: config.maxLength });
  const fresh = <T>(tree: T): T =>
    mapWeights(tree as never, (w) => ({ ...w, data: w.data.slice() })) as never;
  const row = drawn.blocks[0]!.mixer.inProjection.weight.data;
  const table = new Float32Array(config.vocabulary * config.width);
  for (let at = 0; at < table.length; at += row.length)
    table.set(row.subarray(0, Math.min(row.length, table.length - at)), at);
  const embedding = { shape: [config.vocabulary, config.width], data: table };
  const blocks = Array.from({ length: config.layers }, () => fresh(drawn.blocks[0]!));
  return { ...drawn, embedding, blocks, head: embedding };
}

/** Measure models on the device that the library opens. */
export async function runModelsGpu(only: RegExp, json: string | undefined): Promise<void> {
  const machine = await GpuMachine.open(undefined, "float16", "bench");
  const { device } = machine;
  const isSoftware = /swiftshader|llvmpipe/i.test(machine.name);
  console.log(`${machine.name}, Node ${process.versions.node}`);
  for (const { name, config, shapes } of (isSoftware ? tiny : cases).filter((c) =>
    only.test(c.name),
  )) {
    const model = await Model.create(machine, quickWeights(config));
    for (const [batch, length] of shapes) {
      try {
        const record = await measured(name, machine, device, model, config, batch, length);
        if (json) appendFileSync(json, `${JSON.stringify(record)}\n`);
      } catch (error) {
        console.log(`  ${name}, L ${length}: ${(error as Error).message.slice(0, 400)}`);
        process.exitCode = 1;
      }
    }
    model.dispose();
  }
  machine.dispose();
}

async function measured(
  name: string,
  machine: GpuMachine,
  device: GPUDevice,
  model: Model<GPUBuffer, HyenaLMOf<Weight>>,
  config: HyenaLMConfig,
  batch: number,
  length: number,
): Promise<ModelRecord> {
  const begun = performance.now();
  const tokens = batch * length;
  const spec = { shape: [batch, length], storage: "uint32" as const };
  const ids = Uint32Array.from(
    { length: tokens },
    (_, i) => (i * 7919 + (i >> 5)) % config.vocabulary,
  );
  const labels = ids.map((id) => (id * 31 + 7) % config.vocabulary);
  const timed = async (rounds: number, each: number, work: () => void): Promise<number[]> => {
    const times: number[] = [];
    for (let r = 0; r < rounds; r++) {
      const start = performance.now();
      for (let i = 0; i < each; i++) work();
      await device.queue.onSubmittedWorkDone();
      times.push((performance.now() - start) / each);
    }
    return times;
  };
  const forward = await ModelProgram.compile(model, { ids: spec }, (p, inputs) => ({
    hidden: hyenaLM(inputs.ids, p, config),
  }));
  forward.write("ids", ids);
  await timed(1, 2, () => void forward.run());
  const forwardMs = median(await timed(5, 2, () => void forward.run()));
  forward.dispose();
  const program = await ModelProgram.compile(
    model,
    { ids: spec, labels: spec },
    (p, inputs) => ({ loss: hyenaLMLoss(inputs.ids, inputs.labels, p, config) }),
    { losses: ["loss"] },
  );
  const optimiser = await AdamW.create(model);
  program.write("ids", ids);
  program.write("labels", labels);
  let step = 0;
  const train = (): void => {
    void program.run();
    step++;
    void optimiser.step(step, 3e-4, false);
  };
  const losses: number[] = [];
  for (let i = 0; i < 3; i++) {
    train();
    losses.push(Number((await program.read("loss"))[0]!.toFixed(4)));
  }
  const times = await timed(5, 2, train);
  const hostStart = performance.now();
  train();
  const hostMs = performance.now() - hostStart;
  losses.push(Number((await program.read("loss"))[0]!.toFixed(4)));
  const stepMs = median(times);
  const record: ModelRecord = {
    ...{ case: name, batch, length, forward_ms: Number(forwardMs.toFixed(2)) },
    ...{ step_ms: Number(stepMs.toFixed(2)), step_min_ms: Number(Math.min(...times).toFixed(2)) },
    ...{
      tokens_per_second: Math.round((1000 * tokens) / stepMs),
      host_ms: Number(hostMs.toFixed(2)),
    },
    launches: program.launches,
    gigabytes: Number((machine.heldBytes / 1e9).toFixed(2)),
    losses,
    ...{ adapter: machine.name, node: process.versions.node },
  };
  console.log(
    `  ${name}, B ${batch}, L ${length}: forward ${record.forward_ms} ms, step ${record.step_ms} ms (${record.step_min_ms}), ` +
      `${(record.tokens_per_second / 1000).toFixed(0)}K tokens/s, host ${record.host_ms} ms, ${record.launches} launches, ` +
      `${record.gigabytes} GB, losses ${losses.join(" ")}; ${((performance.now() - begun) / 1000).toFixed(1)} s in all`,
  );
  console.log(summary(await program.profile(3)));
  program.dispose();
  optimiser.dispose();
  return record;
}
