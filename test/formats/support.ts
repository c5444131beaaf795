/** Archives, headers and files that PyTorch wrote, for tests of formats. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { FlashFFTConvError } from "../../src/errors.ts";
import { float32Of, type StoredTensor, type WeightFile } from "../../src/formats/stored.ts";

const folder = fileURLToPath(new URL("files", import.meta.url));

/** The path of a file that test/gold/formats.py wrote. */
export const goldPath = (name: string): string => `${folder}/${name}`;

export const goldBytes = (name: string): Uint8Array<ArrayBuffer> =>
  new Uint8Array(readFileSync(goldPath(name)));

/** What PyTorch says of a tensor. */
export interface Listed {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly values: readonly number[];
}

/** What PyTorch says of each tensor of a file. */
export const goldOf = (name: string): Readonly<Record<string, Listed>> =>
  (JSON.parse(readFileSync(goldPath("expected.json"), "utf8")) as { files: never }).files[name];

const names: Readonly<Record<string, string>> = {
  ...{ F32: "float32", F64: "float64", F16: "float16", BF16: "bfloat16", I64: "int64" },
  ...{ I32: "int32", I16: "int16", I8: "int8", U8: "uint8", BOOL: "bool" },
};

/** A tensor in PyTorch's words, so that a difference is seen whole. */
export async function listed(tensor: StoredTensor): Promise<Listed> {
  const { dtype, shape } = tensor;
  return { dtype: names[dtype]!, shape, values: Array.from(await float32Of(tensor)) };
}

/** What float32 keeps of what PyTorch says. */
export const rounded = (gold: Listed): Listed => ({
  ...gold,
  values: gold.values.map(Math.fround),
});

/** All that a file says, or the typed error's message that opening or reading it ends in; any other error fails the test. */
export async function outcome(open: () => Promise<WeightFile>): Promise<string> {
  try {
    const file = await open();
    try {
      const all: string[] = [];
      for (const [name, tensor] of file.tensors) {
        const bytes = Buffer.from(await tensor.bytes()).toString("hex");
        all.push(`${name} ${tensor.dtype} ${tensor.shape} ${bytes}`);
      }
      return all.join("\n");
    } finally {
      await file.close();
    }
  } catch (error) {
    if (!(error instanceof FlashFFTConvError)) throw error;
    for (const part of Object.values(error.parts)) expect(part.trim()).not.toBe("");
    return error.message;
  }
}

function record(
  size: number,
  fields: readonly (readonly [at: number, bytes: number, value: number])[],
) {
  const out = Buffer.alloc(size);
  for (const [at, bytes, value] of fields) {
    if (bytes === 8) out.writeBigUInt64LE(BigInt(value), at);
    else out.writeUIntLE(value, at, bytes);
  }
  return out;
}

const crcTable = Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c >>> 0;
});

const crc = (bytes: Uint8Array): number =>
  (bytes.reduce((c, byte) => crcTable[(c ^ byte) & 255]! ^ (c >>> 8), 0xffffffff) ^ 0xffffffff) >>>
  0;

/** An archive of stored entries as the format describes it; every size and place in its 64-bit fields where `wide`. */
export function zip(
  entries: Readonly<Record<string, Uint8Array | string>>,
  {
    wide = false,
    method = 0,
    flags = 0,
    comment = "",
  }: {
    readonly wide?: boolean;
    readonly method?: number;
    readonly flags?: number;
    readonly comment?: string;
  } = {},
): Uint8Array<ArrayBuffer> {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  const length = () => parts.reduce((sum, part) => sum + part.length, 0);
  for (const [name, content] of Object.entries(entries)) {
    const data = Buffer.from(content);
    const title = Buffer.from(name);
    const local = length();
    const common: [number, number, number][] = [
      [0, 2, 45],
      [2, 2, flags],
      [4, 2, method],
      [10, 4, crc(data)],
    ];
    const sizes: [number, number, number][] = wide
      ? [
          [14, 4, 0xffffffff],
          [18, 4, 0xffffffff],
        ]
      : [
          [14, 4, data.length],
          [18, 4, data.length],
        ];
    const shifted = (by: number) =>
      [...common, ...sizes].map(([at, n, v]) => [at + by, n, v] as const);
    // Before the data stands padding, which the directory does not know of, as PyTorch aligns storages.
    const padding = record(16, [
      [0, 2, 0x4246],
      [2, 2, 12],
    ]);
    parts.push(
      record(30, [
        [0, 4, 0x04034b50],
        ...shifted(4),
        [26, 2, title.length],
        [28, 2, padding.length],
      ]),
    );
    parts.push(title, padding, data);
    const extra = wide
      ? record(28, [
          [0, 2, 1],
          [2, 2, 24],
          [4, 8, data.length],
          [12, 8, data.length],
          [20, 8, local],
        ])
      : Buffer.alloc(0);
    const place = wide ? 0xffffffff : local;
    directory.push(
      record(46, [
        [0, 4, 0x02014b50],
        [4, 2, 45],
        ...shifted(6),
        [28, 2, title.length],
        [30, 2, extra.length],
        [42, 4, place],
      ]),
      title,
      extra,
    );
  }
  const start = length();
  const listing = Buffer.concat(directory);
  const count = Object.keys(entries).length;
  const end64 = start + listing.length;
  const tail = wide
    ? [
        record(56, [
          [0, 4, 0x06064b50],
          [4, 8, 44],
          [24, 8, count],
          [32, 8, count],
          [40, 8, listing.length],
          [48, 8, start],
        ]),
        record(20, [
          [0, 4, 0x07064b50],
          [8, 8, end64],
          [16, 4, 1],
        ]),
      ]
    : [];
  const shown: [number, number, number][] = wide
    ? [
        [8, 2, 0xffff],
        [10, 2, 0xffff],
        [12, 4, 0xffffffff],
        [16, 4, 0xffffffff],
      ]
    : [
        [8, 2, count],
        [10, 2, count],
        [12, 4, listing.length],
        [16, 4, start],
      ];
  const end = record(22, [[0, 4, 0x06054b50], ...shown, [20, 2, comment.length]]);
  return new Uint8Array(Buffer.concat([...parts, listing, ...tail, end, Buffer.from(comment)]));
}
