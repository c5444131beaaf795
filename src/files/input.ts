/** Files read exactly, at any position, wherever they are: a read that meets the end too early is an error. */
import { FileError } from "../errors.ts";
import { show } from "../show.ts";
import { node } from "./node.ts";
import { systemError } from "./system-error.ts";

/** What can be read: the path of a file (in Node), a Blob or a File (in a page), or bytes. */
export type Readable = string | Blob | ArrayBuffer | Uint8Array;

/** Where the bytes are: how to copy some, from a position on, and how many that were. */
interface Place {
  readonly size: number;
  fill(target: Uint8Array, position: number): Promise<number>;
  close?(): Promise<void>;
}

/** One read may ask for 2 GiB at most. */
const mostAtOnce = 2 ** 30;

/** A regular file, a Blob or bytes, open for reading at any position. */
export class InputFile {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** It came through a pipe, whose writer may not have known how much it would write. */
  readonly piped: boolean;
  readonly #place: Place;
  readonly #call: string;

  private constructor(path: string, place: Place, call: string, piped: boolean) {
    this.path = path;
    this.size = place.size;
    this.piped = piped;
    this.#place = place;
    this.#call = call;
  }

  /**
   * @param piped whether the file holds what came through the standard input.
   * @throws FileError if it is a path and no regular file is there that can be read.
   */
  static async open(source: Readable, call: string, piped = false): Promise<InputFile> {
    if (typeof source === "string") {
      const place = await openPath(source, call);
      return new InputFile(piped ? "standard input" : source, place, call, piped);
    }
    if (source instanceof Blob) {
      const name = (source as Partial<File>).name ?? "a Blob";
      return new InputFile(name, placeOfBlob(source), call, piped);
    }
    const bytes = source instanceof Uint8Array ? source : new Uint8Array(source);
    return new InputFile("the bytes given", placeOfBytes(bytes), call, piped);
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
        const part = target.subarray(filled, filled + mostAtOnce);
        count = await this.#place.fill(part, position + filled);
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

  /** `count` bytes from `position` on, in an array of their own. */
  async bytes(position: number, count: number): Promise<Uint8Array<ArrayBuffer>> {
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = new Uint8Array(count);
    } catch (cause) {
      const remedy = "Read it where there is more memory, or write it in smaller parts.";
      throw this.refuse(
        "must have parts that fit into memory",
        `${show(count)} bytes`,
        remedy,
        cause,
      );
    }
    await this.read(bytes, position);
    return bytes;
  }

  /** The error that says what this file should have been. */
  refuse(requirement: string, value: string, remedy: string, cause?: unknown): FileError {
    const parts = {
      ...{ call: this.#call, requirement: `${show(this.path)} ${requirement}` },
      ...{ value, remedy },
    };
    return new FileError(parts, cause);
  }

  async close(): Promise<void> {
    await this.#place.close?.();
  }
}

async function openPath(path: string, call: string): Promise<Place> {
  const { open, stat } = node.fs.promises;
  let handle: Awaited<ReturnType<typeof open>> | undefined;
  try {
    // Looked at first: to open a pipe that nobody writes to would wait for ever.
    if ((await stat(path)).isFile()) {
      const opened = await open(path, "r");
      handle = opened;
      return {
        size: (await opened.stat()).size,
        fill: async (target, position) =>
          (await opened.read(target, 0, target.length, position)).bytesRead,
        close: () => opened.close(),
      };
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

function placeOfBlob(blob: Blob): Place {
  return {
    size: blob.size,
    fill: async (target, position) => {
      const part = await blob.slice(position, position + target.length).arrayBuffer();
      target.set(new Uint8Array(part));
      return part.byteLength;
    },
  };
}

function placeOfBytes(bytes: Uint8Array): Place {
  return {
    size: bytes.length,
    fill: async (target, position) => {
      const part = bytes.subarray(position, position + target.length);
      target.set(part);
      return part.length;
    },
  };
}
