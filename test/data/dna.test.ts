/** DNA: HyenaDNA's tokens, genomes in FASTA, plain and gzip, and the model that counts. */

import { readFileSync } from "node:fs";
import { gunzipSync, gzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { contextModelBits } from "../../src/data/context-model.ts";
import { dnaTokenizer, dnaTokens, eitherStrand, reverseComplement } from "../../src/data/dna.ts";
import { type FastaOptions, openFasta } from "../../src/data/fasta.ts";
import { uniformAt } from "../../src/data/random.ts";
import { loadTokens, tokensInMemory } from "../../src/data/tokens.ts";
import { orderedWindows, randomWindows } from "../../src/data/windows.ts";
import { FileError, InvalidArgumentError } from "../../src/errors.ts";
import { Folder } from "../cli/support.ts";
import { rows, sameBatch, sameTokens, sharedFile, take } from "./support.ts";

/** All of a genome as letters; the end of a record is [SEP]. */
async function letters(source: string | Blob, options?: FastaOptions) {
  const genome = await openFasta(source, options);
  const { records } = genome;
  const tokens = await loadTokens(genome);
  const all = new Uint32Array(tokens.size);
  await tokens.read(all, 0);
  return { records, text: dnaTokenizer.decode(all) };
}

async function refusal(action: Promise<unknown>): Promise<string> {
  const error = await action.catch((e: unknown) => e);
  expect(error).toBeInstanceOf(FileError);
  return (error as FileError).message;
}

describe("HyenaDNA's tokenizer", () => {
  test("has its numbers", () => {
    expect([...dnaTokenizer.encode("ACGTNacgtX")]).toEqual([7, 8, 9, 10, 11, 6, 6, 6, 6, 6]);
    expect(dnaTokenizer.size).toBe(12);
    expect(dnaTokenizer.decode([0, 7, 8, 9, 10, 11, 6, 1, 2, 3, 4, 5])).toBe(
      "[CLS]ACGTN[UNK][SEP][BOS][MASK][PAD][RESERVED]",
    );
    expect(() => dnaTokenizer.decode([12])).toThrow(InvalidArgumentError);
    expect(dnaTokens).toMatchObject({
      cls: 0,
      sep: 1,
      bos: 2,
      mask: 3,
      pad: 4,
      unknown: 6,
      a: 7,
      c: 8,
      g: 9,
      t: 10,
      n: 11,
    });
  });

  test("the other strand, twice, is the first", () => {
    const tokens = dnaTokenizer.encode("AACGTN");
    expect(dnaTokenizer.decode(reverseComplement(tokens.slice()))).toBe("NACGTT");
    expect(reverseComplement(reverseComplement(tokens.slice()))).toEqual(tokens);
  });
});

describe("FASTA", () => {
  const text = ">one first record\nACGT\nacgtn\n\n>two\r\nNNNNNNR\r\n>empty\n>last\nTTT";

  test("records of either case, ends of lines of either kind, ambiguous bases, no end at the end", async () => {
    const { records, text: found } = await letters(new Blob([text]));
    expect(found).toBe("ACGTACGTN[SEP]NNNNNN[UNK][SEP][SEP]TTT[SEP]");
    expect(records).toEqual([
      { name: "one", start: 0, length: 9 },
      { name: "two", start: 10, length: 7 },
      { name: "empty", start: 18, length: 0 },
      { name: "last", start: 19, length: 3 },
    ]);
  });

  test("long runs of N are cut", async () => {
    const { records, text: found } = await letters(new Blob([text]), { longestUnknown: 2 });
    expect(found).toBe("ACGTACGTN[SEP]NN[UNK][SEP][SEP]TTT[SEP]");
    expect(records[3]).toEqual({ name: "last", start: 15, length: 3 });
    expect((await letters(new Blob([text]), { longestUnknown: 0 })).text).toBe(
      "ACGTACGT[SEP][UNK][SEP][SEP]TTT[SEP]",
    );
  });

  test("gzip, also in several members, is the same", async () => {
    const folder = new Folder();
    const whole = folder.write("a.fa.gz", gzipSync(text));
    expect(await letters(whole)).toEqual(await letters(new Blob([text])));
    const members = Buffer.concat([gzipSync(text.slice(0, 9)), gzipSync(text.slice(9))]);
    expect(await letters(new Blob([members]))).toEqual(await letters(new Blob([text])));
  });

  test("any genome, read anywhere in order or backwards, as it is in memory", async () => {
    const sequence = fc.string({ unit: fc.constantFrom(..."ACGTNacgtn"), maxLength: 40 });
    const genomes = fc.array(fc.tuple(sequence, fc.integer({ min: 1, max: 12 })), {
      minLength: 1,
      maxLength: 4,
    });
    await fc.assert(
      fc.asyncProperty(
        genomes,
        fc.boolean(),
        fc.array(fc.nat(), { maxLength: 6 }),
        async (records, zipped, places) => {
          const wrapped = records.map(
            ([bases, width], i) =>
              `>${i}\n${bases.replace(new RegExp(`.{${width}}`, "g"), "$&\n")}\n`,
          );
          const expected = [
            ...dnaTokenizer.encode(records.map(([bases]) => `${bases.toUpperCase()}|`).join("")),
          ].map((token) => (token === 6 ? 1 : token));
          const content = wrapped.join("");
          const open = openFasta(new Blob([zipped ? gzipSync(content) : content]));
          if (records.every(([bases]) => bases === "")) {
            expect(await refusal(open)).toMatch(/no bases/);
            return;
          }
          const genome = await open;
          expect(genome.size).toBe(expected.length);
          for (const place of places) {
            const from = place % expected.length;
            const tokens = new Uint32Array(Math.min(5, expected.length - from));
            await genome.read(tokens, from);
            expect([...tokens]).toEqual(expected.slice(from, from + 5));
          }
          await genome.close();
        },
      ),
      { seed: 15, numRuns: 100 },
    );
  });

  test("windows of either strand; a place in a genome that is streamed is gone on from, exactly", async () => {
    const bases = Array.from({ length: 400_000 }, (_, i) => "ACGT"[(i * i + (i >> 7)) & 3]).join(
      "",
    );
    const blob = new Blob([gzipSync(`>one\n${bases}\n>two\n${bases.slice(0, 1000)}\n`)]);
    const options = { batch: 3, length: 6000, endless: true, augment: eitherStrand, seed: 4 };
    const windows = orderedWindows(await openFasta(blob), options);
    await take(windows, 30); // into the second pass
    const state = JSON.parse(JSON.stringify(windows.state()));
    const [first, second] = [await windows.next(), await windows.next()];
    const again = orderedWindows(await openFasta(blob), options);
    again.restore(state);
    expect(sameBatch(await again.next(), first)).toBe(true);
    expect(sameBatch(await again.next(), second)).toBe(true);
    expect(sameBatch(first, second)).toBe(false);
    // Some of what was given is the other strand of what stands there, and some is not.
    const { augment, ...straight } = options;
    const plain = orderedWindows(await loadTokens(await openFasta(blob)), straight);
    plain.restore(state);
    const there = [await plain.next(), await plain.next()];
    const turned = [first, second].flatMap((batch, b) =>
      rows(batch!, options.length).map((row, i) => {
        const own = Uint32Array.from(rows(there[b]!, options.length)[i]!);
        const isSame = sameTokens(Uint32Array.from(row), own);
        expect(isSame || sameTokens(Uint32Array.from(row), reverseComplement(own))).toBe(true);
        return !isSame;
      }),
    );
    expect(new Set(turned)).toEqual(new Set([true, false]));
    expect(() => randomWindows(again.source, { batch: 1, length: 10 })).toThrow(
      /read in order.*loadTokens/,
    );
  });

  const cases: readonly [string, string, Uint8Array | string, RegExp][] = [
    ["empty", "a.fa", "", /a\.fa" must not be empty; got 0 bytes/],
    ["empty, by a name of gzip", "a.fa.gz", "", /must not be empty/],
    ["no gzip", "a.fa.gz", text, /a\.fa\.gz" must be gzip data, as its name says/],
    [
      "gzip that is cut short",
      "a.fa.gz",
      gzipSync(text).subarray(0, -9),
      /a\.fa\.gz" must be whole gzip data/,
    ],
    [
      "gzip with a wrong sum",
      "a.gz",
      gzipSync(text).map((byte, i, all) => (i === all.length - 6 ? byte ^ 1 : byte)),
      /must be whole gzip data/,
    ],
    [
      "gzip with nonsense",
      "a.gz",
      Uint8Array.of(0x1f, 0x8b, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8),
      /must be whole gzip data/,
    ],
    ["no FASTA", "a.fa", "ACGT\n", /must begin with > and a name; got "A" \(byte 65\) in line 1/],
    ["text", "a.txt", "It was the best of times", /must begin with >/],
    ["a header alone", "a.fa", ">one\n", /must hold a sequence in FASTA; got no bases/],
    ["a header without an end", "a.fa", ">one\nACGT\n>two", /a header without a sequence/],
    [
      "a letter that is no base",
      "a.fa",
      ">one\nACGT\nACEGT\n",
      /letters for bases; got "E" \(byte 69\) in line 3/,
    ],
    ["RNA", "a.fa", ">one\nACGU\n", /got "U" \(byte 85\) in line 2/],
    ["a > within a line", "a.fa", ">one\nAC>GT\n", /got ">" \(byte 62\) in line 2/],
    ["odd characters", "a.fa", ">one\nAC\u0007\n", /got "\\u0007" \(byte 7\) in line 2/],
  ];
  test.each(cases)("%s: an error that names the file", async (_, name, content, message) => {
    const folder = new Folder();
    expect(await refusal(openFasta(folder.write(name, Buffer.from(content as string))))).toMatch(
      message,
    );
  });

  test("a file that is not there, and one that shrinks while it is read", async () => {
    const folder = new Folder();
    expect(await refusal(openFasta(folder.file("none.fa")))).toMatch(
      /none\.fa" must be readable; got a path that does not exist/,
    );
    const path = folder.write("a.fa", Buffer.from(text));
    const genome = await openFasta(path);
    folder.write("a.fa", Buffer.from(">one\nACG\n"));
    expect(await refusal(genome.read(new Uint32Array(20), 0))).toMatch(
      /must not be cut short|must not change/,
    );
    await genome.close();
  });

  const genomes = [
    ["ecoli_k12.fna.gz", "NC_000913.3", 4_641_652],
    ["hg38_chr2_1-2333275.fa.gz", "chr2", 2_333_275],
    ["human_mt.fa", "MT_human", 16_569],
  ] as const;
  test.each(genomes)("%s", async (file, name, length) => {
    const path = sharedFile(`dna/${file}`);
    if (!path) return;
    const genome = await openFasta(path);
    expect(genome.records).toEqual([{ name, start: 0, length }]);
    const content = readFileSync(path);
    const plain = (file.endsWith(".gz") ? gunzipSync(content) : content).toString("latin1");
    const expected = plain.slice(plain.indexOf("\n")).replaceAll("\n", "").toUpperCase();
    for (const from of [0, 9_990, length - 40]) {
      const tokens = new Uint32Array(41);
      await genome.read(tokens, from);
      expect(dnaTokenizer.decode(tokens)).toBe(
        `${`${expected}|`.slice(from, from + 41)}`.replace("|", "[SEP]"),
      );
    }
    await genome.close();
  });
});

describe("the model that counts", () => {
  test("bits of texts that are known", async () => {
    const base = (index: number): number => 7 + Math.floor(4 * uniformAt(1, 0, index));
    const mixed = Uint32Array.from({ length: 400_000 }, (_, i) => (i % 3 === 0 ? 7 : base(i)));
    const of = (tokens: Uint32Array, order: number) =>
      contextModelBits(tokensInMemory(tokens, 12), [0, 350_000], [350_000, 400_000], { order });
    // Without a context: the entropy of the bases of both strands.
    const share = [0, 1, 2, 3].map(
      (i) => mixed.filter((token) => token === 7 + i).length / mixed.length,
    );
    const both = share.map((one, i) => (one + share[3 - i]!) / 2);
    const entropy = -share.reduce((sum, one, i) => sum + one * Math.log2(both[i]!), 0);
    expect(await of(mixed, 0)).toBeCloseTo(entropy, 2);
    // A text that repeats itself is known after a few bases: 997 contexts of 65,536, some of them twice.
    const periodic = Uint32Array.from({ length: 400_000 }, (_, i) => base(i % 997));
    expect(await of(periodic, 8)).toBeLessThan(0.1);
    expect(await of(periodic, 3)).toBeGreaterThan(1);
  });

  test("bases next to N are left out", async () => {
    const tokens = dnaTokenizer.encode("ACGTN".repeat(1000));
    expect(
      await contextModelBits(tokensInMemory(tokens, 12), [0, 2500], [2500, 5000], { order: 4 }),
    ).toBeNaN();
    expect(
      await contextModelBits(tokensInMemory(tokens, 12), [0, 2500], [2500, 5000], { order: 3 }),
    ).toBeLessThan(0.1);
  });

  const ecoli = sharedFile("dna/ecoli_k12.fna.gz");
  test.skipIf(!ecoli)("E. coli, the last tenth held out", async () => {
    const genome = await loadTokens(await openFasta(ecoli!));
    const cut = Math.floor(genome.size * 0.9);
    expect(await contextModelBits(genome, [0, cut], [cut, genome.size])).toBeCloseTo(1.933, 3);
  });
});
