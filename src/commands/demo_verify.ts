/**
 * Reads a volume or a snapshot back, and judges every block of it by the replay.
 */

import { formatCount } from "./demo_bar.ts";
import type { Range } from "./demo_client.ts";
import { type Difference, findDifferences } from "./demo_contents.ts";

const READ_BYTES = 1024 * 1024;
const READ_CONNECTIONS = 4;

/** What is to be read back, and what it must be. */
export interface Verification {
  /** `the snapshot`, or the like: for messages. */
  readonly subject: string;
  /** The version of each block. */
  readonly versions: Uint32Array;
  readonly blockSizeBytes: number;
  readonly read: (range: Range) => Promise<Uint8Array<ArrayBuffer>>;
  /** Told how many blocks have been compared so far. */
  readonly onCompared?: (blockCount: number) => void;
}

/** Compares every block. @throws {Error} that says how many differ, and how the first of them does. */
export async function verifyBlocks(
  { subject, versions, blockSizeBytes, read, onCompared }: Verification,
): Promise<void> {
  const differences: Difference[] = [];
  let compared = 0;
  const ranges = planReads(versions.length, READ_BYTES / blockSizeBytes);
  const compare = async () => {
    for (const range of ranges) {
      const bytes = await read(range);
      if (bytes.length !== range.blockCount * blockSizeBytes) {
        throw new Error(
          `Cannot confirm ${subject}: expected ${
            range.blockCount * blockSizeBytes
          } bytes, found ${bytes.length}`,
        );
      }
      differences.push(...findDifferences(bytes, range.lba, versions, blockSizeBytes));
      compared += range.blockCount;
      onCompared?.(compared);
    }
  };
  await Promise.all(Array.from({ length: READ_CONNECTIONS }, compare));
  if (differences.length > 0) {
    throw new Error(`Cannot confirm ${subject}: ${describeDifferences(differences, versions.length)}`);
  }
}

/** Half-open runs of at most `blocksMax` blocks, one behind the other. */
function* planReads(blockCount: number, blocksMax: number): Generator<Range> {
  for (let lba = 0; lba < blockCount; lba += blocksMax) {
    yield { lba, blockCount: Math.min(blocksMax, blockCount - lba) };
  }
}

function describeDifferences(differences: Difference[], blockCount: number): string {
  const first = differences.reduce((a, b) => a.lba < b.lba ? a : b);
  const expected = describeVersion(first.versionExpected);
  const how = first.versionFound === first.versionExpected
    ? `${expected} is damaged`
    : `expected ${expected}, found ${describeVersion(first.versionFound)}`;
  return `${formatCount(differences.length)} of ${
    formatCount(blockCount)
  } blocks differ from what was written; ` +
    `in block ${first.lba}, ${how}`;
}

function describeVersion(version: number): string {
  return version === 0 ? "zeros" : `version ${version}`;
}
