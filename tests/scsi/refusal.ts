/** How the tests of the SCSI side demand a refusal: by its code, not by the mere fact of an error. */

import { assertEquals, assertThrows } from "@std/assert";
import { type ErrorCode, StorageError } from "../../src/errors.ts";

/** Asserts that `act` throws a StorageError of this code, whose message contains `finding`. */
export function assertRefused(act: () => unknown, code: ErrorCode, finding = ""): void {
  const error = assertThrows(act, StorageError, finding);
  assertEquals(error.code, code);
}

/** Asserts that `decode` either returns or throws a StorageError; returns what it returned. */
export function assertTotal<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch (error) {
    if (error instanceof StorageError) return undefined;
    throw error;
  }
}
