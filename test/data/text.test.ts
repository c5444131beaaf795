/** Texts: bytes, characters of every length, files that are no text, and tokenizers of Hugging Face. */
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openTokenizer } from "../../src/data/huggingface.ts";
import {
  byteTokenizer,
  CharacterTokenizer,
  openBytes,
  openCharacters,
  tokenizeFile,
} from "../../src/data/text.ts";
import type { TokenSource } from "../../src/data/tokens.ts";
import { FileError, InvalidArgumentError, UnsupportedError } from "../../src/errors.ts";
import { Folder } from "../cli/support.ts";
import { sharedFile } from "./support.ts";

const utf8 = (text: string): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.from(text));

async function part(source: TokenSource, position: number, count: number): Promise<Uint32Array> {
  const tokens = new Uint32Array(count);
  await source.read(tokens, position);
  return tokens;
}

describe("characters", () => {
  test("any part of any text, whatever its characters take", async () => {
    const anyText = fc
      .tuple(
        fc.string({ unit: "binary", minLength: 1, maxLength: 30 }),
        fc.integer({ min: 1, max: 300 }),
      )
      .map(([text, times]) => Buffer.from(text).toString().repeat(times));
    await fc.assert(
      fc.asyncProperty(anyText, fc.nat(), fc.nat(), async (text, a, b) => {
        const source = await openCharacters(new Blob([text]));
        const all = [...text];
        expect(source.size).toBe(all.length);
        expect([...source.tokenizer.characters].sort()).toEqual([...new Set(all)].sort());
        const [from, to] = [a % all.length, b % all.length].sort((x, y) => x - y) as [
          number,
          number,
        ];
        const tokens = await part(source, from, to - from);
        expect(source.tokenizer.decode(tokens)).toBe(all.slice(from, to).join(""));
      }),
      { seed: 15, numRuns: 40 },
    );
  });

  test("of a file of several pieces, cut within characters", async () => {
    const text = "añ€😀".repeat(230_000); // 10 bytes each: pieces of 2^20 end within them
    const source = await openCharacters(new Blob([text]));
    expect(source.size).toBe(920_000);
    expect(source.tokenizer.characters).toBe("añ€😀");
    for (const position of [0, 419_428, 629_000, 919_990])
      expect(source.tokenizer.decode(await part(source, position, 10))).toBe(
        [..."añ€😀añ€😀añ€😀añ€😀"].slice(position % 4, (position % 4) + 10).join(""),
      );
  });

  test("the vocabulary is in the order of Unicode, saved as JSON and made again", async () => {
    const folder = new Folder();
    const source = await openCharacters(folder.write("a.txt", utf8("b😀\na\r\ufeff")));
    expect(source.tokenizer.characters).toBe("\n\rab\ufeff😀");
    expect([...(await part(source, 0, 6))]).toEqual([3, 5, 0, 2, 1, 4]);
    const saved = JSON.stringify(source.tokenizer);
    const again = new CharacterTokenizer(JSON.parse(saved).characters);
    expect([...again.encode("ab😀")]).toEqual([2, 3, 5]);
    await source.close();
    const other = folder.write("b.txt", utf8("ab\nzebra"));
    await expect(openCharacters(other, again)).rejects.toThrow(
      /b\.txt" must have characters of the vocabulary; got "e" \(U\+0065\) at character 4/,
    );
    const known = await openCharacters(folder.write("c.txt", utf8("ba")), again);
    expect([...(await part(known, 0, 2)), known.vocabulary]).toEqual([3, 2, 6]);
    await known.close();
  });

  test("what a vocabulary lacks, and tokens that are none", () => {
    const tokenizer = new CharacterTokenizer("ab");
    expect(() => tokenizer.encode("abc")).toThrow(/"c" \(U\+0063\) at 2/);
    expect(() => tokenizer.encode("\u0007")).toThrow(/"\\u0007" \(U\+0007\) at 0/);
    expect(() => tokenizer.decode([0, 2])).toThrow(
      /below 2, the size of the vocabulary; got 2 at 1/,
    );
    for (const wrong of ["", "aa", 5, undefined])
      expect(() => new CharacterTokenizer(wrong as never)).toThrow(InvalidArgumentError);
  });

  const shakespeare = sharedFile("text/tinyshakespeare.txt");
  test.skipIf(!shakespeare)("Shakespeare: 65 characters, and the text again", async () => {
    const source = await openCharacters(shakespeare!);
    expect([source.size, source.vocabulary]).toEqual([1_115_394, 65]);
    const text = readFileSync(shakespeare!, "utf8");
    expect(source.tokenizer.decode(await part(source, 0, source.size))).toBe(text);
    expect(source.tokenizer.decode(await part(source, 700_001, 500))).toBe(
      text.slice(700_001, 700_501),
    );
    await source.close();
  });
});

describe("bytes", () => {
  test("of a file and of a text", async () => {
    const source = await openBytes(new Blob([Uint8Array.of(0, 255, 10, 200)]));
    expect([source.size, source.vocabulary]).toEqual([4, 256]);
    expect([...(await part(source, 1, 3))]).toEqual([255, 10, 200]);
    expect(byteTokenizer.decode(byteTokenizer.encode("é😀"))).toBe("é😀");
    expect(() => byteTokenizer.decode([256])).toThrow(InvalidArgumentError);
  });
});

describe("files that cannot be read", () => {
  const openers: readonly [string, (source: never) => Promise<unknown>][] = [
    ["openBytes", openBytes],
    ["openCharacters", openCharacters],
    ["tokenizeFile", (source) => tokenizeFile(source, byteTokenizer)],
  ];
  test.each(openers)("%s names the file and what is wrong with it", async (call, open) => {
    const folder = new Folder();
    const refusal = async (path: string) => {
      const error = await open(path as never).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(FileError);
      expect((error as FileError).parts.call).toBe(call);
      return (error as FileError).message;
    };
    expect(await refusal(folder.file("none"))).toMatch(
      /none" must be readable; got a path that does not exist/,
    );
    expect(await refusal(folder.path)).toMatch(/regular file/);
    expect(await refusal(folder.write("empty", new Uint8Array(0)))).toMatch(
      /empty" must not be empty; got 0 bytes/,
    );
    if (call === "openBytes") return;
    for (const bytes of [[0x61, 0xff], [0xc3], [0xe2, 0x82], [0xed, 0xa0, 0x80], [0xc0, 0x80]])
      expect(await refusal(folder.write("odd", Uint8Array.from(bytes)))).toMatch(
        /odd" must be text in UTF-8.*read it as bytes/,
      );
  });
});

/** A small tokenizer of WordPieces: whole words of the vocabulary, or pieces of them. */
function wordPieces(vocabulary: readonly string[]) {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: vocabulary.flatMap((content, id) =>
      content.startsWith("[") && content.endsWith("]")
        ? [
            {
              id,
              content,
              single_word: false,
              lstrip: false,
              rstrip: false,
              normalized: false,
              special: true,
            },
          ]
        : [],
    ),
    normalizer: {
      type: "BertNormalizer",
      clean_text: true,
      handle_chinese_chars: true,
      strip_accents: null,
      lowercase: true,
    },
    pre_tokenizer: { type: "BertPreTokenizer" },
    post_processor: {
      type: "TemplateProcessing",
      single: [
        { SpecialToken: { id: "[CLS]", type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: "[SEP]", type_id: 0 } },
      ],
      pair: [],
      special_tokens: {
        "[CLS]": { id: "[CLS]", ids: [vocabulary.indexOf("[CLS]")], tokens: ["[CLS]"] },
        "[SEP]": { id: "[SEP]", ids: [vocabulary.indexOf("[SEP]")], tokens: ["[SEP]"] },
      },
    },
    decoder: { type: "WordPiece", prefix: "##", cleanup: true },
    model: {
      type: "WordPiece",
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 100,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
    },
  };
}

describe("tokenizers of Hugging Face", () => {
  const small = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "long",
    "con",
    "##vol",
    "##ution",
    "##s",
    "a",
    "first",
    "text",
    ".",
  ];
  const json = (value: unknown) => utf8(JSON.stringify(value));

  test("texts become tokens and texts again", async () => {
    const tokenizer = await openTokenizer(json(wordPieces(small)));
    expect(tokenizer.size).toBe(13);
    expect([...tokenizer.encode("Long convolutions?")]).toEqual([4, 5, 6, 7, 8, 1]);
    expect(tokenizer.decode([4, 5, 6, 7, 8])).toBe("long convolutions");
    expect(() => tokenizer.decode([13])).toThrow(InvalidArgumentError);
    const special = await openTokenizer(json(wordPieces(small)), { special: true });
    expect([...special.encode("long")]).toEqual([2, 4, 3]);
  });

  test("a file becomes their tokens, in pieces that end with lines", async () => {
    const tokenizer = await openTokenizer(json(wordPieces(small)));
    const lines = 100_000;
    const source = await tokenizeFile(new Blob(["long text.\n".repeat(lines), "a"]), tokenizer);
    expect([source.size, source.vocabulary]).toEqual([3 * lines + 1, 13]);
    expect([...(await part(source, 3 * 95_325, 6))]).toEqual([4, 11, 12, 4, 11, 12]);
    expect([...(await part(source, 3 * lines, 1))]).toEqual([9]);
  });

  const bert = sharedFile("text/bert_uncased_vocab.txt");
  test.skipIf(!bert)("BERT's vocabulary", async () => {
    const vocabulary = readFileSync(bert!, "utf8").trimEnd().split("\n");
    const tokenizer = await openTokenizer(json(wordPieces(vocabulary)), { special: true });
    expect(tokenizer.size).toBe(30_522);
    // As the original tokenizes it: "hello, world!" is 7592 1010 2088 999 between 101 and 102.
    expect([...tokenizer.encode("Hello, world!")]).toEqual([101, 7592, 1010, 2088, 999, 102]);
    expect(tokenizer.decode([101, 7592, 1010, 2088, 999, 102])).toBe("hello, world!");
  });

  test("what is no tokenizer is named, and so is the package where it is missing", async () => {
    const folder = new Folder();
    for (const content of ["", "{", "[]", "{}", '{"model":{"type":"Unheard"}}']) {
      const path = folder.write("tokenizer.json", utf8(content));
      const error = await openTokenizer(path).catch((e: unknown) => e);
      expect(error, content).toBeInstanceOf(FileError);
      expect((error as Error).message).toMatch(
        /tokenizer\.json" must be a tokenizer that @huggingface\/tokenizers knows/,
      );
    }
    const load = () => Promise.reject(new Error("Cannot find package"));
    const missing = await openTokenizer(json(wordPieces(small)), { load }).catch((e: unknown) => e);
    expect(missing).toBeInstanceOf(UnsupportedError);
    expect((missing as Error).message).toMatch(
      /need the package @huggingface\/tokenizers.*npm install @huggingface\/tokenizers/,
    );
  });
});
