import { Code, ConnectError, createClient } from '@connectrpc/connect';
import { type GetServerInfoResponse, MessageService } from '../../gen/client/sendbatch/v1/message_service_pb.ts';
import { createStore } from './store.ts';
import { createTransport } from './transport.ts';

export type Scope = 'send' | 'read' | 'admin' | 'metrics';

/**
 * Who uses the console. The credential is kept in the memory of this page only: a reload asks for it
 * again.
 *
 * opening → signedIn (no credential is needed, or it is accepted) | signedOut | unreachable;
 * signedIn → signedOut by the user, or when the service no longer accepts the credential.
 */
export type Session =
  | { readonly state: 'opening' }
  | { readonly state: 'unreachable'; readonly error: ConnectError }
  | { readonly state: 'signedOut'; readonly error?: ConnectError }
  | { readonly state: 'signedIn'; readonly info: GetServerInfoResponse; readonly hasCredential: boolean };

const store = createStore<Session>({ state: 'opening' });
let credential: string | undefined;

/** The credential of this page's calls; undefined without one. */
export function currentCredential(): string | undefined {
  return credential;
}

/** Asks the service whether it accepts a credential, or none. */
async function identify(candidate: string | undefined): Promise<GetServerInfoResponse> {
  const transport = createTransport({ credential: () => candidate, timeoutMs: 30_000 });
  return await createClient(MessageService, transport).getServerInfo({});
}

export const session = {
  subscribe: store.subscribe,
  get: store.get,

  /** Finds out whether a credential is needed. */
  async open(): Promise<void> {
    store.set({ state: 'opening' });
    try {
      store.set({ state: 'signedIn', info: await identify(undefined), hasCredential: false });
    } catch (thrown) {
      const error = ConnectError.from(thrown);
      store.set(error.code === Code.Unauthenticated ? { state: 'signedOut' } : { state: 'unreachable', error });
    }
  },

  /** Signs in with an API key or a token; throws what the service answers to an invalid one. */
  async signIn(candidate: string): Promise<void> {
    const info = await identify(candidate);
    credential = candidate;
    store.set({ state: 'signedIn', info, hasCredential: true });
  },

  signOut(): void {
    credential = undefined;
    store.set({ state: 'signedOut' });
  },

  /** Called with errors of calls: a revoked or expired credential leads to the sign-in. */
  onCallError(error: ConnectError, used: string | undefined): void {
    if (error.code !== Code.Unauthenticated || store.get().state !== 'signedIn') return;
    // A late answer to the last caller says nothing about the one who has signed in since.
    if (used !== credential) return;
    credential = undefined;
    store.set({ state: 'signedOut', error });
  },
};
