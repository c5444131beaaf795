/**
 * The Hyena operator and the blocks that models are made of (Poli et al., "Hyena Hierarchy", arXiv 2302.10866). Shapes: B sequences,
 * L positions, D channels, N the order, E features of a position, F neurons of the filter's network.
 */
import { dropout } from "../nn/operations/elementwise.ts";
import { hyenaFilter } from "../nn/operations/hyena-filter.ts";
import { linear, mlp } from "../nn/operations/linear.ts";
import { longConv, projections, shortConv } from "../nn/operations/long-convolution.ts";
import { layerNorm } from "../nn/operations/norm.ts";
import { recompute } from "../nn/operations/recompute.ts";
import { split } from "../nn/operations/split.ts";
import type { Weight } from "../nn/parameters.ts";
import type { TapeTensor } from "../nn/tape.ts";
import type { Frequencies } from "../plan/frequencies.ts";
import type { Initial, LayerOf } from "./initial.ts";

/** What every Hyena model is configured by. */
export interface HyenaConfig {
  /** D. */
  readonly width: number;
  /** Blocks. */
  readonly layers: number;
  /** N: gates, between which there are N − 1 long convolutions; 2 by default, which is fused. */
  readonly order?: number;
  /** Neurons between the two layers of a block's perceptron. */
  readonly inner: number;
  /** Positions that filters are made for: the longest sequence. */
  readonly maxLength: number;
  /** Whether longer sequences are taken: a filter then ends with its last position. Refused by default. */
  readonly extends?: boolean;
  /** Inference: frequencies that long convolutions keep, as FlashFFTConv's option; all by default. */
  readonly frequencies?: Frequencies;
  /** E: the time, and pairs of cosine and sine. */
  readonly features: number;
  /** F. */
  readonly filterWidth: number;
  /** Frequency that the filter's sines begin with. */
  readonly frequency: number;
  /** Added to the filter's decay. */
  readonly shift: number;
  /** Whether the features of positions are trained. */
  readonly trainsPositions: boolean;
  /** Epsilon of the norms. */
  readonly normEpsilon: number;
  /** Rate of dropout behind the embedding and behind both parts of each block, in training. */
  readonly dropout: number;
  /** Keep only the input of each block for the gradient, and compute the rest again. */
  readonly recompute: boolean;
}

/** Weights of an implicit filter: three sine layers and a last one. */
export type FilterOf<T> = {
  readonly positions: T; // (L, E)
  readonly layers: readonly LayerOf<T>[]; // (F, E), (F, F), (F, F)
  readonly frequency: T; // (F)
  readonly last: { readonly weight: T }; // ((N − 1)D, F)
  readonly decay: T; // ((N − 1)D)
  readonly skip: T; // ((N − 1)D)
};

/** Weights of a block. */
export type BlockOf<T> = {
  readonly norm1: LayerOf<T>; // (D)
  readonly mixer: {
    readonly inProjection: LayerOf<T>; // ((N + 1)D, D)
    readonly short: LayerOf<T>; // ((N + 1)D, 3)
    readonly filter: FilterOf<T>;
    readonly outProjection: LayerOf<T>; // (D, D)
  };
  readonly norm2: LayerOf<T>; // (D)
  readonly mlp: { readonly first: LayerOf<T>; readonly second: LayerOf<T> }; // (inner, D), (D, inner)
};

/** Parameters of a block on a tape. */
export type BlockParameters = BlockOf<TapeTensor>;

function filterWeights(c: HyenaConfig, draw: Initial): FilterOf<Weight> {
  const { maxLength, features, filterWidth } = c;
  const width = c.width * ((c.order ?? 2) - 1); // (N − 1)D
  const [fast, slow] = [Math.log(0.01) / 0.3, Math.log(0.01) / 1.5];
  const decay = draw.of([width], (d) => slow + ((fast - slow) * d) / Math.max(1, width - 1));
  const inner = () => draw.linear(filterWidth, filterWidth);
  const positions = draw.of([maxLength, features], positionalFeature(maxLength, features)); // (L, E)
  return {
    positions: c.trainsPositions ? positions : { ...positions, frozen: true },
    layers: [draw.linear(filterWidth, features), inner(), inner()],
    frequency: draw.of([filterWidth], () => c.frequency), // (F)
    last: { weight: draw.linear(width, filterWidth).weight },
    decay: { ...decay, frozen: true },
    skip: draw.normal([width], 1),
  };
}

/** Number i of (L, E): time from 0 to 1, then the cosines and negative sines of bands of frequencies. */
function positionalFeature(length: number, features: number): (i: number) => number {
  const bands = (features - 1) / 2;
  const frequency = (b: number) => 1e-4 + (bands > 1 ? ((bands - 1 - 1e-4) * b) / (bands - 1) : 0);
  return (i) => {
    const [n, e] = [Math.floor(i / features), i % features];
    if (e === 0) return n / Math.max(1, length - 1);
    const angle = (2 * Math.PI * n * frequency((e - 1) % bands)) / length;
    return e <= bands ? Math.cos(angle) : -Math.sin(angle);
  };
}

/** Weights of a block, as the original code draws them: what ends in the residual has a smaller deviation. */
export function blockWeights(c: HyenaConfig, draw: Initial): BlockOf<Weight> {
  const { width, inner, layers } = c;
  const ending = 0.02 / Math.sqrt(2 * layers);
  const short = 1 / Math.sqrt(3);
  const projected = ((c.order ?? 2) + 1) * width; // (N + 1)D
  return {
    norm1: draw.norm(width),
    mixer: {
      inProjection: draw.projection(projected, width, 0.02),
      short: {
        weight: draw.uniform([projected, 3], short),
        bias: draw.uniform([projected], short),
      },
      filter: filterWeights(c, draw),
      outProjection: draw.projection(width, width, ending),
    },
    norm2: draw.norm(width),
    mlp: {
      first: draw.projection(inner, width, 0.02),
      second: draw.projection(width, inner, ending),
    },
  };
}

/** The taps of a block's filters for L positions, or for as many as they were made for. */
export function taps(
  length: number,
  p: BlockParameters["mixer"]["filter"],
  c: HyenaConfig,
): TapeTensor {
  const known = c.extends ? Math.min(length, c.maxLength) : length;
  return hyenaFilter(p, { length: known, shift: c.shift }); // ((N − 1)D, L)
}

/** The Hyena operator: gates around long convolutions, all made of x. */
export function hyena(
  x: TapeTensor, // (B, L, D)
  p: BlockParameters["mixer"],
  c: HyenaConfig,
  residual?: TapeTensor, // (B, L, D)
): TapeTensor {
  const k = taps(x.shape[1]!, p.filter, c); // ((N − 1)D, L)
  const projected = linear(x, p.inProjection, { to: "channels" }); // (B, (N + 1)D, L)
  const y = (c.order ?? 2) === 2 ? gatedTwice(projected, k, p, c) : chained(projected, k, p, c);
  return linear(y, p.outProjection, { from: "channels", residual }); // (B, L, D)
}

/** Order 2: the short filters and the gate before the convolution in one pass, the convolution and the gate behind it in another. */
function gatedTwice(
  x: TapeTensor, // (B, 3D, L)
  k: TapeTensor, // (D, L)
  p: BlockParameters["mixer"],
  { frequencies }: HyenaConfig,
): TapeTensor {
  const { gated, postgate } = projections(x, p.short); // (B, D, L) each
  return longConv(gated, k, { postgate, frequencies }); // (B, D, L)
}

/** Order N: a value passes N − 1 convolutions, a gate before each, the last gate first, and one behind the last. */
function chained(
  x: TapeTensor, // (B, (N + 1)D, L)
  k: TapeTensor, // ((N − 1)D, L)
  p: BlockParameters["mixer"],
  { order = 2, frequencies }: HyenaConfig,
): TapeTensor {
  const [postgate, ...rest] = split(shortConv(x, p.short), order + 1); // (B, D, L) each
  const filters = split(k.reshape(1, ...k.shape), order - 1); // (1, D, L) each
  const value = rest.pop()!;
  return rest.reduceRight((u, pregate, i) => {
    const taps = filters[rest.length - 1 - i]!;
    const behind = i === 0 ? { postgate } : {};
    return longConv(u, taps.reshape(...taps.shape.slice(1)), { pregate, frequencies, ...behind });
  }, value); // (B, D, L)
}

/** What mixes positions in a block, and adds the residual: `hyena`, or what gives the same another way. */
export type Mixer = typeof hyena;

/** Hyena and a perceptron, each behind a norm and around it a residual. */
export function block(
  x: TapeTensor, // (B, L, D)
  p: BlockParameters,
  c: HyenaConfig,
  mixer: Mixer = hyena,
): TapeTensor {
  const { tape } = x;
  const norm = (h: TapeTensor, q: BlockParameters["norm1"]) => layerNorm(h, q, c.normEpsilon);
  const mixed = tape.within("mixer", () =>
    joined(x, c, (residual) => mixer(norm(x, p.norm1), p.mixer, c, residual)),
  ); // (B, L, D)
  return tape.within("mlp", () =>
    joined(mixed, c, (residual) => mlp(norm(mixed, p.norm2), p.mlp, { residual })),
  ); // (B, L, D)
}

/** x + part: the last product of a part adds x, where no dropout stands between. */
function joined(
  x: TapeTensor,
  { dropout: rate }: HyenaConfig,
  part: (residual?: TapeTensor) => TapeTensor,
): TapeTensor {
  return rate > 0 && x.tape.training ? dropout(part(), rate, x) : part(x);
}

/** All blocks, one after another. */
export function blocks(
  x: TapeTensor, // (B, L, D)
  all: readonly BlockParameters[],
  c: HyenaConfig,
  mixer?: Mixer,
): TapeTensor {
  return all.reduce(
    (h, p, i) =>
      x.tape.within(`blocks.${i}`, () =>
        c.recompute ? recompute(h, (input) => block(input, p, c, mixer)) : block(h, p, c, mixer),
      ),
    x,
  );
}
