import { centrifugoMemory, centrifugoPostgres } from './centrifugo.ts';
import { emmett } from './emmett.ts';
import { graphileWorker } from './graphile-worker.ts';
import { messageDb } from './message-db.ts';
import { nats } from './nats.ts';
import type { Peer } from './peer.ts';
import { pgBoss } from './pg-boss.ts';
import { rabbitMq } from './rabbitmq.ts';
import { redis } from './redis.ts';
import { wuKongIm } from './wukongim.ts';

export const peers: readonly Peer[] = [pgBoss, graphileWorker, emmett, messageDb, redis, nats, rabbitMq];

/** Servers of the same kind as ours, loaded over HTTP (`message-servers.ts`). */
export const messageServers: readonly Peer[] = [centrifugoPostgres, centrifugoMemory, wuKongIm];
