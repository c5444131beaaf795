/**
 * The implicit filter of Hyena (Poli et al., arXiv 2302.10866): a small sine network of positional features, times a decay of its own
 * in each channel.
 */
import { cos, exp, sin } from "../../math/functions.ts";
import type { TapeTensor } from "../tape.ts";
import { checkShape } from "../tensor.ts";
import type { LinearParameters } from "./linear.ts";
import { linear } from "./linear.ts";
import { rowsOver } from "./rows.ts";

/** sin(frequency ⊙ x), a frequency for each column. */
export function sine(x: TapeTensor, frequency: TapeTensor): TapeTensor {
  const { tape } = x;
  checkShape(tape.place || frequency.label, frequency, [x.width]);
  const y = tape.tensor(x.shape, x.storage);
  const rows = rowsOver(x);
  rows.store(y, sin(rows.g, rows.g.mul(rows.cell(x), rows.column(frequency))));
  rows.run();
  tape.operation({
    inputs: [x, frequency],
    outputs: [y],
    gradient: ([dy]) => {
      const back = rowsOver(x);
      const { g } = back;
      const [value, f] = [back.cell(x), back.column(frequency)];
      const d = g.mul(back.cell(dy!), cos(g, g.mul(value, f)));
      const dx = tape.tensor(x.shape, x.storage);
      back.store(dx, g.mul(d, f));
      const df = tape.sink(frequency, "float32");
      back.columnSum(df.tensor, g.mul(d, value), df.accumulate);
      back.run();
      return [dx, df.result];
    },
  });
  return y;
}

/** Weights of an implicit filter. */
export interface HyenaFilterParameters {
  /** (L, E): positional features, trained or not. */
  readonly positions: TapeTensor;
  /** Layers of the network, each followed by a sine; then the last. */
  readonly layers: readonly LinearParameters[];
  /** (width of the network): the frequencies of all its sines. */
  readonly frequency: TapeTensor;
  readonly last: LinearParameters;
  /** (D): how fast each channel decays. */
  readonly decay: TapeTensor;
  /** (D): what a sample is multiplied with where it stands, added to the tap at lag 0. */
  readonly skip: TapeTensor;
}

/** What is no weight of an implicit filter. */
export interface HyenaFilterOptions {
  /** Taps; all positions by default. */
  readonly length?: number;
  /** Positions from the first to the last stand for times from 0 to 1, as many as the filter was made for. */
  readonly positions?: number;
  /** Added to the decay: 0 in training code, 0.05 in the published HyenaDNA. */
  readonly shift?: number;
}

/**
 * The taps of every channel: k[d, t] = h[d, t]·(e^(−|decay[d]|·t/(P − 1)) + shift), with skip[d] added at t = 0.
 * @returns (D, L) in float32
 */
export function hyenaFilter(
  p: HyenaFilterParameters,
  options: HyenaFilterOptions = {},
): TapeTensor {
  const { length = p.positions.shape[0]!, shift = 0 } = options;
  const { positions: total = p.positions.shape[0]! } = options;
  let h = length === p.positions.shape[0] ? p.positions : p.positions.slice(0, length);
  for (const layer of p.layers) h = sine(linear(h, layer), p.frequency);
  const channels = linear(h.reshape(1, length, h.width), p.last, { to: "channels" });
  return shaped(channels.reshape(p.decay.size, length), p, shift, 1 / Math.max(1, total - 1));
}

/** What stands behind the network: decay, shift and skip. */
function shaped(
  h: TapeTensor,
  { decay, skip }: HyenaFilterParameters,
  shift: number,
  step: number,
): TapeTensor {
  const { tape } = h;
  const place = tape.place || decay.label;
  checkShape(place, skip, [h.shape[0]!]);
  const k = tape.tensor(h.shape, "float32");
  const factors = (rows: ReturnType<typeof rowsOver>) => {
    const { g, along } = rows;
    const time = g.mul(along.columnIndex(), g.constant(step));
    const rate = rows.row(decay);
    const fall = exp(g, g.neg(g.mul(time, g.max(rate, g.neg(rate)))));
    // 1 at the first column and 0 at all others: 1 − t > 0 for t = 0 alone.
    const first = g.select(g.sub(g.constant(1), along.columnIndex()), g.constant(1), g.constant(0));
    return { time, rate, fall, first };
  };
  const rows = rowsOver(h);
  const { fall, first } = factors(rows);
  const window = rows.g.add(fall, rows.g.constant(shift));
  rows.store(k, rows.g.fma(rows.row(skip), first, rows.g.mul(rows.cell(h), window)));
  rows.run();
  tape.operation({
    inputs: [h, decay, skip],
    outputs: [k],
    gradient: ([dk]) => {
      const back = rowsOver(h);
      const { g, along } = back;
      const { time, rate, fall, first } = factors(back);
      const d = back.cell(dk!);
      const dh = tape.tensor(h.shape, "float32");
      back.store(dh, g.mul(d, g.add(fall, g.constant(shift))));
      const falling = g.mul(g.mul(d, back.cell(h)), g.mul(fall, time));
      const sign = g.select(rate, g.constant(-1), g.constant(1));
      const ddecay = tape.sink(decay, "float32");
      back.storeRow(ddecay.tensor, g.mul(along.sum(falling), sign), ddecay.accumulate);
      const dskip = tape.sink(skip, "float32");
      back.storeRow(dskip.tensor, along.sum(g.mul(d, first)), dskip.accumulate);
      back.run();
      return [dh, ddecay.result, dskip.result];
    },
  });
  return k;
}
