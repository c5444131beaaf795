/**
 * The Hyena operator of order 2 and the blocks that models are made of (Poli et al., "Hyena Hierarchy", arXiv 2302.10866). Shapes: B
 * sequences, L positions, D channels, E features of a position, F neurons of the filter's network.
 */
import { dropout } from "../nn/operations/elementwise.ts";
import { hyenaFilter } from "../nn/operations/hyena-filter.ts";
import { linear, mlp } from "../nn/operations/linear.ts";
import { longConv, projections } from "../nn/operations/long-convolution.ts";
import { layerNorm } from "../nn/operations/norm.ts";
import { recompute } from "../nn/operations/recompute.ts";
import type { Weight } from "../nn/parameters.ts";
import type { TapeTensor } from "../nn/tape.ts";
import type { Initial, LayerOf } from "./initial.ts";
import { weightOf } from "./initial.ts";

/** What every Hyena model is configured by. */
export interface HyenaConfig {
  /** D. */
  readonly width: number;
  /** Blocks. */
  readonly layers: number;
  /** Neurons between the two layers of a block's perceptron. */
  readonly inner: number;
  /** Positions that filters are made for: the longest sequence. */
  readonly maxLength: number;
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
  readonly last: { readonly weight: T }; // (D, F)
  readonly decay: T; // (D)
  readonly skip: T; // (D)
};

/** Weights of a block. */
export type BlockOf<T> = {
  readonly norm1: LayerOf<T>; // (D)
  readonly mixer: {
    readonly inProjection: LayerOf<T>; // (3D, D)
    readonly short: LayerOf<T>; // (3D, 3)
    readonly filter: FilterOf<T>;
    readonly outProjection: LayerOf<T>; // (D, D)
  };
  readonly norm2: LayerOf<T>; // (D)
  readonly mlp: { readonly first: LayerOf<T>; readonly second: LayerOf<T> }; // (inner, D), (D, inner)
};

/** Parameters of a block on a tape. */
export type BlockParameters = BlockOf<TapeTensor>;

function filterWeights(c: HyenaConfig, draw: Initial): FilterOf<Weight> {
  const { width, maxLength, features, filterWidth } = c;
  const [fast, slow] = [Math.log(0.01) / 0.3, Math.log(0.01) / 1.5];
  const decay = weightOf([width], (d) => slow + ((fast - slow) * d) / Math.max(1, width - 1));
  const inner = () => draw.linear(filterWidth, filterWidth);
  const positions = positionalFeatures(maxLength, features);
  return {
    positions: c.trainsPositions ? positions : { ...positions, frozen: true }, // (L, E)
    layers: [draw.linear(filterWidth, features), inner(), inner()],
    frequency: weightOf([filterWidth], () => c.frequency), // (F)
    last: { weight: draw.linear(width, filterWidth).weight }, // (D, F)
    decay: { ...decay, frozen: true }, // (D)
    skip: draw.normal([width], 1), // (D)
  };
}

/** Time from 0 to 1, then the cosines and negative sines of bands of frequencies: (L, E). */
export function positionalFeatures(length: number, features: number): Weight {
  const bands = (features - 1) / 2;
  const frequency = (b: number) => 1e-4 + (bands > 1 ? ((bands - 1 - 1e-4) * b) / (bands - 1) : 0);
  return weightOf([length, features], (i) => {
    const [n, e] = [Math.floor(i / features), i % features];
    if (e === 0) return n / Math.max(1, length - 1);
    const angle = (2 * Math.PI * n * frequency((e - 1) % bands)) / length;
    return e <= bands ? Math.cos(angle) : -Math.sin(angle);
  });
}

/** Weights of a block, as the original code draws them: what ends in the residual has a smaller deviation. */
export function blockWeights(c: HyenaConfig, draw: Initial): BlockOf<Weight> {
  const { width, inner, layers } = c;
  const ending = 0.02 / Math.sqrt(2 * layers);
  const short = 1 / Math.sqrt(3);
  return {
    norm1: draw.norm(width),
    mixer: {
      inProjection: draw.projection(3 * width, width, 0.02), // (3D, D)
      short: {
        weight: draw.uniform([3 * width, 3], short), // (3D, 3)
        bias: draw.uniform([3 * width], short), // (3D)
      },
      filter: filterWeights(c, draw),
      outProjection: draw.projection(width, width, ending), // (D, D)
    },
    norm2: draw.norm(width),
    mlp: {
      first: draw.projection(inner, width, 0.02),
      second: draw.projection(width, inner, ending),
    },
  };
}

/** The Hyena operator: two gates around a long convolution, all made of x. */
export function hyena(
  x: TapeTensor, // (B, L, D)
  p: BlockParameters["mixer"],
  c: HyenaConfig,
  residual?: TapeTensor, // (B, L, D)
): TapeTensor {
  const k = hyenaFilter(p.filter, { length: x.shape[1]!, shift: c.shift }); // (D, L)
  const projected = linear(x, p.inProjection, { to: "channels" }); // (B, 3D, L)
  const { gated, postgate } = projections(projected, p.short); // (B, D, L) each
  const y = longConv(gated, k, { postgate }); // (B, D, L)
  return linear(y, p.outProjection, { from: "channels", residual }); // (B, L, D)
}

/** Hyena and a perceptron, each behind a norm and around it a residual. */
export function block(x: TapeTensor, p: BlockParameters, c: HyenaConfig): TapeTensor {
  const { tape } = x;
  const norm = (h: TapeTensor, q: BlockParameters["norm1"]) => layerNorm(h, q, c.normEpsilon);
  const mixed = tape.within("mixer", () =>
    joined(x, c, (residual) => hyena(norm(x, p.norm1), p.mixer, c, residual)),
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
export function blocks(x: TapeTensor, all: readonly BlockParameters[], c: HyenaConfig): TapeTensor {
  return all.reduce(
    (h, p, i) =>
      x.tape.within(`blocks.${i}`, () =>
        c.recompute ? recompute(h, (input) => block(input, p, c)) : block(h, p, c),
      ),
    x,
  );
}
