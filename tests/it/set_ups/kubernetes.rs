//! `config/kubernetes`: the objects are what Kubernetes expects, fit together, and contain a configuration that is valid.

use std::fs;
use std::process::Command;

use pgvane_loadtest::programs;
use serde_json::Value;

use super::readme::Readme;
use crate::binary;

/// The oldest version that knows everything in the file, and the newest of which there is a schema.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

#[test]
fn kubernetes_accepts_the_objects() {
    let validator = programs::in_venv_of_tools("kubernetes-validate").unwrap_or_else(|error| panic!("{error}"));
    for version in VERSIONS {
        let mut command = Command::new(&validator);
        command.args(["--strict", "-k", version]).arg(Readme::of("kubernetes").folder().join("pgvane.yaml"));
        let output = command.output().expect("starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}");
        assert_eq!(said.matches(" passed for resource ").count(), 5, "{said}");
    }
}

#[test]
fn the_configuration_in_the_config_map_is_valid_and_has_the_ports_of_the_pods() {
    let objects = objects();
    let text = object(&objects, "ConfigMap")["data"]["pgvane.toml"].as_str().expect("is text");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("pgvane.toml");
    fs::write(&file, text).expect("is ours");
    let mut check = Command::new(binary::pgvane());
    check.args(["check", "--explain"]).arg(&file).env("PGVANE_ADMIN_PASSWORD", "secret");
    let output = check.output().expect("starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && !said.contains("warning"), "{said}");

    let deployment = object(&objects, "Deployment");
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    for port in container["ports"].as_array().expect("has ports") {
        let bind = format!("bind = \"0.0.0.0:{}\"", port["containerPort"]);
        assert!(text.contains(&bind), "nothing listens on {port}");
    }
    let names: Vec<&Value> = container["ports"].as_array().into_iter().flatten().map(|port| &port["name"]).collect();
    for service in objects.iter().filter(|object| object["kind"] == "Service") {
        assert!(names.contains(&&service["spec"]["ports"][0]["targetPort"]), "{service:#}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert!(names.contains(&&container[probe]["httpGet"]["port"]), "{probe}");
    }
    // the image that the README has built and pushed
    let image = container["image"].as_str().expect("has a name");
    let readme = fs::read_to_string(Readme::of("kubernetes").folder().join("README.md")).expect("is there");
    assert!(image.ends_with(concat!("pgvane:", env!("CARGO_PKG_VERSION"))), "{image}");
    assert_eq!(readme.matches(image).count(), 2, "{image} is built and pushed");
    // pgvane drains for 30 s unless the file says otherwise, after preStop
    let grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64().expect("is a number");
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().expect("is a number");
    assert!(!text.contains("drain_timeout") && grace > 30 + before, "a pod is killed while it drains");
}

#[test]
fn services_and_budget_select_the_pods() {
    let objects = objects();
    let labels = &object(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
    let selectors = [
        &object(&objects, "Deployment")["spec"]["selector"]["matchLabels"],
        &object(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ];
    let services = objects.iter().filter(|object| object["kind"] == "Service");
    let services: Vec<&Value> = services.map(|service| &service["spec"]["selector"]).collect();
    assert_eq!(services.len(), 2);
    for selector in selectors.into_iter().chain(services) {
        assert_eq!(selector, labels);
    }
}

fn object<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// The documents of the file.
fn objects() -> Vec<Value> {
    let python = programs::in_venv_of_tools("python").unwrap_or_else(|error| panic!("{error}"));
    let script =
        "import json, sys, yaml; json.dump([it for it in yaml.safe_load_all(open(sys.argv[1])) if it], sys.stdout)";
    let mut command = Command::new(python);
    let output = command.args(["-c", script]).arg(Readme::of("kubernetes").folder().join("pgvane.yaml")).output();
    let output = output.expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("is JSON")
}
