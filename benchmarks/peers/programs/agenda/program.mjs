// Agenda with its MongoDB backend.
import { Agenda } from 'agenda';
import { MongoBackend, MongoChangeStreamNotificationChannel } from '@agendajs/mongo-backend';
import { MongoClient } from 'mongodb';
import { order, produce, ready, Tally } from './protocol.mjs';

const packages = ['agenda', '@agendajs/mongo-backend', 'mongodb'];
const asked = order();
const streams = asked.variant === 'change stream' && asked.role === 'work';
const client = await MongoClient.connect(asked.uri);
const db = client.db(asked.database);
const agenda = new Agenda({
  backend: new MongoBackend({ mongo: db }),
  maxConcurrency: 100,
  defaultConcurrency: 100,
  // Told by a change stream it polls as seldom as it does by default.
  ...(streams ? { notificationChannel: new MongoChangeStreamNotificationChannel({ db }) } : { processEvery: 100 })
});
await agenda.ready;

if (asked.role === 'work') {
  const tally = new Tally(asked.jobs);
  agenda.define('job', async job => tally.entered(job.attrs.data.called));
  agenda.on('complete', () => tally.done());
  tally.started = await ready(...packages);
  await agenda.start();
} else {
  await produce(asked, data => agenda.now('job', data), ...packages);
  process.exit(0);
}
