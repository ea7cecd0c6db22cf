import { type Adapter, createTestApp } from '../../support/test-app.js';
import { LargeBodiesController } from './large-bodies.controller.js';

/** Serves until its parent hangs up, and tells it how much memory it has come to whenever it asks. */
const [databaseUrl = '', adapter = 'express'] = process.argv.slice(2);
let peak = 0;
setInterval(() => {
  peak = Math.max(peak, process.memoryUsage.rss());
}, 5).unref();
process.on('disconnect', () => process.exit());
process.on('message', () => process.send?.({ peakBytes: Math.max(peak, process.memoryUsage.rss()) }));
const test = await createTestApp({ adapter: adapter as Adapter, databaseUrl, controllers: [LargeBodiesController] });
process.send?.({ port: test.port });
