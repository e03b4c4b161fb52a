import { emmett } from './emmett.ts';
import { graphileWorker } from './graphile-worker.ts';
import { messageDb } from './message-db.ts';
import { nats } from './nats.ts';
import type { Peer } from './peer.ts';
import { pgBoss } from './pg-boss.ts';
import { rabbitMq } from './rabbitmq.ts';
import { redis } from './redis.ts';

export const peers: readonly Peer[] = [pgBoss, graphileWorker, emmett, messageDb, redis, nats, rabbitMq];
