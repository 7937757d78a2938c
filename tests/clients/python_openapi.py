"""What the Python client knows of stable versions, compared with the OpenAPI v2 document that the cluster serves. Ends
with `ok`, or with every difference.

The client is made of Kubernetes' own document: each of its operations and types must be in ours, with the same
parameters, media types, answers and properties. What isn't is named here, with the reason.

Needs KUBECONFIG.
"""
import inspect
import json
import re

from kubernetes import client, config
from kubernetes.client import models
from python_operations import stable_operations

# Custom resources have paths of their own, which this class composes.
COMPOSED = "CustomObjectsApi"
# Of features in alpha, and the API server's log files, which are off by default.
NO_PATHS = {"/apis/internal.apiserver.k8s.io/", "/apis/lifecycle.k8s.io/", "/logs/", "/logs/{logpath}",
            "/apis/storage.k8s.io/v1/csinodes/{name}/status"}
# Of features in alpha.
NO_PARAMETERS = {"shardSelector", "ignoreStoreReadErrorWithClusterBreakingPotential"}
# CBOR is off by default.
NO_MEDIA_TYPES = {"application/cbor", "application/cbor-seq", "application/apply-patch+cbor"}
# With us discovery is JSON, whatever else is asked for. No client of ours asks for more.
ONLY_JSON = {"get_api_group", "get_api_resources", "get_api_versions"}
# Types that no operation mentions: lines of watches, and discovery in its newer form, which is asked for by media type.
NOT_MENTIONED = {"V1WatchEvent", "V1GroupVersionKind", "V2APIGroupDiscovery", "V2APIGroupDiscoveryList",
                 "V2APIResourceDiscovery", "V2APISubresourceDiscovery", "V2APIVersionDiscovery"}

SCALARS = {"str": ("string", None), "int": ("integer", None), "bool": ("boolean", None), "float": ("number", None),
           "datetime": ("string", "date-time"), "bytes": ("string", "byte")}


class Comparison:
    def __init__(self, document):
        self.document = document
        self.differences = []
        self.compared = set()
        """Pairs of the client's type and ours."""

    def differ(self, where, message):
        self.differences.append(f"{where}: {message}")

    def same(self, where, what, expected, found):
        if expected != found:
            missing, more = sorted(expected - found), sorted(found - expected)
            self.differ(where, f"{what}: lacks {missing}, has more than the client knows {more}")

    def resolve(self, value):
        """The definition or the parameter that a value refers to, and its name."""
        reference = value.get("$ref")
        if reference is None:
            return value, None
        _, table, name = reference.split("/", 2)
        return self.document[table][name], name

    def operation(self, operation):
        where = f"{operation.verb} {operation.path}"
        item = self.document["paths"].get(operation.path, {})
        found = item.get(operation.verb.lower())
        if found is None:
            return self.differ(where, "is not there")
        parameters = [self.resolve(each)[0] for each in found.get("parameters", []) + item.get("parameters", [])]

        def named(place):
            return {each["name"] for each in parameters if each["in"] == place}
        self.same(where, "parameters of the path", set(operation.path_parameters), named("path"))
        self.same(where, "parameters of the query", operation.query - NO_PARAMETERS, named("query"))
        if operation.accepts != {"*/*"}:
            expected = {"application/json"} if operation.name in ONLY_JSON else operation.accepts - NO_MEDIA_TYPES
            self.same(where, "produces", expected, set(found.get("produces", [])))
        if operation.sends:
            self.same(where, "consumes", operation.sends - NO_MEDIA_TYPES, set(found["consumes"]))
        [tag] = found["tags"]
        group_version = "".join(part[0].upper() + part[1:] for part in tag.split("_"))
        method = found["operationId"].replace(group_version, "", 1)
        if method.lower() != operation.name.replace("_", ""):
            self.differ(where, f"operationId is {found['operationId']}, of which no {operation.name} is made")
        bodies = [each["schema"] for each in parameters if each["in"] == "body"]
        if len(bodies) != bool(operation.body):
            self.differ(where, f"has {len(bodies)} bodies")
        elif bodies and operation.verb != "PATCH":  # A patch is anything.
            self.type(f"{where}: body", operation.body, bodies[0])
        self.same(where, "answers", operation.answers.keys(), found["responses"].keys())
        for status, answer in operation.answers.items():
            schema = found["responses"].get(status, {}).get("schema")
            if answer and schema is None:
                self.differ(where, f"{status} has no schema")
            elif answer:
                self.type(f"{where}: {status}", answer, schema)

    def type(self, where, expected, schema):
        """Compares a type by the client's name for it, such as `Dict[str, V1Pod]`, with a schema."""
        found, name = self.resolve(schema)
        if expected == "object":  # Anything.
            return None
        if parts := re.fullmatch(r"List\[(.+)\]", expected):
            return self.container(where, "array", parts[1], found, "items")
        if parts := re.fullmatch(r"Dict\[str, (.+)\]", expected):
            return self.container(where, "object", parts[1], found, "additionalProperties")
        if scalar := SCALARS.get(expected):
            kind, form = scalar
            if found.get("type") != kind or (form and found.get("format") != form):
                self.differ(where, f"is {found.get('type')} {found.get('format')}, expected {kind} {form}")
            return None
        if (expected, name) not in self.compared:
            self.compared.add((expected, name))
            self.properties(expected, found, name)

    def container(self, where, kind, inner, found, key):
        if found.get("type") != kind or key not in found:
            return self.differ(where, f"is {found}, expected {kind} of {inner}")
        self.type(f"{where}: {key}", inner, found[key])

    def properties(self, expected, found, name):
        where, model = f"{expected} ({name})", getattr(models, expected)
        if name is None or not expected.endswith(name.rsplit(".", 1)[1]):
            return self.differ(where, "is not that type")
        properties = found.get("properties", {})
        self.same(where, "properties", set(model.attribute_map.values()), properties.keys())
        required = {model.attribute_map[attribute] for attribute, field in model.model_fields.items()
                    if field.is_required()}
        self.same(where, "required", required, set(found.get("required", [])))
        for attribute, kind in model.openapi_types.items():
            key = model.attribute_map[attribute]
            if key in properties:
                self.type(f"{where}: {key}", kind, properties[key])

    def all(self):
        operations = [each for each in stable_operations() if each.api != COMPOSED]
        for operation in operations:
            if operation.path not in NO_PATHS:
                self.operation(operation)
        for path in NO_PATHS & self.document["paths"].keys():
            self.differ(path, "is there after all")
        self.same("the client", "paths that are not there", NO_PATHS, NO_PATHS & {each.path for each in operations})
        stable = {name for name, model in inspect.getmembers(models, inspect.isclass)
                  if hasattr(model, "openapi_types") and not re.match(r"V\d+(alpha|beta)", name)}
        mentioned = {name for name, _ in self.compared}
        self.same("the client", "types that no operation mentions", NOT_MENTIONED, stable - mentioned)
        return len(operations), len(self.compared)


config.load_kube_config()
response = client.ApiClient().call_api("GET", f"{client.Configuration.get_default_copy().host}/openapi/v2")
comparison = Comparison(json.loads(response.read()))
counts = comparison.all()
for difference in comparison.differences:
    print(difference)
print("%d operations and %d types, %d differences" % (*counts, len(comparison.differences)))
assert not comparison.differences
print("ok")
