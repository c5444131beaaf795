/**
 * PyTorch and others on the same GPU, in a child process: the complex FFT in float32 that the paper compares with (`fft`), the
 * real one (`rfft`), flash-fft-conv and ThunderKittens' fftconv where they are installed, Conv1d, and FlashAttention-2. Each
 * is checked against float64 before it is timed; gradients are those of autograd, timed without the forward pass that they
 * need.
 */
import { spawn, spawnSync } from "node:child_process";
import { createInterface } from "node:readline";

const python = "python3";

/** Relative error from which on a peer's answer is wrong: several times that of bfloat16. */
const largestError = 2e-2;

/**
 * Reads one JSON case a line, answers one JSON line: the relative error of the first and last channels of the first and last
 * batch items (of the worst gradient, there), and if that is small milliseconds of the device and the bytes that were
 * allocated at most beside inputs and results.
 */
const script = `
import json, math, sys, torch
device = "cuda"
def random(m, names): return {name: torch.randn(m["B"], m["H"], m["L"], device=device, dtype=getattr(torch, m["dtype"])) for name in names}
def spectra(m, x): return (torch.fft.rfft if m["peer"] == "rfft" else torch.fft.fft)(x.float(), n=m["N"])
def torch_forward(m, t):
    x = t["u"] * t["pre"] if m["gated"] else t["u"]
    f = spectra(m, x) * spectra(m, t["k"])
    y = torch.fft.irfft(f, n=m["N"]) if m["peer"] == "rfft" else torch.fft.ifft(f).real
    y = y[..., : m["L"]].to(t["u"].dtype)
    return y * t["post"] if m["gated"] else y
def flash(m):
    from flashfftconv import FlashFFTConv
    conv = FlashFFTConv(m["N"], dtype=getattr(torch, m["dtype"])).to(device)
    return lambda t: conv(t["u"], t["k"], t["pre"], t["post"]) if m["gated"] else conv(t["u"], t["k"])
def kittens(m, k):
    # Its 1,024 points are four of 32 by 32 in one tile of 64 by 64.
    import thunderkittens
    n = math.isqrt(m["N"])
    places = torch.arange(n, device=device, dtype=torch.float64)
    roots = torch.exp(-2j * math.pi * places[:, None] * places / n)
    twiddles = torch.exp(-2j * math.pi * places[:, None] * places / m["N"])
    parts = lambda x: [part.to(torch.bfloat16).contiguous() for part in (x.real, x.imag)]
    diagonal = lambda x: parts(torch.block_diag(*[x] * (64 // n)))
    tiled = lambda x: parts(x.tile(64 // n, 64 // n))
    spectrum = tiled(torch.fft.fft(k.double(), n=m["N"]).view(-1, n, n).mT)
    factors = [diagonal(roots), diagonal(roots.conj()), tiled(twiddles / m["N"]), tiled(twiddles.conj())]
    given = [*spectrum, *(part for factor in factors for part in factor), m["B"], m["H"], m["N"], n]
    return lambda t: thunderkittens.fftconv(t["u"].view(m["B"], m["H"], n, n), *given).view_as(t["u"])
def exact_long(m, t):
    x = t["u"] * t["pre"] if m["gated"] else t["u"]
    y = torch.fft.irfft(torch.fft.rfft(x, n=m["N"]) * torch.fft.rfft(t["k"], n=m["N"]), n=m["N"])[..., : m["L"]]
    return y * t["post"] if m["gated"] else y
def long(m):
    t = random(m, ["u", "pre", "post"] if m["gated"] else ["u"])
    t["k"] = torch.randn(m["H"], m["L"], device=device)
    makers = {"flash-fft-conv": lambda: flash(m), "ThunderKittens": lambda: kittens(m, t["k"])}
    return t, makers.get(m["peer"], lambda: lambda t: torch_forward(m, t))(), exact_long
def short(m):
    d, k = m["H"], m["N"]
    conv = torch.nn.Conv1d(d, d, k, groups=d, padding=k - 1).to(device, getattr(torch, m["dtype"]))
    t = {**random(m, ["x"]), "weight": conv.weight.detach(), "bias": conv.bias.detach()}
    forward = lambda t: torch.nn.functional.conv1d(t["x"], t["weight"], t["bias"], padding=k - 1, groups=t["x"].shape[1])[..., : m["L"]]
    return t, forward, lambda m, t: forward({name: x.cpu() for name, x in t.items()}).to(device)
def attention(m):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    heads = lambda x: x.view(m["B"], -1, m["N"], m["L"]).transpose(2, 3)
    t = {name: heads(x).contiguous() for name, x in random(m, ["q", "k", "v"]).items()}
    def forward(t):
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(t["q"], t["k"], t["v"], is_causal=True)
    return t, forward, None
def attention_error(m, t, y):
    q, k, v = (t[name][0, 0].double() for name in "qkv")
    last = slice(max(0, m["L"] - 64), m["L"])
    scores = q[last] @ k.T / m["N"] ** 0.5
    later = torch.arange(m["L"], device=device) > torch.arange(m["L"], device=device)[last, None]
    exact = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
    return relative(y[0, 0, last], exact)
def relative(a, b): return ((a.double() - b).norm() / b.norm()).item()
def errors(m, t, exact, y, gradients, dy):
    ends = torch.tensor([0, -1], device=device)
    # The kernel's gradient is a sum over all items.
    items = torch.arange(m["B"], device=device) if gradients else ends
    rows = lambda x: x[items[:, None], ends]
    part = {name: rows if name in ("u", "pre", "post", "x") else lambda x: x[ends] for name in t}
    held = {name: part[name](x).detach().double().requires_grad_(bool(gradients)) for name, x in t.items()}
    right = exact(m, held)
    if not gradients: return {"y": relative(rows(y), right)}
    rights = torch.autograd.grad(right, list(held.values()), rows(dy).double())
    return {"d" + name: relative(part[name](a), b) for name, a, b in zip(t, gradients, rights)}
def measure(m):
    t, forward, exact = {"conv1d": short, "attention": attention}.get(m["peer"], long)(m)
    backward = m["pass"] == "backward"
    torch.set_grad_enabled(backward)
    if backward:
        for x in t.values(): x.requires_grad_(True)
    y = forward(t)
    if backward:
        leaves, dy = list(t.values()), torch.randn_like(y)
        run = lambda t: torch.autograd.grad(y, leaves, dy, retain_graph=True)
        found = errors(m, t, exact, y, run(t), dy)
    else:
        run = forward
        found = {"y": attention_error(m, t, y)} if exact is None else errors(m, t, exact, y, None, None)
    worst = max(found, key=lambda name: found[name] if math.isfinite(found[name]) else math.inf)
    reply = {"error": found[worst] if math.isfinite(found[worst]) else None}
    # Wrong answers have no speed.
    if not found[worst] < ${largestError}: return {**reply, "wrong": worst}
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
        # Two milliseconds in which the host asks for all of it: a small call is launched more slowly than it runs.
        torch.cuda._sleep(4_000_000)
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
  readonly peer: "fft" | "rfft" | "flash-fft-conv" | "ThunderKittens" | "conv1d" | "attention";
  readonly B: number;
  readonly H: number;
  readonly L: number;
  /** Length of the transform, taps of a short convolution, or channels of a head. */
  readonly N: number;
  readonly dtype: string;
  readonly gated: boolean;
  readonly pass: "forward" | "backward";
  readonly rounds: number;
}

/** What a peer answers: sorted times, or why there are none. */
export interface TorchAnswer {
  readonly ms?: readonly number[];
  /** The result that is wrong: y, du, dk, … */
  readonly wrong?: string;
  /** null where an answer is not finite: float16 may overflow. */
  readonly error?: number | null;
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
  let ended: TorchAnswer | undefined;
  const end = (refusal: string): void => {
    ended = { refusal };
    for (const resolve of waiting.splice(0)) resolve(ended);
  };
  createInterface({ input: child.stdout }).on("line", (line) =>
    waiting.shift()?.(JSON.parse(line) as TorchAnswer),
  );
  child.on("exit", (code) => end(`its process ended with ${code}`));
  // A process that has just died takes no case.
  child.stdin.on("error", ({ message }) => end(message));
  const refusals = new Set<string>();
  return {
    async measure(torchCase) {
      const answer = await new Promise<TorchAnswer>((resolve) => {
        if (ended) return resolve(ended);
        waiting.push(resolve);
        child.stdin.write(`${JSON.stringify(torchCase)}\n`);
      });
      const refusal = answer.refusal && `no ${torchCase.peer}: ${answer.refusal.split("\n")[0]}`;
      if (refusal && !refusals.has(refusal)) console.log(refusal);
      if (refusal) refusals.add(refusal);
      const { wrong, error } = answer;
      if (wrong) console.log(`${torchCase.peer}: ${wrong} is wrong, relative error ${error}`);
      return answer;
    },
    close: () => child.kill(),
  };
}
