/** Files written whole: an output file appears complete under its name or not at all. */
import { FileError } from "../errors.ts";
import { show } from "../show.ts";
import { node } from "./node.ts";
import { systemError } from "./system-error.ts";
import { Temporaries, type Temporary } from "./temporaries.ts";

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

/** The operating system's files. */
export const systemDisk: Disk = {
  write: (descriptor, bytes) =>
    new Promise((done, fail) => {
      node.fs.write(descriptor, bytes, (error, bytesWritten) =>
        error ? fail(error) : done({ bytesWritten }),
      );
    }),
  sync: (descriptor) =>
    new Promise((done, fail) => {
      node.fs.fsync(descriptor, (error) => (error ? fail(error) : done()));
    }),
};

/** How a file that is being written is interrupted, and where it goes. */
export interface WriteContext {
  readonly signal: AbortSignal;
  readonly disk: Disk;
  readonly temporaries: Temporaries;
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
  const { access, constants, realpath, stat } = node.fs.promises;
  const { dirname } = node.path;
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
  const { access, constants, lstat, readlink, realpath } = node.fs.promises;
  const { basename, dirname, join, resolve } = node.path;
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
  { signal, disk, temporaries }: WriteContext,
  produce: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<void> {
  let temporary: Temporary | undefined;
  let isOpen = false;
  const explain = (error: unknown): unknown =>
    signal.aborted ? error : systemError(call, output.shown, "writable", error);
  const write = async (bytes: Uint8Array): Promise<void> => {
    for (let done = 0; done < bytes.length; ) {
      signal.throwIfAborted();
      temporary ??= temporaries.create(node.path.dirname(output.path), output.mode);
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
      node.fs.closeSync(descriptor);
      temporaries.finish(path, output.path);
    } catch (error) {
      throw explain(error);
    }
  } catch (error) {
    if (temporary && isOpen) node.fs.closeSync(temporary.descriptor);
    if (temporary) temporaries.remove([temporary.path]);
    throw error;
  }
}

/** The context of whoever has none to give: nothing interrupts it. */
export function plainContext(): WriteContext {
  const { signal } = new AbortController();
  return { signal, disk: systemDisk, temporaries: new Temporaries() };
}
