"""The Python client against a cluster: what its users do with it. Ends with `ok`, or with the assertion that failed.

Needs KUBECONFIG and the image `hello:v1`.
"""
import os
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock

config.load_kube_config()
core, apps = client.CoreV1Api(), client.AppsV1Api()


def refused(status, call):
    try:
        call()
    except ApiException as error:
        assert error.status == status, error
        return error
    raise AssertionError(f"not refused with {status}")


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"of": "crud"}), data=data)


def objects_are_created_read_changed_listed_and_deleted():
    made = core.create_namespaced_config_map("default", config_map("one", a="1"))
    assert made.metadata.uid and made.metadata.creation_timestamp.year > 2000, made
    conflict = refused(409, lambda: core.create_namespaced_config_map("default", config_map("one")))
    assert '"reason":"AlreadyExists"' in conflict.body, conflict.body

    made.data["b"] = "2"
    replaced = core.replace_namespaced_config_map("one", "default", made)
    refused(409, lambda: core.replace_namespaced_config_map("one", "default", made))
    patched = core.patch_namespaced_config_map("one", "default", {"data": {"a": None, "c": "3"}})
    assert patched.data == {"b": "2", "c": "3"}, patched.data
    assert int(patched.metadata.resource_version) > int(replaced.metadata.resource_version)

    for number in range(4):
        core.create_namespaced_config_map("default", config_map(f"more-{number}"))
    page = core.list_namespaced_config_map("default", label_selector="of=crud", limit=2)
    names = [item.metadata.name for item in page.items]
    while page.metadata._continue:
        page = core.list_namespaced_config_map("default", label_selector="of=crud", limit=2,
                                               _continue=page.metadata._continue)
        names += [item.metadata.name for item in page.items]
    assert names == ["more-0", "more-1", "more-2", "more-3", "one"], names

    deleted = core.delete_namespaced_config_map("one", "default")
    assert deleted["status"] == "Success", deleted
    refused(404, lambda: core.read_namespaced_config_map("one", "default"))
    core.delete_collection_namespaced_config_map("default", label_selector="of=crud")
    assert not core.list_namespaced_config_map("default", label_selector="of=crud").items


def what_is_deleted_is_of_the_type_that_the_client_decodes():
    meta = client.V1ObjectMeta(name="gone")
    port = client.V1ServicePort(port=80)
    core.create_namespaced_service("default", client.V1Service(metadata=meta, spec=client.V1ServiceSpec(ports=[port])))
    assert core.delete_namespaced_service("gone", "default").spec.ports[0].port == 80
    storage = client.StorageV1Api()
    storage.create_storage_class(client.V1StorageClass(metadata=meta, provisioner="example.com/disks"))
    assert storage.delete_storage_class("gone").provisioner == "example.com/disks"
    quota = client.V1ResourceQuota(metadata=meta, spec=client.V1ResourceQuotaSpec(hard={"secrets": "99"}))
    core.create_namespaced_resource_quota("default", quota)
    assert core.delete_namespaced_resource_quota("gone", "default").spec.hard == {"secrets": "99"}


def what_is_invalid_is_told():
    invalid = refused(422, lambda: core.create_namespaced_config_map("default", config_map("Not_A_Name")))
    assert "metadata.name" in invalid.body, invalid.body
    refused(400, lambda: core.list_namespaced_pod("default", field_selector="spec.nothing=1"))


def deployments_are_watched_until_they_are_available():
    labels = {"app": "python"}
    container = client.V1Container(name="web", image="hello:v1", image_pull_policy="IfNotPresent")
    template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels=labels),
                                        spec=client.V1PodSpec(containers=[container]))
    spec = client.V1DeploymentSpec(replicas=1, selector=client.V1LabelSelector(match_labels=labels),
                                   template=template)
    made = apps.create_namespaced_deployment("default", client.V1Deployment(
        metadata=client.V1ObjectMeta(name="python"), spec=spec))
    watcher, kinds = watch.Watch(), []
    for event in watcher.stream(apps.list_namespaced_deployment, "default", timeout_seconds=60,
                                field_selector="metadata.name=python", allow_watch_bookmarks=True,
                                resource_version=made.metadata.resource_version):
        kinds.append(event["type"])
        if event["type"] == "MODIFIED" and event["object"].status.available_replicas == 1:
            watcher.stop()
    assert kinds and set(kinds) <= {"MODIFIED", "BOOKMARK"}, kinds
    scaled = apps.patch_namespaced_deployment_scale("python", "default", {"spec": {"replicas": 0}})
    assert scaled.spec.replicas == 0, scaled
    [pod] = core.list_namespaced_pod("default", label_selector="app=python").items
    assert pod.spec.containers[0].image == "hello:v1"
    assert isinstance(core.read_namespaced_pod_log(pod.metadata.name, "default"), str)
    apps.delete_namespaced_deployment("python", "default", propagation_policy="Foreground")


def a_watch_without_a_version_starts_with_what_is_there():
    core.create_namespaced_config_map("default", config_map("watched"))
    watcher = watch.Watch()
    events = list(watcher.stream(core.list_namespaced_config_map, "default", timeout_seconds=1,
                                 label_selector="of=crud"))
    assert [(event["type"], event["object"].metadata.name) for event in events] == [("ADDED", "watched")], events
    core.delete_namespaced_config_map("watched", "default")


def the_dynamic_client_discovers_and_applies():
    dynamic_client = dynamic.DynamicClient(client.ApiClient())
    assert dynamic_client.version["kubernetes"]["major"] == "1"
    services = dynamic_client.resources.get(api_version="v1", kind="Service")
    manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dynamic"},
                "spec": {"ports": [{"port": 80}], "selector": {"app": "none"}}}
    made = services.create(body=manifest, namespace="default")
    assert made.spec.type == "ClusterIP" and made.spec.clusterIP, made
    patched = services.patch(name="dynamic", namespace="default",
                             body={"spec": {"ports": [{"port": 80, "name": "web"}]}},
                             content_type="application/strategic-merge-patch+json")
    assert [port.name for port in patched.spec.ports] == ["web"], patched
    seen = [event["type"] for event in services.watch(namespace="default", name="dynamic", timeout=1)]
    assert seen == ["ADDED"], seen
    assert "dynamic" in [item.metadata.name for item in services.get(namespace="default").items]
    services.delete(name="dynamic", namespace="default")
    for kind in ("Deployment", "Job", "ReplicaSet"):
        assert dynamic_client.resources.get(kind=kind, preferred=True).namespaced


def one_of_two_candidates_leads():
    leading, done = [], threading.Event()

    def run(identity):
        def lead():
            leading.append(identity)
            done.set()
        lock = LeaseLock("election", "default", identity)
        settings = electionconfig.Config(lock, lease_duration=10, renew_deadline=6, retry_period=1,
                                         onstarted_leading=lead, onstopped_leading=lambda: None)
        leaderelection.LeaderElection(settings).run()

    for identity in ("a", "b"):
        threading.Thread(target=run, args=(identity,), daemon=True).start()
    assert done.wait(30), "nobody leads"
    lease = client.CoordinationV1Api().read_namespaced_lease("election", "default")
    assert [lease.spec.holder_identity] == leading, (lease, leading)


for story in (objects_are_created_read_changed_listed_and_deleted,
              what_is_deleted_is_of_the_type_that_the_client_decodes, what_is_invalid_is_told,
              deployments_are_watched_until_they_are_available, a_watch_without_a_version_starts_with_what_is_there,
              the_dynamic_client_discovers_and_applies, one_of_two_candidates_leads):
    print(story.__name__, flush=True)
    story()
print("ok", flush=True)
# The candidates go on for ever, and would be cut off in the midst of a request.
os._exit(0)
