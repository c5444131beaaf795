/** `flashfftconv info`: what this machine offers, and for each backend that is missing, why. */
import { cpus, freemem, totalmem } from "node:os";
import { features } from "../../backend/cpu/features.ts";
import { describeWebGpu, type WebGpuFacts } from "../../backend/webgpu/info.ts";
import { FlashFFTConv } from "../../conv/conv.ts";
import { FlashFFTConvError } from "../../errors.ts";
import { openSafetensors } from "../../formats/safetensors.ts";
import { elements } from "../../formats/stored.ts";
import { escaped, printable } from "../../show.ts";
import {
  type Command,
  type CommandContext,
  backends as choices,
  exitCodes,
  inOptions,
  shared,
} from "../options.ts";
import { bytes, jsonLine } from "../report.ts";
import { version } from "../version.ts";

/** A backend or an instruction set, and why it is missing where it is. */
interface Offer {
  readonly name: string;
  readonly available: boolean;
  /** What is used, or why there is nothing and how to get it. */
  readonly detail: string;
}

/** WebGPU, and what its adapter offers where there is one. */
type GpuOffer = Offer & Partial<WebGpuFacts>;

export const infoCommand: Command = {
  name: "info",
  summary: "say what this machine offers, and why a backend is missing",
  options: [
    { name: "model", value: "FILE", positional: true, help: "tell of these weights instead" },
    { ...shared.backend, help: "cpu or webgpu alone, or auto, which is all (default: auto)" },
  ],
  notes: `
With a file in the safetensors format, or the index of several, info says what it holds: its tensors and, where flashfftconv train
wrote it, the training.

An instruction set that is missing costs speed, never exactness. WebGPU in Node comes with the package webgpu, which is
installed beside flashfftconv: npm install webgpu. A software adapter, with a processor that plays the GPU, is for tests: the
CPU backend is faster.`,
  run: async (values, context) => {
    const model = values.text("model");
    if (model !== undefined) return tellOfModel(model, context);
    const backend = values.choice("backend", choices) ?? "auto";
    const machine = machineFacts();
    const [onCpu, onGpu] = [backend !== "webgpu", backend !== "cpu"];
    const instructions = onCpu ? instructionOffers() : [];
    const webgpu = onGpu ? await gpuOffer(values.call) : undefined;
    const backends = [
      ...(onCpu ? [await cpuOffer()] : []),
      ...(webgpu ? [webgpu] : []),
      ...(onCpu && onGpu ? [cudaOffer()] : []),
    ];
    if (context.json) {
      const record = {
        ...{ command: "info", ...machine },
        ...(onCpu && { instructions }),
        backends,
      };
      context.stdout.write(jsonLine(record));
      return exitCodes.done;
    }
    const facts = [
      ["flashfftconv", machine.version],
      ["runtime", machine.runtime],
      ["system", machine.system],
      [
        "processor",
        `${machine.processor}, ${machine.cores} ${machine.cores === 1 ? "core" : "cores"}`,
      ],
      ["memory", `${bytes(machine.memory_bytes)}, ${bytes(machine.free_memory_bytes)} free`],
      ["shared memory", machine.shared_memory ? "yes: threads work" : "no: one thread"],
      [
        "Float16Array",
        machine.float16_array ? "yes" : "no: float16 travels as bits in a Uint16Array",
      ],
    ];
    const offers = (list: readonly Offer[]): string[][] =>
      list.map(({ name, available, detail }) => [
        `  ${name}`,
        available ? `yes: ${detail}` : `no: ${detail}`,
      ]);
    const lines = [
      ...facts,
      ...(onCpu ? [["instructions", ""], ...offers(instructions)] : []),
      ["backends", ""],
      ...offers(backends),
      ...(webgpu?.adapter
        ? [["adapter", webgpu.adapter], ...adapterLines(webgpu as WebGpuFacts)]
        : []),
    ];
    const width = Math.max(...lines.map(([name]) => name!.length));
    for (const [name, text] of lines)
      context.stdout.write(`${escaped(`${name!.padEnd(width)}  ${text}`).trimEnd()}\n`);
    return exitCodes.done;
  },
};

/** What a file of weights holds. */
async function tellOfModel(path: string, { json, stdout }: CommandContext): Promise<number> {
  const file = await openSafetensors(path);
  const { flashfftconv, loop, ...texts } = file.metadata;
  const all = [...file.tensors];
  await file.close();
  const weights = all.filter(([name]) => !name.startsWith("optimiser."));
  const parameters = weights.reduce((sum, [, { shape }]) => sum + elements(shape), 0);
  const types = [...new Set(weights.map(([, { dtype }]) => dtype))];
  const parsed = (text: string | undefined): object | null => {
    try {
      return text === undefined ? null : JSON.parse(text);
    } catch {
      return null;
    }
  };
  const [training, place] = [parsed(flashfftconv), parsed(loop)];
  if (json) {
    const tensors = Object.fromEntries(weights.map(([name, { shape }]) => [name, shape]));
    const record = {
      command: "info",
      file: path,
      parameters,
      types,
      tensors,
      training,
      loop: place,
    };
    stdout.write(jsonLine({ ...record, metadata: texts }));
    return exitCodes.done;
  }
  const { fields = {} } = (training ?? {}) as { readonly fields?: object };
  const lines = [
    ["parameters", `${parameters.toLocaleString("en-US")} in ${weights.length} tensors, ${types}`],
    ...Object.entries(fields).map(([name, value]) => [`  ${name}`, String(value)]),
    ...Object.entries(place ?? {}).map(([name, value]) => [name, JSON.stringify(value)]),
    ...Object.entries(texts),
    ["tensors", ""],
    ...weights.map(([name, { shape, dtype }]) => [`  ${name}`, `${dtype} (${shape.join(", ")})`]),
  ];
  const width = Math.max(...lines.map(([name]) => name!.length));
  for (const [name, text] of lines)
    stdout.write(`${escaped(`${name!.padEnd(width)}  ${text}`).trimEnd()}\n`);
  return exitCodes.done;
}

function machineFacts() {
  return {
    version: version(),
    runtime: `Node.js ${process.version}, V8 ${process.versions.v8}`,
    system: `${process.platform} ${process.arch}`,
    processor: cpus()[0]?.model.trim() ?? "unknown",
    cores: features().cores,
    memory_bytes: totalmem(),
    free_memory_bytes: freemem(),
    shared_memory: features().sharedMemory,
    float16_array: "Float16Array" in globalThis,
  };
}

/** Each instruction set, best first. */
function instructionOffers(): Offer[] {
  const { simd, relaxedSimd } = features();
  return [
    {
      name: "relaxed-simd",
      available: relaxedSimd,
      detail: relaxedSimd
        ? "vectors with fused multiply-add"
        : "this runtime has none; Node.js 22 and later have",
    },
    { name: "simd", available: simd, detail: simd ? "vectors" : "this runtime has none" },
    { name: "javascript", available: true, detail: "everywhere" },
  ];
}

async function cpuOffer(): Promise<Offer> {
  try {
    using conv = await FlashFFTConv.create({ length: 16, backend: "cpu" });
    const threads = `${conv.threads} ${conv.threads === 1 ? "thread" : "threads"}`;
    return { name: "cpu", available: true, detail: `${threads}, ${conv.instructions}` };
  } catch (error) {
    return { name: "cpu", available: false, detail: reason(error) };
  }
}

async function gpuOffer(call: string): Promise<GpuOffer> {
  try {
    const facts = await describeWebGpu(call);
    const kind = facts.software ? "a software adapter: a processor plays the GPU" : "a GPU";
    return { name: "webgpu", available: true, detail: kind, ...facts };
  } catch (error) {
    return { name: "webgpu", available: false, detail: reason(error) };
  }
}

/** Why a backend cannot be opened. A driver may refuse in words of its own: that is no reason to say nothing else. */
function reason(error: unknown): string {
  if (!(error instanceof FlashFFTConvError)) return printable(String(error));
  const { requirement, value, remedy } = error.parts;
  return inOptions(`${requirement}; got ${value}. ${remedy}`, infoCommand);
}

function cudaOffer(): Offer {
  return { name: "cuda", available: false, detail: `not in version ${version()}` };
}

function adapterLines(facts: WebGpuFacts): string[][] {
  const [fewest, most] = facts.subgroupSizes;
  const lanes = fewest === most ? `${most}` : `${fewest} to ${most}`;
  const products = facts.subgroupMatrices.filter((text) => text.includes(" f"));
  const yesNo = (there: boolean): string => (there ? "yes" : "no");
  return [
    ["  shader-f16", yesNo(facts.features["shader-f16"])],
    ["  subgroups", facts.features.subgroups ? `yes: ${lanes} lanes` : "no"],
    ["  subgroup matrices", products.length > 0 ? `yes: ${products.join(", ")}` : "no"],
    ["  timestamp-query", yesNo(facts.features["timestamp-query"])],
    ["  workgroup", `${bytes(facts.workgroupBytes)}, ${facts.invocations} invocations`],
    ["  binding", bytes(facts.bindingBytes)],
  ];
}
