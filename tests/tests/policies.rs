//! Policies in CEL, as who runs a shared cluster writes them and as its users meet them.

use naru_tests::{Answer, Cluster, Kubectl};

fn namespace(kubectl: &Kubectl, name: &str, label: &str) {
    kubectl.run(&["create", "namespace", name]).ok();
    kubectl.run(&["label", "namespace", name, label]).ok();
}

fn create(kubectl: &Kubectl, namespace: &str, replicas: u32) -> Answer {
    let (name, count) = (format!("web{replicas}"), format!("--replicas={replicas}"));
    kubectl.run(&["-n", namespace, "create", "deployment", &name, "--image=hello:v1", &count])
}

const REPLICAS: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: replicas.example.com}
spec:
  paramKind: {apiVersion: v1, kind: ConfigMap}
  matchConstraints:
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  variables:
  - {name: most, expression: int(params.data.most)}
  - name: isManager
    expression: authorizer.group('apps').resource('deployments').namespace(object.metadata.namespace).check('approve').allowed()
  validations:
  - expression: object.spec.replicas <= variables.most || variables.isManager
    messageExpression: "'at most ' + string(variables.most) + ' replicas in ' + namespaceObject.metadata.name"
"#;

fn bind(action: &str) -> String {
    format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\nmetadata: {{name: \
         replicas}}\nspec:\n  policyName: replicas.example.com\n  validationActions: [{action}]\n  paramRef: {{name: \
         limits, namespace: policies, parameterNotFoundAction: Deny}}\n  matchResources:\n    namespaceSelector: \
         {{matchExpressions: [{{key: env, operator: NotIn, values: [test]}}]}}\n"
    )
}

#[test]
fn a_policy_limits_replicas_by_a_config_map() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    namespace(&kubectl, "shop", "env=prod");
    namespace(&kubectl, "lab", "env=test");
    namespace(&kubectl, "policies", "env=prod");
    kubectl.run(&["-n", "policies", "create", "configmap", "limits", "--from-literal=most=2"]).ok();
    kubectl.apply(REPLICAS);
    kubectl.apply(&bind("Deny"));
    // It acts on the next write, for everybody who is not a manager.
    let jane = ["--as=jane", "--as-group=devs"];
    kubectl
        .run(&["create", "clusterrole", "deployer", "--verb=create,get,patch", "--resource=deployments.apps"])
        .ok();
    kubectl
        .run(&["create", "clusterrolebinding", "deployers", "--clusterrole=deployer", "--group=devs"])
        .ok();
    let create_as_jane = |replicas: u32| {
        let (name, count) = (format!("jane{replicas}"), format!("--replicas={replicas}"));
        let create = ["-n", "shop", "create", "deployment", &name, "--image=hello:v1", &count];
        kubectl.run(&[&create[..], &jane[..]].concat())
    };
    let refused = create_as_jane(3).refused();
    assert_eq!(
        refused,
        "error: failed to create deployment: deployments.apps \"jane3\" is forbidden: ValidatingAdmissionPolicy \
         'replicas.example.com' with binding 'replicas' denied request: at most 2 replicas in shop\n"
    );
    create_as_jane(2).ok();
    create(&kubectl, "shop", 5).ok();
    // Another action, on the very next write.
    kubectl.apply(&bind("Warn"));
    let warned = create_as_jane(4);
    assert!(
        warned.stderr.contains(
            "Warning: Validation failed for ValidatingAdmissionPolicy 'replicas.example.com' with binding 'replicas': \
             at most 2 replicas in shop"
        ),
        "{warned:?}"
    );
    warned.ok();
    // Nobody minds in the lab, nor once the parameter allows it.
    kubectl.apply(&bind("Deny"));
    create(&kubectl, "lab", 9).ok();
    kubectl.run(&["-n", "policies", "patch", "configmap", "limits", "-p", r#"{"data":{"most":"3"}}"#]).ok();
    create_as_jane(3).ok();
}

#[test]
fn a_policy_that_cannot_work_is_refused_when_it_is_written() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    let wrong =
        REPLICAS.replace("object.spec.replicas <= variables.most", "object.spec.replicas <= variables.moost");
    let refused = kubectl.run_with(&["create", "-f", "-"], &wrong).refused();
    assert!(
        refused.contains("spec.validations[0].expression: Invalid value:")
            && refused.contains("compilation failed: ERROR: <input>:1:34: undefined field 'moost'"),
        "{refused}"
    );
}

const SIDECAR: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: sidecar.example.com}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  matchConditions:
  - {name: no-proxy-yet, expression: "!object.spec.containers.exists(c, c.name == 'proxy')"}
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >
        Object{
          metadata: Object.metadata{labels: {"mesh": "on"}},
          spec: Object.spec{containers: [Object.spec.containers{name: "proxy", image: "proxy:v1"}]}
        }
  - patchType: JSONPatch
    jsonPatch:
      expression: >
        [JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("example.com/of"), value: request.namespace}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: sidecar}
spec:
  policyName: sidecar.example.com
  matchResources: {namespaceSelector: {matchLabels: {mesh: "on"}}}
"#;

#[test]
fn a_policy_adds_labels_and_a_sidecar() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    namespace(&kubectl, "shop", "mesh=on");
    namespace(&kubectl, "lab", "mesh=off");
    kubectl.apply(SIDECAR);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  nodeSelector: {kubernetes.io/hostname: \
               nowhere}\n  containers: [{name: web, image: 'hello:v1'}]\n";
    let fields = "jsonpath={.spec.containers[*].name} {.metadata.labels}";
    for (namespace, expected) in
        [("shop", r#"web proxy {"example.com/of":"shop","mesh":"on"}"#), ("lab", "web ")]
    {
        kubectl
            .run(&["-n", namespace, "wait", "--for=create", "serviceaccount/default", "--timeout=30s"])
            .ok();
        kubectl.run_with(&["-n", namespace, "create", "-f", "-"], pod).ok();
        assert_eq!(kubectl.run(&["-n", namespace, "get", "pod", "web", "-o", fields]).ok(), expected);
    }
}

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer}, color: {type: string}}}
";

const WIDGET_POLICIES: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: widgets}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [example.com], apiVersions: ["*"], operations: ["*"], resources: [widgets]}
  validations:
  - {expression: "request.operation == 'DELETE' || object.spec.size < 10", message: too large, reason: Forbidden}
  - {expression: "request.operation != 'DELETE' || oldObject.spec.color != 'gold'", message: gold stays}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: widgets}
spec: {policyName: widgets, validationActions: [Deny]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: widgets}
spec:
  matchConstraints:
    resourceRules:
    - {apiGroups: [example.com], apiVersions: [v1], operations: [CREATE], resources: [widgets]}
  reinvocationPolicy: Never
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration: {expression: "Object{spec: Object.spec{color: has(object.spec.color) ? object.spec.color : 'gold'}}"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: widgets}
spec: {policyName: widgets}
"#;

#[test]
fn policies_apply_to_custom_resources_and_to_deletions() {
    let cluster = Cluster::start();
    let kubectl = cluster.kubectl();
    kubectl.apply(WIDGETS);
    kubectl.established("widgets.example.com");
    kubectl.apply(WIDGET_POLICIES);
    let widget = |name: &str, spec: &str| {
        let yaml = format!(
            "apiVersion: example.com/v1\nkind: Widget\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        );
        kubectl.run_with(&["create", "-f", "-"], &yaml)
    };
    let refused = widget("big", "size: 10").refused();
    assert!(
        refused.contains("(Forbidden)")
            && refused.contains(
                "widgets.example.com \"big\" is forbidden: ValidatingAdmissionPolicy 'widgets' with binding 'widgets' \
                 denied request: too large"
            ),
        "{refused}"
    );
    widget("dear", "size: 1").ok();
    widget("cheap", "size: 1, color: tin").ok();
    let color = |name: &str| kubectl.run(&["get", "widget", name, "-o", "jsonpath={.spec.color}"]).ok();
    assert_eq!((color("dear").as_str(), color("cheap").as_str()), ("gold", "tin"));
    let refused = kubectl.run(&["delete", "widget", "dear"]).refused();
    assert!(refused.contains("denied request: gold stays"), "{refused}");
    kubectl.run(&["delete", "widget", "cheap"]).ok();
}
