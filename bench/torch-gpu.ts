/**
 * PyTorch and flash-fft-conv on the same GPU, in a child process: the complex FFT in float32 that the paper compares with
 * (`fft`), the real one (`rfft`), and flash-fft-conv where it is installed. Each is checked against float64 before it is
 * timed; gradients are those of autograd, timed without the forward pass that they need.
 */
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";

const python = "python3";

/**
 * Reads one JSON case a line, answers one JSON line: milliseconds by CUDA events, the relative error of one row, and the
 * bytes that were allocated at most beside inputs and results.
 */
const script = `
import json, sys, torch
device = "cuda"
def spectra(m, x, n): return (torch.fft.rfft if m["peer"] == "rfft" else torch.fft.fft)(x.float(), n=n)
def torch_forward(m, t, n):
    x = t["u"] * t["pre"] if m["gated"] else t["u"]
    f = spectra(m, x, n) * spectra(m, t["k"], n)
    y = torch.fft.irfft(f, n=n) if m["peer"] == "rfft" else torch.fft.ifft(f).real
    y = y[..., : m["L"]].to(t["u"].dtype)
    return y * t["post"] if m["gated"] else y
def flash(m, n):
    from flashfftconv import FlashFFTConv
    conv = FlashFFTConv(n, dtype=getattr(torch, m["dtype"])).to(device)
    def run(t):
        k = t["k"]
        return conv(t["u"], k, t["pre"], t["post"]) if m["gated"] else conv(t["u"], k)
    return run
def error(m, t, y, n):
    d = lambda x: x[0, 0].double().cpu()
    x = d(t["u"]) * (d(t["pre"]) if m["gated"] else 1)
    exact = torch.fft.irfft(torch.fft.rfft(x, n=n) * torch.fft.rfft(t["k"][0].double().cpu(), n=n), n=n)[: m["L"]]
    if m["gated"]: exact = exact * d(t["post"])
    return ((d(y) - exact).norm() / exact.norm()).item()
def short(m):
    dtype, d, k = getattr(torch, m["dtype"]), m["H"], m["N"]
    conv = torch.nn.Conv1d(d, d, k, groups=d, padding=k - 1).to(device, dtype)
    x = torch.randn(m["B"], d, m["L"], device=device, dtype=dtype)
    exact = torch.nn.functional.conv1d(x[:1, :1].double().cpu(), conv.weight[:1].detach().double().cpu(), conv.bias[:1].detach().double().cpu(), padding=k - 1)[..., : m["L"]]
    forward = lambda t: conv(t["x"])[..., : m["L"]]
    error = ((forward({"x": x}).detach()[:1, :1].double().cpu() - exact).norm() / exact.norm()).item()
    return {"x": x}, forward, [conv.weight, conv.bias], error
def measure(m):
    n = m["N"]
    dtype = getattr(torch, m["dtype"])
    if m["peer"] == "conv1d": t, forward, weights, known = short(m)
    else: weights, known = [], None
    if known is None: t = {name: torch.randn(m["B"], m["H"], m["L"], device=device, dtype=dtype) for name in (["u", "pre", "post"] if m["gated"] else ["u"])}
    if known is None: t["k"] = torch.randn(m["H"], m["L"], device=device)
    if known is None: forward = flash(m, n) if m["peer"] == "flash-fft-conv" else (lambda t: torch_forward(m, t, n))
    backward = m["pass"] == "backward"
    torch.set_grad_enabled(backward)
    if backward:
        for x in t.values(): x.requires_grad_(True)
    y = forward(t)
    reply = {"error": error(m, {k: x.detach() for k, x in t.items()}, y.detach(), n) if known is None else known}
    if backward:
        leaves, dy = list(t.values()) + weights, torch.randn_like(y)
        run = lambda t: torch.autograd.grad(y, leaves, dy, retain_graph=True)
    else:
        run = forward
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = run(t)
    torch.cuda.synchronize()
    results = result if backward else [result]
    reply["bytes"] = torch.cuda.max_memory_allocated() - before - sum(x.numel() * x.element_size() for x in results)
    del result, results
    run(t)
    times = []
    for _ in range(m["rounds"]):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record(); run(t); b.record(); torch.cuda.synchronize()
        times.append(a.elapsed_time(b))
    reply["ms"] = sorted(times)
    return reply
for line in sys.stdin:
    try: reply = measure(json.loads(line))
    except Exception as e: reply = {"refusal": f"{type(e).__name__}: {e}"[:300]}
    torch.cuda.empty_cache()
    print(json.dumps(reply), flush=True)
`;

/** A case for a peer. */
export interface TorchCase {
  readonly peer: "fft" | "rfft" | "flash-fft-conv" | "conv1d";
  readonly B: number;
  readonly H: number;
  readonly L: number;
  /** Length of the transform, or taps of a short convolution. */
  readonly N: number;
  readonly dtype: string;
  readonly gated: boolean;
  readonly pass: "forward" | "backward";
  readonly rounds: number;
}

/** What a peer answers: sorted times, or why there are none. */
export interface TorchAnswer {
  readonly ms?: readonly number[];
  readonly error?: number;
  /** Memory beside inputs and results. */
  readonly bytes?: number;
  readonly refusal?: string;
}

/** The child process. */
export interface TorchGpu {
  measure(torchCase: TorchCase): Promise<TorchAnswer>;
  close(): void;
}

/** PyTorch with CUDA, or why it is not there. */
export function openTorchGpu(): TorchGpu | string {
  const probe = spawnSync(
    python,
    ["-c", "import torch; assert torch.cuda.is_available(), 'PyTorch sees no CUDA device'"],
    { encoding: "utf8" },
  );
  if (probe.error) return `${python}: ${probe.error.message}`;
  if (probe.status !== 0) return probe.stderr.trim().split("\n").at(-1)!;
  const child = spawn(python, ["-u", "-c", script], { stdio: ["pipe", "pipe", "inherit"] });
  const waiting: ((answer: TorchAnswer) => void)[] = [];
  createInterface({ input: child.stdout }).on("line", (line) =>
    waiting.shift()?.(JSON.parse(line) as TorchAnswer),
  );
  child.on("exit", (code) => {
    for (const resolve of waiting.splice(0)) resolve({ refusal: `its process ended with ${code}` });
  });
  return {
    measure: (torchCase) =>
      new Promise((resolve) => {
        waiting.push(resolve);
        child.stdin.write(`${JSON.stringify(torchCase)}\n`);
      }),
    close: () => child.kill(),
  };
}
