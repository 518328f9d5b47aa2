/**
 * The command descriptor blocks of SNAPSHOT(6), SNAPSHOT(10) and SNAPSHOT(12), and their codec.
 *
 * A snapshot request is one of these three commands, whatever front door it came through. They say the same
 * thing with more or less room for a range of blocks; the smallest that can say it is the one encoded:
 *
 *     SNAPSHOT(6)   0 C0h · 1 flags · 2-4 reserved · 5 CONTROL
 *     SNAPSHOT(10)  0 C1h · 1 flags · 2-5 first LBA · 6 group number · 7-8 number of blocks · 9 CONTROL
 *     SNAPSHOT(12)  0 C2h · 1 flags · 2-5 first LBA · 6-9 number of blocks · 10 group number · 11 CONTROL
 *
 * Integers are big-endian. Number of blocks 0 means to the end of the volume, so first LBA 0 with 0 blocks is the
 * whole volume. Flags: bit 0 IMMED (answer at the marker's commit; clear: when sealed), bit 1 POOL (every volume
 * of the pool; clear: the addressed volume), bit 2 LIST (a parameter list follows as data-out).
 *
 * Decoding is strict and total: reserved fields must be zero, as a later version may give them a meaning, and any
 * byte string either decodes or is refused. Whether the range lies inside the volume is the volume's to say.
 *
 * Source: SPC-4 (layout of CDBs; opcodes C0h to FFh are vendor specific), SAM-5 (CONTROL; neither NACA nor its
 * vendor specific bits are supported), SBC-3 (a device without the grouping function takes group number 0 only).
 */

import { StorageError } from "../errors.ts";

/** Opcode of SNAPSHOT(6). */
export const SNAPSHOT_6_OPCODE = 0xc0;
/** Opcode of SNAPSHOT(10). */
export const SNAPSHOT_10_OPCODE = 0xc1;
/** Opcode of SNAPSHOT(12). */
export const SNAPSHOT_12_OPCODE = 0xc2;

/** The longest CDB taken as hex: iSCSI carries every CDB in 16 bytes (RFC 7143, 11.3). */
export const CDB_BYTES_MAX = 16;

/** What a SNAPSHOT command asks for. Its range is `[firstLba, firstLba + blockCount)`. */
export interface SnapshotCdbFields {
  /** Answer at the marker's commit; otherwise when the snapshot is sealed. */
  immed: boolean;
  /** Cover every volume of the pool; otherwise the addressed one. */
  pool: boolean;
  /** A parameter list follows as data-out. */
  list: boolean;
  firstLba: number;
  /** 0 means to the end of the volume. */
  blockCount: number;
}

/** A decoded SNAPSHOT command. */
export interface SnapshotCdb extends SnapshotCdbFields {
  name: "SNAPSHOT(6)" | "SNAPSHOT(10)" | "SNAPSHOT(12)";
  opcode: number;
  /** Bytes of the whole CDB. */
  length: 6 | 10 | 12;
}

interface Layout extends Pick<SnapshotCdb, "name" | "opcode" | "length"> {
  /** The bytes that must be zero, with what the standard calls them. */
  zeroBytes: readonly (readonly [index: number, field: string])[];
}

const IMMED_FLAG = 0b001;
const POOL_FLAG = 0b010;
const LIST_FLAG = 0b100;
const RESERVED_FLAGS = 0xff & ~(IMMED_FLAG | POOL_FLAG | LIST_FLAG);

const UINT16_MAX = 0xffff;
/** The largest LBA and number of blocks that a CDB has room for. */
export const CDB_NUMBER_MAX = 0xffff_ffff;

const SNAPSHOT_6: Layout = {
  name: "SNAPSHOT(6)",
  opcode: SNAPSHOT_6_OPCODE,
  length: 6,
  zeroBytes: [[2, "reserved"], [3, "reserved"], [4, "reserved"], [5, "CONTROL"]],
};
const SNAPSHOT_10: Layout = {
  name: "SNAPSHOT(10)",
  opcode: SNAPSHOT_10_OPCODE,
  length: 10,
  zeroBytes: [[6, "group number"], [9, "CONTROL"]],
};
const SNAPSHOT_12: Layout = {
  name: "SNAPSHOT(12)",
  opcode: SNAPSHOT_12_OPCODE,
  length: 12,
  zeroBytes: [[10, "group number"], [11, "CONTROL"]],
};
const LAYOUTS: readonly Layout[] = [SNAPSHOT_6, SNAPSHOT_10, SNAPSHOT_12];

/**
 * Encodes the smallest SNAPSHOT command that can say `fields`.
 *
 * @throws StorageError `cdb-field-invalid` when none can: an LBA or a count that is no 32-bit unsigned integer, or
 * a range together with POOL.
 */
export function encodeSnapshotCdb(fields: SnapshotCdbFields): Uint8Array<ArrayBuffer> {
  requireUint32("first LBA", fields.firstLba);
  requireUint32("number of blocks", fields.blockCount);
  requireWholeVolumesWithPool(fields);
  const layout = chooseLayout(fields);
  const bytes = new Uint8Array(layout.length);
  bytes[0] = layout.opcode;
  bytes[1] = encodeFlags(fields);
  writeRange(new DataView(bytes.buffer), layout, fields);
  return bytes;
}

/**
 * Decodes a SNAPSHOT command; the first byte tells its length.
 *
 * @throws StorageError `cdb-opcode-unknown`, `cdb-length-invalid` (empty, or not the length of its opcode) or
 * `cdb-field-invalid` (a byte that must be zero is not, a reserved flag is set, POOL with a range).
 */
export function decodeSnapshotCdb(bytes: Uint8Array): SnapshotCdb {
  const { name, opcode, length, zeroBytes } = findLayout(bytes);
  requireLength(bytes, name, length);
  requireNoReservedFlag(bytes[1], name);
  for (const [index, field] of zeroBytes) requireZero(bytes[index], name, index, field);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const cdb = { name, opcode, length, ...decodeFlags(bytes[1]), ...readRange(view, length) };
  requireWholeVolumesWithPool(cdb);
  return cdb;
}

/**
 * Reads a CDB written as hex digits, in upper or lower case; what the bytes mean is the decoder's to say.
 *
 * @throws StorageError `cdb-length-invalid` (nothing, half a byte, more than 16 bytes) or `cdb-field-invalid` (a
 * character that is no hex digit).
 */
export function parseCdbHex(text: string): Uint8Array<ArrayBuffer> {
  if (text.length === 0 || text.length % 2 !== 0 || text.length > CDB_BYTES_MAX * 2) {
    throw new StorageError(
      "cdb-length-invalid",
      `Cannot read the CDB: expected 2 to ${CDB_BYTES_MAX * 2} hex digits, two a byte, found ${text.length}`,
    );
  }
  const strange = text.search(/[^0-9a-f]/i);
  if (strange >= 0) {
    throw new StorageError(
      "cdb-field-invalid",
      `Cannot read the CDB: expected hex digits only, found another character at ${strange}`,
    );
  }
  return Uint8Array.fromHex(text);
}

/** Writes bytes as lower-case hex digits. */
export function formatHex(bytes: Uint8Array): string {
  return bytes.toHex();
}

/** Writes one byte as the SCSI standards do: `C0h`. */
export function formatByte(value: number): string {
  return `${value.toString(16).toUpperCase().padStart(2, "0")}h`;
}

function chooseLayout(fields: SnapshotCdbFields): Layout {
  if (isWholeVolume(fields)) return SNAPSHOT_6;
  return fields.blockCount <= UINT16_MAX ? SNAPSHOT_10 : SNAPSHOT_12;
}

function isWholeVolume({ firstLba, blockCount }: SnapshotCdbFields): boolean {
  return firstLba === 0 && blockCount === 0;
}

function encodeFlags({ immed, pool, list }: SnapshotCdbFields): number {
  return (immed ? IMMED_FLAG : 0) | (pool ? POOL_FLAG : 0) | (list ? LIST_FLAG : 0);
}

function decodeFlags(flags: number): Pick<SnapshotCdbFields, "immed" | "pool" | "list"> {
  return {
    immed: (flags & IMMED_FLAG) !== 0,
    pool: (flags & POOL_FLAG) !== 0,
    list: (flags & LIST_FLAG) !== 0,
  };
}

function writeRange(view: DataView, { length }: Layout, { firstLba, blockCount }: SnapshotCdbFields): void {
  if (length === 6) return;
  view.setUint32(2, firstLba);
  if (length === 10) view.setUint16(7, blockCount);
  else view.setUint32(6, blockCount);
}

function readRange(
  view: DataView,
  length: SnapshotCdb["length"],
): Pick<SnapshotCdbFields, "firstLba" | "blockCount"> {
  if (length === 6) return { firstLba: 0, blockCount: 0 };
  return { firstLba: view.getUint32(2), blockCount: length === 10 ? view.getUint16(7) : view.getUint32(6) };
}

function findLayout(bytes: Uint8Array): Layout {
  if (bytes.length === 0) {
    throw new StorageError("cdb-length-invalid", "Cannot decode the CDB: expected an opcode, found no bytes");
  }
  const layout = LAYOUTS.find(({ opcode }) => opcode === bytes[0]);
  if (layout === undefined) {
    throw new StorageError(
      "cdb-opcode-unknown",
      `Cannot decode the CDB: expected opcode C0h, C1h or C2h, found ${formatByte(bytes[0])}`,
    );
  }
  return layout;
}

function requireLength(bytes: Uint8Array, name: string, length: number): void {
  if (bytes.length === length) return;
  throw new StorageError(
    "cdb-length-invalid",
    `Cannot decode ${name}: expected ${length} bytes, found ${bytes.length}`,
  );
}

function requireNoReservedFlag(flags: number, name: string): void {
  if ((flags & RESERVED_FLAGS) === 0) return;
  throw new StorageError(
    "cdb-field-invalid",
    `Cannot decode ${name}: expected bits 3 to 7 of byte 1 (flags) to be zero, found ${formatByte(flags)}`,
  );
}

function requireZero(value: number, name: string, index: number, field: string): void {
  if (value === 0) return;
  throw new StorageError(
    "cdb-field-invalid",
    `Cannot decode ${name}: expected byte ${index} (${field}) to be 00h, found ${formatByte(value)}`,
  );
}

function requireUint32(field: string, value: number): void {
  if (Number.isInteger(value) && value >= 0 && value <= CDB_NUMBER_MAX) return;
  throw new StorageError(
    "cdb-field-invalid",
    `Cannot say ${field} ${value} in a CDB: expected a whole number from 0 to ${CDB_NUMBER_MAX}`,
  );
}

function requireWholeVolumesWithPool(fields: SnapshotCdbFields): void {
  if (!fields.pool || isWholeVolume(fields)) return;
  throw new StorageError(
    "cdb-field-invalid",
    `Cannot combine POOL (byte 1, ${
      formatByte(encodeFlags(fields))
    }) with a range: expected first LBA 0 and ` +
      `0 blocks, found first LBA ${fields.firstLba} and ${fields.blockCount} blocks`,
  );
}
