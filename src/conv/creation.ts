/** Constructors that only `create` calls. */
import { InvalidArgumentError } from "../errors.ts";

/** What `create` hands to its class's constructor, and no user has. */
export const creating: unique symbol = Symbol("creating");

/** Refuse `new` by users: a constructor can't wait for what an object is made of. */
export function onlyCreate(key: unknown, type: string): void {
  if (key === creating) return;
  throw new InvalidArgumentError({
    call: `new ${type}`,
    requirement: `${type}.create must make the object, because it plans and compiles first`,
    value: "a call of the constructor",
    remedy: `Write await ${type}.create(…), with the options there.`,
  });
}
