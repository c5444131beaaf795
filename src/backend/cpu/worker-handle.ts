/** Worker threads as Node and as browsers have them: what a pool asks of either. */
import { nodeModule } from "../../node.ts";
import type { FromWorker, ToWorker } from "./control.ts";

/** A worker thread. */
export interface WorkerHandle {
  post(message: ToWorker): void;
  onMessage(handler: (message: FromWorker) => void): void;
  onDeath(handler: (reason: string) => void): void;
  terminate(): Promise<unknown>;
  /** Whether this worker keeps the process alive. */
  hold(alive: boolean): void;
}

type NodeThreads = typeof import("node:worker_threads");

/**
 * Start a worker from its script, or from a copy of `flashfftconv/worker` at `url`.
 * @throws what the runtime throws where it starts none.
 */
export function openWorker(url: string | undefined): WorkerHandle {
  const threads = nodeModule("node:worker_threads");
  return threads ? nodeWorker(threads, url) : webWorker(url);
}

function nodeWorker({ Worker: NodeWorker }: NodeThreads, url: string | undefined): WorkerHandle {
  // Not the form that bundlers know: in a browser's bundle it would be a second copy of the script.
  const here: string = import.meta.url;
  // No options of the process: some of them (--eval, --input-type) would keep a worker from starting.
  const worker = new NodeWorker(new URL(url ?? "./worker.js", here), {
    name: "flashfftconv",
    execArgv: [],
  });
  worker.unref();
  return {
    post: (m) => worker.postMessage(m),
    onMessage: (f) => worker.on("message", f),
    onDeath: (f) => {
      worker.on("error", (e) => f(String(e)));
      worker.on("exit", (code) => f(`exit code ${code}`));
    },
    terminate: () => worker.terminate(),
    hold: (alive) => (alive ? worker.ref() : worker.unref()),
  };
}

function webWorker(url: string | undefined): WorkerHandle {
  // Bundlers know this form, as one expression: they bundle the script and put its address here.
  const worker =
    url === undefined
      ? new Worker(new URL("./worker.js", import.meta.url), {
          type: "module",
          name: "flashfftconv",
        })
      : new Worker(scriptAt(url), { type: "module", name: "flashfftconv" });
  return {
    post: (m) => worker.postMessage(m),
    onMessage: (f) => worker.addEventListener("message", (e) => f(e.data as FromWorker)),
    onDeath: (f) =>
      worker.addEventListener("error", (e) => {
        e.preventDefault();
        f(e.message || "its script could not be loaded");
      }),
    terminate: async () => worker.terminate(),
    hold: () => {},
  };
}

/** A script that a worker may start from: one of another origin is imported by a script of this one. */
function scriptAt(url: string): string {
  const script = new URL(url, globalThis.location.href);
  if (script.origin === globalThis.location.origin) return script.href;
  const source = `import ${JSON.stringify(script.href)};`;
  return URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
}
