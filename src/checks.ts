/** Checks of options objects, whatever they are options of. */
import { InvalidArgumentError } from "./errors.ts";
import { show } from "./show.ts";

/** Refuse options that are no object, or one of another kind (an array, a Map, a Date, a buffer): what they say would be lost. */
export function checkOptions(
  options: unknown,
  call: string,
  name = "options",
  remedy = `Leave ${name} out where there is nothing to say.`,
): void {
  if (Object.prototype.toString.call(options) === "[object Object]") return;
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must be an object`,
    value: show(options),
    remedy,
  });
}

/** Refuse options that nobody reads: a misspelt gate would be left out without a word. */
export function known(
  options: object,
  names: readonly string[],
  call: string,
  name = "options",
): void {
  for (const key in options) {
    if (names.includes(key)) continue;
    throw new InvalidArgumentError({
      call,
      requirement: `${name} may have ${names.join(", ")}`,
      value: show(key),
      remedy: "Correct its name, or leave it out.",
    });
  }
}

/** Check what says, by true or false, which operands calls will have. */
export function checkFlags<K extends string>(
  options: Readonly<Partial<Record<K, unknown>>>,
  names: readonly K[],
  call: string,
): void {
  for (const name of names) {
    const value = options[name] ?? false;
    if (typeof value === "boolean") continue;
    throw new InvalidArgumentError({
      call,
      requirement: `${name} must be true or false`,
      value: show(value),
      remedy: "Say whether the calls will have it; tensors come with the calls.",
    });
  }
}

/** `value` if it is an integer from `low` to `high`. */
export function integer(
  call: string,
  name: string,
  value: unknown,
  low: number,
  high: number,
): number {
  if (typeof value === "number" && Number.isInteger(value) && value >= low && value <= high)
    return value;
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must be an integer from ${show(low)} to ${show(high)}`,
    value: show(value),
    remedy: `Set ${name} within that range.`,
  });
}

/** Check that `value` is one of `allowed`. */
export function oneOf<T extends string>(
  call: string,
  name: string,
  value: T,
  allowed: readonly T[],
): void {
  if (allowed.includes(value)) return;
  throw new InvalidArgumentError({
    call,
    requirement: `${name} must be one of ${allowed.join(", ")}`,
    value: show(value),
    remedy: `Pick one of them.`,
  });
}
