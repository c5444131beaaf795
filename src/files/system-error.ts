/** What an operating system says about a file, as an error of this library. */
import { FileError } from "../errors.ts";
import { printable, show } from "../show.ts";

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
