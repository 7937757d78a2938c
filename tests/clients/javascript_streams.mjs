// The JavaScript client's streams into pods: exec, attach, port-forward and logs. Ends with `ok`, or with what went wrong.
//
// Needs KUBECONFIG, in NODE_MODULES the folder that has the client, and the pods `worker` (which ticks), `copies` (which
// copies its input) and `web` (which serves on 8080).
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { PassThrough } from 'node:stream';
import { pathToFileURL } from 'node:url';

const installed = createRequire(`${process.env.NODE_MODULES}/`).resolve('@kubernetes/client-node');
const k8s = await import(pathToFileURL(installed));

const config = new k8s.KubeConfig();
config.loadFromDefault();
const namespace = 'default';

/** A stream that remembers what was written to it. */
class Heard extends PassThrough {
  text = '';

  constructor() {
    super();
    this.on('data', (piece) => {
      this.text += piece;
    });
  }

  async until(expected) {
    while (!this.text.includes(expected)) await once(this, 'data');
  }
}

/** Runs a program in a pod, and answers what it said and how it ended. */
async function run(pod, container, command, stdin) {
  const [stdout, stderr] = [new Heard(), new Heard()];
  const status = await new Promise((resolve, reject) => {
    new k8s.Exec(config)
      .exec(namespace, pod, container, command, stdout, stderr, stdin ?? null, false, resolve)
      .catch(reject);
  });
  return { stdout: stdout.text, stderr: stderr.text, status };
}

async function programsSayWhatTheySayAndHowTheyEnded() {
  const primes = await run('worker', 'main', ['worker', 'primes', '100']);
  assert.equal(primes.stdout, 'counting primes below 100\nthere are 25\n');
  assert.equal(primes.status.status, 'Success');
  const failed = await run('worker', 'main', ['worker', 'exit', '7']);
  assert.ok(failed.stderr.startsWith('leaving with exit code 7\n'), failed.stderr);
  assert.equal(failed.status.status, 'Failure');
  assert.deepEqual(failed.status.details.causes, [{ reason: 'ExitCode', message: '7' }]);
}

async function aProgramIsSpokenTo() {
  const stdin = new PassThrough();
  const done = run('copies', 'main', ['copy', 'it'], stdin);
  stdin.end('hello\n'.repeat(1000));
  const copied = await done;
  assert.equal(copied.stdout.length, 6000);
  assert.deepEqual(copied.status.details.causes, [{ reason: 'ExitCode', message: '2' }]);
}

async function whatCannotBeIsRefused() {
  await assert.rejects(run('worker', 'none', ['x']));
  await assert.rejects(run('nobody', 'main', ['x']));
}

async function whatRunsIsHeard() {
  const [stdout, stderr] = [new Heard(), new Heard()];
  const socket = await new k8s.Attach(config).attach(namespace, 'worker', 'main', stdout, stderr, null, false);
  await stdout.until('tick ');
  socket.close();

  const logged = new Heard();
  const following = await new k8s.Log(config).log(namespace, 'worker', 'main', logged, { follow: true, tailLines: 1 });
  await logged.until('\n');
  assert.match(logged.text, /^tick \d+\n/);
  following.abort();
}

async function aPortIsForwarded() {
  const [input, output, errors] = [new PassThrough(), new Heard(), new Heard()];
  const socket = await new k8s.PortForward(config).portForward(namespace, 'web', [8080], output, errors, input);
  input.write('GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n');
  await output.until('served by web');
  assert.ok(output.text.startsWith('HTTP/1.1 200'), output.text);
  assert.equal(errors.text, '');
  socket.close();
}

const deadline = setTimeout(() => {
  console.error('not within a minute');
  process.exit(1);
}, 60_000);
for (const story of [
  programsSayWhatTheySayAndHowTheyEnded, aProgramIsSpokenTo, whatCannotBeIsRefused, whatRunsIsHeard, aPortIsForwarded,
]) {
  console.log(story.name);
  await story();
}
clearTimeout(deadline);
console.log('ok');
// A connection that is followed goes on until it is told to end, which is not waited for.
process.exit(0);
