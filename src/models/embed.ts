/** What language models make of texts: the hidden states that their heads read. */
import { checkTokens } from "../data/tokens.ts";
import { meanPool } from "../nn/operations/pool.ts";
import { ModelProgram } from "../nn/program.ts";
import type { TapeTensor } from "../nn/tape.ts";
import type { HyenaModel } from "./hyena-cache.ts";
import type { HyenaLMConfig, HyenaLMParameters } from "./hyena-lm.ts";
import { hyenaLM } from "./hyena-lm.ts";

/** The texts of a call, and what is made of them. */
export interface EmbedderOptions {
  /** B: texts at once; 1 by default. */
  readonly batch?: number;
  /** L: tokens of each. */
  readonly length: number;
  /** The mean over the positions rather than all of them. */
  readonly mean?: boolean;
}

/** What a program that embeds can do. */
export interface Embedder {
  /**
   * @param tokens (B, L)
   * @returns (B, L, D), or (B, D) where their mean is asked for.
   * @throws InvalidArgumentError for tokens out of the vocabulary, and for another number of them.
   */
  embed(tokens: Uint32Array): Promise<Float32Array>;
  dispose(): void;
}

/**
 * Make a program for hidden states of texts of one length.
 * @throws InvalidArgumentError for more tokens than the filters were made for.
 * @example
 * const embedder = await openEmbedder(model, config, { length: 1024, mean: true });
 * const vectors = await embedder.embed(tokens); // (B, D)
 */
export async function openEmbedder(
  model: HyenaModel,
  c: HyenaLMConfig,
  { batch = 1, length, mean = false }: EmbedderOptions,
): Promise<Embedder> {
  const inputs = { ids: { shape: [batch, length], storage: "uint32" } } as const;
  const body = (p: HyenaLMParameters, { ids }: { readonly ids: TapeTensor }) => {
    const hidden = hyenaLM(ids, p, c); // (B, L, D)
    return { hidden: mean ? meanPool(hidden) : hidden };
  };
  const program = await ModelProgram.compile(model, inputs, body, {}, "openEmbedder");
  return {
    async embed(tokens) {
      checkTokens(tokens, c.vocabulary, "embedder.embed");
      program.write("ids", tokens);
      await program.run();
      return program.read("hidden");
    },
    dispose: () => program.dispose(),
  };
}
