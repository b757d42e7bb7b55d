//! The roles in deploy/iam: moto makes those of CloudFormation, terraform evaluates those of the modules, and both are
//! the same. Requests to STS are judged by the resulting documents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use crate::peers;

const HUB: &str = "deploy/iam/cloudformation.yaml";
const TARGET: &str = "deploy/iam/target-role.yaml";
const HUB_MODULE: &str = "deploy/iam/terraform";
const TARGET_MODULE: &str = "deploy/iam/terraform/target-role";

/// moto's account, and the one in the documents.
const ACCOUNT: &str = "123456789012";
const POOL: &str = "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example01";
const BOUNDARY: &str = "arn:aws:iam::123456789012:policy/boundary";
const NAMED: [(&str, &str); 3] = [("RoleName", "own"), ("Path", "/identity/"), ("PermissionsBoundary", BOUNDARY)];
/// Two pools, as CloudFormation takes a list.
const POOLS: &str = "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/eu-west-1_Example01,\
                     arn:aws:cognito-idp:eu-central-1:123456789012:userpool/eu-central-1_Example02";
const LOG_GROUP: &str = "arn:aws:logs:eu-west-1:123456789012:log-group:/aws/vendedlogs/cognito/eu-west-1_Example01:*";
const CLUSTER: &str = "arn:aws:eks:eu-west-1:123456789012:cluster/example";
const ISSUER: &str = "oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE";
const HUB_ROLE: &str = "arn:aws:iam::123456789012:role/cognito-auth-exporter";
const TARGET_ROLE: &str = "arn:aws:iam::444455556666:role/cognito-auth-exporter-target";
const ANY_TARGET_ROLE: &str = "arn:aws:iam::*:role/cognito-auth-exporter-target";

type Parameters<'a> = &'a [(&'a str, &'a str)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

fn items<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// A role's trust and its policy.
#[derive(Clone, PartialEq, Debug)]
struct Role {
    trust: Value,
    policy: Value,
}

/// A policy document in which a list of one is that one, as IAM reads it.
fn normalised(document: &Value) -> Value {
    match document {
        Value::Array(list) => match list.as_slice() {
            [Value::String(one)] => json!(one),
            list => list.iter().map(normalised).collect(),
        },
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), normalised(value))).collect(),
        other => other.clone(),
    }
}

/// The roles that moto's CloudFormation makes of the stacks below, made once; and with a name, path and boundary of
/// their own, the answers of moto for the first stack of each template.
struct Made {
    hubs: Vec<Role>,
    targets: Vec<Role>,
    named: Vec<Value>,
}

static MADE: LazyLock<Option<Made>> = LazyLock::new(|| tools().map(|python| Made::by(&python)));

impl Made {
    fn by(python: &Path) -> Self {
        let stack = |template: &str, parameters: Parameters| {
            let parameters: Map<String, Value> =
                parameters.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
            json!({ "template": read(template), "parameters": parameters })
        };
        let named = |template, needed: Parameters| stack(template, &[needed, &NAMED].concat());
        let hubs = HUB_STACKS.iter().map(|parameters| stack(HUB, parameters));
        let targets = TARGET_STACKS.iter().map(|parameters| stack(TARGET, parameters));
        let stacks: Vec<Value> =
            hubs.chain(targets).chain([named(HUB, HUB_STACKS[0]), named(TARGET, TARGET_STACKS[0])]).collect();
        let made = peers::answer(python, "moto_iam.py", &[], &json!(stacks).to_string());
        let made = made.as_array().unwrap();
        assert_eq!(made.len(), stacks.len());
        let role = |made: &Value| Role { trust: normalised(&made["trust"]), policy: normalised(&made["policy"]) };
        let (hubs, rest) = made.split_at(HUB_STACKS.len());
        let (targets, named) = rest.split_at(TARGET_STACKS.len());
        Self {
            hubs: hubs.iter().map(role).collect(),
            targets: targets.iter().map(role).collect(),
            named: named.to_vec(),
        }
    }
}

fn made() -> Option<&'static Made> {
    MADE.as_ref()
}

fn terraform(folder: &Path, arguments: &[&str]) -> Output {
    // Without the machine's settings and without a question for a newer version.
    let environment = [("TF_CLI_CONFIG_FILE", "/dev/null"), ("CHECKPOINT_DISABLE", "1"), ("TF_IN_AUTOMATION", "1")];
    Command::new("terraform").current_dir(folder).envs(environment).args(arguments).output().unwrap()
}

/// What a module would make, evaluated by terraform: its variables and its policies, which need no provider. The
/// refusal is what terraform says.
fn evaluated(module: &str, variables: &Value) -> Result<Role, String> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["variables.tf", "policy.tf"] {
        std::fs::copy(root().join(module).join(file), folder.path().join(file)).unwrap();
    }
    let surroundings = json!({
        "locals": { "account": ACCOUNT, "partition": "aws", "region": "eu-west-1" },
        "output": { "trust": { "value": "${local.trust}" }, "policy": { "value": "${local.policy}" } },
    });
    std::fs::write(folder.path().join("surroundings.tf.json"), surroundings.to_string()).unwrap();
    std::fs::write(folder.path().join("terraform.tfvars.json"), variables.to_string()).unwrap();
    for arguments in [&["init", "-input=false"][..], &["apply", "-auto-approve", "-input=false"]] {
        let output = terraform(folder.path(), &[arguments, &["-no-color"]].concat());
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
    }
    let outputs: Value = serde_json::from_slice(&terraform(folder.path(), &["output", "-json"]).stdout).unwrap();
    let document = |name: &str| {
        let text = outputs[name]["value"].as_str().unwrap();
        normalised(&serde_json::from_str(text).unwrap())
    };
    Ok(Role { trust: document("trust"), policy: document("policy") })
}

/// A template's parameter as a module's variable is called.
fn variable(parameter: &str) -> String {
    if parameter == "RoleName" {
        return "name".into();
    }
    let mut name = String::new();
    for char in parameter.chars() {
        if char.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(char.to_lowercase());
    }
    name
}

/// A template's parameters as a module's variables.
fn variables(parameters: Parameters) -> Value {
    let value = |key: &str, value: &str| match key.strip_suffix("Arns") {
        Some(_) => json!(value.split(',').collect::<Vec<_>>()),
        None => json!(value),
    };
    Value::Object(parameters.iter().map(|(key, text)| (variable(key), value(key, text))).collect())
}

/// The tools; None, with a line on stdout, if one is not installed.
fn tools() -> Option<std::path::PathBuf> {
    let python = peers::python_with("boto3, hcl2, yaml, moto.cloudformation.parsing")?;
    peers::has("terraform").then_some(python)
}

/// Values for each parameter that changes a document.
const HUB_STACKS: [Parameters; 4] = [
    &[("ClusterName", "example"), ("UserPoolArns", POOL), ("ExportLogGroupArns", LOG_GROUP), ("CheckExport", "true")],
    &[("OidcProvider", ISSUER), ("UserPoolArns", POOLS), ("Namespace", "identity"), ("ServiceAccount", "exporter")],
    &[("ClusterName", "example"), ("TargetRoleArns", ANY_TARGET_ROLE), ("CheckExport", "true")],
    &[("ClusterName", "example"), ("UserPoolArns", POOL), ("TargetRoleArns", TARGET_ROLE)],
];

const TARGET_STACKS: [Parameters; 2] = [
    &[("HubRoleArn", HUB_ROLE), ("ExternalId", "example-external-id")],
    &[
        ("HubRoleArn", HUB_ROLE),
        ("ExternalId", "example-external-id"),
        ("UserPoolArns", POOL),
        ("ExportLogGroupArns", LOG_GROUP),
        ("CheckExport", "true"),
    ],
];

#[test]
fn cloudformation_and_terraform_make_the_same_roles() {
    let Some(made) = made() else { return };
    for (module, stacks, roles) in
        [(HUB_MODULE, &HUB_STACKS[..], &made.hubs), (TARGET_MODULE, &TARGET_STACKS, &made.targets)]
    {
        for (parameters, role) in stacks.iter().zip(roles) {
            assert_eq!(evaluated(module, &variables(parameters)), Ok(role.clone()), "{module}: {parameters:?}");
        }
    }
}

/// The first stack is the one of the documented policies.
#[test]
fn a_role_is_allowed_what_the_documented_policies_allow_and_no_more() {
    let Some(made) = made() else { return };
    let documented = |path: &str| normalised(&serde_json::from_str(&read(path)).unwrap());
    let mut expected = documented("deploy/iam-policy.json");
    let export = documented("deploy/iam-policy-export.json");
    expected["Statement"].as_array_mut().unwrap().extend(items(&export, "Statement").cloned());
    assert_eq!(made.hubs[0].policy, expected);
    let pools = &made.hubs[1].policy["Statement"][0]["Resource"];
    assert_eq!(*pools, json!(POOLS.split(',').collect::<Vec<_>>()));

    // Without pools of its own, a hub may read the limit and assume roles. `CheckExport` has no pool to read.
    let chain =
        json!({ "Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": ANY_TARGET_ROLE });
    assert_eq!(made.hubs[2].policy["Statement"], json!([expected["Statement"][1], chain]));
    let page = read("docs/permissions-and-cost.md");
    let (_, section) = page.split_once("## Pools of other accounts\n").unwrap();
    let shown = section.split_once("```json\n").unwrap().1.split_once("```").unwrap().0;
    assert_eq!(normalised(&serde_json::from_str(shown).unwrap()), chain);

    // A target role is allowed the same, for each pool of its account where none is named.
    assert_eq!(made.targets[1].policy, expected);
    let mut anywhere = documented("deploy/iam-policy.json");
    anywhere["Statement"][0]["Resource"] = json!("arn:aws:cognito-idp:*:123456789012:userpool/*");
    assert_eq!(made.targets[0].policy, anywhere);
}

#[test]
fn a_role_has_the_name_path_and_boundary_that_are_given() {
    let (Some(python), Some(made)) = (tools(), made()) else { return };
    assert_eq!(made.named.len(), 2);
    for role in &made.named {
        let arn = json!("arn:aws:iam::123456789012:role/identity/own");
        assert_eq!((&role["arn"], &role["boundary"]), (&arn, &json!(BOUNDARY)));
        assert_eq!(role["outputs"], json!({ "RoleArn": arn }));
    }
    for (module, role) in [(HUB_MODULE, "exporter"), (TARGET_MODULE, "target")] {
        let main = peers::answer(&python, "manifests.py", &["hcl"], &read(&format!("{module}/main.tf")));
        let resource = |kind: &str| {
            let found: Vec<_> = items(&main, "resource").filter_map(|block| block.get(kind)).collect();
            assert_eq!(found.len(), 1, "{module}: {kind}");
            found[0].as_object().unwrap().values().next().unwrap().clone()
        };
        let made = resource("aws_iam_role");
        for (attribute, value) in [
            ("name", "var.name"),
            ("path", "var.path"),
            ("permissions_boundary", "var.permissions_boundary"),
            ("tags", "var.tags"),
            ("assume_role_policy", "local.trust"),
        ] {
            assert_eq!(made[attribute], value, "{module}: {attribute}");
        }
        let policy = resource("aws_iam_role_policy");
        assert_eq!(policy["policy"], "local.policy", "{module}");
        assert_eq!(policy["role"], format!("aws_iam_role.{role}.id"), "{module}");
    }
}

/// Each template and its module have the same parameters with the same defaults.
#[test]
fn every_parameter_of_a_template_is_a_variable_of_the_module() {
    let Some(python) = tools() else { return };
    for (template, module) in [(HUB, HUB_MODULE), (TARGET, TARGET_MODULE)] {
        let template = peers::answer(&python, "manifests.py", &["documents"], &read(template));
        let parameters = template[0]["Parameters"].as_object().unwrap();
        let default = |parameter: &Value| match parameter["Default"].as_str() {
            None => "required".to_owned(),
            Some(text) => text.to_owned(),
        };
        let expected: BTreeMap<String, String> =
            parameters.iter().map(|(name, parameter)| (variable(name), default(parameter))).collect();

        let declared = peers::answer(&python, "manifests.py", &["hcl"], &read(&format!("{module}/variables.tf")));
        let default = |variable: &Value| match variable.get("default") {
            None => "required".to_owned(),
            Some(Value::Null) => String::new(),
            Some(Value::Array(list)) if list.is_empty() => String::new(),
            Some(Value::String(text)) if text == "null" => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let mut found: BTreeMap<String, String> = items(&declared, "variable")
            .flat_map(|block| block.as_object().unwrap())
            .map(|(name, variable)| (name.clone(), default(variable)))
            .collect();
        // A stack has tags of its own.
        assert!(found.remove("tags").is_some(), "{module}");
        assert_eq!(found, expected, "{module}");
    }
}

/// Whether a condition of CloudFormation's rules holds.
fn holds(condition: &Value, parameters: &BTreeMap<&str, &str>) -> bool {
    let (function, argument) = condition.as_object().unwrap().iter().next().unwrap();
    let each = || argument.as_array().unwrap().iter();
    match function.as_str() {
        "Fn::Or" => each().any(|part| holds(part, parameters)),
        "Fn::And" => each().all(|part| holds(part, parameters)),
        "Fn::Not" => !holds(&argument[0], parameters),
        "Fn::Equals" => {
            let [left, right] = [&argument[0], &argument[1]].map(|side| match side["Ref"].as_str() {
                Some(parameter) => parameters[parameter],
                None => side.as_str().unwrap(),
            });
            left == right
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_cluster_beside_an_oidc_provider_is_an_error_and_so_is_neither() {
    let Some(python) = tools() else { return };
    let template = peers::answer(&python, "manifests.py", &["documents"], &read(HUB));
    let assertions: Vec<&Value> = items(&template[0]["Rules"]["OneWayOfTrust"], "Assertions").collect();
    for (cluster, issuer, said) in [
        (None, None, Some("Give ClusterName (Pod Identity) or OidcProvider (IRSA).")),
        (Some("example"), Some(ISSUER), Some("Give ClusterName (Pod Identity) or OidcProvider (IRSA), not both.")),
        (Some("example"), None, None),
        (None, Some(ISSUER), None),
    ] {
        let parameters =
            BTreeMap::from([("ClusterName", cluster.unwrap_or("")), ("OidcProvider", issuer.unwrap_or(""))]);
        let broken = assertions.iter().filter(|assertion| !holds(&assertion["Assert"], &parameters));
        let told: Vec<_> = broken.map(|assertion| assertion["AssertDescription"].as_str().unwrap()).collect();
        assert_eq!(told, Vec::from_iter(said));

        let refused = evaluated(HUB_MODULE, &json!({ "cluster_name": cluster, "oidc_provider": issuer }));
        let words =
            said.map(|said| said.replace("ClusterName", "cluster_name").replace("OidcProvider", "oidc_provider"));
        match (refused, words) {
            (Ok(_), None) => {}
            (Err(refusal), Some(words)) => assert!(refusal.contains(&words), "{refusal}"),
            (result, words) => panic!("{result:?}, expected {words:?}"),
        }
    }
}

/// Whether each pattern takes all of its text. CloudFormation compares the same, with Java's expressions.
fn are_whole_matches(python: &Path, pairs: &[(&str, &str)]) -> Vec<bool> {
    let script = "import json, re, sys\n\
                  print(json.dumps([bool(re.fullmatch(*pair)) for pair in json.loads(sys.argv[1])]))";
    let output = Command::new(python).args(["-c", script, &json!(pairs).to_string()]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_is_no_arn_is_refused_by_both() {
    let Some(python) = tools() else { return };
    for (path, module, needed, wrongs) in [
        (
            HUB,
            HUB_MODULE,
            json!({ "cluster_name": "example" }),
            &[
                ("UserPoolArns", "eu-west-1_Example01"),
                ("UserPoolArns", "arn:aws:cognito-idp:eu-west-1:123456789012:userpool/*"),
                ("TargetRoleArns", "arn:aws:iam::*:role/*"),
                ("TargetRoleArns", "arn:aws:iam::444455556666:user/somebody"),
                ("ExportLogGroupArns", "/aws/vendedlogs/cognito"),
                ("ExportLogGroupArns", "arn:aws:logs:eu-west-1:123456789012:log-group:x"),
                ("OidcProvider", "https://oidc.eks.eu-west-1.amazonaws.com/id/EXAMPLE"),
            ][..],
        ),
        (
            TARGET,
            TARGET_MODULE,
            json!({ "hub_role_arn": HUB_ROLE, "external_id": "example" }),
            &[
                ("HubRoleArn", "arn:aws:iam::*:role/cognito-auth-exporter"),
                ("HubRoleArn", "arn:aws:iam::123456789012:root"),
                ("ExternalId", "two words"),
                ("UserPoolArns", "*"),
            ],
        ),
    ] {
        let template = peers::answer(&python, "manifests.py", &["documents"], &read(path));
        let parameters = &template[0]["Parameters"];
        let pattern = |parameter: &str| parameters[parameter]["AllowedPattern"].as_str();
        let is_list = |parameter: &str| parameters[parameter]["Type"] == "CommaDelimitedList";
        let rights: Vec<(&str, &str)> = [HUB_STACKS[1], TARGET_STACKS[1]]
            .concat()
            .into_iter()
            .filter_map(|(parameter, right)| Some((parameter, pattern(parameter)?, right)))
            .flat_map(|(parameter, pattern, right)| {
                right.split(move |char| is_list(parameter) && char == ',').map(move |value| (pattern, value))
            })
            .collect();
        assert!(rights.len() > 2, "{path}: {rights:?}");
        assert!(are_whole_matches(&python, &rights).iter().all(|is_match| *is_match), "{path}: {rights:?}");
        let patterns: Vec<(&str, &str)> =
            wrongs.iter().map(|(parameter, wrong)| (pattern(parameter).unwrap(), *wrong)).collect();
        assert!(are_whole_matches(&python, &patterns).iter().all(|is_match| !is_match), "{path}: {patterns:?}");
        for (parameter, wrong) in wrongs {
            let mut given = needed.clone();
            given[variable(parameter)] = variables(&[(parameter, wrong)])[variable(parameter)].clone();
            let refusal = evaluated(module, &given).unwrap_err();
            assert!(refusal.contains("Invalid value for variable"), "{module}: {parameter} is {wrong}: {refusal}");
        }
    }
}

/// A request that IAM judges: who asks, for what, and the keys of its conditions.
struct Request<'a> {
    principal: Option<(&'a str, &'a str)>,
    action: &'a str,
    resource: &'a str,
    keys: &'a [(&'a str, &'a str)],
}

/// Whether `text` is of this form, in which `*` stands for anything.
fn is_like(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| is_like(rest, &text[at..]))
        }),
    }
}

fn any_is_like(patterns: &Value, text: &str) -> bool {
    match patterns {
        Value::Array(list) => list.iter().any(|pattern| is_like(pattern.as_str().unwrap(), text)),
        one => is_like(one.as_str().unwrap(), text),
    }
}

/// Whether a statement of a document allows a request. The documents here deny nothing.
fn allows(document: &Value, request: &Request) -> bool {
    items(document, "Statement").any(|statement| {
        assert_eq!(statement["Effect"], "Allow");
        let by_principal = match (statement.get("Principal"), request.principal) {
            (None, None) => any_is_like(&statement["Resource"], request.resource),
            (Some(trusted), Some((kind, name))) => trusted.get(kind).is_some_and(|trusted| *trusted == name),
            (statement, request) => panic!("{statement:?} for {request:?}"),
        };
        let conditions = statement.get("Condition").map(|conditions| conditions.as_object().unwrap());
        let mut by_condition = true;
        for (operator, keys) in conditions.into_iter().flatten() {
            assert_eq!(operator, "StringEquals");
            for (key, value) in keys.as_object().unwrap() {
                let given = request.keys.iter().find(|(name, _)| name == key);
                by_condition &= given.is_some_and(|(_, given)| *value == *given);
            }
        }
        by_principal && by_condition && any_is_like(&statement["Action"], request.action)
    })
}

/// Pod Identity takes the role with its tags. Both actions have to be allowed.
fn is_taken_by_pod(role: &Role, keys: &[(&str, &str)]) -> bool {
    let principal = Some(("Service", "pods.eks.amazonaws.com"));
    ["sts:AssumeRole", "sts:TagSession"]
        .iter()
        .all(|action| allows(&role.trust, &Request { principal, action, resource: HUB_ROLE, keys }))
}

/// Keys of a request, one of which has another value.
fn with<'a>(keys: &[(&'a str, &'a str)], changed: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    let change = |(key, old): &(&'a str, &'a str)| (*key, if *key == changed { value } else { old });
    keys.iter().map(change).collect()
}

#[test]
fn only_the_pods_of_one_service_account_in_one_cluster_take_the_role() {
    let Some(made) = made() else { return };
    let [of_pod_identity, of_irsa] = [&made.hubs[0], &made.hubs[1]];
    let pod = [
        ("aws:SourceAccount", ACCOUNT),
        ("aws:RequestTag/eks-cluster-arn", CLUSTER),
        ("aws:RequestTag/kubernetes-namespace", "cognito-auth-exporter"),
        ("aws:RequestTag/kubernetes-service-account", "cognito-auth-exporter"),
    ];
    assert!(is_taken_by_pod(of_pod_identity, &pod));
    for (key, other) in [
        ("aws:SourceAccount", "444455556666"),
        ("aws:RequestTag/eks-cluster-arn", "arn:aws:eks:eu-west-1:123456789012:cluster/other"),
        ("aws:RequestTag/kubernetes-namespace", "default"),
        ("aws:RequestTag/kubernetes-service-account", "default"),
    ] {
        assert!(!is_taken_by_pod(of_pod_identity, &with(&pod, key, other)), "{key} is {other}");
    }
    assert!(!is_taken_by_pod(of_pod_identity, &[]), "an association without session tags");

    let provider = format!("arn:aws:iam::123456789012:oidc-provider/{ISSUER}");
    let [aud, sub] = ["aud", "sub"].map(|claim| format!("{ISSUER}:{claim}"));
    let token = [(&*aud, "sts.amazonaws.com"), (&*sub, "system:serviceaccount:identity:exporter")];
    let is_taken = |provider: &str, keys: &[(&str, &str)]| {
        let principal = Some(("Federated", provider));
        let action = "sts:AssumeRoleWithWebIdentity";
        allows(&of_irsa.trust, &Request { principal, action, resource: HUB_ROLE, keys })
    };
    assert!(is_taken(&provider, &token));
    assert!(!is_taken(&format!("{provider}2"), &token));
    assert!(!is_taken(&provider, &with(&token, &aud, "somebody")));
    assert!(!is_taken(&provider, &with(&token, &sub, "system:serviceaccount:default:exporter")));
    assert!(!is_taken_by_pod(of_irsa, &pod));
}

/// Pod Identity's tags are transitive: the exporter's session sets them again when it assumes a further role. Then the
/// caller's policy and the role's trust both have to allow sts:TagSession.
#[test]
fn a_role_of_another_account_is_assumed_with_session_tags_and_the_external_id() {
    let Some(made) = made() else { return };
    let (hubs, target) = (&made.hubs, &made.targets[0]);
    let is_assumed = |hub: &Role, target: &Role, caller: &str, resource: &str, keys: &[(&str, &str)]| {
        ["sts:AssumeRole", "sts:TagSession"].iter().all(|action| {
            let asked = Request { principal: None, action, resource, keys };
            let judged = Request { principal: Some(("AWS", caller)), action, resource, keys };
            allows(&hub.policy, &asked) && allows(&target.trust, &judged)
        })
    };
    let external_id = [("sts:ExternalId", "example-external-id")];
    for hub in [&hubs[2], &hubs[3]] {
        assert!(is_assumed(hub, target, HUB_ROLE, TARGET_ROLE, &external_id));
    }
    let hub_of_any = &hubs[2];
    assert!(!is_assumed(hub_of_any, target, HUB_ROLE, TARGET_ROLE, &[]), "without the external id");
    assert!(!is_assumed(hub_of_any, target, HUB_ROLE, TARGET_ROLE, &[("sts:ExternalId", "another")]));
    assert!(!is_assumed(hub_of_any, target, "arn:aws:iam::123456789012:role/other", TARGET_ROLE, &external_id));
    assert!(!is_assumed(hub_of_any, target, HUB_ROLE, "arn:aws:iam::444455556666:role/admin", &external_id));
    assert!(!is_assumed(&hubs[0], target, HUB_ROLE, TARGET_ROLE, &external_id), "a hub that has no target roles");

    let without_tags = |document: &Value| {
        let text = document.to_string().replace("\"sts:TagSession\"", "\"sts:GetCallerIdentity\"");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let hub_without = Role { policy: without_tags(&hub_of_any.policy), ..hub_of_any.clone() };
    assert!(!is_assumed(&hub_without, target, HUB_ROLE, TARGET_ROLE, &external_id));
    let target_without = Role { trust: without_tags(&target.trust), ..target.clone() };
    assert!(!is_assumed(hub_of_any, &target_without, HUB_ROLE, TARGET_ROLE, &external_id));
}

/// terraform finds the modules of the example. Each argument is a variable, and each required variable is given.
#[test]
fn the_example_uses_the_modules_as_they_are() {
    let Some(python) = tools() else { return };
    let hcl = |path: &Path| peers::answer(&python, "manifests.py", &["hcl"], &std::fs::read_to_string(path).unwrap());
    let copied = tempfile::tempdir().unwrap();
    let status = Command::new("cp").arg("-r").arg(root().join(HUB_MODULE)).arg(copied.path()).status().unwrap();
    assert!(status.success());
    let example = copied.path().join("terraform/example");
    let got = terraform(&example, &["get", "-no-color"]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    let main = hcl(&example.join("main.tf"));
    let mut modules = 0;
    for (name, call) in items(&main, "module").flat_map(|block| block.as_object().unwrap()) {
        let declared = hcl(&example.join(call["source"].as_str().unwrap()).join("variables.tf"));
        let declared: BTreeMap<&String, &Value> =
            items(&declared, "variable").flat_map(|block| block.as_object().unwrap()).collect();
        let given: BTreeSet<&String> = call.as_object().unwrap().keys().collect();
        for argument in &given {
            let is_of_terraform = ["source", "providers"].contains(&argument.as_str()) || argument.starts_with("__");
            assert!(is_of_terraform || declared.contains_key(argument), "{name}: {argument}");
        }
        for (variable, declaration) in declared {
            assert!(declaration.get("default").is_some() || given.contains(variable), "{name}: {variable}");
        }
        modules += 1;
    }
    assert_eq!(modules, 2);
}

#[test]
fn terraform_would_not_format_the_modules_otherwise() {
    if !peers::has("terraform") {
        return;
    }
    let output = terraform(&root().join("deploy"), &["fmt", "-check", "-recursive", "-diff", "-no-color"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn cloudformation_would_take_the_templates() {
    let Some(python) = peers::python_with("cfnlint") else { return };
    let templates =
        [HUB, TARGET, "deploy/export/log-group/cloudformation.yaml", "deploy/export/firehose/cloudformation.yaml"];
    // W3037 checks actions against a list that is as old as cfn-lint. GetProvisionedLimit is newer than some lists.
    let lint = Command::new(python.with_file_name("cfn-lint"))
        .args(["--ignore-checks", "W3037", "--"])
        .args(templates.map(|path| root().join(path)))
        .output();
    let output = lint.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
