/** The program of one worker thread: waits for jobs on the control block, leaves it only to read messages. */

import { nodeModule } from "../../node.ts";
import type { FromWorker, ToWorker, WorkerStart } from "./control.ts";
import { commands, generationSlot, sharedTickets, slot, wake } from "./control.ts";
import { addRecipes, execute } from "./executor.ts";
import { receivedJob } from "./job.ts";
import type { Kernels } from "./recipe.ts";
import { blockRecipes } from "./recipe-blocks.ts";
import { depthwiseRecipes } from "./recipe-depthwise.ts";
import { productRecipes } from "./recipe-product.ts";
import { rowProgramRecipes } from "./recipe-row-program.ts";
import { streamRecipes } from "./recipe-stream.ts";

/** Looks at the generation this often before sleeping on it: about 0.1 ms, so that calls in a loop find it awake. */
const spins = 5_000;

interface Port {
  postMessage(message: FromWorker): void;
  on?(event: "message", handler: (message: ToWorker) => void): void;
  addEventListener?(event: "message", handler: (event: { data: ToWorker }) => void): void;
}

function openPort(): Port {
  const parent: unknown = nodeModule("node:worker_threads")?.parentPort;
  return (parent ?? globalThis) as Port;
}

addRecipes({
  ...{ ...blockRecipes, ...depthwiseRecipes, ...productRecipes },
  ...{ ...rowProgramRecipes, ...streamRecipes },
});
const port = openPort();
const programs = new Map<number, Kernels>();
let start: WorkerStart | undefined;
let generation = 0;

/** Run jobs until the caller wants messages read. */
function serve({ control: shared, job: numbers, index, memory }: WorkerStart): void {
  const control = new Int32Array(shared);
  const values = new Float64Array(numbers);
  const tickets = sharedTickets(control);
  const clear = (from: number, to: number): void =>
    void new Uint8Array(memory.buffer).fill(0, from, to);
  const mine = generationSlot(index);
  for (;;) {
    for (let i = 0; i < spins && Atomics.load(control, mine) === generation; i++);
    if (Atomics.load(control, mine) === generation) Atomics.wait(control, mine, generation);
    if (Atomics.load(control, mine) === generation) continue;
    generation = Atomics.load(control, mine);
    if (Atomics.load(control, slot.command) === commands.messages) return;
    const base = Atomics.load(control, slot.base);
    const job = receivedJob(values);
    const report = Atomics.load(control, slot.report) !== 0;
    try {
      execute(programs.get(job.program)!, job, index - 1 + base, tickets, clear);
    } catch (error) {
      Atomics.store(control, slot.failed, 1);
      port.postMessage({ type: "failed", message: String(error) });
    }
    const left = Atomics.sub(control, slot.active, 1) - 1;
    if (left === 0 && report) port.postMessage({ type: "done" });
    if (left === 0) wake(control, slot.active);
  }
}

function receive(message: ToWorker): void {
  if (message.type === "start") {
    start = message;
    port.postMessage({ type: "ready" });
  } else if (message.type === "program") {
    const instance = new WebAssembly.Instance(message.module, { env: { memory: start!.memory } });
    programs.set(message.id, instance.exports as unknown as Kernels);
    port.postMessage({ type: "ready" });
  } else if (message.type === "forget") {
    programs.delete(message.id);
    port.postMessage({ type: "ready" });
  } else {
    generation = message.generation;
    serve(start!);
  }
}

if (port.on) port.on("message", receive);
else port.addEventListener!("message", (event) => receive(event.data));
