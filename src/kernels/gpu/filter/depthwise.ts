/**
 * Kernels of short convolutions. A thread takes runs of consecutive positions and holds their samples in registers, where all
 * taps meet them. In layout BHL threads stand side by side along a row, in BLH along the channels; the arithmetic on cells
 * is the same.
 */
import type { Kernel } from "../kernel.ts";
import type { Binding } from "../storage.ts";
import type { Common } from "./runs.ts";
import { FilterText, upTo } from "./runs.ts";
import type { Lines } from "./samples.ts";
import { window } from "./samples.ts";
import type { FilterSums } from "./sums.ts";
import { storeSums, sumNames } from "./sums.ts";

/** y = act(bias + Σ_j w[j]·x[n + j − left]), and what has the same form: gradients of samples, and copies. */
export interface Filter extends Common {
  readonly kind: "filter";
  readonly taps: "forward" | "reversed" | "none";
  /**
   * What becomes of a sum: itself, its activation, the activation's slope there times dy, or the sum times dy. `gated` is the
   * product of the sums of the first two thirds, with those of the last as they are in `postgate`.
   */
  readonly result: "sum" | "value" | "slope" | "product" | "gated";
  readonly upstream?: Lines | undefined;
  readonly target: Lines;
  readonly postgate?: Lines | undefined;
}

/**
 * dw[j] = Σ x[m]·dz[m + left − j] and dbias = Σ dz, summed workgroup by workgroup, `taps` taps at a time; where that is all of them,
 * dx[m] = Σ_j w[j]·dz[m + left − j] too. linear: dz = dy; activated: dz = dy·act′(z); gated: dz₁ = dy·z₂ and dz₂ = dy·z₁, of the
 * two thirds whose filters' outputs z are multiplied.
 */
export interface FilterGradient extends Common {
  readonly kind: "gradient";
  readonly taps: number;
  readonly form: "linear" | "activated" | "gated";
  readonly upstream: Lines;
  readonly target?: Lines | undefined;
}

/** Taps that meet a run in registers at once, of filters that do not hold all of theirs. */
export const tapsAtOnce = { BHL: 16, BLH: 8 } as const;

/** First output that a run at position 0 counts for dbias: one that the first taps see. */
export function biasShift({ left, taps }: Pick<FilterGradient, "left" | "taps">): number {
  return Math.max(0, left - (taps - 1));
}

/** One filter of a kernel: where its samples begin, and what it holds of its taps and bias. */
interface FilterBranch {
  readonly third: number | undefined;
  readonly at: string;
  readonly held: readonly string[];
  readonly bias: string | undefined;
}

/** The sums of one filter for the positions of a run. */
function filtered(
  w: FilterText,
  filter: Filter,
  { third, at, held, bias }: FilterBranch,
): readonly string[] {
  const { kernelLength, left, taps, source, spread } = filter;
  const { text } = w;
  const { run } = spread;
  const most = tapsAtOnce[spread.layout];
  if (taps === "none") return window(text, source, at, "n0", -left, run);
  if (kernelLength <= most) {
    const x = window(text, source, at, "n0", -left, run + kernelLength - 1);
    return upTo(run).map((r) => {
      const sum = w.dot(held, x.slice(r));
      return text.hold("z", bias ? `${sum} + ${bias}` : sum);
    });
  }
  const sums = upTo(run).map((r) => `total${third === undefined ? "" : `${third}_`}${r}`);
  return w.summed(sums, bias ?? `${w.type}()`, kernelLength, most, (count) => {
    const sign = taps === "reversed" ? " - j" : " + j";
    const weights = w.weights(tapsOf(filter, count), sign, third);
    const x = window(text, source, at, "(n0 + i32(j))", -left, run + count - 1);
    return (r) => w.dot(weights, x.slice(r));
  });
}

/** The first `count` taps in the order in which samples meet them. */
const tapsOf = ({ taps, kernelLength }: Filter, count: number): number[] =>
  upTo(count).map((j) => (taps === "reversed" ? kernelLength - 1 - j : j));

/** The text of a filter. */
export function filterKernel(filter: Filter): Kernel {
  const { kernelLength, taps, result, upstream, target, postgate, spread, thirds } = filter;
  const w = new FilterText(filter);
  const { text } = w;
  const { run } = spread;
  let [dyAt, yAt, postgateAt] = ["", "", ""];
  let branches: FilterBranch[] = [];
  w.line("let tile = index;");
  w.walk(
    () => {
      const starts = (thirds ?? [undefined]).map((third) => ({ third, at: w.sourceAt(third) }));
      yAt = w.at(target);
      if (postgate) postgateAt = w.at(postgate);
      if (upstream) dyAt = w.at(upstream);
      const holds = taps !== "none" && kernelLength <= tapsAtOnce[spread.layout];
      branches = starts.map(({ third, at }) => {
        const bias = taps === "none" ? undefined : w.bias(third);
        const held = holds ? w.weights(tapsOf(filter, kernelLength), "", third) : [];
        return { third, at, held, bias };
      });
    },
    () => {
      let sums = filtered(w, filter, branches[0]!);
      if (result === "value") sums = sums.map((s) => text.hold("y", w.activated("value", s)));
      if (result === "gated") {
        const gates = filtered(w, filter, branches[1]!);
        sums = sums.map((s, r) => text.hold("y", `${s} * ${gates[r]}`));
      }
      if (upstream) {
        const dy = window(text, upstream, dyAt, "n0", 0, run);
        const factor = (s: string): string => (result === "slope" ? w.activated("slope", s) : s);
        sums = sums.map((s, r) => text.hold("y", `${dy[r]} * ${factor(s)}`));
      }
      w.store(target, yAt, sums);
      if (postgate) w.store(postgate, postgateAt, filtered(w, filter, branches[2]!));
    },
  );
  const { source, history, tail } = filter;
  const tensors = [source, history, upstream, tail, target, postgate];
  return w.kernel(tensors, w.operands(taps !== "none"), ["weight", "bias"], history, tail);
}

/** The text of a gradient. */
export function gradientKernel(gradient: FilterGradient): Kernel {
  const { kernelLength, left, taps, form, source, upstream, target, spread, thirds } = gradient;
  const w = new FilterText(gradient);
  const { text, type } = w;
  const { run } = spread;
  const blocks = Math.ceil(kernelLength / taps);
  const totals = (thirds ?? [undefined]).map((third): FilterSums => {
    const name = (j: number): string => `total${third === undefined ? "" : `${third}_`}${j}`;
    const from = third === undefined ? "" : `${third}u * p.sums_third + `;
    return { taps: upTo(taps).map(name), last: name(taps), from };
  });
  for (const t of totals.flatMap(sumNames)) w.line(`var ${t} = ${type}();`);
  w.line(`let block = index % ${blocks}u;`);
  w.line(`let tile = index / ${blocks}u;`);
  let branches: (FilterBranch & { readonly dxAt: string })[] = [];
  let dyAt = "";
  w.walk(
    () => {
      const starts = (thirds ?? [undefined]).map((third) => ({ third, at: w.sourceAt(third) }));
      dyAt = w.at(upstream);
      branches = starts.map(({ third, at }) => {
        const filters = target !== undefined || form !== "linear";
        const held = filters ? w.weights(upTo(kernelLength), "", third) : [];
        const dxAt = target ? w.at(target, third) : "";
        const bias = form === "linear" ? undefined : w.bias(third);
        return { third, at, held, bias, dxAt };
      });
    },
    () => {
      // The window of dz, of which x[m0 + r] meets the places r … r + taps − 1, the last tap first.
      const width = run + taps - 1;
      const dy = window(
        text,
        upstream,
        dyAt,
        blocks === 1 ? "n0" : `(n0 - i32(block * ${taps}u))`,
        left - (taps - 1),
        width,
      );
      const around = branches.map(({ at }) =>
        form === "linear"
          ? window(text, source, at, "n0", 0, run)
          : window(text, source, at, "n0", -(taps - 1), width + taps - 1),
      );
      /** The filter's output at a place of the window. */
      const z = (b: number, i: number): string => {
        const { held, bias } = branches[b]!;
        const sum = w.dot(held, around[b]!.slice(i));
        return bias ? `${sum} + ${bias}` : sum;
      };
      branches.forEach(({ held, dxAt, third }, b) => {
        const d = dy.map((upstream, i) => {
          if (form === "linear") return upstream;
          const factor = form === "activated" ? w.activated("slope", z(b, i)) : `(${z(1 - b, i)})`;
          return text.hold("d", `${upstream} * ${factor}`);
        });
        const x = form === "linear" ? around[b]! : around[b]!.slice(taps - 1, taps - 1 + run);
        for (const j of upTo(taps)) {
          w.line(`${totals[b]!.taps[j]} += ${w.dot(x, d.slice(taps - 1 - j))};`);
        }
        const counted = biasShift(gradient) - left + taps - 1;
        w.line(`${totals[b]!.last} += ${d.slice(counted, counted + run).join(" + ")};`);
        if (!target) return;
        const backwards = [...held].reverse();
        const dx = upTo(run).map((r) => text.hold("z", w.dot(backwards, d.slice(r))));
        w.store(target, dxAt, dx, third);
      });
    },
  );
  storeSums(w, totals, kernelLength, blocks);
  const { history, tail } = gradient;
  const operands: Binding[] = [
    ...w.operands(target !== undefined || form !== "linear"),
    { name: "sums", access: "read_write", element: type },
  ];
  const parameters = ["weight", "bias", ...(thirds ? ["sums_third"] : [])];
  return w.kernel([source, history, upstream, tail, target], operands, parameters, history, tail);
}
