"""Every operation that the Python client has for stable versions, called. Ends with `ok`, or with what went wrong.

Every answer has a status that the client expects, decodes as the type that it expects, and loses nothing thereby. At
the end each operation was called, so those that a new version of the client brings need to be thought of here, too.

Needs KUBECONFIG and the image `hello:v1`.
"""
import json
import pathlib
import re
import time

import yaml
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException
from python_operations import stable_operations

DEADLINE = 60
NAMESPACE = "sweep"
LABELS = {"of": "sweep"}

NOT_UPGRADED = (400, "pgrade")  # Streams have tests of their own: `python_streams.py`.
NOTHING_AT_THE_ROOT = (404, "404 page not found")  # Of nodes.
READ_ONLY = (405, "405: Method Not Allowed")  # The node's own answer.
NO_STABLE_VERSION = (404, "404 page not found")  # Only an alpha version, off by default.
NO_LOGS_HANDLER = (404, "404 page not found")  # Off by default, and deprecated.
HEALTH_OF_VOLUMES = (404, "could not find the requested resource")  # A feature in alpha, off by default.
# What is refused, by operation: the status, and a part of the message.
REFUSED = {
    "CoreV1Api.connect_get_namespaced_pod_attach": NOT_UPGRADED,
    "CoreV1Api.connect_get_namespaced_pod_exec": NOT_UPGRADED,
    "CoreV1Api.connect_get_namespaced_pod_portforward": NOT_UPGRADED,
    "CoreV1Api.connect_post_namespaced_pod_attach": NOT_UPGRADED,
    "CoreV1Api.connect_post_namespaced_pod_exec": NOT_UPGRADED,
    "CoreV1Api.connect_post_namespaced_pod_portforward": NOT_UPGRADED,
    "CoreV1Api.connect_get_node_proxy": NOTHING_AT_THE_ROOT,
    "InternalApiserverApi.get_api_group": NO_STABLE_VERSION,
    "LifecycleApi.get_api_group": NO_STABLE_VERSION,
    "LogsApi.log_file_handler": NO_LOGS_HANDLER,
    "LogsApi.log_file_list_handler": NO_LOGS_HANDLER,
    "StorageV1Api.patch_csi_node_status": HEALTH_OF_VOLUMES,
    "StorageV1Api.read_csi_node_status": HEALTH_OF_VOLUMES,
    "StorageV1Api.replace_csi_node_status": HEALTH_OF_VOLUMES,
} | {
    f"CoreV1Api.connect_{verb}_node_proxy": READ_ONLY
    for verb in ("delete", "head", "options", "patch", "post", "put")
}
# What Kubernetes answers with a `Status`, while the client expects the object that was sent.
ANSWERED_BY_STATUS = {"CoreV1Api.create_namespaced_binding", "CoreV1Api.create_namespaced_pod_binding",
                      "CoreV1Api.create_namespaced_pod_eviction"}
# What the client's watch can't find by the name of the list.
ITEMS = {"V1ResourceClaimList": "ResourceV1ResourceClaim"}

JSON, MERGE, STRATEGIC, APPLY = PATCHES = [f"application/{kind}" for kind in (
    "json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml")]
# CBOR is off by default.
NOT_SENT = {"application/apply-patch+cbor"}

# What is posted to a part of an object, by the part.
POSTED = {
    "binding": {"apiVersion": "v1", "kind": "Binding",
                "target": {"apiVersion": "v1", "kind": "Node", "name": "nowhere"}},
    "eviction": {"apiVersion": "policy/v1", "kind": "Eviction"},
    "token": {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["sweep"]}},
}


def differences(told, kept, path=""):
    """Where `kept`, which a type made of JSON, is not `told`, the JSON."""
    if isinstance(told, dict) and isinstance(kept, dict):
        for key in sorted(told.keys() | kept.keys()):
            yield from differences(told.get(key), kept.get(key), f"{path}.{key}")
    elif isinstance(told, list) and isinstance(kept, list) and len(told) == len(kept):
        for index, pair in enumerate(zip(told, kept)):
            yield from differences(*pair, f"{path}[{index}]")
    elif told != kept and not (isinstance(told, str) and re.match(r"\d{4}-\d\d-\d\dT", told)):
        yield f"{path} from {told!r} to {kept!r}"


class CheckedClient(client.ApiClient):
    """A client that minds whether it understood all that it was told."""

    def response_deserialize(self, response_data, response_types_map=None):
        answer = super().response_deserialize(response_data, response_types_map)
        assert str(answer.status_code) in response_types_map, f"{answer.status_code} is not expected"
        expected = response_types_map[str(answer.status_code)]
        if expected not in (None, "str", "object"):
            told, kept = json.loads(answer.raw_data), self.sanitize_for_serialization(answer.data)
            # The deletion of a collection tells what was deleted, whatever Kubernetes' own description says.
            if not (expected == "V1Status" and told["kind"].endswith("List")):
                changed = list(differences(told, kept))
                assert not changed, f"{expected} changes {changed}"
        return answer


def eventually(what, check):
    """The first true answer of `check`, within the deadline."""
    end = time.monotonic() + DEADLINE
    while not (answer := check()):
        assert time.monotonic() < end, f"{what}: not within {DEADLINE} s"
        time.sleep(0.02)  # Another process: there is nothing to wait on.
    return answer


class Caller:
    """Calls operations, and knows which were called."""

    def __init__(self):
        self.client = CheckedClient()
        self.operations = {str(operation): operation for operation in stable_operations()}
        self.called = set()

    def method(self, operation):
        return getattr(getattr(client, operation.api)(self.client), operation.name)

    def call(self, operation, where, **arguments):
        """`where` has what paths are made of: `name`, `namespace` and so on."""
        self.called.add(operation)
        place = {parameter: where[parameter] for parameter in operation.path_parameters}
        refusal = REFUSED.get(str(operation))
        by_status = str(operation) in ANSWERED_BY_STATUS
        try:
            answer = self.method(operation)(**place, **arguments, _preload_content=not by_status)
        except ApiException as error:
            if refusal and error.status == refusal[0] and (refusal[1] in error.body or operation.verb == "HEAD"):
                return None
            raise
        assert not refusal, f"{operation} is not refused with {refusal}"
        if by_status:
            status = json.loads(answer.data)
            assert (answer.status, status["kind"], status["status"]) == (201, "Status", "Success"), status
        return answer

    def replace(self, read, replace, where):
        """Reads and writes back what is there, again and again while controllers are faster."""
        def once():
            try:
                self.call(replace, where, body=self.call(read, where))
                return True
            except ApiException as error:
                if error.status != 409 or '"reason":"Conflict"' not in error.body:
                    raise
        eventually(f"{replace}", once)

    def patch(self, operation, where, kind, labelled):
        """Every kind of patch; each adds a label if `labelled`, and nothing otherwise."""
        assert operation.sends <= {*PATCHES, *NOT_SENT}, operation.sends

        def labels(name):
            return {"metadata": {"labels": {name: "yes"}}} if labelled else {}
        identity = kind | {"metadata": {"name": where["name"]} | labels("apply").get("metadata", {})}
        for content_type, body in (
            (JSON, [{"op": "add", "path": "/metadata/labels/json", "value": "yes"}] if labelled
             else [{"op": "test", "path": "/metadata/name", "value": where["name"]}]),
            (MERGE, labels("merge")),
            (STRATEGIC, labels("strategic")),
            (APPLY, identity),
        ):
            applied = {"field_manager": "sweep", "force": True} if content_type == APPLY else {}
            answer = self.call(operation, where, body=body, _content_type=content_type, **applied)
            assert str(operation) in REFUSED or answer.metadata.name == where["name"], answer


class Resource:
    """What the client can do with a resource: operations by verb and part, where parts are `collection`, `everywhere`,
    `object`, and the names of subresources."""

    PATH = re.compile(r"/apis?/(.+?/)?(v\d+)(/namespaces/\{namespace\})?/([a-z]+)(?:/\{name\}(?:/([a-z]+))?)?")

    def __init__(self, group_version, plural):
        self.group_version, self.plural = group_version, plural
        self.operations = {}

    @classmethod
    def all(cls, operations):
        resources = {}
        for operation in operations:
            path = cls.PATH.fullmatch(operation.path)
            if path is None or operation.name.startswith("connect_"):
                continue
            group, version, _, plural, subresource = path.groups()
            key = f"{group or ''}{version}", plural
            part = (subresource or ("object" if "{name}" in operation.path else
                    "everywhere" if operation.name.endswith("_for_all_namespaces") else "collection"))
            resources.setdefault(key, cls(*key)).operations[operation.verb, part] = operation
        return list(resources.values())

    def get(self, verb, part):
        return self.operations.get((verb, part))

    def verbs(self):
        """In the words of discovery, for the resource itself."""
        words = {("POST", "collection"): ["create"], ("GET", "collection"): ["list"], ("GET", "object"): ["get"],
                 ("DELETE", "collection"): ["deletecollection"], ("PUT", "object"): ["update"],
                 ("PATCH", "object"): ["patch"], ("DELETE", "object"): ["delete"]}
        return {word for key in self.operations for word in words.get(key, [])}

    def subresources(self):
        return sorted({part for _, part in self.operations} - {"collection", "everywhere", "object"})


def manifests():
    """The objects to make, by version and kind."""
    here = pathlib.Path(__file__)
    files = [here.with_suffix(".yaml"), here.parents[1] / "tests" / "kinds.yaml"]
    objects = [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]
    table = {(each["apiVersion"], each["kind"]): each for each in objects}
    assert len(table) == len(objects), "a kind has two objects"
    return table


class Sweep:
    def __init__(self, caller):
        self.caller = caller
        self.manifests = manifests()
        self.discovered = {}
        """By group version, and then by `pods` or `pods/status`."""

    def run(self):
        for operation in self.caller.operations.values():
            if operation.name == "get_api_resources" and operation.api != "CustomObjectsApi":
                found = self.caller.call(operation, {})
                self.discovered[found.group_version] = {each.name: each for each in found.resources}
        for resource in Resource.all(self.caller.operations.values()):
            if resource.plural != "bindings":  # They need pods: `pods_are_bound`.
                print(resource.group_version, resource.plural, flush=True)
                self.sweep(resource)

    def kind(self, resource, part=None):
        """The type of a resource's objects, or of those of its part, as discovery tells."""
        known = self.discovered[resource.group_version]
        found = known.get(f"{resource.plural}/{part}", known[resource.plural])
        version = "/".join(filter(None, (found.group, found.version))) if found.version else resource.group_version
        return {"apiVersion": version, "kind": found.kind}

    def sweep(self, resource):
        found = self.discovered[resource.group_version][resource.plural]
        assert resource.verbs() <= set(found.verbs), (resource.verbs(), found.verbs)
        kind = self.kind(resource)
        create, read = resource.get("POST", "collection"), resource.get("GET", "object")
        where = {"namespace": NAMESPACE}
        if create is None:
            listed = self.caller.call(resource.get("GET", "collection") or resource.get("GET", "everywhere"), where)
            self.caller.call(read, where | {"name": listed.items[0].metadata.name})
            return
        manifest = self.manifests[tuple(kind.values())]
        if kind["kind"] == "Event":
            manifest = json.loads(json.dumps(manifest).replace('"default"', f'"{NAMESPACE}"'))
        if read is None:
            self.caller.call(create, where, body=manifest)
            return
        where["name"] = manifest["metadata"]["name"]
        self.make(create, where, manifest)
        self.use(resource, read, where, kind)
        delete, delete_all = resource.get("DELETE", "object"), resource.get("DELETE", "collection")
        if delete_all:
            self.caller.call(delete_all, where, label_selector="of=sweep", grace_period_seconds=0)
            self.wait_until_gone(read, where)
            self.make(create, where, manifest)
        self.caller.call(delete, where, grace_period_seconds=0)
        self.wait_until_gone(read, where)

    def make(self, create, where, manifest):
        labels = manifest["metadata"].get("labels", {}) | LABELS
        made = self.caller.call(create, where, body=manifest | {"metadata": manifest["metadata"] | {"labels": labels}})
        assert made.metadata.uid and made.metadata.name == where["name"], made

    def use(self, resource, read, where, kind):
        """All that can be done with an object that is there."""
        caller, name = self.caller, where["name"]
        for part in ("collection", "everywhere"):
            if lists := resource.get("GET", part):
                # Events of old have no `eventTime`, without which the client decodes no new ones.
                only = {"label_selector": "of=sweep"} if resource.plural == "events" else {}
                assert name in [item.metadata.name for item in caller.call(lists, where, **only).items], lists
                self.watch(lists, where)
        caller.replace(read, resource.get("PUT", "object"), where)
        caller.patch(resource.get("PATCH", "object"), where, kind, labelled=True)
        labels = caller.call(read, where).metadata.labels
        assert labels.keys() >= {"of", "json", "merge", "strategic", "apply"}, labels
        for part in resource.subresources():
            reads, replaces, patches, posts = (resource.get(verb, part) for verb in ("GET", "PUT", "PATCH", "POST"))
            if reads and part != "log":  # Of a program that runs: `pods_are_talked_to`.
                caller.call(reads, where)
            if replaces:
                caller.replace(read if str(reads) in REFUSED else reads or read, replaces, where)
            if patches:
                caller.patch(patches, where, self.kind(resource, part), labelled=False)
            if posts:
                caller.call(posts, where, body=POSTED[part] | {"metadata": {"name": name, "namespace": NAMESPACE}})

    def watch(self, lists, where):
        listed = lists.answers["200"]
        expected = ITEMS.get(listed, listed.removesuffix("List"))
        watcher = watch.Watch(return_type=expected)
        place = {parameter: where[parameter] for parameter in lists.path_parameters}
        for event in watcher.stream(self.caller.method(lists), **place, timeout_seconds=DEADLINE,
                                    field_selector=f"metadata.name={where['name']}"):
            assert event["type"] == "ADDED" and event["object"].metadata.name == where["name"], event
            assert type(event["object"]).__name__ == expected, event
            return
        raise AssertionError(f"{lists} watches nothing")

    def wait_until_gone(self, read, where):
        def is_gone():
            try:
                self.caller.call(read, where)
            except ApiException as error:
                return error.status == 404
        eventually(f"{read}: {where['name']} is gone", is_gone)


def groups_are_discovered(caller):
    """All that is neither of a resource nor of a version."""
    where = {"logpath": "any"}
    for operation in caller.operations.values():
        if operation.name != "get_api_resources" and set(operation.path_parameters) <= where.keys() \
                and Resource.PATH.fullmatch(operation.path) is None:
            caller.call(operation, where)


def pods_are_bound(caller):
    core = client.CoreV1Api(caller.client)
    pod = {"metadata": {"name": "bound"}, "spec": {"schedulerName": "nobody",
                                                   "containers": [{"name": "c", "image": "sweep"}]}}
    core.create_namespaced_pod(NAMESPACE, pod)
    caller.call(caller.operations["CoreV1Api.create_namespaced_binding"], {"namespace": NAMESPACE},
                body=POSTED["binding"] | {"metadata": {"name": "bound"}})
    assert core.read_namespaced_pod("bound", NAMESPACE).spec.node_name == "nowhere"
    core.delete_namespaced_pod("bound", NAMESPACE, grace_period_seconds=0)


def pods_are_talked_to(caller):
    """Requests that are passed on to pods, services and nodes, and those for streams."""
    core = client.CoreV1Api(caller.client)
    labels = {"app": "web"}
    core.create_namespaced_pod(NAMESPACE, {
        "metadata": {"name": "web", "labels": labels},
        "spec": {"containers": [{"name": "web", "image": "hello:v1", "ports": [{"containerPort": 8080}]}]}})
    core.create_namespaced_service(NAMESPACE, {
        "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 8080}]}})

    def has_endpoints():
        found = core.list_namespaced_endpoints(NAMESPACE, field_selector="metadata.name=web").items
        return [address for each in found for subset in each.subsets or [] for address in subset.addresses or []]
    eventually("the pod serves", has_endpoints)
    [node] = core.list_node().items

    for operation in caller.operations.values():
        if not operation.name.startswith("connect_"):
            continue
        if "node_proxy" in operation.name:
            where, path, said = {"name": node.metadata.name}, "healthz", "ok"
        else:
            where, path, said = {"name": "web", "namespace": NAMESPACE}, "", "Hello from WebAssembly\n"
        arguments = {"command": ["hello"]} if operation.name.endswith("_exec") else {}
        answer = caller.call(operation, where | {"path": path}, **arguments)
        if answer is not None:
            assert answer == ("" if operation.verb == "HEAD" else said), (operation, answer)
    log = caller.operations["CoreV1Api.read_namespaced_pod_log"]
    assert isinstance(caller.call(log, {"name": "web", "namespace": NAMESPACE}), str)


def custom_objects_are_used(caller):
    definitions = client.ApiextensionsV1Api(caller.client)
    operations = {name.removeprefix("CustomObjectsApi."): operation
                  for name, operation in caller.operations.items() if operation.api == "CustomObjectsApi"}
    whole = {"type": "object", "properties": {
        "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}},
        "status": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}}
    scale = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}
    for scope, kind in (("Namespaced", "Cup"), ("Cluster", "Pot")):
        plural = f"{kind.lower()}s"
        group = f"{plural}.example.com"
        definitions.create_custom_resource_definition({
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {"group": group, "scope": scope, "names": {"plural": plural, "kind": kind}, "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": whole},
                 "subresources": {"status": {}, "scale": scale}}]}})

        def is_served():
            conditions = definitions.read_custom_resource_definition(f"{plural}.{group}").status.conditions
            return {"Established"} <= {each.type for each in conditions or [] if each.status == "True"}
        eventually("the kind is served", is_served)
        where = {"group": group, "version": "v1", "plural": plural, "resource_plural": plural,
                 "namespace": NAMESPACE, "name": "sweep"}
        custom_object_is_used(caller, operations, where, scope.lower(), kind)


def custom_object_is_used(caller, operations, where, scope, kind):
    def call(name, **arguments):
        return caller.call(operations[name], where, **arguments)
    body = {"apiVersion": f"{where['group']}/{where['version']}", "kind": kind,
            "metadata": {"name": where["name"], "labels": LABELS}, "spec": {"replicas": 1}}
    if scope == "namespaced":
        call("get_api_resources")
    call(f"create_{scope}_custom_object", body=body)
    for part, change in (("", {"spec": {"replicas": 2}}), ("_status", {"status": {"replicas": 2}}),
                         ("_scale", {"spec": {"replicas": 3}})):
        found = call(f"get_{scope}_custom_object{part}")
        patched = call(f"patch_{scope}_custom_object{part}", body=change, _content_type=MERGE)
        [(field, value)] = change.items()
        assert patched[field] | value == patched[field], (patched, found)
        call(f"replace_{scope}_custom_object{part}", body=patched)
    lists = [f"list_{scope}_custom_object"]
    if scope == "namespaced":
        lists.append("list_custom_object_for_all_namespaces")
    for each in lists:
        [item] = call(each)["items"]
        assert (item["spec"], item["status"]) == ({"replicas": 3}, {"replicas": 2}), item
    call(f"delete_{scope}_custom_object")
    call(f"create_{scope}_custom_object", body=body)
    call(f"delete_collection_{scope}_custom_object", label_selector="of=sweep")
    assert call(lists[0])["items"] == []


def main():
    config.load_kube_config()
    caller = Caller()
    core = client.CoreV1Api(caller.client)
    core.create_namespace({"metadata": {"name": NAMESPACE}})

    def has_account():
        return core.list_namespaced_service_account(NAMESPACE, field_selector="metadata.name=default").items
    eventually("pods can be made", has_account)
    groups_are_discovered(caller)
    Sweep(caller).run()
    pods_are_bound(caller)
    custom_objects_are_used(caller)
    pods_are_talked_to(caller)
    missed = [str(operation) for operation in caller.operations.values() if operation not in caller.called]
    assert not missed, f"nobody called {missed}"
    unknown = REFUSED.keys() - caller.operations.keys()
    assert not unknown, f"the client has no {unknown}"
    print(len(caller.called), "operations")


main()
print("ok")
