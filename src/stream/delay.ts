/** Rows of samples that wait for others: first in, first out. */
export class Delay {
  readonly #rows: Float32Array[];
  #from = 0;
  #to = 0;

  constructor(rows: number) {
    this.#rows = Array.from({ length: rows }, () => new Float32Array(0));
  }

  /** Append as many samples to every row. */
  push(rows: readonly Float32Array[]): void {
    const count = rows[0]!.length;
    const held = this.#to - this.#from;
    const size = this.#rows[0]!.length;
    if (this.#to + count > size) {
      // Room for twice what is held, so that samples move only now and then.
      const larger = Math.max(size, 2 * (held + count));
      this.#rows.forEach((row, r) => {
        const moved = larger > size ? new Float32Array(larger) : row;
        if (moved === row) row.copyWithin(0, this.#from, this.#to);
        else moved.set(row.subarray(this.#from, this.#to));
        this.#rows[r] = moved;
      });
      this.#from = 0;
      this.#to = held;
    }
    this.#rows.forEach((row, r) => {
      row.set(rows[r]!, this.#to);
    });
    this.#to += count;
  }

  /** Take the oldest `count` samples of every row, valid until the next push. */
  shift(count: number): Float32Array[] {
    const out = this.#rows.map((row) => row.subarray(this.#from, this.#from + count));
    this.#from += count;
    return out;
  }

  clear(): void {
    this.#from = this.#to = 0;
  }
}
