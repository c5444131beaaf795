/**
 * Python's pickles, read without running anything: a machine with a stack that builds dicts, lists, numbers and texts. What a
 * pickle would call or make an object of becomes an inert `PickledObject` instead, which holds the name and what it was given;
 * whoever reads the result says which names mean something (PyTorch's tensors). So a file with a class of the trainer's still
 * gives its weights, and a hostile one does nothing.
 */

/** A class or function that a pickle names. */
export class PickledName {
  /** `module.name`. */
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** An object that Python would make by calling something. */
export class PickledObject {
  /** What would be called: `module.name`. */
  readonly name: string;
  readonly args: readonly unknown[];
  /** What it would be told afterwards. */
  state: unknown;
  /** What it would be filled with, as a dict. */
  readonly items: Map<unknown, unknown> = new Map();
  /** What it would be filled with, as a list or a set. */
  readonly list: unknown[] = [];

  constructor(name: string, args: readonly unknown[]) {
    this.name = name;
    this.args = args;
  }
}

/** What a pickle means to its reader. */
export interface Unpickling {
  /** The result of a call, or undefined: an inert object. */
  call(name: string, args: readonly unknown[]): unknown;
  /** What a persistent identity stands for. */
  load(identity: unknown): unknown;
}

/** A pickle breaks the rules of its format: what is wrong, for the reader's own error. */
export class PickleError extends Error {}

const mark = Symbol("mark");
/** The longest integer that is read. Python's own are used for seeds and counters. */
const mostDigits = 1024;

/**
 * The object of a pickle of protocol 2 to 5. Dicts are Maps; lists, tuples and sets are arrays; integers beyond 2^53 are bigints;
 * None is null; bytes, and the texts of Python 2, are Uint8Arrays.
 * @throws PickleError
 */
export function unpickle(bytes: Uint8Array, meaning: Unpickling): unknown {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const memo = new Map<number, unknown>();
  const stack: unknown[] = [];
  let at = 0;

  const take = (count: number): Uint8Array => {
    if (count > bytes.length - at) throw new PickleError("an end before STOP");
    at += count;
    return bytes.subarray(at - count, at);
  };
  /** An unsigned integer of so many bytes. */
  const number = (count: number): number =>
    take(count).reduceRight((value, byte) => value * 256 + byte, 0);
  const long = (count: number): number | bigint => {
    if (count > mostDigits) throw new PickleError(`an integer of ${count} bytes`);
    const value = take(count).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
    const signed = BigInt.asIntN(8 * count, value);
    return Number.isSafeInteger(Number(signed)) ? Number(signed) : signed;
  };
  /** Lone surrogates, which Python can hold and UTF-8 cannot, become U+FFFD. */
  const text = (count: number): string =>
    new TextDecoder("utf-8", { ignoreBOM: true }).decode(take(count));
  const line = (): string => {
    const end = bytes.indexOf(0x0a, at);
    if (end < 0) throw new PickleError("a name without an end");
    const name = text(end - at);
    at++;
    return name;
  };
  const push = (value: unknown): number => stack.push(value);
  const top = (): unknown => {
    const value = stack.at(-1);
    if (stack.length === 0 || value === mark) throw new PickleError("an empty stack");
    return value;
  };
  const pop = (): unknown => {
    const value = top();
    stack.pop();
    return value;
  };
  const popMany = (count: number): unknown[] => Array.from({ length: count }, pop).reverse();
  /** What stands above the last mark. */
  const marked = (): unknown[] => {
    const start = stack.lastIndexOf(mark);
    if (start < 0) throw new PickleError("no mark");
    return stack.splice(start).slice(1);
  };
  const append = (values: readonly unknown[]): void => {
    const target = top();
    const list = target instanceof PickledObject ? target.list : target;
    if (!Array.isArray(list)) throw new PickleError("items of what is no list");
    for (const value of values) list.push(value);
  };
  const set = (pairs: readonly unknown[]): void => {
    const target = top();
    const map = target instanceof PickledObject ? target.items : target;
    if (!(map instanceof Map) || pairs.length % 2 !== 0)
      throw new PickleError("pairs of what is no dict");
    for (let i = 0; i < pairs.length; i += 2) map.set(pairs[i], pairs[i + 1]);
  };
  const get = (key: number): void => {
    if (!memo.has(key)) throw new PickleError(`nothing kept under ${key}`);
    push(memo.get(key));
  };
  const call = (called: unknown, args: unknown): void => {
    if (!(called instanceof PickledName) || !Array.isArray(args))
      throw new PickleError("a call of what is no name");
    push(meaning.call(called.name, args) ?? new PickledObject(called.name, args));
  };
  /** Only inert objects keep what they are told; the attributes of a dict are none of its items. */
  const build = (state: unknown): void => {
    const target = top();
    if (target instanceof PickledObject) target.state = state;
  };

  const operations: Readonly<Record<number, () => unknown>> = {
    128: () => take(1), // PROTO
    149: () => take(8), // FRAME
    40: () => push(mark), // MARK
    48: () => stack.pop(), // POP
    49: () => marked(), // POP_MARK
    50: () => push(top()), // DUP
    78: () => push(null), // NONE
    136: () => push(true), // NEWTRUE
    137: () => push(false), // NEWFALSE
    74: () => push(number(4) | 0), // BININT
    75: () => push(number(1)), // BININT1
    77: () => push(number(2)), // BININT2
    138: () => push(long(number(1))), // LONG1
    139: () => push(long(number(4))), // LONG4
    71: () => take(8) && push(view.getFloat64(at - 8)), // BINFLOAT
    88: () => push(text(number(4))), // BINUNICODE
    140: () => push(text(number(1))), // SHORT_BINUNICODE
    141: () => push(text(number(8))), // BINUNICODE8
    66: () => push(take(number(4)).slice()), // BINBYTES
    67: () => push(take(number(1)).slice()), // SHORT_BINBYTES
    84: () => push(take(number(4)).slice()), // BINSTRING
    85: () => push(take(number(1)).slice()), // SHORT_BINSTRING
    142: () => push(take(number(8)).slice()), // BINBYTES8
    150: () => push(take(number(8)).slice()), // BYTEARRAY8
    41: () => push([]), // EMPTY_TUPLE
    93: () => push([]), // EMPTY_LIST
    143: () => push([]), // EMPTY_SET
    125: () => push(new Map()), // EMPTY_DICT
    108: () => push(marked()), // LIST
    116: () => push(marked()), // TUPLE
    145: () => push(marked()), // FROZENSET
    133: () => push(popMany(1)), // TUPLE1
    134: () => push(popMany(2)), // TUPLE2
    135: () => push(popMany(3)), // TUPLE3
    97: () => append(popMany(1)), // APPEND
    101: () => append(marked()), // APPENDS
    144: () => append(marked()), // ADDITEMS
    115: () => set(popMany(2)), // SETITEM
    117: () => set(marked()), // SETITEMS
    113: () => memo.set(number(1), top()), // BINPUT
    114: () => memo.set(number(4), top()), // LONG_BINPUT
    148: () => memo.set(memo.size, top()), // MEMOIZE
    104: () => get(number(1)), // BINGET
    106: () => get(number(4)), // LONG_BINGET
    99: () => push(new PickledName(`${line()}.${line()}`)), // GLOBAL
    147: () => push(named(popMany(2))), // STACK_GLOBAL
    82: () => call(...pair(popMany(2))), // REDUCE
    129: () => call(...pair(popMany(2))), // NEWOBJ
    146: () => call(...pair(popMany(3))), // NEWOBJ_EX, without its named arguments
    81: () => push(meaning.load(pop())), // BINPERSID
    98: () => build(pop()), // BUILD
  };
  for (;;) {
    const code = number(1);
    if (code === 46) return pop(); // STOP
    const operate = operations[code];
    if (!operate) throw new PickleError(`operation ${code} at ${at - 1}`);
    operate();
  }
}

function named(parts: readonly unknown[]): PickledName {
  if (parts.some((part) => typeof part !== "string"))
    throw new PickleError("a name that is no text");
  return new PickledName(parts.join("."));
}

const pair = (values: readonly unknown[]): [unknown, unknown] => [values[0], values[1]];
