/** What plans are made for where options do not say. */

/** Rows that plans are made for where nobody says how many: on a GPU so many that all of it is busy, in pairs. */
export const usualRows = {
  cpu: { batch: 1, channels: 16 },
  gpu: { batch: 8, channels: 1024 },
} as const;

/** Work memory of a call on a GPU by default. */
export const usualWorkspace: number = 256 * 2 ** 20;
