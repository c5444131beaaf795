/**
 * The genome of the bacteriophage λ and a bank of long filters that listens for the beat of its genes: codons are three
 * bases long and use the bases unevenly, so that genes, and only genes, have a period of three.
 */
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

/** The letters of the one-hot code, in the order of its rows. */
export const bases = "ACGT";

/**
 * Decay lengths of the filters in bases, an octave apart; the longest window spans the whole genome. As in HyenaDNA's
 * filters, an oscillation is modulated by an exponential, fast in some channels and slow in others.
 */
export const decays = [30, 60, 120, 240, 480, 960, 1920, 3840];

/** Filters for each base: one cosine and one sine for each decay. */
export const filtersPerBase = 2 * decays.length;

/** Bases of a gzipped FASTA file with one sequence. @param {URL} file */
export function readGenome(file) {
  const [, ...lines] = gunzipSync(readFileSync(file)).toString("latin1").trim().split("\n");
  return lines.join("");
}

/**
 * Rows of zeros and ones, (4 × filtersPerBase, length): a base's row is repeated for each of its filters.
 *
 * @param {string} genome
 * @param {Float32Array} u where they go
 */
export function oneHot(genome, u) {
  for (let row = 0; row < bases.length * filtersPerBase; row++) {
    const base = bases[Math.floor(row / filtersPerBase)];
    for (let n = 0; n < genome.length; n++) u[row * genome.length + n] = genome[n] === base ? 1 : 0;
  }
}

/**
 * exp(−|t| / decay) · cos(2π t / 3), then the same with the sine, for every decay; the same filters for each base.
 * Scaled so that a shuffled genome gives a response of mean square 1 over the four bases.
 *
 * @param {number} taps K, as many as there are bases; t = 0 is where mode `same` has its centre
 * @returns {Float32Array} (4 × filtersPerBase, K)
 */
export function filterBank(taps) {
  const k = new Float32Array(bases.length * filtersPerBase * taps);
  const centre = Math.floor((taps - 1) / 2);
  for (let row = 0; row < bases.length * filtersPerBase; row++) {
    const decay = decays[Math.floor((row % filtersPerBase) / 2)];
    // One base of four is there: variance 4 · 3/16; the energy of the window is about `decay`.
    const scale = 1 / Math.sqrt(0.75 * decay);
    for (let j = 0; j < taps; j++) {
      const t = j - centre;
      const turn = (2 * Math.PI * t) / 3;
      const wave = row % 2 === 0 ? Math.cos(turn) : Math.sin(turn);
      k[row * taps + j] = scale * Math.exp(-Math.abs(t) / decay) * wave;
    }
  }
  return k;
}

/**
 * What a base's filters of one decay say at base n: a complex number, turned back by 2π n / 3 so that its angle stays
 * put along a gene.
 *
 * @param {Float32Array} y responses, (4 × filtersPerBase, length)
 * @param {number} length
 * @param {number} base index in `bases`
 * @param {number} scale index in `decays`
 * @param {number} n
 * @returns {[re: number, im: number]}
 */
export function beat(y, length, base, scale, n) {
  const row = base * filtersPerBase + 2 * scale;
  const cosine = y[row * length + n];
  const sine = y[(row + 1) * length + n];
  const turn = (2 * Math.PI * (n % 3)) / 3;
  return [
    cosine * Math.cos(turn) + sine * Math.sin(turn),
    sine * Math.cos(turn) - cosine * Math.sin(turn),
  ];
}

/**
 * The longer genes, 1-based and inclusive as in GenBank NC_001416; on the − strand they read from `to` to `from`.
 *
 * @type {readonly { name: string, from: number, to: number, strand: 1 | -1 }[]}
 */
export const genes = /** @type {const} */ ([
  ["nu1", 191, 736, 1],
  ["A", 711, 2636, 1],
  ["B", 2836, 4437, 1],
  ["C", 4418, 5737, 1],
  ["D", 5747, 6079, 1],
  ["E", 6135, 7160, 1],
  ["Z", 7977, 8555, 1],
  ["V", 8955, 9695, 1],
  ["G", 9711, 10133, 1],
  ["H", 10542, 13103, 1],
  ["L", 13429, 14127, 1],
  ["K", 14276, 14875, 1],
  ["I", 14773, 15444, 1],
  ["J", 15505, 18903, 1],
  ["lom", 18965, 19585, 1],
  ["stf", 19650, 20855, 1],
  ["orf314", 21029, 21973, 1],
  ["tfa", 21973, 22557, 1],
  ["ea47", 22686, 23918, -1],
  ["ea31", 24509, 25399, -1],
  ["ea59", 25396, 26973, -1],
  ["int", 27812, 28882, -1],
  ["exo", 31348, 32028, -1],
  ["bet", 32025, 32810, -1],
  ["gam", 32816, 33232, -1],
  ["N", 35037, 35438, -1],
  ["rexB", 35825, 36259, -1],
  ["rexA", 36275, 37114, -1],
  ["cI", 37227, 37940, -1],
  ["cro", 38041, 38241, 1],
  ["O", 38686, 39585, 1],
  ["P", 39582, 40283, 1],
  ["ninC", 41081, 41953, 1],
  ["ninI", 43224, 43889, 1],
  ["Q", 43886, 44509, 1],
  ["S", 45186, 45509, 1],
  ["R", 45493, 45969, 1],
  ["Rz", 45966, 46427, 1],
  ["bor", 46459, 46752, -1],
]).map(([name, from, to, strand]) => ({ name, from, to, strand }));
