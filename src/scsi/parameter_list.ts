/**
 * The parameter list of a SNAPSHOT command: the data-out that follows when its LIST flag is set.
 *
 * It names the snapshot and the volumes it covers, which no CDB has room for. Big-endian, and bounded:
 *
 *     header      0-3 PARAMETER LIST LENGTH, the bytes that follow
 *     descriptor  0 type · 1 reserved · 2-3 length of the value · 4… value
 *
 *     01h NAME         UTF-8, at most once
 *     02h DESCRIPTION  UTF-8, at most once
 *     03h VOLUME       a UUID of 16 bytes, once for each volume that is covered whole
 *     04h RANGE        0-15 the UUID of a volume · 16-23 first LBA · 24-31 number of blocks, once for each range; 0 blocks
 *                      means to the end of the volume
 *
 * Descriptors come in any order when decoded, and in that of the table when encoded. Decoding is strict and total:
 * any byte string either decodes or is refused. What a name may be, and whether a volume exists, is the domain's
 * to say: a NAME may be empty here, and may hold any character.
 *
 * Source: the shape follows SPC-4 (parameter lists with a length header, as PERSISTENT RESERVE OUT and EXTENDED COPY
 * have); UUIDs are in the byte order of RFC 9562, section 4.
 */

import { StorageError } from "../errors.ts";
import { formatByte } from "./cdb.ts";

/** Bound of a whole parameter list, header included: room for some 3,200 volumes or 1,800 ranges, still small to hold and audit. */
export const PARAMETER_LIST_BYTES_MAX = 65_536;

/** What a parameter list says. */
export interface SnapshotParameterList {
  name?: string;
  description?: string;
  /** UUIDs, lower case with dashes when decoded. */
  volumeIds: string[];
  ranges: ListedRange[];
}

/** Blocks `[lba, lba + blockCount)` of a volume; 0 blocks mean to its end. */
export interface ListedRange {
  readonly volumeId: string;
  readonly lba: number;
  readonly blockCount: number;
}

interface Descriptor {
  type: number;
  value: Uint8Array;
}

const NAME_TYPE = 0x01;
const DESCRIPTION_TYPE = 0x02;
const VOLUME_TYPE = 0x03;
const RANGE_TYPE = 0x04;

const LIST_HEADER_BYTES = 4;
const DESCRIPTOR_HEADER_BYTES = 4;
const VALUE_BYTES_MAX = 0xffff;
const UUID_BYTES = 16;
const RANGE_BYTES = 32;
const UUID_TEXT = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/**
 * Encodes a parameter list.
 *
 * @throws StorageError `parameter-list-length-invalid` when a value or the whole does not fit, and
 * `parameter-list-invalid` when a text is not well-formed Unicode, a volume id is no UUID, or a range has no whole numbers.
 */
export function encodeSnapshotParameterList(list: SnapshotParameterList): Uint8Array<ArrayBuffer> {
  const descriptors = listDescriptors(list);
  const totalBytes = descriptors.reduce(
    (sum, { value }) => sum + DESCRIPTOR_HEADER_BYTES + value.length,
    LIST_HEADER_BYTES,
  );
  requireListWithinBound(totalBytes);
  const bytes = new Uint8Array(totalBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, totalBytes - LIST_HEADER_BYTES);
  let offset = LIST_HEADER_BYTES;
  for (const { type, value } of descriptors) {
    view.setUint8(offset, type);
    view.setUint16(offset + 2, value.length);
    bytes.set(value, offset + DESCRIPTOR_HEADER_BYTES);
    offset += DESCRIPTOR_HEADER_BYTES + value.length;
  }
  return bytes;
}

/**
 * Decodes a parameter list.
 *
 * @throws StorageError `parameter-list-length-invalid` (longer than the bound, not the length its header states, a
 * descriptor that runs past the end) or `parameter-list-invalid` (unknown type, reserved byte set, a second NAME
 * or DESCRIPTION, invalid UTF-8, a UUID that is not 16 bytes, a range that is not 32 or has numbers from 2^53 on).
 */
export function decodeSnapshotParameterList(bytes: Uint8Array): SnapshotParameterList {
  requireListWithinBound(bytes.length);
  requireStatedLength(bytes);
  const list: SnapshotParameterList = { volumeIds: [], ranges: [] };
  let offset = LIST_HEADER_BYTES;
  while (offset < bytes.length) {
    const { type, value } = readDescriptor(bytes, offset);
    addDescriptor(list, type, value, offset);
    offset += DESCRIPTOR_HEADER_BYTES + value.length;
  }
  return list;
}

function listDescriptors({ name, description, volumeIds, ranges }: SnapshotParameterList): Descriptor[] {
  const descriptors: Descriptor[] = [];
  if (name !== undefined) descriptors.push({ type: NAME_TYPE, value: encodeText("NAME", name) });
  if (description !== undefined) {
    descriptors.push({ type: DESCRIPTION_TYPE, value: encodeText("DESCRIPTION", description) });
  }
  for (const id of volumeIds) descriptors.push({ type: VOLUME_TYPE, value: encodeUuid(id) });
  for (const range of ranges) descriptors.push({ type: RANGE_TYPE, value: encodeRange(range) });
  return descriptors;
}

function readDescriptor(bytes: Uint8Array, offset: number): Descriptor {
  requireBytesLeft(bytes, offset, DESCRIPTOR_HEADER_BYTES);
  const [type, reserved, lengthHigh, lengthLow] = bytes.subarray(offset, offset + DESCRIPTOR_HEADER_BYTES);
  if (reserved !== 0) {
    throw invalid(`expected byte ${offset + 1} (reserved) to be 00h, found ${formatByte(reserved)}`);
  }
  const valueBytes = lengthHigh << 8 | lengthLow;
  requireBytesLeft(bytes, offset, DESCRIPTOR_HEADER_BYTES + valueBytes);
  const valueOffset = offset + DESCRIPTOR_HEADER_BYTES;
  return { type, value: bytes.subarray(valueOffset, valueOffset + valueBytes) };
}

function addDescriptor(list: SnapshotParameterList, type: number, value: Uint8Array, offset: number): void {
  switch (type) {
    case NAME_TYPE:
      requireFirst("NAME", list.name, offset);
      list.name = decodeText("NAME", value);
      return;
    case DESCRIPTION_TYPE:
      requireFirst("DESCRIPTION", list.description, offset);
      list.description = decodeText("DESCRIPTION", value);
      return;
    case VOLUME_TYPE:
      list.volumeIds.push(decodeUuid(value));
      return;
    case RANGE_TYPE:
      list.ranges.push(decodeRange(value));
      return;
    default:
      throw invalid(`expected descriptor type 01h to 04h at byte ${offset}, found ${formatByte(type)}`);
  }
}

function encodeText(field: string, text: string): Uint8Array {
  if (!text.isWellFormed()) {
    throw invalid(`expected ${field} to be well-formed Unicode, found half a surrogate pair`);
  }
  const value = new TextEncoder().encode(text);
  if (value.length > VALUE_BYTES_MAX) {
    throw lengthInvalid(`expected ${field} to have at most ${VALUE_BYTES_MAX} bytes, found ${value.length}`);
  }
  return value;
}

function decodeText(field: string, value: Uint8Array): string {
  try {
    // ignoreBOM keeps a leading U+FEFF in the text: what was sent is what is kept.
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(value);
  } catch {
    throw invalid(`expected ${field} to be valid UTF-8, found other bytes`);
  }
}

function encodeUuid(id: string): Uint8Array {
  if (!UUID_TEXT.test(id)) {
    throw invalid("expected VOLUME to be a UUID of 32 hex digits and 4 dashes, found another text");
  }
  return Uint8Array.fromHex(id.replaceAll("-", ""));
}

function decodeUuid(value: Uint8Array): string {
  if (value.length !== UUID_BYTES) {
    throw invalid(`expected VOLUME to have ${UUID_BYTES} bytes, found ${value.length}`);
  }
  const hex = value.toHex();
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

function encodeRange({ volumeId, lba, blockCount }: ListedRange): Uint8Array {
  if (![lba, blockCount].every((number) => Number.isSafeInteger(number) && number >= 0)) {
    throw invalid(`expected RANGE to have whole numbers below 2^53, found ${lba} and ${blockCount}`);
  }
  const value = new Uint8Array(RANGE_BYTES);
  value.set(encodeUuid(volumeId));
  const view = new DataView(value.buffer);
  view.setBigUint64(UUID_BYTES, BigInt(lba));
  view.setBigUint64(UUID_BYTES + 8, BigInt(blockCount));
  return value;
}

function decodeRange(value: Uint8Array): ListedRange {
  if (value.length !== RANGE_BYTES) {
    throw invalid(`expected RANGE to have ${RANGE_BYTES} bytes, found ${value.length}`);
  }
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength);
  const [lba, blockCount] = [UUID_BYTES, UUID_BYTES + 8].map((offset) => Number(view.getBigUint64(offset)));
  if (!Number.isSafeInteger(lba) || !Number.isSafeInteger(blockCount)) {
    throw invalid("expected RANGE to have numbers below 2^53, found a larger one");
  }
  return { volumeId: decodeUuid(value.subarray(0, UUID_BYTES)), lba, blockCount };
}

function requireListWithinBound(totalBytes: number): void {
  if (totalBytes <= PARAMETER_LIST_BYTES_MAX) return;
  throw lengthInvalid(`expected at most ${PARAMETER_LIST_BYTES_MAX} bytes, found ${totalBytes}`);
}

function requireStatedLength(bytes: Uint8Array): void {
  if (bytes.length < LIST_HEADER_BYTES) {
    throw lengthInvalid(`expected a header of ${LIST_HEADER_BYTES} bytes, found ${bytes.length} in all`);
  }
  const statedBytes = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(0);
  const foundBytes = bytes.length - LIST_HEADER_BYTES;
  if (statedBytes === foundBytes) return;
  throw lengthInvalid(`expected the ${statedBytes} bytes its header states, found ${foundBytes}`);
}

function requireBytesLeft(bytes: Uint8Array, offset: number, neededBytes: number): void {
  const leftBytes = bytes.length - offset;
  if (neededBytes <= leftBytes) return;
  throw lengthInvalid(
    `expected ${neededBytes} bytes in the descriptor at byte ${offset}, found ${leftBytes} before the end`,
  );
}

function requireFirst(field: string, earlier: string | undefined, offset: number): void {
  if (earlier === undefined) return;
  throw invalid(`expected ${field} once, found it again at byte ${offset}`);
}

function invalid(finding: string): StorageError {
  return new StorageError("parameter-list-invalid", `Cannot take the parameter list: ${finding}`);
}

function lengthInvalid(finding: string): StorageError {
  return new StorageError("parameter-list-length-invalid", `Cannot take the parameter list: ${finding}`);
}
