/** The allocator: blocks never overlap, freed memory is used again, 4 GiB is the end. */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Block } from "../../../src/backend/cpu/memory.ts";
import { Arena, PlainMemory } from "../../../src/backend/cpu/memory.ts";
import { BackendError } from "../../../src/errors.ts";

test("blocks are aligned, apart, and all given back", () => {
  const command = fc.oneof(
    fc.record({ allocate: fc.integer({ min: 0, max: 300_000 }) }),
    fc.record({ free: fc.nat() }),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
      const arena = new Arena(new PlainMemory());
      const live: Block[] = [];
      for (const c of commands) {
        if ("allocate" in c) {
          const block = arena.allocate(c.allocate, "test");
          expect(block.address % 64).toBe(0);
          expect(block.address).toBeGreaterThan(0);
          expect(block.bytes).toBeGreaterThanOrEqual(c.allocate);
          expect(block.address + block.bytes).toBeLessThanOrEqual(arena.memory.buffer.byteLength);
          for (const b of live) {
            expect(
              block.address + block.bytes <= b.address || b.address + b.bytes <= block.address,
            ).toBe(true);
          }
          live.push(block);
        } else if (live.length > 0) arena.free(live.splice(c.free % live.length, 1)[0]!);
      }
      expect(arena.used).toBe(live.reduce((sum, b) => sum + b.bytes, 0));
      for (const b of live) arena.free(b);
      expect(arena.used).toBe(0);
      // Everything merged: the next block lies at the start again.
      expect(arena.allocate(1, "test").address).toBe(64);
    }),
  );
});

test("owns what lies in its memory, before and after growth", () => {
  const arena = new Arena(new PlainMemory());
  const before = arena.memory.buffer;
  arena.allocate(1_000_000, "test");
  expect(arena.owns(arena.memory.buffer)).toBe(true);
  expect(arena.owns(before)).toBe(false);
  expect(arena.owns(new ArrayBuffer(8))).toBe(false);
});

test("owns arrays of every object by which a shared memory shows itself", () => {
  const shown: SharedArrayBuffer[] = [];
  // As Node 24 does: another object each time, once other threads have learned of a growth.
  const memory = {
    get buffer() {
      shown.push(new SharedArrayBuffer(65_536));
      return shown.at(-1)!;
    },
    grow() {},
  };
  const arena = new Arena(memory);
  const first = arena.buffer;
  expect(arena.buffer).not.toBe(first);
  expect(shown.length).toBe(3);
  expect(shown.every((buffer) => arena.owns(buffer))).toBe(true);
});

test("more than 4 GiB is refused by name, and nothing is lost", () => {
  const arena = new Arena(new PlainMemory());
  const refused = (): Block => arena.allocate(2 ** 32, "conv.forward");
  expect(refused).toThrow(BackendError);
  expect(refused).toThrow(/conv\.forward.*4 GiB/);
  expect(arena.used).toBe(0);
  expect(arena.allocate(100, "test").address).toBe(64);
});
