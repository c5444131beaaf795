/** Measuring until numbers make sense. */
import { UnsupportedError } from "../errors.ts";
import type { Fit } from "./fit-cpu.ts";

/** How often numbers that are not plausible are measured again. */
const repeats = 3;

/**
 * Time everything named and make a description of the times; of several times of a name the least counts, to which whatever
 * else ran added least.
 * @param describe what times say of the machine.
 * @throws UnsupportedError where most numbers cannot be measured.
 */
export async function measured(
  names: readonly string[],
  time: (name: string) => Promise<number>,
  describe: (seconds: (name: string) => number) => Fit,
): Promise<Fit> {
  const times = new Map<string, number>();
  const timeAll = async (wanted: readonly string[]): Promise<Fit> => {
    for (const name of wanted) {
      const seconds = await time(name);
      times.set(name, Math.min(seconds, times.get(name) ?? seconds));
    }
    return describe((name) => times.get(name)!);
  };
  let found = await timeAll(names);
  for (let n = 0; n < repeats && found.doubtful.length > 0; n++)
    found = await timeAll(names.filter((name) => found.doubtful.includes(name)));
  if (!found.useless) return found;
  throw new UnsupportedError({
    call: "tune",
    requirement: "a machine that is not busy",
    value: `times that make no sense of ${found.defaults.join(", ") || "each other"}, ${repeats + 1} times over`,
    remedy: "Run tune again when nothing else runs; until then plans rest on the numbers they had.",
  });
}
