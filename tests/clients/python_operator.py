"""An operator built with kopf against a cluster: it defines a kind, and acts on what users do with its objects.

Needs KUBECONFIG. Ends with `ok`, or with the assertion that failed.
"""
import asyncio
import threading
import time

import kopf
from kubernetes import client, config

GROUP, VERSION, PLURAL = "demo.example.com", "v1", "widgets"
PLACE = (GROUP, VERSION, "default", PLURAL)
DEADLINE = 60

config.load_kube_config()
custom, apps, core = client.CustomObjectsApi(), client.AppsV1Api(), client.CoreV1Api()
seen = []


@kopf.on.startup()
def configure(settings, **_):
    settings.peering.name = "demo"
    settings.peering.mandatory = True
    settings.watching.server_timeout = 2  # Its watches end, and go on, many times in this test.


@kopf.on.create(GROUP, VERSION, PLURAL)
def made(body, spec, patch, **_):
    patch.status["phase"] = "Made"
    kopf.info(body, reason="Hello", message=f"size {spec['size']}")
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": body["metadata"]["name"]}}
    kopf.adopt(config_map)
    core.create_namespaced_config_map("default", config_map)
    return {"size": spec["size"]}


@kopf.on.update(GROUP, VERSION, PLURAL, field="spec.size")
def resized(old, new, **_):
    return {"from": old, "to": new}


@kopf.on.delete(GROUP, VERSION, PLURAL)
def unmade(name, **_):
    seen.append(f"deleted {name}")


@kopf.daemon(GROUP, VERSION, PLURAL)
async def watched_over(stopped, name, **_):
    await stopped.wait()
    seen.append(f"left {name}")


@kopf.on.field("apps", "v1", "deployments", field="spec.replicas", labels={"counted": "yes"})
def scaled(old, new, **_):
    seen.append(f"replicas {old} -> {new}")


def eventually(what, holds):
    end = time.monotonic() + DEADLINE
    while not (value := holds()):
        assert time.monotonic() < end, f"{what}: {value}, seen {seen}"
        time.sleep(0.05)
    return value


def definition(plural, kind, scope, group):
    free = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    size = {"type": "object", "properties": {"size": {"type": "integer", "minimum": 1}}}
    version = {
        "name": "v1", "served": True, "storage": True, "subresources": {"status": {}} if plural == PLURAL else {},
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": size, "status": free}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": [version]},
    }


def define():
    definitions = client.ApiextensionsV1Api()
    for plural, kind, scope, group in (
        (PLURAL, "Widget", "Namespaced", GROUP),
        ("clusterkopfpeerings", "ClusterKopfPeering", "Cluster", "kopf.dev"),
        ("kopfpeerings", "KopfPeering", "Namespaced", "kopf.dev"),
    ):
        definitions.create_custom_resource_definition(definition(plural, kind, scope, group))
        name = f"{plural}.{group}"
        eventually(name, lambda: any(
            condition.type == "Established" and condition.status == "True"
            for condition in definitions.read_custom_resource_definition(name).status.conditions or []))
    peering = {"apiVersion": "kopf.dev/v1", "kind": "ClusterKopfPeering", "metadata": {"name": "demo"}}
    custom.create_cluster_custom_object("kopf.dev", "v1", "clusterkopfpeerings", peering)


def status():
    return custom.get_namespaced_custom_object(*PLACE, "one").get("status", {})


def users_change_what_the_operator_keeps():
    widget = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Widget", "metadata": {"name": "one"}, "spec": {"size": 1}}
    custom.create_namespaced_custom_object(*PLACE, widget)
    eventually("the handler's result", lambda: status().get("made") == {"size": 1} and status()["phase"] == "Made")
    events = eventually("its event", lambda: core.list_namespaced_event("default", field_selector="reason=Hello").items)
    assert (events[0].message, events[0].involved_object.kind) == ("size 1", "Widget"), events[0]

    custom.patch_namespaced_custom_object(*PLACE, "one", {"spec": {"size": 3}})
    eventually("the change", lambda: status().get("resized/spec.size") == {"from": 1, "to": 3})

    custom.delete_namespaced_custom_object(*PLACE, "one")
    eventually("the finalizer goes", lambda: not custom.list_namespaced_custom_object(*PLACE)["items"])
    assert {"deleted one", "left one"} <= set(seen), seen
    eventually("what it owned goes", lambda: not [
        item for item in core.list_namespaced_config_map("default").items if item.metadata.name == "one"])


def it_follows_kinds_of_the_cluster():
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": "none:v1"}]}}
    apps.create_namespaced_deployment("default", {
        "metadata": {"name": "web", "labels": {"counted": "yes"}},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    })
    eventually("the Deployment", lambda: "replicas None -> 0" in seen)
    apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 2}})
    eventually("its scale", lambda: "replicas 0 -> 2" in seen)


def its_peers_know_of_it():
    peering = custom.get_cluster_custom_object("kopf.dev", "v1", "clusterkopfpeerings", "demo")
    assert len(peering["status"]) == 1, peering


define()
ready, stop = threading.Event(), threading.Event()
operator = threading.Thread(
    target=lambda: asyncio.run(kopf.operator(clusterwide=True, standalone=False, ready_flag=ready, stop_flag=stop)))
operator.start()
try:
    assert ready.wait(DEADLINE), "the operator did not start"
    users_change_what_the_operator_keeps()
    it_follows_kinds_of_the_cluster()
    its_peers_know_of_it()
finally:
    stop.set()
    operator.join(DEADLINE)
assert not operator.is_alive(), "the operator does not end"
print("ok")
