/** Genomes in FASTA, plain or gzip, as one row of HyenaDNA's tokens: each record, whatever its case, and [SEP] behind it. */
import { FlashFFTConvError } from "../errors.ts";
import { InputFile, type Readable } from "../files/input.ts";
import { printable, show } from "../show.ts";
import { dnaTokenizer, dnaTokens } from "./dna.ts";
import type { TokenSource } from "./tokens.ts";

/** A sequence of a file. */
export interface FastaRecord {
  /** The first word of its header. */
  readonly name: string;
  /** Its first token in the source. */
  readonly start: number;
  /** Bases. */
  readonly length: number;
}

/** A genome. It is read in order; `loadTokens` brings it into memory, for windows at random. */
export interface FastaSource extends TokenSource {
  readonly records: readonly FastaRecord[];
}

/** How a genome is read. */
export interface FastaOptions {
  /** Longest run of N that is kept; longer ones are cut to it, and places in the source are fewer than in the genome. */
  readonly longestUnknown?: number;
}

/** Bytes that are read at a time, and of a header that are kept. */
const [pieceBytes, headerBytes] = [2 ** 20, 1000];
/** What a byte may be besides a token. */
const [wrong, space, lineEnd, header] = [255, 254, 253, 252];

const again = "Fetch or write the file again.";

/** What each byte is: bases of either case; letters for several bases, of which HyenaDNA knows N alone; space. */
const meanings = new Uint8Array(256).fill(wrong);
for (const letter of "ACGTNRYSWKMBDHVacgtnryswkmbdhv")
  meanings[letter.charCodeAt(0)] = dnaTokenizer.encode(letter.toUpperCase())[0]!;
for (const letter of " \t\r") meanings[letter.charCodeAt(0)] = space;
meanings[0x0a] = lineEnd;
meanings[0x3e] = header;

/**
 * Open a genome: .fa, .fna, .fasta, also compressed with gzip. It is read once from end to end, so that what is wrong with it is
 * known at once, and again by whoever reads windows.
 * @throws FileError where it cannot be read, is empty or cut short, is no gzip though its name says so, or holds what is no base.
 * @example
 * const genome = await openFasta("hg38.fa.gz", { longestUnknown: 100 });
 * const windows = orderedWindows(genome, { batch: 1, length: 131_072, augment: eitherStrand });
 */
export async function openFasta(
  source: Readable,
  { longestUnknown = Number.POSITIVE_INFINITY }: FastaOptions = {},
): Promise<FastaSource> {
  const file = await InputFile.open(source, "openFasta");
  try {
    const records: FastaRecord[] = [];
    let size = 0;
    for await (const tokens of parsed(file, longestUnknown, records)) size += tokens.length;
    if (size === records.length)
      throw file.refuse(
        "must hold a sequence in FASTA",
        "no bases",
        "Give a file that begins with >.",
      );
    let stream = parsed(file, longestUnknown);
    // Tokens from `start` on; none before the last read, since windows share a token with the next.
    let [held, start] = [new Uint8Array(0), 0];
    const read = async (target: Uint32Array, position: number): Promise<void> => {
      if (position < start) {
        await stream.return();
        [stream, held, start] = [parsed(file, longestUnknown), new Uint8Array(0), 0];
      }
      while (start + held.length < position + target.length) {
        const { value, done } = await stream.next();
        if (done) throw file.refuse("must not change while it is read", "fewer bases", again);
        const kept = held.subarray(Math.min(held.length, position - start));
        start += held.length - kept.length;
        held = new Uint8Array(kept.length + value.length);
        held.set(kept);
        held.set(value, kept.length);
      }
      target.set(held.subarray(position - start, position - start + target.length));
    };
    const close = async (): Promise<void> => {
      await stream.return();
      await file.close();
    };
    const vocabulary = dnaTokenizer.size;
    return { name: file.path, size, vocabulary, sequential: true, records, read, close };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The file's bytes in pieces, unpacked where they are gzip. */
async function* unpacked(file: InputFile): AsyncGenerator<Uint8Array, void, undefined> {
  const start = await file.bytes(0, Math.min(2, file.size));
  const isGzip = start[0] === 0x1f && start[1] === 0x8b;
  if (!isGzip && (file.size === 0 || /\.gz$/i.test(file.path))) {
    const what = file.size === 0 ? "must not be empty" : "must be gzip data, as its name says";
    throw file.refuse(what, file.size === 0 ? "0 bytes" : "other bytes", again);
  }
  let at = 0;
  const pull = async (controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>) => {
    const count = Math.min(pieceBytes, file.size - at);
    if (count === 0) return controller.close();
    at += count;
    controller.enqueue(await file.bytes(at - count, count));
  };
  const stream = new ReadableStream({ pull });
  const reader = (
    isGzip ? stream.pipeThrough(new DecompressionStream("gzip")) : stream
  ).getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((cause) => {
        if (cause instanceof FlashFFTConvError) throw cause;
        throw file.refuse("must be whole gzip data", show(String(cause)), again, cause);
      });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The file's tokens in pieces; what is known of records at the end goes into `records`. */
async function* parsed(
  file: InputFile,
  longestUnknown: number,
  records: FastaRecord[] = [],
): AsyncGenerator<Uint8Array, void, undefined> {
  const { sep, n } = dnaTokens;
  let [line, total, unknown] = [1, 0, 0];
  /** Bytes of the header that is being read. */
  let title: number[] | undefined;
  let lineStart = true;
  const endRecord = (): void => {
    const last = records.at(-1);
    if (last) records[records.length - 1] = { ...last, length: total - last.start };
  };
  for await (const bytes of unpacked(file)) {
    const tokens = new Uint8Array(bytes.length);
    const before = total;
    for (const byte of bytes) {
      if (title) {
        if (byte !== 0x0a && title.length < headerBytes) title.push(byte);
        if (byte !== 0x0a) continue;
        const name = new TextDecoder().decode(Uint8Array.from(title)).trim().split(/\s/)[0]!;
        records.push({ name, start: total, length: 0 });
        title = undefined;
      }
      const meaning = meanings[byte]!;
      if (meaning < dnaTokenizer.size && records.length > 0) {
        unknown = meaning === n ? unknown + 1 : 0;
        lineStart = false;
        if (unknown <= longestUnknown) tokens[total++ - before] = meaning;
      } else if (meaning === lineEnd) {
        line++;
        lineStart = true;
      } else if (meaning === header && lineStart) {
        endRecord();
        if (records.length > 0) tokens[total++ - before] = sep;
        [title, unknown] = [[], 0];
      } else if (meaning !== space) {
        const what =
          records.length > 0 ? "must hold letters for bases" : "must begin with > and a name";
        const value = `"${printable(String.fromCharCode(byte))}" (byte ${byte}) in line ${show(line)}`;
        throw file.refuse(what, value, "Give a file of DNA in FASTA.");
      }
    }
    if (total > before) yield tokens.subarray(0, total - before);
  }
  if (title) throw file.refuse("must not be cut short", "a header without a sequence", again);
  endRecord();
  if (records.length > 0) yield Uint8Array.of(sep);
}
