// The JavaScript client against a cluster: what its users do with it. Ends with `ok`, or with what went wrong.
//
// Needs KUBECONFIG, and in NODE_MODULES the folder that has the client.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const installed = createRequire(`${process.env.NODE_MODULES}/`).resolve('@kubernetes/client-node');
const k8s = await import(pathToFileURL(installed));

const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const namespace = 'default';

const configMap = (name, data) => ({ metadata: { name, labels: { of: 'javascript' } }, data });

async function refused(code, promise) {
  await assert.rejects(promise, (error) => {
    assert.equal(error.code, code, `${error}`);
    return true;
  });
}

async function objectsAreCreatedReadChangedListedAndDeleted() {
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('one', { a: '1' }) });
  assert.ok(made.metadata.creationTimestamp instanceof Date);
  await refused(409, core.createNamespacedConfigMap({ namespace, body: configMap('one', {}) }));
  made.data.b = '2';
  const replaced = await core.replaceNamespacedConfigMap({ name: 'one', namespace, body: made });
  assert.deepEqual(replaced.data, { a: '1', b: '2' });
  const patched = await core.patchNamespacedConfigMap(
    { name: 'one', namespace, body: [{ op: 'remove', path: '/data/a' }] },
    k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.JsonPatch),
  );
  assert.deepEqual(patched.data, { b: '2' });
  const list = await core.listNamespacedConfigMap({ namespace, labelSelector: 'of=javascript' });
  assert.deepEqual(list.items.map((item) => item.metadata.name), ['one']);
  await core.deleteNamespacedConfigMap({ name: 'one', namespace });
  await refused(404, core.readNamespacedConfigMap({ name: 'one', namespace }));
  await refused(422, core.createNamespacedConfigMap({ namespace, body: configMap('Not_A_Name', {}) }));
}

async function anInformerTellsOfEveryChange() {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'of=javascript' });
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const informer = k8s.makeInformer(config, path, list, 'of=javascript');
  const seen = [];
  let wake = () => {};
  for (const kind of ['add', 'update', 'delete']) {
    informer.on(kind, (object) => {
      seen.push(`${kind} ${object.metadata.name} ${object.data?.step}`);
      wake();
    });
  }
  let failure;
  informer.on('error', (error) => {
    failure = error;
    wake();
  });
  const until = async (line) => {
    while (!seen.includes(line)) {
      if (failure) throw failure;
      await new Promise((resolve) => {
        wake = resolve;
      });
    }
  };
  await core.createNamespacedConfigMap({ namespace, body: configMap('before', { step: '0' }) });
  await informer.start();
  await until('add before 0');
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('after', { step: '1' }) });
  await until('add after 1');
  made.data.step = '2';
  await core.replaceNamespacedConfigMap({ name: 'after', namespace, body: made });
  await until('update after 2');
  // An object that the selector no longer chooses is gone for the informer.
  const left = await core.readNamespacedConfigMap({ name: 'before', namespace });
  left.metadata.labels = {};
  await core.replaceNamespacedConfigMap({ name: 'before', namespace, body: left });
  await until('delete before 0');
  await core.deleteNamespacedConfigMap({ name: 'after', namespace });
  await until('delete after 2');
  assert.deepEqual(informer.list(), []);
  await informer.stop();
}

async function objectsOfAnyKindAreReadAndApplied() {
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  const spec = { ports: [{ port: 80 }], selector: { app: 'none' } };
  const made = await objects.create({ apiVersion: 'v1', kind: 'Service', metadata: { name: 'any', namespace }, spec });
  assert.equal(made.spec.type, 'ClusterIP');
  const read = await objects.read({ apiVersion: 'v1', kind: 'Service', metadata: { name: 'any', namespace } });
  assert.equal(read.metadata.uid, made.metadata.uid);
  await objects.delete(read);
}

const deadline = setTimeout(() => {
  console.error('not within a minute');
  process.exit(1);
}, 60_000);
await objectsAreCreatedReadChangedListedAndDeleted();
await anInformerTellsOfEveryChange();
await objectsOfAnyKindAreReadAndApplied();
clearTimeout(deadline);
console.log('ok');
