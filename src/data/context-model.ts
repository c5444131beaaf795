/** What a genome's next base is, by counting: the model that a network must beat. */
import { dnaTokens } from "./dna.ts";
import type { TokenSource } from "./tokens.ts";

const pieceTokens = 2 ** 18;

/** How a context model counts. */
export interface ContextModelOptions {
  /** Bases that a base depends on; 8 unless given. */
  readonly order?: number;
  /** What each count is before the first base; 4 unless given, the best on E. coli and on human DNA of 1, 2, 4, 8 and 16. */
  readonly prior?: number;
}

/**
 * Bits for each base of the tokens `held` (from, to), by how often it followed the same bases in the tokens `learnt`, on either
 * strand. Bases next to what is none (N, the end of a record) neither count nor are counted.
 * @example
 * const bits = await contextModelBits(genome, [0, 4_000_000], [4_000_000, genome.size]); // 1.93 on E. coli
 */
export async function contextModelBits(
  source: TokenSource,
  learnt: readonly [from: number, to: number],
  held: readonly [from: number, to: number],
  { order = 8, prior = 4 }: ContextModelOptions = {},
): Promise<number> {
  const contexts = 4 ** order;
  const counts = new Float64Array(4 * contexts).fill(prior);
  /** Visit the place in `counts` of each base that has a context, and its place on the other strand. */
  const each = async (
    [from, to]: readonly [number, number],
    visit: (place: number, other: number) => void,
  ): Promise<void> => {
    // As numbers of order + 1 digits to the base 4: context and base, and the other strand's.
    let [place, other, known] = [0, 0, 0];
    for (let at = from; at < to; at += pieceTokens) {
      const tokens = new Uint32Array(Math.min(pieceTokens, to - at));
      await source.read(tokens, at);
      for (const token of tokens) {
        const base = token - dnaTokens.a;
        known = base < 0 || base > 3 ? 0 : known + 1;
        place = (4 * place + base) % (4 * contexts);
        other = Math.floor(other / 4) + (3 - base) * contexts;
        if (known === 0) [place, other] = [0, 0];
        if (known > order) visit(place, other);
      }
    }
  };
  await each(learnt, (place, other) => {
    counts[place]!++;
    counts[other]!++;
  });
  let [bits, bases] = [0, 0];
  await each(held, (place) => {
    const first = place - (place % 4);
    const total = counts[first]! + counts[first + 1]! + counts[first + 2]! + counts[first + 3]!;
    bits -= Math.log2(counts[place]! / total);
    bases++;
  });
  return bits / bases;
}
