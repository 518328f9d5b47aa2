/**
 * Faults into problem documents: the last station of every request that went wrong.
 */

import type { z } from "@hono/zod-openapi";
import { HTTPException } from "hono/http-exception";
import { formatScsiAnswer, SCSI_ANSWERS } from "../scsi/sense.ts";
import { toStorageError } from "../storage/fault.ts";
import { tellCorrupt } from "./corrupt.ts";
import type { Door } from "./door.ts";
import { type FieldProblem, HTTP_ANSWERS, HttpError } from "./errors.ts";

type Faults = Pick<Door, "metrics" | "onCorrupt" | "onFault">;

/** What every answer carries. */
export function answerHeaders(requestId: string): Record<string, string> {
  return {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-request-id": requestId,
  };
}

/** Answers `error` with its problem document; a fault of the program itself is told to the log and not to the client. */
export function answerProblem(error: unknown, requestId: string, door: Faults): Response {
  const storageError = toStorageError(error);
  if (storageError !== undefined) {
    tellCorrupt(error, requestId, door);
    const { code, message, retryAfterSeconds } = storageError;
    const scsi = SCSI_ANSWERS[code];
    return problem(
      requestId,
      code,
      message,
      scsi === null ? {} : { scsi: formatScsiAnswer(scsi) },
      retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) },
    );
  }
  const httpError = toHttpError(error);
  if (httpError !== undefined) {
    const { code, detail, extra: { problems, headers } } = httpError;
    return problem(requestId, code, detail, problems === undefined ? {} : { problems }, headers);
  }
  door.onFault(error, requestId);
  return problem(requestId, "internal-error", "The server failed at this request; its log has the details");
}

/** Most of what is wrong with a request that is told at once, and the longest it is told in. */
const PROBLEMS_MAX = 20;
const MESSAGE_LENGTH_MAX = 200;

/** What is wrong with which part of a request; where one of several forms was expected, with the form that is nearest. */
export function toFieldProblems(issues: Issue[]): FieldProblem[] {
  return issues.slice(0, PROBLEMS_MAX).flatMap((issue) => listProblems(issue, [])).slice(0, PROBLEMS_MAX);
}

type Issue = z.core.$ZodIssue;

function listProblems(issue: Issue, parent: PropertyKey[]): FieldProblem[] {
  const path = [...parent, ...issue.path];
  const forms = issue.code === "invalid_union" ? issue.errors : [];
  const [nearest] = forms.toSorted((a, b) => a.length - b.length);
  if (nearest !== undefined) return nearest.flatMap((inner) => listProblems(inner, path));
  return [{ path: path.join("."), message: issue.message.slice(0, MESSAGE_LENGTH_MAX) }];
}

function toHttpError(error: unknown): HttpError | undefined {
  if (error instanceof HttpError) return error;
  // What the validator throws at a body that it cannot parse.
  if (error instanceof HTTPException && error.status === 400) {
    return new HttpError("invalid-request", "Cannot read the body: expected JSON");
  }
  return undefined;
}

function problem(
  requestId: string,
  code: keyof typeof HTTP_ANSWERS,
  detail: string,
  extra: Record<string, unknown> = {},
  headers: Record<string, string> = {},
): Response {
  const { status, title, retryAfterSeconds } = HTTP_ANSWERS[code];
  const body = {
    type: `urn:snapmark:problem:${code}`,
    title,
    status,
    detail,
    code,
    requestId,
    ...extra,
  };
  return new Response(JSON.stringify(body), {
    status,
    headers: {
      ...answerHeaders(requestId),
      "content-type": "application/problem+json",
      ...(retryAfterSeconds === undefined ? {} : { "retry-after": String(retryAfterSeconds) }),
      ...headers,
    },
  });
}
