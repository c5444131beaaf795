/**
 * Files read exactly and written whole: a read that meets the end too early is an error, and an output file appears
 * complete under its name or not at all.
 */
import { closeSync, fsync, write } from "node:fs";
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
import { basename, dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { FileError } from "../errors.ts";
import { printable, show } from "../show.ts";
import type { Temporaries, Temporary } from "./temporaries.ts";

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

  /**
   * @param piped whether the file holds what came through the standard input.
   * @throws FileError if `path` is not a regular file that can be read.
   */
  static async open(path: string, call: string, piped = false): Promise<InputFile> {
    let handle: FileHandle | undefined;
    try {
      // Looked at first: to open a pipe that nobody writes to would wait for ever.
      if ((await stat(path)).isFile()) {
        handle = await open(path, "r");
        const shown = piped ? "standard input" : path;
        return new InputFile(shown, (await handle.stat()).size, handle, call, piped);
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

/** Write all of `bytes`, of which a disk may take a part at a time. */
export async function writeAll(descriptor: number, bytes: Uint8Array, disk: Disk): Promise<void> {
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

/** The standard input and output of the process, for files that are called `-`. */
export interface Pipes {
  input(): AsyncIterable<Uint8Array> & { readonly isTTY?: boolean };
  /** Settles once the bytes are taken. */
  write(bytes: Uint8Array): Promise<void>;
  readonly outputIsTTY: boolean;
}

/** How output is interrupted, and where it goes. */
export interface OutputContext {
  readonly signal: AbortSignal;
  readonly disk: Disk;
  readonly temporaries: Temporaries;
  readonly pipes: Pipes;
}

/** A place where a file may be written: checked before the work, so that an hour of it is not lost. */
interface OutputPath {
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
export function systemError(call: string, path: string, need: string, error: unknown): unknown {
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
