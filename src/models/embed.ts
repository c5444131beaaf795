/** What language models make of texts: the hidden states that their heads read. */
import { checkTokens } from "../data/tokens.ts";
import { meanPool } from "../nn/operations/pool.ts";
import { ModelProgram } from "../nn/program.ts";
import type { HyenaModel } from "./hyena-cache.ts";
import type { HyenaLMConfig } from "./hyena-lm.ts";
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

/**
 * Hidden states of texts of one length.
 * @example
 * const embedder = await HyenaEmbedder.open(model, config, { length: 1024, mean: true });
 * const vectors = await embedder.embed(tokens); // (B, D)
 * embedder.dispose();
 */
export class HyenaEmbedder<M = unknown> {
  readonly #program: ModelProgram<M>;
  readonly #vocabulary: number;

  private constructor(program: ModelProgram<M>, vocabulary: number) {
    this.#program = program;
    this.#vocabulary = vocabulary;
  }

  /** @throws InvalidArgumentError for more tokens than the filters were made for. */
  static async open<M>(
    model: HyenaModel<M>,
    c: HyenaLMConfig,
    { batch = 1, length, mean = false }: EmbedderOptions,
  ): Promise<HyenaEmbedder<M>> {
    const inputs = { ids: { shape: [batch, length], storage: "uint32" } } as const;
    const program = await ModelProgram.compile(
      model,
      inputs,
      (p, { ids }) => {
        const hidden = hyenaLM(ids, p, c); // (B, L, D)
        return { hidden: mean ? meanPool(hidden) : hidden };
      },
      {},
      "HyenaEmbedder.open",
    );
    return new HyenaEmbedder(program, c.vocabulary);
  }

  /**
   * @param tokens (B, L)
   * @returns (B, L, D), or (B, D) where their mean is asked for.
   * @throws InvalidArgumentError for tokens out of the vocabulary, and for another number of them.
   */
  async embed(tokens: Uint32Array): Promise<Float32Array> {
    checkTokens(tokens, this.#vocabulary, "embedder.embed");
    this.#program.write("ids", tokens);
    await this.#program.run();
    return this.#program.read("hidden");
  }

  dispose(): void {
    this.#program.dispose();
  }
}
