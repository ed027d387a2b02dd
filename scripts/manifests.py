"""Kubernetes manifests and a Dockerfile as data, and what is wrong with them: by the published schemas, by the API
server's rules that no schema has, by the Pod Security Standard.

Why it exists: test_kubernetes.py asks. It must not know what the jobs run. YAML and schemas are read inside
.venv/kubernetes, made at the first call; `HEADSTART_KUBERNETES_VENV` names another folder.
"""

import json
import os
import re
import subprocess
import unittest
from pathlib import Path

from test_read_store import ROOT, SCRIPTS, make_environment, run

VENV = Path(os.environ.get("HEADSTART_KUBERNETES_VENV", ROOT / ".venv" / "kubernetes"))
REQUIREMENTS = SCRIPTS / "requirements-kubernetes.txt"

# Runs in the environment: the documents of YAML files, a key that stands twice refused: {file: [document, ...]}.
READ = """
import json, sys
from pathlib import Path
import yaml
class Loader(yaml.SafeLoader):
    pass
def mapping(loader, node):
    keys = [loader.construct_object(key) for key, _ in node.value]
    assert len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}"
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value)}
Loader.add_constructor("tag:yaml.org,2002:map", mapping)
print(json.dumps({Path(f).name: list(yaml.load_all(Path(f).read_text(), Loader)) for f in sys.argv[1:]}))
"""

# Runs in the environment: what is wrong with each of the documents on stdin, or null.
VALIDATE = """
import json, sys
import kubernetes_validate
def wrong(document):
    try:
        used = kubernetes_validate.validate(document, sys.argv[1], strict=True)
        assert used == sys.argv[1], used
    except kubernetes_validate.ValidationError as error:
        return error.message
print(json.dumps([wrong(document) for document in json.load(sys.stdin)]))
"""


def environment():
    """The environment's Python; the test is skipped where its packages cannot be installed."""
    try:
        make_environment(VENV, REQUIREMENTS)
    except subprocess.CalledProcessError as error:
        raise unittest.SkipTest(f"{REQUIREMENTS} cannot be installed: {error}") from error
    return VENV / "bin" / "python"


def documents(files):
    """The documents of YAML files: {name: [document, ...]}."""
    return run(environment(), "-c", READ, *files)


def hadolint(path):
    """What the linter says of a Dockerfile."""
    return subprocess.run([environment().with_name("hadolint"), path], capture_output=True, text=True)


def schema_faults(found, version):
    """What the schema of that version has against each document; null where nothing."""
    command = [environment(), "-c", VALIDATE, version]
    result = subprocess.run(command, input=json.dumps(found), capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def pod(job):
    return job["spec"]["template"]["spec"]


def containers(job):
    return pod(job).get("initContainers", []) + pod(job)["containers"]


def api_faults(job):
    """What the API server refuses in a Job though the schema has nothing against it."""
    spec, faults = job["spec"], []
    indexed = spec.get("completionMode") == "Indexed"
    names = [container["name"] for container in containers(job)]
    if "backoffLimitPerIndex" in spec and not indexed:
        faults.append("backoffLimitPerIndex without completionMode Indexed")
    if pod(job).get("restartPolicy") != "Never":
        faults.append("podFailurePolicy without restartPolicy Never")
    for rule in spec["podFailurePolicy"]["rules"]:
        if rule["action"] not in ["Ignore", "Count", "FailJob", "FailIndex"]:
            faults.append(f"no action {rule['action']}")
        if rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in spec:
            faults.append("FailIndex without backoffLimitPerIndex")
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            faults.append("a rule has one of onExitCodes and onPodConditions")
        codes = rule.get("onExitCodes")
        if codes:
            if codes["operator"] not in ["In", "NotIn"] or codes["operator"] == "In" and 0 in codes["values"]:
                faults.append("operator In without 0, or NotIn")
            if codes["values"] != sorted(set(codes["values"])):
                faults.append("exit codes are not in order")
            if codes.get("containerName", names[0]) not in names:
                faults.append(f"no container {codes['containerName']}")
    volumes = {volume["name"] for volume in pod(job)["volumes"]}
    for container in containers(job):
        faults += [f"no volume {m['name']}" for m in container["volumeMounts"] if m["name"] not in volumes]
        resources = container["resources"]
        for name, limit in resources["limits"].items():
            if quantity(resources["requests"].get(name, limit)) > quantity(limit):
                faults.append(f"{container['name']} requests more {name} than its limit")
    return faults


def quantity(text):
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi|)", text).groups()
    return int(number) * {"": 1, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def restricted_faults(job):
    """What Kubernetes' Pod Security Standard `restricted` and a careful reader have against a Job's pods."""
    spec, faults = pod(job), []
    expected = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    faults += [f"{key} is not {value}" for key, value in expected.items() if spec["securityContext"].get(key) != value]
    if spec.get("automountServiceAccountToken") is not False:
        faults.append("a service account's token is mounted")
    faults += [f"volume {v['name']}" for v in spec["volumes"] if not set(v) & {"persistentVolumeClaim", "emptyDir"}]
    context = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    faults += [f"{c['name']}: securityContext" for c in containers(job) if c["securityContext"] != context]
    return faults


def expand(text, environment):
    """As a node does: $(NAME) for a variable that there is."""
    return re.sub(r"\$\((\w+)\)", lambda match: environment.get(match[1], match[0]), text)


def dockerfile(text):
    """The stages: {name: [(instruction, rest), ...]}, continued lines joined."""
    stages, name = {}, None
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        instruction, rest = line.split(maxsplit=1)
        if instruction == "FROM":
            name = rest.split(" AS ")[1]
            stages[name] = []
        stages[name].append((instruction, rest))
    return stages


def one(stage, instruction):
    """The rest of the only such instruction of a stage."""
    [rest] = [rest for found, rest in stage if found == instruction]
    return rest
