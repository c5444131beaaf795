/** `flashfftconv/models`: Hyena language models, HyenaDNA and long-convolution classifiers, their weights and what they write. */

export { HyenaEmbedder } from "./models/embed.ts";
export type { GenerateOptions } from "./models/generate.ts";
export { generate } from "./models/generate.ts";
export type { BlockOf, BlockParameters, HyenaConfig } from "./models/hyena.ts";
export { block, blocks, blockWeights, hyena } from "./models/hyena.ts";
export { HyenaCache } from "./models/hyena-cache.ts";
export type { HyenaDNAName } from "./models/hyena-dna.ts";
export { hyenaDNAs } from "./models/hyena-dna.ts";
export type { HyenaLMConfig, HyenaLMOf, HyenaLMParameters } from "./models/hyena-lm.ts";
export {
  hyenaLM,
  hyenaLMLogits,
  hyenaLMLoss,
  hyenaLMs,
  hyenaLMWeights,
} from "./models/hyena-lm.ts";
export { Initial } from "./models/initial.ts";
export type { LongConvConfig } from "./models/long-conv.ts";
export { longConvLogits, longConvLoss, longConvWeights } from "./models/long-conv.ts";
export { hyenaNaming, readHyenaLM, writeHyenaLM } from "./models/published.ts";
