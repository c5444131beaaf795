/**
 * PyTorch on the CPU in a child process that stays alive and reads its own clock, so that its rounds alternate with
 * ours: causal convolution by torch.fft.rfft and irfft, the spectrum of the kernel kept.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Contender, Workload } from "./workload.ts";

const python = "python3";

/** Reads one JSON command a line, answers one JSON line. Tensors travel as raw float32 files. */
const script = `
import json, sys, time, torch
torch.set_grad_enabled(False)
works = {}
def read(path, *shape):
    size = 1
    for n in shape: size *= n
    return torch.from_file(path, size=size, dtype=torch.float32).clone().reshape(shape)
def convolve(w):
    n = 2 * w["L"]
    return torch.fft.irfft(torch.fft.rfft(w["u"], n=n) * w["kf"], n=n)[..., :w["L"]]
for line in sys.stdin:
    m = json.loads(line)
    reply = {}
    if m["op"] == "open":
        w = {"L": m["L"], "threads": m["threads"], "u": read(m["u"], m["B"], m["H"], m["L"])}
        w["kf"] = torch.fft.rfft(read(m["k"], m["H"], m["K"]), n=2 * m["L"])
        works[m["id"]] = w
    elif m["op"] == "run":
        w = works[m["id"]]
        if torch.get_num_threads() != w["threads"]: torch.set_num_threads(w["threads"])
        start = time.perf_counter()
        for _ in range(m["calls"]): w["y"] = convolve(w)
        reply["ms"] = (time.perf_counter() - start) * 1e3
    elif m["op"] == "answer":
        y = works[m["id"]]["y"].reshape(-1, works[m["id"]]["L"])[m["row"]].contiguous()
        y.clone().numpy().tofile(m["path"])
    elif m["op"] == "close":
        del works[m["id"]]
    print(json.dumps(reply), flush=True)
`;

/** The child, and the answers that are awaited from it. */
class Torch {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #waiting: { resolve(reply: { ms?: number }): void; reject(error: Error): void }[] = [];
  readonly folder = mkdtempSync(join(tmpdir(), "flashfftconv-bench-"));
  #stderr = "";
  #opened = 0;

  constructor() {
    this.#child = spawn(python, ["-u", "-c", script]);
    this.#child.stderr.on("data", (text) => {
      this.#stderr = `${this.#stderr}${text}`.slice(-2000);
    });
    createInterface({ input: this.#child.stdout }).on("line", (line) => {
      this.#waiting.shift()?.resolve(JSON.parse(line));
    });
    this.#child.on("exit", (code) => {
      const error = new Error(`PyTorch's process ended with ${code}: ${this.#stderr}`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    });
  }

  send(command: object): Promise<{ ms?: number }> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    });
  }

  async open(workload: Workload, threads: number): Promise<number> {
    const id = this.#opened++;
    const { batch: B, channels: H, length: L, kernelLength: K } = workload;
    const [u, k] = [join(this.folder, "u"), join(this.folder, "k")];
    writeFileSync(u, workload.u);
    writeFileSync(k, workload.k);
    await this.send({ op: "open", id, B, H, L, K, threads, u, k });
    return id;
  }

  close(): void {
    this.#child.removeAllListeners("exit");
    this.#child.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

let torch: Torch | string | undefined;

function start(): Torch | string {
  const probe = spawnSync(python, ["-c", "import torch"], { encoding: "utf8" });
  if (probe.error) return `${python}: ${probe.error.message}`;
  if (probe.status === 0) return new Torch();
  return `${python} -c 'import torch': ${probe.stderr.trim().split("\n").at(-1)}`;
}

/** PyTorch, causal, with `threads` threads. */
export async function openTorch(workload: Workload, threads: number): Promise<Contender | string> {
  torch ??= start();
  if (typeof torch === "string") return torch;
  if (workload.mode !== "causal" || workload.kernelLength > workload.length) {
    return "the bench drives it causally, K ≤ L";
  }
  const child = torch;
  const id = await child.open(workload, threads);
  const time = async (calls: number): Promise<number> =>
    (await child.send({ op: "run", id, calls })).ms!;
  return {
    name: "PyTorch",
    threads,
    data: "resident",
    rows: workload.rows,
    pass: "forward",
    // Its OpenMP threads spin for 200 ms after a parallel region, which would slow down whoever runs next.
    settleMs: threads > 1 ? 250 : 0,
    run: () => time(1),
    time,
    async answer(row) {
      const path = join(child.folder, "row");
      await child.send({ op: "answer", id, row, path });
      return new Float32Array(new Uint8Array(readFileSync(path)).buffer);
    },
    dispose: () => child.send({ op: "close", id }),
  };
}

/** End the child, if one was started. */
export function closeTorch(): void {
  if (torch instanceof Torch) torch.close();
  torch = undefined;
}
