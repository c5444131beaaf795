/** Texts of files as bytes or as characters, of any size: what is asked for is read. */
import { InvalidArgumentError } from "../errors.ts";
import { InputFile, type Readable } from "../files/input.ts";
import { printable, show } from "../show.ts";
import { checkTokens, type Tokenizer, type TokenSource, tokensInMemory } from "./tokens.ts";

/** UTF-8 as tokens: one a byte. */
export const byteTokenizer: Tokenizer = {
  size: 256,
  encode: (text) => Uint32Array.from(new TextEncoder().encode(text)),
  decode: (tokens) => {
    checkTokens(tokens, 256, "byteTokenizer.decode");
    return new TextDecoder().decode(Uint8Array.from(tokens));
  },
};

/**
 * The bytes of a file as tokens.
 * @throws FileError where it cannot be read or is empty.
 * @example
 * const source = await openBytes("enwik8");
 */
export async function openBytes(source: Readable): Promise<TokenSource> {
  const file = await openFilled(source, "openBytes");
  return {
    ...{ name: file.path, size: file.size, vocabulary: 256 },
    read: async (target, position) => target.set(await file.bytes(position, target.length)),
    close: () => file.close(),
  };
}

async function openFilled(source: Readable, call: string): Promise<InputFile> {
  const file = await InputFile.open(source, call);
  if (file.size > 0) return file;
  await file.close();
  throw file.refuse("must not be empty", "0 bytes", "Give a file with a text.");
}

/** Characters of Unicode as tokens, in the order of their numbers. JSON holds it: `{ "characters": "…" }`. */
export class CharacterTokenizer implements Tokenizer {
  /** All of them, one behind the other. */
  readonly characters: string;
  readonly size: number;
  readonly #list: readonly string[];
  /** Of a character's number in Unicode, its token and 1 more. */
  readonly #tokens: Uint32Array;

  /**
   * @throws InvalidArgumentError where there is none, or one twice.
   * @example
   * const tokenizer = new CharacterTokenizer("\n !abc");
   */
  constructor(characters: string) {
    const call = "new CharacterTokenizer";
    this.#list = typeof characters === "string" ? [...characters] : [];
    this.characters = characters;
    this.size = this.#list.length;
    const codes = this.#list.map(codeOf);
    this.#tokens = new Uint32Array(codes.reduce((a, b) => Math.max(a, b), 0) + 1);
    codes.forEach((code, i) => {
      this.#tokens[code] = i + 1;
    });
    if (this.size > 0 && new Set(codes).size === this.size) return;
    throw new InvalidArgumentError({
      call,
      requirement: "characters must be a text of different ones, at least one",
      value: show(characters),
      remedy: "Give what was saved, or let openCharacters find them.",
    });
  }

  encode(text: string): Uint32Array {
    const tokens = new Uint32Array(text.length);
    let count = 0;
    for (let i = 0; i < text.length; count++) {
      const code = text.codePointAt(i)!;
      const token = this.#tokens[code];
      if (!token) {
        throw new InvalidArgumentError({
          call: "tokenizer.encode",
          requirement: `characters must be among the vocabulary's ${show(this.size)}`,
          value: `${nameOf(code)} at ${show(count)}`,
          remedy: "Remove or replace it.",
        });
      }
      tokens[count] = token - 1;
      i += code > 0xffff ? 2 : 1;
    }
    return tokens.subarray(0, count);
  }

  /** Whether it has a token for a character, by its number in Unicode. */
  has(code: number): boolean {
    return (this.#tokens[code] ?? 0) > 0;
  }

  decode(tokens: ArrayLike<number>): string {
    checkTokens(tokens, this.size, "tokenizer.decode");
    return Array.from(tokens, (token) => this.#list[token]).join("");
  }

  toJSON(): { readonly characters: string } {
    return { characters: this.characters };
  }
}

const codeOf = (character: string): number => character.codePointAt(0)!;

const nameOf = (code: number): string =>
  `"${printable(String.fromCodePoint(code))}" (U+${code.toString(16).toUpperCase().padStart(4, "0")})`;

/** Bytes that are read at a time, and characters between places that are known. */
const [pieceBytes, blockCharacters] = [2 ** 20, 1024];

/** The file's text in pieces. @throws FileError where it is no UTF-8. */
async function* pieces(file: InputFile): AsyncGenerator<string, void, undefined> {
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let at = 0; at < file.size; at += pieceBytes) {
    const count = Math.min(pieceBytes, file.size - at);
    const bytes = await file.bytes(at, count);
    try {
      yield decoder.decode(bytes, { stream: at + count < file.size });
    } catch (cause) {
      if (!(cause instanceof TypeError)) throw cause;
      const place = `bytes that are not, from ${show(at)} to ${show(at + count)}`;
      throw file.refuse("must be text in UTF-8", place, "Convert it, or read it as bytes.", cause);
    }
  }
}

/** A text as characters. */
export interface CharacterSource extends TokenSource {
  readonly tokenizer: CharacterTokenizer;
}

/**
 * The characters of a file as tokens. It is read once to find them, and where in the file they stand; then only parts are.
 * @param tokenizer of what was learnt before; unless given, it is made of the characters that occur.
 * @throws FileError where the file cannot be read, is empty, is no UTF-8, or has characters that the tokenizer lacks.
 * @example
 * const source = await openCharacters("shakespeare.txt"); // source.tokenizer.size is 65
 */
export async function openCharacters(
  source: Readable,
  tokenizer?: CharacterTokenizer,
): Promise<CharacterSource> {
  const file = await openFilled(source, "openCharacters");
  try {
    // Where each block begins, in bytes.
    const blocks = [0];
    const first = new Map<number, number>();
    let [size, bytes] = [0, 0];
    for await (const piece of pieces(file)) {
      for (let i = 0; i < piece.length; i += piece.codePointAt(i)! > 0xffff ? 2 : 1) {
        const code = piece.codePointAt(i)!;
        if (!first.has(code)) first.set(code, size);
        bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
        if (++size % blockCharacters === 0) blocks.push(bytes);
      }
    }
    blocks.push(bytes);
    const found = [...first.keys()].sort((a, b) => a - b);
    const known = tokenizer ?? new CharacterTokenizer(String.fromCodePoint(...found));
    const unknown = found.find((code) => !known.has(code));
    if (unknown !== undefined) {
      const value = `${nameOf(unknown)} at character ${show(first.get(unknown))}`;
      const remedy = "Remove or replace it, or learn from a text that has it.";
      throw file.refuse("must have characters of the vocabulary", value, remedy);
    }
    const read = async (target: Uint32Array, position: number): Promise<void> => {
      const block = Math.floor(position / blockCharacters);
      const after = Math.ceil((position + target.length) / blockCharacters);
      const start = blocks[block]!;
      const end = blocks[Math.min(after, blocks.length - 1)]!;
      const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(
        await file.bytes(start, end - start),
      );
      const skipped = position - block * blockCharacters;
      target.set(known.encode(text).subarray(skipped, skipped + target.length));
    };
    const close = () => file.close();
    return { name: file.path, size, vocabulary: known.size, tokenizer: known, read, close };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * A file's text as the tokens of any tokenizer, which are kept in memory. It is encoded in pieces of about a million characters,
 * cut at ends of lines.
 * @throws FileError where the file cannot be read, is empty or is no UTF-8.
 * @example
 * const source = await tokenizeFile("book.txt", await openTokenizer("tokenizer.json"));
 */
export async function tokenizeFile(source: Readable, tokenizer: Tokenizer): Promise<TokenSource> {
  const file = await openFilled(source, "tokenizeFile");
  try {
    const parts: Uint32Array[] = [];
    let rest = "";
    for await (const piece of pieces(file)) {
      const text = rest + piece;
      const end = text.lastIndexOf("\n") + 1;
      if (end > 0) parts.push(tokenizer.encode(text.slice(0, end)));
      rest = text.slice(end);
    }
    if (rest !== "") parts.push(tokenizer.encode(rest));
    const tokens = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of parts) {
      tokens.set(part, at);
      at += part.length;
    }
    return tokensInMemory(tokens, tokenizer.size, file.path);
  } finally {
    await file.close();
  }
}
