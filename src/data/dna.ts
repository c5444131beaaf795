/** DNA as tokens, as HyenaDNA has them. */
import { checkTokens, type Tokenizer } from "./tokens.ts";

/** All tokens of HyenaDNA, in the order of their numbers. */
const names = "[CLS] [SEP] [BOS] [MASK] [PAD] [RESERVED] [UNK] A C G T N".split(" ");

/** Tokens that have a meaning of their own. */
export const dnaTokens = {
  ...{ cls: 0, sep: 1, bos: 2, mask: 3, pad: 4, unknown: 6 },
  ...{ a: 7, c: 8, g: 9, t: 10, n: 11 },
} as Readonly<
  Record<"cls" | "sep" | "bos" | "mask" | "pad" | "unknown" | "a" | "c" | "g" | "t" | "n", number>
>;

/** The token of a base, or of what is none; lower case is none too, as in HyenaDNA. */
const tokenOf = (letter: string): number => {
  const token = names.indexOf(letter);
  return Math.max(token, dnaTokens.unknown);
};

/**
 * HyenaDNA's tokenizer: A, C, G, T and N are 7 to 11, all else is 6. `encode` adds no special tokens: a sequence as the published
 * models know it is `[dnaTokens.cls, ...tokens, dnaTokens.sep]`.
 * @example
 * dnaTokenizer.encode("ACGTN"); // 7, 8, 9, 10, 11
 */
export const dnaTokenizer: Tokenizer = {
  size: names.length,
  encode: (text) => Uint32Array.from(text, tokenOf),
  decode: (tokens) => {
    checkTokens(tokens, names.length, "dnaTokenizer.decode");
    return Array.from(tokens, (token) => names[token]).join("");
  },
};

/**
 * The other strand, read in its own direction, in place: A and T, and C and G, change places, and the order turns round.
 * @example
 * const tokens = reverseComplement(dnaTokenizer.encode("AACG")); // CGTT
 */
export function reverseComplement(tokens: Uint32Array): Uint32Array {
  const { a, t } = dnaTokens;
  tokens.reverse();
  for (let i = 0; i < tokens.length; i++)
    if (tokens[i]! >= a && tokens[i]! <= t) tokens[i] = a + t - tokens[i]!;
  return tokens;
}

/**
 * Either strand of a window, by chance: the option `augment` of windows.
 * @example
 * const windows = randomWindows(genome, { batch: 8, length: 32_768, augment: eitherStrand });
 */
export function eitherStrand(tokens: Uint32Array, random: number): void {
  if (random < 0.5) reverseComplement(tokens);
}
