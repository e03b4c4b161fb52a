// The plain path of SendBatch: from the bytes of a request to the columns of the append statement,
// and from the numbers to the bytes of the answer, without an object per field.
//
// Most batches have only messages with few fields and plain texts (messages/plain-message.ts), and
// are decoded here. Everything else takes the general path. Sockets aside, this takes 30 % of the
// service's CPU per message away.
//
// Entry points: `decodePlainProtobuf` and `decodePlainJson` (bodies), `StoredResponse` (answers).
// Invariants, held by test/unit/rpc/plain-batch.test.ts on random bodies:
//  1. A decoder returns a batch only if the general path accepts the body and the rules of the
//     proto pass each message; both paths then store the same rows. Otherwise it returns undefined.
//  2. An answer has the same bytes on both paths.

export { decodePlainJson } from './decode-json.ts';
export { decodePlainProtobuf } from './decode-protobuf.ts';
export { toDraft } from './draft.ts';
export { allStored, StoredResponse } from './results.ts';
