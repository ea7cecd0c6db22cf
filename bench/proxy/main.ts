import { connect, createServer, type AddressInfo, type Socket } from 'node:net';
import type { ProxyCommand } from './proxy.js';

/**
 * A TCP proxy on a port of its own: `main.ts <target port> <delay each way in ms>`. It counts round trips, and delays
 * every chunk by the same time whatever comes behind it: latency is added, throughput is left alone.
 */
const [targetPort, delayMs] = process.argv.slice(2).map(Number) as [number, number];

let roundTrips = 0;

const server = createServer((downstream) => {
  const upstream = connect({ port: targetPort, host: '127.0.0.1', noDelay: true });
  downstream.setNoDelay(true);
  let asked = false;
  forward(downstream, upstream, () => (asked = true));
  forward(upstream, downstream, () => {
    if (asked) {
      asked = false;
      roundTrips++;
    }
  });
});

function forward(from: Socket, to: Socket, delivered: () => void): void {
  const queue: { due: number; chunk: Buffer | undefined }[] = [];
  let timer: NodeJS.Timeout | undefined;

  const deliver = (): void => {
    timer = undefined;
    while (queue.length > 0 && queue[0]!.due <= performance.now()) {
      const { chunk } = queue.shift()!;
      if (chunk === undefined) {
        to.end();
      } else {
        to.write(chunk);
        delivered();
      }
    }
    schedule();
  };
  const schedule = (): void => {
    if (queue.length > 0 && timer === undefined) {
      timer = setTimeout(deliver, queue[0]!.due - performance.now());
    }
  };
  const enqueue = (chunk: Buffer | undefined): void => {
    queue.push({ due: performance.now() + delayMs, chunk });
    if (delayMs === 0) {
      deliver();
    } else {
      schedule();
    }
  };
  from.on('data', (chunk: Buffer) => {
    enqueue(chunk);
  });
  from.on('end', () => enqueue(undefined));
  from.on('error', () => to.destroy());
  from.on('close', () => to.destroySoon());
}

server.listen(0, '127.0.0.1', () => process.send!({ port: (server.address() as AddressInfo).port }));

process.on('message', (command: ProxyCommand) => {
  switch (command.do) {
    case 'round trips':
      process.send!({ value: roundTrips });
  }
});
process.once('disconnect', () => process.exit(0));
