/** Tokenizers of Hugging Face (tokenizer.json), by the package that users install themselves where they need one. */
import { FileError, UnsupportedError } from "../errors.ts";
import { InputFile, type Readable } from "../files/input.ts";
import { show } from "../show.ts";
import { checkTokens, type Tokenizer } from "./tokens.ts";

const packageName = "@huggingface/tokenizers";
const call = "openTokenizer";

/** What is used of the package. */
interface HuggingFaceModule {
  readonly Tokenizer: new (
    tokenizer: object,
    config: object,
  ) => {
    encode(text: string, options: { readonly add_special_tokens: boolean }): { ids: number[] };
    decode(tokens: number[], options: { readonly skip_special_tokens: boolean }): string;
    get_vocab(withAddedTokens: boolean): Map<string, number>;
  };
}

/** How a tokenizer is opened. */
export interface OpenTokenizerOptions {
  /** What tokenizer_config.json says. */
  readonly config?: object;
  /** Add the tokens that the tokenizer puts around a text ([CLS], [SEP]); false unless given. */
  readonly special?: boolean;
  /** What imports the package, for bundlers: they see only names that stand in the program itself. */
  readonly load?: () => Promise<unknown>;
}

/**
 * A tokenizer by its file tokenizer.json.
 * @throws UnsupportedError where @huggingface/tokenizers is missing, FileError where the file is no tokenizer that it knows.
 * @example
 * const tokenizer = await openTokenizer("gpt2/tokenizer.json");
 * const source = await tokenizeFile("book.txt", tokenizer);
 */
export async function openTokenizer(
  source: Readable,
  {
    config = {},
    special = false,
    load = () => import(packageName as string),
  }: OpenTokenizerOptions = {},
): Promise<Tokenizer> {
  const { Tokenizer: Model } = await loaded(load);
  const file = await InputFile.open(source, call);
  try {
    const text = new TextDecoder().decode(await file.bytes(0, file.size));
    const model = new Model(JSON.parse(text) as object, config);
    const size = [...model.get_vocab(true).values()].reduce((a, b) => Math.max(a, b), -1) + 1;
    // What the package makes of a text shows whether it knows the parts that the file names.
    const encode = (text: string): Uint32Array =>
      Uint32Array.from(model.encode(text, { add_special_tokens: special }).ids);
    encode("A first text, 1 2 3.");
    const decode = (tokens: ArrayLike<number>): string => {
      checkTokens(tokens, size, "tokenizer.decode");
      return model.decode(Array.from(tokens), { skip_special_tokens: special });
    };
    return { size, encode, decode };
  } catch (cause) {
    if (cause instanceof FileError) throw cause;
    const remedy = "Give the tokenizer.json of a model.";
    throw file.refuse(
      `must be a tokenizer that ${packageName} knows`,
      show(String(cause)),
      remedy,
      cause,
    );
  } finally {
    await file.close();
  }
}

async function loaded(load: () => Promise<unknown>): Promise<HuggingFaceModule> {
  try {
    return (await load()) as HuggingFaceModule;
  } catch (cause) {
    const parts = {
      ...{ call, requirement: `tokenizers of Hugging Face need the package ${packageName}` },
      ...{ value: "none beside flashfftconv", remedy: `Install it (npm install ${packageName}).` },
    };
    throw new UnsupportedError(parts, cause);
  }
}
