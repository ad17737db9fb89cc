// mongodb-queue: messages to get and to acknowledge. Whoever uses it writes the loop of the worker.
import { promisify } from 'node:util';
import mongodb from 'mongodb';
import mongoDbQueue from 'mongodb-queue';
import { monotonic, order, produce, ready, sleep, Tally, took } from './protocol.mjs';

const CONSUMERS = 20;
const AT_ONCE = 1000;
const POLL = 0.1;

const packages = ['mongodb-queue', 'mongodb'];
const asked = order();
const client = await mongodb.MongoClient.connect(asked.uri, { useUnifiedTopology: true, poolSize: CONSUMERS });
const queue = mongoDbQueue(client.db(asked.database), 'jobs');
const [createIndexes, add, get, ack] = ['createIndexes', 'add', 'get', 'ack'].map(name => promisify(queue[name].bind(queue)));
await createIndexes();

async function consume(tally) {
  for (;;) {
    const message = await get({});
    if (message === undefined) {
      await sleep(POLL);
    } else {
      tally.entered(message.payload.called);
      await ack(message.ack);
      tally.done();
    }
  }
}

async function addAll({ jobs }) {
  const started = await ready(...packages);
  for (let left = jobs; left > 0; left -= AT_ONCE) {
    await add(Array.from({ length: Math.min(left, AT_ONCE) }, () => ({ called: monotonic() })), {});
  }
  took(started);
}

if (asked.role === 'work') {
  const tally = new Tally(asked.jobs);
  tally.started = await ready(...packages);
  await Promise.all(Array.from({ length: CONSUMERS }, () => consume(tally)));
} else {
  await (asked.role === 'enqueue' ? addAll(asked) : produce(asked, data => add(data, {}), ...packages));
  process.exit(0);
}
