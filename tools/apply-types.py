#!/usr/bin/env python3
"""Makes model/src/apply/types.txt: how server-side apply sees each type of the Kubernetes API.

Usage: tools/apply-types.py CLIENT-GO [CONTROL/SRC/PROTOBUF/TYPES.TXT] > model/src/apply/types.txt

CLIENT-GO is a git repository of github.com/kubernetes/client-go (a bare one will do), whose apply configurations carry
the merge schema of all types. The second file tells which lists the Go types always write, even when they are empty.
"""
import json
import subprocess
import sys

import yaml

GO = "applyconfigurations/internal/internal.go"
SCALARS = {"string": "s", "numeric": "n", "boolean": "b", "untyped": "u"}
API, META = "io.k8s.api.", "io.k8s.apimachinery.pkg.apis.meta.v1."

# Types that are not part of client-go.
EXTRA = """
=io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition
apiVersion s
kind s
metadata meta.v1.ObjectMeta +
spec apiextensions.v1.CustomResourceDefinitionSpec +
status apiextensions.v1.CustomResourceDefinitionStatus +
=apiextensions.v1.CustomResourceConversion
strategy s
webhook apiextensions.v1.WebhookConversion
=apiextensions.v1.CustomResourceDefinitionCondition
lastTransitionTime u
message s
observedGeneration n
reason s
status s
type s
=apiextensions.v1.CustomResourceDefinitionNames
categories [s]
kind s
listKind s
plural s
shortNames [s]
singular s
=apiextensions.v1.CustomResourceDefinitionSpec
conversion apiextensions.v1.CustomResourceConversion
group s
names apiextensions.v1.CustomResourceDefinitionNames +
preserveUnknownFields b
scope s
versions [*]
=apiextensions.v1.CustomResourceDefinitionStatus
acceptedNames apiextensions.v1.CustomResourceDefinitionNames +
conditions type[apiextensions.v1.CustomResourceDefinitionCondition] +
observedGeneration n
storedVersions [s]
=apiextensions.v1.ServiceReference
name s
namespace s
path s
port n
=apiextensions.v1.WebhookClientConfig
caBundle s
service apiextensions.v1.ServiceReference
url s
=apiextensions.v1.WebhookConversion
clientConfig apiextensions.v1.WebhookClientConfig
conversionReviewVersions [s]
=io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService
apiVersion s
kind s
metadata meta.v1.ObjectMeta +
spec apiregistration.v1.APIServiceSpec +
status apiregistration.v1.APIServiceStatus +
=apiregistration.v1.APIServiceCondition
lastTransitionTime u
message s
reason s
status s
type s
=apiregistration.v1.APIServiceSpec
caBundle s
group s
groupPriorityMinimum n
insecureSkipTLSVerify b
service apiregistration.v1.ServiceReference
version s
versionPriority n
=apiregistration.v1.APIServiceStatus
conditions type[apiregistration.v1.APIServiceCondition]
=apiregistration.v1.ServiceReference
name s
namespace s
port n
""".strip()

text = subprocess.run(["git", "-C", sys.argv[1], "show", f"HEAD:{GO}"], check=True, capture_output=True, text=True).stdout
types = {t["name"]: t for t in yaml.safe_load(text.split("typed.YAMLObject(`", 1)[1].rsplit("`)", 1)[0])["types"]}

always = set()
if len(sys.argv) > 2:
    current = ""
    for line in open(sys.argv[2]):
        if line.startswith("="):
            current = line[1:].strip().replace("/", ".")
        elif line.strip() and not line.startswith("#"):
            _, field, code = line.split()
            if code.startswith("[]") and not code.endswith("?"):
                always.add((current, field))


def short(name):
    return name.removeprefix(API).replace(META, "meta.v1.")


def is_deduced(t):
    return {"scalar", "list", "map"} <= t.keys()


def code(t, wanted):
    """The type's code in the table; notes which other types it needs."""
    if "namedType" in t:
        name = t["namedType"]
        if name == "__untyped_atomic_":
            return "*"
        if name == "__untyped_deduced_":
            return "?"
        target = types[name]
        if "scalar" in target and "map" not in target:
            return SCALARS[target["scalar"]]
        if "fields" not in target["map"]:
            return code({"map": target["map"]}, wanted)
        wanted.append(name)
        how = t.get("elementRelationship")
        return {"atomic": "!", "separable": "~", None: ""}[how] + short(name)
    if is_deduced(t):
        return "?"
    if "scalar" in t:
        return SCALARS[t["scalar"]]
    if "list" in t:
        l = t["list"]
        element = code(l["elementType"], wanted)
        if l.get("elementRelationship") != "associative":
            return f"[{element}]"
        return (",".join(l["keys"]) if l.get("keys") else "=") + f"[{element}]"
    m = t["map"]
    element = code(m["elementType"], wanted)
    # A map of anything that merges is what an untyped value is.
    if element == "?" and m.get("elementRelationship") != "atomic":
        return "?"
    return ("!" if m.get("elementRelationship") == "atomic" else "") + "{" + element + "}"


queue = [name for name, t in types.items() if ".v1." in name or name == API + "autoscaling.v2.HorizontalPodAutoscaler"]
queue = [name for name in queue if name.startswith(API) or name.endswith(".ObjectMeta")]
print("# @generated by tools/apply-types.py from the apply configurations of client-go. Do not edit.")
lines, keys = {}, {}
for t in types.values():
    for field in t.get("map", {}).get("fields", []):
        element = field["type"].get("list", {})
        for key in element.get("keys") or []:
            keys.setdefault(element["elementType"].get("namedType"), set()).add(key)
while queue:
    name = queue.pop()
    t = types[name]
    if name in lines or "map" not in t or "fields" not in t["map"]:
        continue
    rows = ["=" + short(name) + (" !" if t["map"].get("elementRelationship") == "atomic" else "")]
    lines[name] = rows
    for field in t["map"]["fields"]:
        row = f"{field['name']} {code(field['type'], queue)}"
        default = field.get("default")
        if default == {} or (short(name), field["name"]) in always:
            row += " +"
        elif default is not None and field["name"] in keys.get(name, ()):
            row += f" ={json.dumps(default)}"
        rows.append(row)
for name in sorted(lines):
    print("\n".join(lines[name]))
print(EXTRA)
