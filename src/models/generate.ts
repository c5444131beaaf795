/** Texts that language models write. */
import { integer, known } from "../checks.ts";
import { uniformAt } from "../data/random.ts";
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";
import type { HyenaCache } from "./hyena-cache.ts";

/** How tokens are drawn. */
export interface GenerateOptions {
  /** Tokens to draw; 256 by default. */
  readonly count?: number;
  /** Logits are divided by it: 0 takes the likeliest token, 1, the default, draws as the model says. */
  readonly temperature?: number;
  /** Draw from so many of the likeliest tokens; from all by default. */
  readonly topK?: number;
  /** Tokens below this are drawn: those that texts have, where the vocabulary is padded. */
  readonly vocabulary?: number;
  /** The draws' seed; 1 by default. */
  readonly seed?: number;
}

/**
 * The tokens that follow a prompt, each as soon as it is drawn.
 * @throws InvalidArgumentError for options out of range, and as `cache.prompt` does.
 * @example
 * for await (const token of generate(cache, tokenizer.encode("ROMEO:"), { temperature: 0.8, topK: 50 }))
 *   process.stdout.write(tokenizer.decode([token]));
 */
export async function* generate(
  cache: HyenaCache,
  prompt: ArrayLike<number>,
  options: GenerateOptions = {},
): AsyncGenerator<number, void, undefined> {
  const call = "generate";
  known(options, ["count", "temperature", "topK", "vocabulary", "seed"], call);
  const most = cache.config.vocabulary;
  const { count = 256, seed = 1, temperature = 1, vocabulary = most, topK = vocabulary } = options;
  integer(call, "count", count, 1, 2 ** 32);
  integer(call, "seed", seed, 0, 2 ** 32 - 1);
  integer(call, "vocabulary", vocabulary, 1, most);
  integer(call, "topK", topK, 1, most);
  if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY)) {
    throw new InvalidArgumentError({
      call,
      requirement: "temperature must be 0 or more",
      value: show(temperature),
      remedy: "Pass 0 for the likeliest token, 1 for draws as the model says.",
    });
  }
  for (let i = 0, logits = await cache.prompt(prompt); i < count; i++) {
    const scores = logits.subarray(0, vocabulary);
    const token = drawToken(scores, temperature, topK, uniformAt(seed, 0, i));
    yield token;
    if (i + 1 < count) logits = await cache.next(token);
  }
}

/** A token by its chance: softmax(logits/temperature) over the `topK` likeliest, of which the lower numbers come first. */
export function drawToken(
  logits: Float32Array,
  temperature: number,
  topK: number,
  random: number,
): number {
  const likeliest = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]! || a - b);
  const best = likeliest[0]!;
  if (temperature === 0) return best;
  const chosen = likeliest.slice(0, topK);
  const chances = chosen.map((token) => Math.exp((logits[token]! - logits[best]!) / temperature));
  let left = random * chances.reduce((a, b) => a + b);
  for (const [i, token] of chosen.entries()) {
    left -= chances[i]!;
    if (left < 0) return token;
  }
  return best;
}
