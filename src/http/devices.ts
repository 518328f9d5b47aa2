/**
 * `/devices`: backing stores, and the descriptors of their segments.
 */

import { createRoute, z } from "@hono/zod-openapi";
import type { Device as StorageDevice } from "../storage/device.ts";
import { type Door, type DoorApp, toActor } from "./door.ts";
import {
  Count,
  given,
  Id,
  ID_KEY,
  jsonBody,
  jsonResponse,
  Moment,
  Name,
  NoQuery,
  NUMBER_KEY,
  pageOf,
  PageQuery,
  PoolQuery,
  PROBLEM_RESPONSE,
  Reference,
  SizeFields,
  toPageBody,
  toPageRequest,
  toSize,
} from "./schema.ts";

const Device = z.object({
  id: Id,
  name: Name,
  poolId: Id,
  blockCount: Count.openapi({ description: "Rounded down to whole segments" }),
  firstSegmentId: Count,
  segmentCount: Count,
  freeSegments: Count,
  createdAt: Moment,
}).openapi("Device");

const NewDevice = z.strictObject({
  name: Name,
  pool: Reference.optional().openapi({ description: "By default `main`" }),
  ...SizeFields,
}).openapi("NewDevice", { description: "Either `sizeBytes` or `blockCount`" });

const Segment = z.object({
  segmentId: Count,
  deviceId: Id,
  firstBlock: Count.openapi({ description: "Index of its first block on the device" }),
  blockCount: Count,
  state: z.enum(["free", "mapped"]),
  timelineId: Count.optional(),
  slot: Count.optional(),
  epoch: Count.optional(),
}).openapi("Segment");

const params = z.object({ device: Reference });

const addRoute = createRoute({
  method: "post",
  path: "/devices",
  operationId: "addDevice",
  summary: "Add a device to a pool",
  description: "At any time, in the same time whatever its size.",
  tags: ["devices"],
  request: { query: NoQuery, ...jsonBody(NewDevice) },
  responses: { 201: jsonResponse("The device", Device), default: PROBLEM_RESPONSE },
});

const listRoute = createRoute({
  method: "get",
  path: "/devices",
  operationId: "listDevices",
  summary: "List the devices",
  tags: ["devices"],
  request: { query: PageQuery.extend(PoolQuery.shape) },
  responses: { 200: jsonResponse("A page of devices", pageOf("devices", Device)), default: PROBLEM_RESPONSE },
});

const getRoute = createRoute({
  method: "get",
  path: "/devices/{device}",
  operationId: "getDevice",
  summary: "A device",
  tags: ["devices"],
  request: { params, query: PoolQuery },
  responses: { 200: jsonResponse("The device", Device), default: PROBLEM_RESPONSE },
});

const segmentsRoute = createRoute({
  method: "get",
  path: "/devices/{device}/segments",
  operationId: "listDeviceSegments",
  summary: "The descriptors of a device's segments, with their state",
  tags: ["devices"],
  request: { params, query: PageQuery.extend(PoolQuery.shape) },
  responses: {
    200: jsonResponse("A page of segments", pageOf("segments", Segment)),
    default: PROBLEM_RESPONSE,
  },
});

export function registerDevices(app: DoorApp, { storage, limits }: Door): void {
  app.openapi(addRoute, async (c) => {
    const { name, pool, ...size } = c.req.valid("json");
    const device = await storage.addDevice(toActor(c), { name, ...given({ pool }), ...toSize(size) });
    return c.json(toBody(device), 201, { location: `/devices/${device.deviceId}` });
  });

  app.openapi(listRoute, async (c) => {
    const query = c.req.valid("query");
    const page = await storage.listDevices(query.pool, toPageRequest(query, limits, ID_KEY));
    return c.json(toPageBody("devices", page, toBody), 200);
  });

  app.openapi(getRoute, async (c) => {
    const device = await storage.getDevice(c.req.valid("param").device, c.req.valid("query").pool);
    return c.json(toBody(device), 200);
  });

  app.openapi(segmentsRoute, async (c) => {
    const query = c.req.valid("query");
    const request = toPageRequest(query, limits, NUMBER_KEY);
    const page = await storage.listDeviceSegments(c.req.valid("param").device, query.pool, request);
    return c.json(toPageBody("segments", page, (segment) => segment), 200);
  });
}

/** A device as the wire shows it. */
export function toBody({ deviceId, createdAt, ...device }: StorageDevice): z.input<typeof Device> {
  return { id: deviceId, ...device, createdAt: createdAt.toISOString() };
}
