/** Files that are called `-`: the standard input, and the standard output. */
import { closeSync } from "node:fs";
import { tmpdir } from "node:os";
import { InvalidArgumentError } from "../errors.ts";
import { InputFile } from "../files/input.ts";
import { checkOutput, type WriteContext, writeAll, writeWhole } from "../files/output.ts";
import { systemError } from "../files/system-error.ts";
import type { Temporary } from "../files/temporaries.ts";

/** The standard input and output of the process, for files that are called `-`. */
export interface Pipes {
  input(): AsyncIterable<Uint8Array> & { readonly isTTY?: boolean };
  /** Settles once the bytes are taken. */
  write(bytes: Uint8Array): Promise<void>;
  readonly outputIsTTY: boolean;
}

/** How output is interrupted, and where it goes. */
export interface OutputContext extends WriteContext {
  readonly pipes: Pipes;
}

/** The name that stands for the standard input, or output. */
export const pipeName = "-";

/** The standard input and output of this process. */
export const systemPipes: Pipes = {
  input: () => process.stdin,
  write: (bytes) =>
    new Promise((done, fail) => {
      process.stdout.write(bytes, (error) => (error ? fail(error) : done()));
    }),
  get outputIsTTY() {
    return process.stdout.isTTY === true;
  },
};

function notATerminal(call: string, which: "input" | "output", sign: string): InvalidArgumentError {
  return new InvalidArgumentError({
    call,
    requirement: `- is a pipe or a file as the standard ${which}`,
    value: "a terminal",
    remedy: `Pipe into it or out of it, write ${sign} FILE, or give the path of a file.`,
  });
}

/**
 * The standard input, all of it, laid down in a file without a name: what is read has to have a length.
 * @throws FileError if there is no room for it, InvalidArgumentError if it is a keyboard.
 */
export async function openPipe(call: string, context: OutputContext): Promise<InputFile> {
  const { temporaries, disk, signal, pipes } = context;
  const source = pipes.input();
  if (source.isTTY) throw notATerminal(call, "input", "<");
  const folder = tmpdir();
  let temporary: Temporary | undefined;
  try {
    temporary = temporaries.create(folder, 0o600);
    for await (const bytes of source) {
      signal.throwIfAborted();
      await writeAll(temporary.descriptor, bytes, disk);
    }
    return await InputFile.open(temporary.path, call, true);
  } catch (error) {
    if (signal.aborted) throw error;
    const reading = (error as NodeJS.ErrnoException).syscall === "read";
    throw reading
      ? systemError(call, "standard input", "readable", error)
      : systemError(call, folder, "a folder with room", error);
  } finally {
    if (temporary) {
      closeSync(temporary.descriptor);
      temporaries.remove([temporary.path]);
    }
  }
}

/** Takes a whole file from `produce`, piece by piece. */
export type ByteSink = (
  produce: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
) => Promise<void>;

/**
 * Where the output goes: checked before the work.
 * @throws FileError or InvalidArgumentError where it cannot go there.
 */
export async function openSink(
  path: string,
  call: string,
  context: OutputContext,
): Promise<ByteSink> {
  if (path !== pipeName) {
    const output = await checkOutput(path, call);
    return (produce) => writeWhole(output, call, context, produce);
  }
  const { pipes, signal } = context;
  if (pipes.outputIsTTY) throw notATerminal(call, "output", ">");
  // What went through a pipe is gone: an error later on shows in the exit code.
  return (produce) =>
    produce(async (bytes) => {
      signal.throwIfAborted();
      await pipes.write(bytes).catch(async (error) => {
        // The stream has an event for the same error, which says what becomes of the process.
        await new Promise((later) => setImmediate(later));
        signal.throwIfAborted();
        throw systemError(call, "standard output", "writable", error);
      });
    });
}
