import { monitorEventLoopDelay } from 'node:perf_hooks';
import { type Adapter, createTestApp } from '../../support/test-app.js';
import { LargeBodiesController } from './large-bodies.controller.js';

/**
 * Serves until its parent hangs up, and tells it whenever it asks how much memory it has come to, and how long the event
 * loop was blocked at the most since it was asked last.
 */
const [databaseUrl = '', adapter = 'express'] = process.argv.slice(2);
let peak = 0;
setInterval(() => {
  peak = Math.max(peak, process.memoryUsage.rss());
}, 5).unref();
process.on('disconnect', () => process.exit());
const loop = monitorEventLoopDelay({ resolution: 5 });
loop.enable();
process.on('message', () => {
  process.send?.({ peakBytes: Math.max(peak, process.memoryUsage.rss()), blockedMs: loop.max / 1e6 });
  loop.reset();
});
const test = await createTestApp({ adapter: adapter as Adapter, databaseUrl, controllers: [LargeBodiesController] });
process.send?.({ port: test.port });
