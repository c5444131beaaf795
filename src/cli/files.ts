/**
 * Files read exactly and written whole: a read that meets the end too early is an error, and an output file appears
 * complete under its name or not at all.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  fchmodSync,
  fsync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  write,
} from "node:fs";
import {
  access,
  constants,
  type FileHandle,
  lstat,
  open,
  readlink,
  realpath,
  stat,
} from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { FileError, InvalidArgumentError, printable, show } from "../errors.ts";

/** The name that stands for the standard input, or output. */
export const pipeName = "-";

/** A regular file open for reading at any position. */
export class InputFile {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** It came through a pipe, whose writer may not have known how much it would write. */
  readonly piped: boolean;
  readonly #handle: FileHandle;
  readonly #call: string;

  private constructor(
    path: string,
    size: number,
    handle: FileHandle,
    call: string,
    piped: boolean,
  ) {
    this.path = path;
    this.size = size;
    this.piped = piped;
    this.#handle = handle;
    this.#call = call;
  }

  /** @throws FileError if `path` is not a regular file that can be read. */
  static async open(path: string, call: string): Promise<InputFile> {
    let handle: FileHandle | undefined;
    try {
      // Looked at first: to open a pipe that nobody writes to would wait for ever.
      if ((await stat(path)).isFile()) {
        handle = await open(path, "r");
        return new InputFile(path, (await handle.stat()).size, handle, call, false);
      }
    } catch (error) {
      await handle?.close();
      throw systemError(call, path, "readable", error);
    }
    throw new FileError({
      call,
      requirement: "input must be a regular file, because its length is checked before it is read",
      value: show(path),
      remedy: "Give the path of a file, or - for the standard input.",
    });
  }

  /**
   * The standard input, all of it, laid down in a file without a name: what is read has to have a length.
   * @throws FileError if there is no room for it, InvalidArgumentError if it is a keyboard.
   */
  static async ofPipe(call: string, context: OutputContext): Promise<InputFile> {
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
      const handle = await open(temporary.path, "r");
      return new InputFile("standard input", (await handle.stat()).size, handle, call, true);
    } catch (error) {
      throw signal.aborted ? error : systemError(call, folder, "a folder with room", error);
    } finally {
      if (temporary) {
        closeSync(temporary.descriptor);
        temporaries.remove([temporary.path]);
      }
    }
  }

  /**
   * Fill `target` with the bytes from `position` on.
   * @throws FileError if the file ends before `target` is full.
   */
  async read(target: Uint8Array, position: number): Promise<void> {
    let filled = 0;
    while (filled < target.length) {
      let count: number;
      try {
        // One read may ask for 2 GiB at most.
        const length = Math.min(target.length - filled, 2 ** 30);
        ({ bytesRead: count } = await this.#handle.read(target, filled, length, position + filled));
      } catch (error) {
        throw systemError(this.#call, this.path, "readable", error);
      }
      if (count === 0) {
        const needed = position + target.length;
        throw this.refuse(
          `must not be cut short: ${show(needed)} bytes are needed`,
          `${show(position + filled)} bytes`,
          "Copy or write the file again.",
        );
      }
      filled += count;
    }
  }

  /** The error that says what this file should have been. */
  refuse(requirement: string, value: string, remedy: string): FileError {
    return new FileError({
      call: this.#call,
      requirement: `${show(this.path)} ${requirement}`,
      value,
      remedy,
    });
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }
}

/** How bytes reach the disk; tests put a failing disk here. */
export interface Disk {
  write(descriptor: number, bytes: Uint8Array): Promise<{ readonly bytesWritten: number }>;
  sync(descriptor: number): Promise<void>;
}

/** The standard input and output of the process, for files that are called `-`. */
export interface Pipes {
  input(): AsyncIterable<Uint8Array> & { readonly isTTY?: boolean };
  /** Settles once the bytes are taken. */
  write(bytes: Uint8Array): Promise<void>;
  readonly outputIsTTY: boolean;
}

/** Those of this process. */
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

/** Write all of `bytes`, of which a disk may take a part at a time. */
async function writeAll(descriptor: number, bytes: Uint8Array, disk: Disk): Promise<void> {
  for (let done = 0; done < bytes.length; )
    done += (await disk.write(descriptor, bytes.subarray(done))).bytesWritten;
}

const writeDescriptor = promisify(write);
const syncDescriptor = promisify(fsync);

/** The operating system's files. */
export const systemDisk: Disk = {
  write: (descriptor, bytes) => writeDescriptor(descriptor, bytes),
  sync: (descriptor) => syncDescriptor(descriptor),
};

/** An unfinished file, open for writing. */
interface Temporary {
  readonly path: string;
  readonly descriptor: number;
}

/** This machine in a file's name: folders may be shared between machines. */
const machineName = hostname()
  .replace(/[^A-Za-z0-9-]/g, "_")
  .slice(0, 64);

/**
 * The unfinished files of this process. They are removed without waiting: an interruption leaves none, because nothing
 * else runs between the removal and the end of the process. A process that is killed outright leaves its own: their names
 * hold the machine and the process, and whoever writes into that folder next removes those whose process is gone.
 */
export class Temporaries {
  readonly #paths = new Set<string>();
  readonly #onChange: (count: number) => void;

  /** @param onChange told how many unfinished files there are, each time that changes. */
  constructor(onChange: (count: number) => void = () => {}) {
    this.#onChange = onChange;
  }

  /** Create an unfinished file in a folder. */
  create(folder: string, mode: number | undefined): Temporary {
    removeOrphans(folder);
    const own = `${machineName}-${process.pid}-${randomBytes(4).toString("hex")}`;
    const path = join(folder, `.flashfftconv-${own}.partial`);
    // Announced before it is there: an interruption right after its creation must find it.
    this.#paths.add(path);
    this.#onChange(this.#paths.size);
    try {
      const descriptor = openSync(path, "wx", 0o666);
      if (mode !== undefined) fchmodSync(descriptor, mode);
      return { path, descriptor };
    } catch (error) {
      this.#paths.delete(path);
      this.#onChange(this.#paths.size);
      throw error;
    }
  }

  /** Give a finished file its name. */
  finish(path: string, name: string): void {
    renameSync(path, name);
    this.#paths.delete(path);
    this.#onChange(this.#paths.size);
  }

  /** Remove one unfinished file, or all. */
  remove(paths: Iterable<string> = [...this.#paths]): void {
    for (const path of paths) {
      rmSync(path, { force: true });
      this.#paths.delete(path);
    }
    this.#onChange(this.#paths.size);
  }
}

/** Remove the unfinished files of this machine's processes that are no more. */
function removeOrphans(folder: string): void {
  const pattern = /^\.flashfftconv-([A-Za-z0-9_-]+)-(\d+)-[0-9a-f]{8}\.partial$/;
  let names: readonly string[] = [];
  try {
    names = readdirSync(folder);
  } catch {
    // A folder may be written to and not be read: then nothing is known of its files.
  }
  for (const name of names) {
    const [, machine, id] = pattern.exec(name) ?? [];
    if (machine !== machineName || isRunning(Number(id))) continue;
    try {
      rmSync(join(folder, name), { force: true });
    } catch {
      // Another user's, whose business it is.
    }
  }
}

function isRunning(id: number): boolean {
  try {
    return process.kill(id, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}

/** How output is interrupted, and where it goes. */
export interface OutputContext {
  readonly signal: AbortSignal;
  readonly disk: Disk;
  readonly temporaries: Temporaries;
  readonly pipes: Pipes;
}

/** Takes a whole file from `produce`, piece by piece. */
export type Sink = (
  produce: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
) => Promise<void>;

/**
 * Where the output goes: checked before the work.
 * @throws FileError or InvalidArgumentError where it cannot go there.
 */
export async function openSink(path: string, call: string, context: OutputContext): Promise<Sink> {
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

/** A place where a file may be written: checked before the work, so that an hour of it is not lost. */
export interface OutputPath {
  /** What the user wrote. */
  readonly shown: string;
  /** Where the bytes go: links resolved, so that a link stays a link. */
  readonly path: string;
  /** Permissions of the file that is replaced. */
  readonly mode: number | undefined;
}

/** @throws FileError if `path` cannot become a file. */
export async function checkOutput(path: string, call: string): Promise<OutputPath> {
  try {
    // With a slash at the end, the name of anything but a folder is refused.
    await access(`${dirname(path)}/`, constants.W_OK);
  } catch (error) {
    throw systemError(call, dirname(path), "a folder that can be written to", error);
  }
  const existing = await stat(path).catch(() => undefined);
  if (!existing) return { shown: path, path: await newFile(path, call), mode: undefined };
  if (existing.isFile()) {
    return { shown: path, path: await realpath(path), mode: existing.mode & 0o777 };
  }
  // Renaming a finished file over a device or a pipe would replace the device.
  throw new FileError({
    call,
    requirement: "output must be a new file or a regular one",
    value: `${show(path)}, which is ${existing.isDirectory() ? "a folder" : "a device or a pipe"}`,
    remedy: "Give the path of a file.",
  });
}

/** Most links that lead from one to the next; so many as Linux follows. */
const mostLinks = 40;

/**
 * The path of a file that is not there yet: where a link leads that names none, as any program would create it.
 * @throws FileError where that cannot become a file.
 */
async function newFile(path: string, call: string): Promise<string> {
  let target = path;
  try {
    for (let links = 0; links < mostLinks; links++) {
      const folder = await realpath(dirname(target));
      target = join(folder, basename(target));
      const found = await lstat(target).catch(() => undefined);
      if (!found?.isSymbolicLink()) {
        await access(folder, constants.W_OK);
        return target;
      }
      target = resolve(folder, await readlink(target));
    }
  } catch (error) {
    throw systemError(call, dirname(target), "a folder that can be written to", error);
  }
  throw new FileError({
    call,
    requirement: "output must be a new file or a regular one",
    value: `${show(path)}, a link that leads to itself`,
    remedy: "Remove the link, or choose another name.",
  });
}

/**
 * Write a file whole: into a temporary file beside it, synchronised to the disk and renamed at the end. Whatever
 * fails, `produce` included, removes the temporary file and leaves what stood under the name untouched. Nothing is
 * created before the first byte is there.
 * @throws FileError if the disk refuses, a full one included.
 */
export async function writeWhole(
  output: OutputPath,
  call: string,
  { signal, disk, temporaries }: OutputContext,
  produce: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  let temporary: Temporary | undefined;
  let isOpen = false;
  const explain = (error: unknown): unknown =>
    signal.aborted ? error : systemError(call, output.shown, "writable", error);
  const write = async (bytes: Uint8Array): Promise<void> => {
    for (let done = 0; done < bytes.length; ) {
      signal.throwIfAborted();
      temporary ??= temporaries.create(dirname(output.path), output.mode);
      isOpen = true;
      const part = bytes.subarray(done, done + 2 ** 23);
      done += (await disk.write(temporary.descriptor, part)).bytesWritten;
    }
  };
  try {
    await produce((bytes) => write(bytes).catch((error) => Promise.reject(explain(error))));
    if (!temporary) throw new Error("an output file has a header at least");
    const { path, descriptor } = temporary;
    try {
      await disk.sync(descriptor);
      signal.throwIfAborted();
      isOpen = false;
      closeSync(descriptor);
      temporaries.finish(path, output.path);
    } catch (error) {
      throw explain(error);
    }
  } catch (error) {
    if (temporary && isOpen) closeSync(temporary.descriptor);
    if (temporary) temporaries.remove([temporary.path]);
    throw error;
  }
}

const explanations: Readonly<Record<string, readonly [what: string, remedy: string]>> = {
  ENOENT: ["does not exist", "Check the path."],
  ENOTDIR: ["is below something that is not a folder", "Check the path."],
  EISDIR: ["is a folder", "Give the path of a file."],
  EACCES: ["is not permitted to this user", "Change its permissions, or choose another place."],
  EPERM: ["is not permitted to this user", "Change its permissions, or choose another place."],
  EROFS: ["is on a file system that is read-only", "Choose another place."],
  ENOSPC: ["is on a disk that is full", "Free space, or choose another disk."],
  EDQUOT: ["is beyond this user's disk quota", "Free space, or choose another disk."],
  EFBIG: [
    "is larger than the file system or the process's limit allows",
    "Raise the limit (ulimit -f).",
  ],
  EMFILE: ["met the limit of open files", "Raise the limit (ulimit -n)."],
  EIO: ["met an input/output error of the disk", "Check the disk."],
};

/** A FileError out of what the operating system said; anything else is passed on as it is. */
function systemError(call: string, path: string, need: string, error: unknown): unknown {
  const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
  if (code === undefined || !(error instanceof Error)) return error;
  const [what, remedy] = explanations[code] ?? [
    `failed with ${printable(error.message)}`,
    "Check the path and the disk.",
  ];
  const parts = {
    call,
    requirement: `${show(path)} must be ${need}`,
    value: `a path that ${what}`,
    remedy,
  };
  return new FileError(parts, error);
}
