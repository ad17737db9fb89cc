// Pulse, which began as Agenda.
import { Pulse } from '@pulsecron/pulse';
import { MongoClient } from 'mongodb';
import { order, produce, ready, Tally } from './protocol.mjs';

const packages = ['@pulsecron/pulse', 'mongodb'];
const asked = order();
const client = await MongoClient.connect(asked.uri);
const pulse = new Pulse({
  mongo: client.db(asked.database),
  processEvery: 100,
  maxConcurrency: 100,
  defaultConcurrency: 100
});
await pulse._ready;

if (asked.role === 'work') {
  const tally = new Tally(asked.jobs);
  pulse.define('job', async job => tally.entered(job.attrs.data.called));
  pulse.on('complete', () => tally.done());
  tally.started = await ready(...packages);
  await pulse.start();
} else {
  await produce(asked, data => pulse.now('job', data), ...packages);
  process.exit(0);
}
