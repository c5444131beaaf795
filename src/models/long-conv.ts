/**
 * A classifier of sequences by long convolutions with explicit kernels (Fu et al., "Simple Hardware-Efficient Long Convolutions for
 * Sequence Modeling", arXiv 2302.06646). Shapes: B sequences, L positions, D channels, K taps: 2L where both sides are seen.
 */
import { activation, dropout, glu } from "../nn/operations/elementwise.ts";
import { linear } from "../nn/operations/linear.ts";
import { longConv } from "../nn/operations/long-convolution.ts";
import { crossEntropy } from "../nn/operations/loss.ts";
import { layerNorm } from "../nn/operations/norm.ts";
import { meanPool } from "../nn/operations/pool.ts";
import { skipTap, squash } from "../nn/operations/squash.ts";
import { toChannels } from "../nn/operations/transpose.ts";
import type { Weight } from "../nn/parameters.ts";
import type { TapeTensor } from "../nn/tape.ts";
import { checkShape } from "../nn/tensor.ts";
import type { LayerOf } from "./initial.ts";
import { Initial } from "./initial.ts";

/** What a classifier is configured by. */
export interface LongConvConfig {
  /** Numbers at each position of the input. */
  readonly inputs: number;
  readonly classes: number;
  /** D. */
  readonly width: number;
  readonly layers: number;
  /** L. */
  readonly length: number;
  /** Taps move towards zero by so much, and stay there. */
  readonly squash: number;
  /** Whether a position sees those behind it too. */
  readonly bidirectional: boolean;
  /** Norms before the layers rather than behind the residuals. */
  readonly prenorm: boolean;
  /** Rates of dropout in training: of taps, and behind each layer. */
  readonly kernelDropout: number;
  readonly dropout: number;
}

/** Sequential CIFAR, as the paper's example has it. */
export const sequentialCifar: LongConvConfig = {
  ...{ inputs: 3, classes: 10, width: 256, layers: 6, length: 1024, squash: 0.003 },
  ...{ bidirectional: true, prenorm: false, kernelDropout: 0.2, dropout: 0.1 },
};

/** Weights of a layer. */
export type LongConvOf<T> = {
  readonly kernel: T; // (D, K)
  readonly skip: T; // (D)
  readonly outProjection: LayerOf<T>; // (2D, D)
};

/** Weights of a classifier. */
export type LongConvClassifierOf<T> = {
  readonly encoder: LayerOf<T>; // (D, inputs)
  readonly layers: readonly (LongConvOf<T> & { readonly norm: LayerOf<T> })[];
  readonly decoder: LayerOf<T>; // (classes, D)
};

/** Weights before training, drawn from a seed; `zeros` has their shapes alone. */
export function longConvWeights(
  c: LongConvConfig,
  seed: number | "zeros" = 1,
): LongConvClassifierOf<Weight> {
  const draw = new Initial(seed);
  const taps = c.length * (c.bidirectional ? 2 : 1);
  return {
    encoder: draw.linear(c.width, c.inputs),
    layers: Array.from({ length: c.layers }, () => ({
      kernel: draw.normal([c.width, taps], 0.002),
      skip: draw.normal([c.width], 1),
      outProjection: draw.linear(2 * c.width, c.width),
      norm: draw.norm(c.width),
    })),
    decoder: draw.linear(c.classes, c.width),
  };
}

/** A long convolution with its skip, GELU, and a gated linear layer. */
export function longConvLayer(
  x: TapeTensor, // (B, L, D)
  p: LongConvOf<TapeTensor>,
  c: LongConvConfig,
): TapeTensor {
  const taps = dropout(squash(p.kernel, c.squash), c.kernelDropout); // (D, K)
  const k = skipTap(taps, p.skip); // (D, K)
  const u = toChannels(x); // (B, D, L)
  const y = longConv(u, k, { mode: c.bidirectional ? "bidirectional" : "causal" }); // (B, D, L)
  const active = activation(y, "gelu-exact"); // (B, D, L)
  return glu(linear(active, p.outProjection, { from: "channels" })); // (B, L, D)
}

/** Scores of all classes: (B, classes). */
export function longConvLogits(
  inputs: TapeTensor, // (B, L, inputs)
  p: LongConvClassifierOf<TapeTensor>,
  c: LongConvConfig,
): TapeTensor {
  return linear(pooled(inputs, p, c), p.decoder); // (B, classes)
}

/** The mean over sequences of −log of what the model gives the right class. */
export function longConvLoss(
  inputs: TapeTensor, // (B, L, inputs)
  labels: TapeTensor, // (B)
  p: LongConvClassifierOf<TapeTensor>,
  c: LongConvConfig,
): TapeTensor {
  const { weight, bias } = p.decoder;
  return crossEntropy(pooled(inputs, p, c), weight, labels, { bias });
}

/** What the decoder reads: the mean over positions of the last layer. */
function pooled(
  inputs: TapeTensor, // (B, L, inputs)
  p: LongConvClassifierOf<TapeTensor>,
  c: LongConvConfig,
): TapeTensor {
  return meanPool(longConvLayers(inputs, p, c)); // (B, D)
}

/** All layers, one after another, with residuals. */
export function longConvLayers(
  inputs: TapeTensor, // (B, L, inputs)
  p: LongConvClassifierOf<TapeTensor>,
  c: LongConvConfig,
): TapeTensor {
  const { tape } = inputs;
  checkShape(tape.place || "longConv", inputs, [-1, c.length, c.inputs]);
  return p.layers.reduce(
    (x, layer, i) =>
      tape.within(`layers.${i}`, () => {
        const read = c.prenorm ? layerNorm(x, layer.norm) : x; // (B, L, D)
        const sum = dropout(longConvLayer(read, layer, c), c.dropout, x); // (B, L, D)
        return c.prenorm ? sum : layerNorm(sum, layer.norm); // (B, L, D)
      }),
    linear(inputs, p.encoder), // (B, L, D)
  );
}
