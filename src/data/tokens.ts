/** Texts as rows of tokens, numbers below the size of a vocabulary, wherever they come from. */
import { InvalidArgumentError } from "../errors.ts";
import { show } from "../show.ts";

/** A row of tokens of which any part can be read. */
export interface TokenSource {
  /** The file, for messages. */
  readonly name: string;
  /** Tokens. */
  readonly size: number;
  /** Every token is less. */
  readonly vocabulary: number;
  /** To read before what was read last is to read everything up to there again. */
  readonly sequential?: boolean;
  /** Fill `target` with the tokens from `position` on; both ends lie within. */
  read(target: Uint32Array, position: number): Promise<void>;
  close(): Promise<void>;
}

/** Texts to tokens and back. */
export interface Tokenizer {
  /** Tokens that there are. */
  readonly size: number;
  /** @throws InvalidArgumentError for what it has no token for. */
  encode(text: string): Uint32Array;
  /** @throws InvalidArgumentError for a token that is none. */
  decode(tokens: ArrayLike<number>): string;
}

/**
 * Tokens in memory.
 * @throws InvalidArgumentError for a token that is not below `vocabulary`.
 * @example
 * const source = tokensInMemory(tokenizer.encode(text), tokenizer.size);
 */
export function tokensInMemory(
  tokens: Uint32Array | Uint16Array | Uint8Array,
  vocabulary: number,
  name = "the tokens given",
): TokenSource {
  checkTokens(tokens, vocabulary, "tokensInMemory");
  return {
    ...{ name, size: tokens.length, vocabulary },
    read: async (target, position) =>
      target.set(tokens.subarray(position, position + target.length)),
    close: async () => {},
  };
}

/** Tokens that are read at a time. */
const pieceTokens = 2 ** 18;

/**
 * A source read into memory, as bytes where its vocabulary allows, and closed: what is small, or is drawn from at random.
 * @example
 * const genome = await loadTokens(await openFasta("ecoli.fna.gz")); // 4.6 MB
 */
export async function loadTokens(source: TokenSource): Promise<TokenSource> {
  const { name, size, vocabulary } = source;
  const tokens = new (vocabulary <= 256 ? Uint8Array : Uint32Array)(size);
  try {
    for (let at = 0; at < size; at += pieceTokens) {
      const piece = new Uint32Array(Math.min(pieceTokens, size - at));
      await source.read(piece, at);
      tokens.set(piece, at);
    }
  } finally {
    await source.close();
  }
  return tokensInMemory(tokens, vocabulary, name);
}

/** @throws InvalidArgumentError for a token that is not an integer below `vocabulary`. */
export function checkTokens(tokens: ArrayLike<number>, vocabulary: number, call: string): void {
  for (let i = 0; i < tokens.length; i++) {
    const token = tokens[i]!;
    if (token >= 0 && token < vocabulary && Number.isInteger(token)) continue;
    throw new InvalidArgumentError({
      call,
      requirement: `tokens must be integers below ${show(vocabulary)}, the size of the vocabulary`,
      value: `${show(token)} at ${show(i)}`,
      remedy: "Use the tokenizer that the text was encoded with.",
    });
  }
}
