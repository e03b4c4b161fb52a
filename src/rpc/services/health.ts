import type { DescService } from '@bufbuild/protobuf';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import { type Health, HealthCheckResponse_ServingStatus as Status } from '../../../gen/grpc/health/v1/health_pb.ts';
import { ServiceError } from '../../messages/service-error.ts';
import type { Readiness } from '../../postgres/readiness.ts';

/**
 * Implements grpc.health.v1.Health. All services use one database, so they and the server as a
 * whole (the empty name) share one status. Requires no credential: probes send none, and the status
 * is not secret.
 */
export function createHealthService(
  readiness: Readiness,
  services: () => readonly DescService[],
): ServiceImpl<typeof Health> {
  const isKnown = (name: string) => name === '' || services().some((service) => service.typeName === name);
  const statusNow = async () => statusOf((await readiness.look()).ready);
  return {
    async check({ service }) {
      if (!isKnown(service))
        throw new ConnectError(`service ${service.slice(0, 128)} does not exist here`, Code.NotFound);
      return { status: await statusNow() };
    },
    async list() {
      const status = await statusNow();
      const names = ['', ...services().map((service) => service.typeName)];
      return { statuses: Object.fromEntries(names.map((name) => [name, { status }])) };
    },
    async *watch({ service }, { signal }) {
      // Not an error by the protocol: a later version of the server may have the service.
      if (!isKnown(service)) {
        yield { status: Status.SERVICE_UNKNOWN };
        for await (const _ of readiness.follow(signal));
      } else for await (const { ready } of readiness.follow(signal)) yield { status: statusOf(ready) };
      if (!signal.aborted)
        throw new ServiceError({
          reason: 'STOPPING',
          message: 'this instance is stopping; watch again to reach another one',
          metadata: {},
          retryAfterMs: 1000,
        });
    },
  };
}

function statusOf(ready: boolean): Status {
  return ready ? Status.SERVING : Status.NOT_SERVING;
}
