/** The demo's own material: what it synthesises is what it says it is. The demo checks its convolutions by itself. */
import { describe, expect, test } from "vitest";

interface Gene {
  readonly name: string;
  readonly from: number;
  readonly to: number;
  readonly strand: 1 | -1;
}

/** The demo is plain JavaScript: these are the parts that are tested. */
interface Parts {
  dialogue(rate: number): { left: Float32Array; right: Float32Array };
  hallResponse(seconds: number, rate: number): { left: Float32Array; right: Float32Array };
  readGenome(file: URL): string;
  filterBank(taps: number): Float32Array;
  readonly genes: readonly Gene[];
  pngDataUri(
    width: number,
    height: number,
    colour: (x: number, y: number) => readonly [number, number, number],
  ): string;
}

async function load<Name extends keyof Parts>(file: string): Promise<Pick<Parts, Name>> {
  return (await import(new URL(`../examples/demo/${file}`, import.meta.url).href)) as Parts;
}

/** Energy per sample. */
function level(samples: Float32Array, from = 0, to = samples.length): number {
  return samples.subarray(from, to).reduce((sum, x) => sum + x * x, 0) / (to - from);
}

describe("the demo's speech", async () => {
  const { dialogue } = await load<"dialogue">("speech.js");
  const { left, right } = dialogue(16_000);

  test("is a few seconds of sound, the same in every run", () => {
    expect(left.length).toBe(right.length);
    expect(left.length / 16_000).toBeGreaterThan(4);
    expect(left.every(Number.isFinite)).toBe(true);
    expect(dialogue(16_000).left).toEqual(left);
  });

  test("has one voice on the left and another on the right", () => {
    const half = left.length / 2;
    expect(level(left, 0, half)).toBeGreaterThan(4 * level(right, 0, half));
    expect(level(right, half)).toBeGreaterThan(4 * level(left, half));
  });
});

describe("the demo's hall", async () => {
  const { hallResponse } = await load<"hallResponse">("hall.js");
  const rate = 48_000;
  const { left, right } = hallResponse(6, rate);

  test("lasts as long as asked and dies away by about 60 dB in five seconds", () => {
    expect(left.length).toBe(6 * rate);
    const early = level(left, Math.round(0.2 * rate), Math.round(0.4 * rate));
    const late = level(left, Math.round(5.2 * rate), Math.round(5.4 * rate));
    const fall = 10 * Math.log10(early / late);
    expect(fall).toBeGreaterThan(45);
    expect(fall).toBeLessThan(70);
  });

  test("sounds different at the two microphones", () => {
    let product = 0;
    for (let i = rate; i < 3 * rate; i++) product += left[i]! * right[i]!;
    const scale = Math.sqrt(level(left, rate, 3 * rate) * level(right, rate, 3 * rate)) * 2 * rate;
    expect(Math.abs(product / scale)).toBeLessThan(0.1);
  });
});

describe("the demo's genome", async () => {
  const { readGenome, filterBank, genes } = await load<"readGenome" | "filterBank" | "genes">(
    "genome.js",
  );
  const genome = readGenome(new URL("../examples/data/lambda_virus.fa.gz", import.meta.url));

  test("is the whole phage λ", () => {
    expect(genome).toMatch(/^GGGCGGCGACCT[ACGT]+$/);
    expect(genome.length).toBe(48_502);
  });

  test("has its genes where the picture draws them: each is an open reading frame", () => {
    const pair: Readonly<Record<string, string>> = { A: "T", C: "G", G: "C", T: "A" };
    const stops = ["TAA", "TAG", "TGA"];
    const isOpen = ({ from, to, strand }: Gene): boolean => {
      const forward = [...genome.slice(from - 1, to)];
      const read = strand === 1 ? forward : forward.reverse().map((base) => pair[base]);
      const codons = read.join("").match(/.{1,3}/g)!;
      const starts = ["ATG", "GTG", "TTG"].includes(codons[0]!);
      return starts && codons.findIndex((codon) => stops.includes(codon)) === codons.length - 1;
    };
    expect(genes.length).toBeGreaterThan(30);
    expect(genes.filter((gene) => !isOpen(gene))).toEqual([]);
    // The check bites: a gene that is off by one base is none.
    const shifted = genes.map((gene) => ({ ...gene, from: gene.from + 1, to: gene.to + 1 }));
    expect(shifted.filter(isOpen)).toEqual([]);
  });

  test("meets filters that pass a period of three and stop a constant", () => {
    const taps = 3001;
    const bank = filterBank(taps);
    const cosine = bank.subarray(4 * taps, 5 * taps); // decay 120
    const beat = cosine.reduce((sum, tap, j) => sum + (j % 3 === 1500 % 3 ? tap : 0), 0);
    const constant = cosine.reduce((sum, tap) => sum + tap, 0);
    expect(Math.abs(constant)).toBeLessThan(0.01 * beat);
  });
});

test("a picture is a PNG that says its size", async () => {
  const { pngDataUri } = await load<"pngDataUri">("picture.js");
  const uri = pngDataUri(3, 2, (x, y) => [80 * x, 80 * y, 0]);
  const bytes = Buffer.from(uri.replace("data:image/png;base64,", ""), "base64");
  expect(bytes.subarray(1, 4).toString()).toBe("PNG");
  expect([bytes.readUInt32BE(16), bytes.readUInt32BE(20)]).toEqual([3, 2]);
});
