/** HyenaLM: the language model of Hyena (Poli et al., arXiv 2302.10866), pre-norm blocks between an embedding and its transpose. */
import { dropout } from "../nn/operations/elementwise.ts";
import { embedding } from "../nn/operations/embedding.ts";
import { linear } from "../nn/operations/linear.ts";
import { crossEntropy } from "../nn/operations/loss.ts";
import { layerNorm } from "../nn/operations/norm.ts";
import type { Weight } from "../nn/parameters.ts";
import type { TapeTensor } from "../nn/tape.ts";
import type { BlockOf, HyenaConfig } from "./hyena.ts";
import { blocks, blockWeights } from "./hyena.ts";
import type { LayerOf } from "./initial.ts";
import { Initial } from "./initial.ts";

/** What a language model is configured by. */
export interface HyenaLMConfig extends HyenaConfig {
  /** V: rows of the embedding, tokens that no text has included. */
  readonly vocabulary: number;
  /** Whether the head is the embedding. */
  readonly tied: boolean;
}

const usual = {
  ...{ features: 33, filterWidth: 64, frequency: 14, shift: 0, trainsPositions: true },
  ...{ normEpsilon: 1e-5, recompute: false, dropout: 0, tied: true },
};

/** Configurations by name: `small` is the published 155M; `gpt2` has the widths of GPT-2 small. */
export const hyenaLMs: Readonly<Record<"small" | "gpt2" | "characters", HyenaLMConfig>> = {
  small: { ...usual, width: 864, layers: 18, inner: 1728, maxLength: 4096, vocabulary: 50_264 },
  gpt2: { ...usual, width: 768, layers: 12, inner: 3072, maxLength: 2048, vocabulary: 50_304 },
  characters: {
    ...{ ...usual, features: 5, width: 384, layers: 6, inner: 1536, maxLength: 1024 },
    ...{ vocabulary: 72, dropout: 0.2 },
  },
};

/** Weights of a language model. */
export type HyenaLMOf<T> = {
  readonly embedding: T; // (V, D)
  readonly blocks: readonly BlockOf<T>[];
  readonly norm: LayerOf<T>; // (D)
  readonly head: T; // (V, D): the embedding, where they are tied
};

/** Parameters of a language model on a tape. */
export type HyenaLMParameters = HyenaLMOf<TapeTensor>;

/** Weights before training, drawn from a seed; `zeros` has their shapes alone. */
export function hyenaLMWeights(c: HyenaLMConfig, seed: number | "zeros" = 1): HyenaLMOf<Weight> {
  const draw = new Initial(seed);
  const table = draw.normal([c.vocabulary, c.width], 0.02);
  return {
    embedding: table, // (V, D)
    blocks: Array.from({ length: c.layers }, () => blockWeights(c, draw)),
    norm: draw.norm(c.width),
    head: c.tied ? table : draw.normal([c.vocabulary, c.width], 0.02), // (V, D)
  };
}

/** What the head reads: the blocks' result, normalised. */
export function hyenaLM(
  ids: TapeTensor, // (B, L)
  p: HyenaLMParameters,
  c: HyenaLMConfig,
): TapeTensor {
  const x = dropout(embedding(ids, p.embedding), c.dropout); // (B, L, D)
  return layerNorm(blocks(x, p.blocks, c), p.norm, c.normEpsilon); // (B, L, D)
}

/** Scores of every token at every position: (B, L, V). */
export function hyenaLMLogits(ids: TapeTensor, p: HyenaLMParameters, c: HyenaLMConfig): TapeTensor {
  return linear(hyenaLM(ids, p, c), { weight: p.head }); // (B, L, V)
}

/** The mean over positions of −log of what the model gives the next token. */
export function hyenaLMLoss(
  ids: TapeTensor, // (B, L)
  labels: TapeTensor, // (B, L): the tokens that follow
  p: HyenaLMParameters,
  c: HyenaLMConfig,
): TapeTensor {
  return crossEntropy(hyenaLM(ids, p, c), p.head, labels);
}
