import { create, fromBinary, type JsonValue, type Registry, toJson } from '@bufbuild/protobuf';
import { Code, type ConnectError } from '@connectrpc/connect';
import { TranscodeError } from './error.ts';
import { isWellKnown } from './well-known.ts';

/** The HTTP status per gRPC code, as in google/rpc/code.proto. */
export const httpStatuses: Readonly<Record<Code, number>> = {
  [Code.Canceled]: 499,
  [Code.Unknown]: 500,
  [Code.InvalidArgument]: 400,
  [Code.DeadlineExceeded]: 504,
  [Code.NotFound]: 404,
  [Code.AlreadyExists]: 409,
  [Code.PermissionDenied]: 403,
  [Code.ResourceExhausted]: 429,
  [Code.FailedPrecondition]: 400,
  [Code.Aborted]: 409,
  [Code.OutOfRange]: 400,
  [Code.Unimplemented]: 501,
  [Code.Internal]: 500,
  [Code.Unavailable]: 503,
  [Code.DataLoss]: 500,
  [Code.Unauthenticated]: 401,
};

/** Returns an error as google.rpc.Status in JSON, the default shape of errors. */
export function statusFailure(error: ConnectError, registry: Registry) {
  const faults = error instanceof TranscodeError ? error.faults : [];
  const details = [
    ...(faults.length === 0 ? [] : [{ '@type': 'type.googleapis.com/google.rpc.BadRequest', fieldViolations: faults }]),
    ...error.details.map((detail) => detailJson(detail, registry)),
  ];
  return {
    status: error instanceof TranscodeError ? error.httpStatus : httpStatuses[error.code],
    headers: error.metadata,
    body: JSON.stringify({ code: error.code, message: error.rawMessage, details }),
  };
}

/** Returns a detail as Any in JSON. The value of an unknown type is its bytes in base64. */
function detailJson(detail: ConnectError['details'][number], registry: Registry): JsonValue {
  const typeName = 'desc' in detail ? detail.desc.typeName : detail.type;
  const desc = 'desc' in detail ? detail.desc : registry.getMessage(typeName);
  const type = { '@type': `type.googleapis.com/${typeName}` };
  if (desc === undefined)
    return 'desc' in detail ? type : { ...type, value: Buffer.from(detail.value).toString('base64') };
  const json = toJson(desc, 'desc' in detail ? create(desc, detail.value) : fromBinary(desc, detail.value), {
    registry,
  });
  return isWellKnown(desc) ? { ...type, value: json } : { ...type, ...(json as object) };
}
