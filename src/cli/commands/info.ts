/** `flashfftconv info`: what this machine offers, and for each backend that is missing, why. */
import { cpus, freemem, totalmem } from "node:os";
import { features } from "../../backend/features.ts";
import { FlashFFTConv } from "../../conv/conv.ts";
import { type Command, exitCodes } from "../options.ts";
import { bytes } from "../report.ts";
import { version } from "../version.ts";

/** A backend or an instruction set, and why it is missing where it is. */
interface Offer {
  readonly name: string;
  readonly available: boolean;
  /** What is used, or why there is nothing. */
  readonly detail: string;
}

export const infoCommand: Command = {
  name: "info",
  summary: "say what this machine offers, and why a backend is missing",
  options: [],
  notes: `
An instruction set that is missing costs speed, never exactness.`,
  run: async (_values, context) => {
    const machine = machineFacts();
    const instructions = instructionOffers();
    const backends = await backendOffers();
    if (context.json) {
      const record = { command: "info", ...machine, instructions, backends };
      context.stdout.write(`${JSON.stringify(record)}\n`);
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
      ["instructions", ""],
      ...offers(instructions),
      ["backends", ""],
      ...offers(backends),
    ];
    const width = Math.max(...lines.map(([name]) => name!.length));
    for (const [name, text] of lines)
      context.stdout.write(`${`${name!.padEnd(width)}  ${text}`.trimEnd()}\n`);
    return exitCodes.done;
  },
};

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

async function backendOffers(): Promise<Offer[]> {
  using conv = await FlashFFTConv.create({ length: 16 });
  const threads = `${conv.threads} ${conv.threads === 1 ? "thread" : "threads"}`;
  const missing = `not in version ${version()}, which computes on the CPU only`;
  return [
    { name: "cpu", available: true, detail: `${threads}, ${conv.instructions}` },
    { name: "webgpu", available: false, detail: missing },
    { name: "cuda", available: false, detail: missing },
  ];
}
