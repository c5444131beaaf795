/** HyenaDNA (Nguyen et al., arXiv 2306.15794): Hyena over single nucleotides, in all published sizes. */
import type { HyenaLMConfig } from "./hyena-lm.ts";

const published = {
  ...{ features: 5, filterWidth: 64, frequency: 10, shift: 0.05, trainsPositions: true },
  ...{ normEpsilon: 1e-5, recompute: false, dropout: 0, tied: true, vocabulary: 16 },
};

const sized = (width: number, layers: number, maxLength: number): HyenaLMConfig => ({
  ...{ ...published, width, layers, inner: 4 * width, maxLength },
});

/**
 * The published sizes. Each has two positions more than its name says, for the tokens before and behind a sequence. Their tokenizer is
 * `dnaTokenizer`; the other strand is `reverseComplement`.
 * @example
 * const config = hyenaDNAs["tiny-1k"];
 * const model = await Model.create(await openMachine(), await readHyenaLM("model.safetensors", config));
 * const cache = new HyenaCache(model, config);
 * const logits = await cache.prompt(dnaTokenizer.encode("ACGT")); // of the base that follows
 */
export const hyenaDNAs: Readonly<Record<HyenaDNAName, HyenaLMConfig>> = {
  "tiny-1k": sized(128, 2, 1026),
  "tiny-1k-d256": sized(256, 2, 1026),
  "tiny-16k-d128": sized(128, 2, 16_386),
  "small-32k": sized(256, 4, 32_770),
  "medium-160k": sized(256, 8, 160_002),
  "medium-450k": sized(256, 8, 450_002),
  "large-1m": sized(256, 8, 1_000_002),
};

/** Names of the published sizes, as their repositories have them behind `hyenadna-`. */
export type HyenaDNAName =
  | "tiny-1k"
  | "tiny-1k-d256"
  | "tiny-16k-d128"
  | "small-32k"
  | "medium-160k"
  | "medium-450k"
  | "large-1m";
