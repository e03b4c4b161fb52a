import { type Caller, type Scope, scopes } from '../messages/caller.ts';

/** A caller in its stored form, as of the submission of its batch. */
export interface CallerSnapshot {
  readonly id: string;
  readonly name: string;
  readonly kind: Caller['kind'];
  readonly scopes: readonly Scope[];
  readonly senders?: readonly string[];
  readonly ratePerSecond?: number;
}

export function snapshotCaller({ id, name, kind, scopes: granted, senders, ratePerSecond }: Caller): CallerSnapshot {
  return {
    id,
    name,
    kind,
    scopes: scopes.filter((each) => granted.has(each)),
    ...(senders === undefined ? {} : { senders: [...senders] }),
    ...(ratePerSecond === undefined ? {} : { ratePerSecond }),
  };
}

export function restoreCaller({ scopes: granted, senders, ...rest }: CallerSnapshot): Caller {
  return { ...rest, scopes: new Set(granted), ...(senders === undefined ? {} : { senders: new Set(senders) }) };
}
