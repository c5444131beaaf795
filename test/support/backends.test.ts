/** A backend that is not there must not pass for one that was tested. */
import { expect, test } from "vitest";
import { configurations, requirementsIn, verdict } from "./backends.ts";

test("what cannot be opened is skipped, or fails where it is required", () => {
  expect(verdict("cpu:simd", undefined, [])).toBe("run");
  expect(verdict("cpu:simd", undefined, ["cpu:simd"])).toBe("run");
  expect(verdict("cpu:simd", "no SIMD", ["cpu:javascript"])).toBe("skip");
  expect(verdict("cpu:simd", "no SIMD", ["cpu:javascript", "cpu:simd"])).toBe("fail");
});

test("REQUIRE_BACKENDS is a list of names", () => {
  expect(requirementsIn(undefined)).toEqual([]);
  expect(requirementsIn("")).toEqual([]);
  expect(requirementsIn("cpu:simd,cpu:javascript")).toEqual(["cpu:simd", "cpu:javascript"]);
});

test("REQUIRE_BACKENDS names only what there is: a slip would require nothing", () => {
  const known = new Set(configurations.map(({ requirement }) => requirement));
  const unknown = requirementsIn(process.env.REQUIRE_BACKENDS).filter((name) => !known.has(name));
  expect(unknown, `known: ${[...known].join(", ")}`).toEqual([]);
});
