/**
 * The errors of the library. Every message names the call, the requirement, the value that broke it and the remedy,
 * in that order; the same four parts are fields, for programs.
 */
import { escaped } from "./show.ts";

/** What an error message is made of. */
export interface ErrorParts {
  /** The public call that was refused, as the user wrote it: `FlashFFTConv.create`, `conv.forward`. */
  readonly call: string;
  /** What the call needs, as a sentence: `length must be an integer from 1 to 16,777,216`. */
  readonly requirement: string;
  /** What it was given. */
  readonly value: string;
  /** What to do instead. */
  readonly remedy: string;
}

/** Base class of every error that the library throws on purpose. */
export class FlashFFTConvError extends Error {
  /** Name of the class. */
  override readonly name: string = "FlashFFTConvError";
  /** What the message is made of. */
  readonly parts: ErrorParts;

  constructor({ call, requirement, value, remedy }: ErrorParts, cause?: unknown) {
    const parts = {
      ...{ call: escaped(call), requirement: escaped(requirement) },
      ...{ value: escaped(value), remedy: escaped(remedy) },
    };
    super(
      `${parts.call}: ${parts.requirement}; got ${parts.value}. ${parts.remedy}`,
      cause === undefined ? undefined : { cause },
    );
    this.parts = parts;
  }
}

/** An argument or option breaks a rule that this message states: a programming error of the caller. */
export class InvalidArgumentError extends FlashFFTConvError {
  override readonly name = "InvalidArgumentError";
}

/** The request is legal but this runtime or machine cannot do it. */
export class UnsupportedError extends FlashFFTConvError {
  override readonly name = "UnsupportedError";
}

/** A backend failed while working: a worker died, memory ran out. */
export class BackendError extends FlashFFTConvError {
  override readonly name = "BackendError";
}

/** A file is missing, cut short, of an unknown format, or cannot be written. */
export class FileError extends FlashFFTConvError {
  override readonly name = "FileError";
}
