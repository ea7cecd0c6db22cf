import { Connection, type Pool } from 'pg';
import { within } from '../util/timing.js';
import type { DatabaseConnection } from './database-connection.js';

/** What is read of pg's Client beyond its public type; without the last two there is nothing to cancel by. */
interface CancellableClient {
  host: string;
  port: number;
  ssl: unknown;
  sslNegotiation?: string;
  processID: number | null;
  secretKey: number | null;
}

/** pg's Connection, of which the public type leaves out half. */
interface CancelConnection extends NodeJS.EventEmitter {
  stream: { destroy(): void };
  connect(portOrPath: number | string, host?: string): void;
  requestSsl(): void;
  cancel(processID: number, secretKey: number): void;
}
const PgConnection = Connection as unknown as new (config: object) => CancelConnection;

/** An ordinary ROLLBACK is answered by then: there is nothing to cancel. */
const PATIENCE_MS = 100;
/** A request ends the statement of that instant; the next one of a queue takes another. */
const REPEAT_MS = 250;
/** For the socket of one request. */
const REQUEST_LIMIT_MS = 1_000;

/**
 * Ends what a connection is busy with, until `answered` settles. Then no request is under way any more that could hit
 * whoever uses the connection next.
 *
 * @throws Error where it cannot be told whether one is: the connection must be destroyed
 */
export async function cancelUntil(answered: Promise<unknown>, connection: DatabaseConnection): Promise<void> {
  const settled = answered.then(
    () => true,
    () => true,
  );
  let isCertain = true;
  for (let pauseMs = PATIENCE_MS; !(await within(pauseMs, settled)); pauseMs = REPEAT_MS) {
    const isOver = await requestCancel(connection);
    isCertain &&= isOver;
  }
  if (!isCertain) {
    throw new Error('a request to cancel a statement of this connection may still be under way');
  }
}

/**
 * A CancelRequest (PostgreSQL manual, 54.2.9) on a socket of its own, made and encrypted as that of the connection is;
 * pg's own `cancel()` knows no encryption, and no `stream` of the application. The server, or a pooler on its behalf,
 * closes the socket once the signal was sent. False where one was sent and that has not come.
 */
function requestCancel({ client, runner }: DatabaseConnection): Promise<boolean> {
  const { host, port, ssl, sslNegotiation, processID, secretKey } = client as unknown as CancellableClient;
  if (processID === null || secretKey === null) {
    return Promise.resolve(true);
  }
  const { master } = runner.connection.driver as { master?: Pool };
  const connection = new PgConnection({ ssl, sslNegotiation, stream: master?.options.stream });
  const closed = new Promise<boolean>((resolve) => {
    let isSent = false;
    const send = (): void => {
      connection.cancel(processID, secretKey);
      isSent = true;
    };
    connection.on('connect', () => (ssl ? sslNegotiation === 'direct' || connection.requestSsl() : send()));
    connection.on('sslconnect', send);
    connection.on('error', () => resolve(!isSent));
    connection.on('end', () => resolve(true));
  });
  if (host.startsWith('/')) {
    connection.connect(`${host}/.s.PGSQL.${port}`);
  } else {
    connection.connect(port, host);
  }
  return within(REQUEST_LIMIT_MS, closed).then((isDone) => {
    connection.stream.destroy();
    return isDone ?? false;
  });
}
