// How a program of the comparison and run.py talk: what _protocol.py is for Python.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

export const sleep = seconds => new Promise(resolve => setTimeout(resolve, seconds * 1000));

// All processes of a machine share this clock.
export const monotonic = () => Number(process.hrtime.bigint()) / 1e9;

export function order() {
  const [role, uri, database, jobs, pause, variant] = process.argv.slice(2);
  return { role, uri, database, jobs: Number(jobs), pause: Number(pause), variant };
}

const say = what => process.stdout.write(`${JSON.stringify(what)}\n`);

const version = name => JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version;

export async function ready(...packages) {
  say({ ready: Object.fromEntries([['node', process.versions.node], ...packages.map(name => [name, version(name)])]) });
  const lines = createInterface({ input: process.stdin });
  await new Promise(resolve => lines.once('line', resolve));
  // However the runner ends, no program is left behind.
  lines.once('close', () => process.exit(1));
  return monotonic();
}

export const took = started => say({ seconds: monotonic() - started });

// Enqueue with `put`, which gets what a job is to carry: as fast as it goes, so many at a time, or one at a pace.
export async function produce({ role, jobs, pause }, put, ...packages) {
  const started = await ready(...packages);
  if (role === 'pace') {
    for (let number = 0; number < jobs; number += 1) {
      // Of uneven length, so that they do not fall in step with somebody's polls.
      await sleep(pause * (0.5 + ((number * 0.618) % 1)));
      await put({ called: monotonic() });
    }
  } else {
    let left = jobs;
    const one = async () => {
      while (left > 0) {
        left -= 1;
        await put({ called: monotonic() });
      }
    };
    await Promise.all(Array.from({ length: 50 }, one));
  }
  took(started);
}

export class Tally {
  started = 0;
  #done = 0;
  #late = [];

  constructor(jobs) {
    this.jobs = jobs;
  }

  entered(called) {
    this.#late.push(monotonic() - called);
  }

  done() {
    this.#done += 1;
    if (this.#done !== this.jobs) return false;
    say({ seconds: monotonic() - this.started, late: this.#late.slice(0, 1000) });
    return true;
  }
}
