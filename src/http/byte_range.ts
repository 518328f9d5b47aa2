/**
 * Byte ranges of a body of known size (RFC 9110, 14): `Range` and `If-Range` into what is to be sent.
 */

/** Bytes `[start, end)` of a body; `partial` when that was asked for, and is answered 206. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
  readonly partial: boolean;
}

/** The headers that decide. */
export interface RangeHeaders {
  readonly range: string | undefined;
  readonly ifRange: string | undefined;
}

const SINGLE = /^bytes=\s*(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))\s*$/i;

/**
 * What to send of a body of `size` bytes with that strong entity tag: nothing when no byte of it is in the range (416).
 *
 * A `Range` that is malformed, asks for several ranges, or whose `If-Range` is not this tag, is ignored, which it may be.
 */
export function chooseBytes(
  size: number,
  etag: string,
  { range, ifRange }: RangeHeaders,
): ByteRange | undefined {
  const whole = { start: 0, end: size, partial: false };
  const match = range === undefined ? null : SINGLE.exec(range);
  if (match === null || (ifRange !== undefined && ifRange.trim() !== etag)) return whole;
  const [, first, last, suffix] = match;
  if (suffix !== undefined) {
    const length = Math.min(size, Number(suffix));
    return length === 0 ? undefined : { start: size - length, end: size, partial: true };
  }
  const start = Number(first);
  const end = last === "" ? size : Math.min(size, Number(last) + 1);
  if (last !== "" && Number(last) < start) return whole;
  return start >= size ? undefined : { start, end, partial: true };
}
