/** The other half of a `FlashFFTConv` with a `worker`: what runs in the worker. */

import type { PreparedKernel } from "../calls/prepared.ts";
import { UnsupportedError } from "../errors.ts";
import { nodeModule } from "../node.ts";
import { createProblem } from "../plan/create-problem.ts";
import { openRunner } from "./open.ts";
import type {
  Answer,
  Ask,
  Opening,
  State,
  Wire,
  WireRequest,
  WireResults,
  WireRows,
} from "./remote-messages.ts";
import { toWire } from "./remote-messages.ts";
import type { OperandRows, Request, Runner } from "./runner.ts";

type Numbered = Ask & { readonly id: number };

/**
 * Serve every `FlashFFTConv.create({ …, worker })` that names this worker: call it once in the worker's script. Other messages
 * of the worker are left alone.
 * @throws UnsupportedError on a page or Node's main thread.
 */
export function serveConvolutions(): void {
  const parent = nodeModule("node:worker_threads")?.parentPort;
  const open = (message: unknown): void => {
    const opening = Object(message) as Partial<Opening>;
    if (opening.flashfftconv && opening.port) void serve(opening as Opening);
  };
  if (parent) parent.on("message", open);
  else if (listens()) globalThis.addEventListener("message", ({ data }) => open(data));
  else {
    throw new UnsupportedError({
      call: "serveConvolutions",
      requirement: "it runs in the script of a worker",
      value: "a call on the main thread",
      remedy: "Call it in the script of the Worker that FlashFFTConv.create({ …, worker }) names.",
    });
  }
}

/** Whether this thread may be a worker that gets messages: a page has a document, and Node's main thread no listeners. */
function listens(): boolean {
  return !("document" in globalThis) && typeof globalThis.addEventListener === "function";
}

/** Make an object and answer its calls until its port closes. */
async function serve({ flashfftconv: options, call, port }: Opening): Promise<void> {
  const answer = (answered: Answer, results: WireResults): void =>
    port.postMessage(
      answered,
      results.flatMap((wire) => (wire ? [wire.buffer] : [])),
    );
  let runner: Runner;
  try {
    runner = await openRunner(createProblem(options, call), options, call);
  } catch (error) {
    answer({ id: 0, error: toWire(error) }, []);
    port.close();
    return;
  }
  const kernels = new Map<number, PreparedKernel>();
  let told = 0;
  /** An explanation is long: it goes again only where threads did not start. */
  const state = (): State => {
    const { threads, instructions } = runner;
    const now = { threads, instructions, memory: runner.memory() };
    if (threads === told) return now;
    told = threads;
    const explanation = runner.explain();
    const { toString: _, ...fields } = explanation;
    return { ...now, explained: { fields, text: String(explanation) } };
  };
  port.onmessage = async ({ data }: MessageEvent<Numbered>) => {
    const { id } = data;
    if (data.kind === "leave") return runner.leave();
    try {
      const results = await run(runner, kernels, data);
      answer({ id, results, state: state() }, results);
    } catch (error) {
      answer({ id, error: toWire(error), state: state() }, []);
    }
  };
  answer({ id: 0, results: [], state: state() }, []);
}

async function run(
  runner: Runner,
  kernels: Map<number, PreparedKernel>,
  ask: Exclude<Numbered, { kind: "leave" }>,
): Promise<WireResults> {
  if (ask.kind === "free") {
    kernels.get(ask.kernel)!.dispose();
    kernels.delete(ask.kernel);
    return [];
  }
  if (ask.kind === "prepare") {
    const { taps, dtype } = ask.taps;
    const alive = (): void => {};
    const kernel = await runner.prepare(taps, dtype, ask.channels, { name: ask.name, alive });
    kernels.set(ask.kernel, kernel);
    return [];
  }
  if (ask.kind === "warmUp") {
    await runner.warmUp(ask.calls, ask.name);
    return [];
  }
  const request = requestOf(ask.request, kernels);
  const outputs = request.rows.filter(({ direction }) => direction === "out");
  const results = outputs.map(({ data }) => data as Wire);
  if (ask.kind === "forward") {
    await runner.forward(request);
    return results;
  }
  const dk = new Float32Array(ask.taps);
  const dskip = request.skip && new Float32Array(request.skip.length);
  await runner.backward(request, { dk, dskip });
  return [...results, dk, dskip];
}

function requestOf(wire: WireRequest, kernels: Map<number, PreparedKernel>): Request {
  const { shape, gates, name, skip } = wire;
  const kernel =
    typeof wire.kernel === "number" ? { prepared: kernels.get(wire.kernel)! } : wire.kernel;
  return {
    ...{ shape, gates, name, kernel, skip: skip as Float32Array | undefined },
    rows: wire.rows.map(rowsOf),
    encoder: undefined,
    // The page has looked; what it disposes of meanwhile ends after this call.
    alive: () => {},
  };
}

function rowsOf({ field, width, direction, data, size, wide }: WireRows): OperandRows {
  const made = data ?? (wide ? new Float32Array(size) : new Uint16Array(size));
  return { field, width, direction, data: made };
}
